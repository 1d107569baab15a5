//! Durable workflows.

pub mod backend;
mod client;
mod clock;
mod context;
mod execution;
mod layer;
mod name;
mod payload;
mod retry;
mod step;
mod when;
mod worker;
mod workflow;

pub use async_trait::async_trait;
#[cfg(feature = "sqlite")]
pub use backend::{Sqlite, SqliteOptions};
pub use client::{
    Client, ClientBuilder, ClientError, ClientResult, ListRunsRequest, ListStepsRequest, RunHandle,
    SendSignalRequest, StartRunRequest,
};
pub use clock::Clock;
pub use context::WorkflowContext;
pub use layer::{StepRequest, StepService, StepServiceFuture};
pub use retry::RetryPolicy;
pub use step::{RunStep, RunWorkflowStep, SendSignalStep, SleepStep, WaitForSignalStep};
pub use when::When;
pub use worker::{BuildError, Worker, WorkerBuilder, WorkerHandle};
pub use workflow::{Workflow, WorkflowSpec};
pub use workflow_core::{
    BoxError, BoxFuture, CancelRun, Carrier, CreateRun, CreatedRun, Error, ErrorKind, Event,
    ExecuteRun, Execution, ExecutionOutcome, Interceptor, Interruption, Next, NextFuture,
    ParentStep, Payload, Result, RunInfo, SendSignal, SentSignal, StepCall, StepKind, StepOutcome,
    StepPhase,
};
