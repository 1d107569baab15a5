//! The vocabulary of durable workflows, and an [`Interceptor`] trait around them.
//!
//! A *run* is one durable call of a workflow. A worker claims it and makes an *execution* of it: the
//! workflow's code from the start, with the *steps* that finished before answered from history. When
//! every branch waits, the run is parked, and a later execution goes on.
//!
//! This crate names those things and lets code wrap them: tracing, metrics, auditing, access control.
//! It depends on nothing, so that an interceptor written against it works with any engine that speaks
//! it and never drags a database or a telemetry SDK along.
//!
//! - [`Interceptor`]: around-hooks for a run's creation, its executions and its steps.
//! - [`from_fn`]: an interceptor with one hook, made of an `async fn`.
//! - [`Next`]: the rest of the chain inside a hook; [`Chain`]: what an engine calls.
//! - [`CreateRun`], [`ExecuteRun`], [`StepCall`], [`SendSignal`], [`CancelRun`]: what is about to
//!   happen, with every id already known.
//! - [`Carrier`]: the string map stored with a run. [`Payload`]: the user's data, kept out of logs.
//! - [`replay`]: whether workflow code repeats itself, for those who log what it does.
//! - [`Error`]: what a step, a workflow or a hook fails with.

mod call;
mod carrier;
mod chain;
mod error;
mod event;
mod from_fn;
mod interceptor;
mod lost;
mod payload;
pub mod replay;
mod run;
mod step;
mod worker;

pub use call::{
    Call, CancelRun, CreateRun, CreatedRun, ExecuteRun, ParentStep, SendSignal, SentSignal,
    StepCall,
};
pub use carrier::Carrier;
pub use chain::{BoxFuture, Chain, Next, NextFuture, PromisedEnd};
pub use error::{BoxError, Error, ErrorKind, Result, ResultExt};
pub use event::{Event, StepName, Unwritten};
pub use from_fn::{FromFn, HookFn, WithState, from_fn, from_fn_with_state};
pub use interceptor::Interceptor;
pub use lost::LostExecution;
pub use payload::Payload;
pub use run::{Execution, ExecutionOutcome, Interruption, RunInfo, WakeCause};
pub use step::{StepKind, StepOutcome, StepPhase};
pub use worker::{ConnectionsReading, QueueReading, WorkerReading, WorkerState};
