//! Durable workflows on SQLite or PostgreSQL, sharing one database with OpenWorkflow for TypeScript.
//!
//! A *workflow* is an async function whose steps are remembered. A [`Client`] writes a *run* of it
//! into a database; a [`Worker`] claims the run and executes it. When the worker dies, the run waits
//! for a day, or a step fails, a later execution starts the function again and answers the steps that
//! were done from the database. There is no server: the database is the engine.
//!
//! ```
//! use openworkflow::{Client, Sqlite, Worker, WorkflowSpec};
//!
//! static GREET: WorkflowSpec<String, String> = WorkflowSpec::new("greet");
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("app.db");
//! let store = Sqlite::open(path).await?;
//! let greet = GREET.implement(|wf, name: String| async move {
//!     let greeting = wf.run("compose", || async { Ok(format!("Hello, {name}!")) }).await?;
//!     wf.sleep("dramatic-pause", "50ms").await?;
//!     Ok(greeting)
//! });
//! let mut worker = Worker::builder(store.clone()).workflow(greet).build()?.start();
//!
//! let run = Client::new(store).start(&GREET, &"Ada".to_owned()).await?;
//! assert_eq!(run.result().await?, "Hello, Ada!");
//! worker.stop().await?;
//! # Ok(()) }
//! ```
//!
//! - Writing workflows: [`Workflow`], [`WorkflowSpec`], [`WorkflowContext`], [`RetryPolicy`].
//! - Starting and watching them: [`Client`], [`RunHandle`].
//! - What happened to a run: [`Client::trace_events`] and [`Client::trace_summary`], in [`trace`].
//! - Running them: [`Worker`], with [`Interceptor`]s and tower layers around every step.
//! - Where they live: [`Sqlite`], `Postgres`, and the [`backend`] module for a database of another kind.
//! - Seeing them: the feature `otel`, whose `OtelInterceptor` makes one trace of each run.
//!
//! # Features
//!
//! - `sqlite` (default): the embedded backend.
//! - `postgres`: the backend on a PostgreSQL server, for many workers.
//! - `otel`: OpenTelemetry traces, as `openworkflow::otel`. `otel-tracing` adds the bridge to the
//!   `tracing` crate, `otel-otlp` export to collectors and hosted backends, `otel-http` trace context
//!   in HTTP requests, `otel-testing` the kit for tests of traces, `otel-metrics` counts and durations,
//!   `otel-prometheus` the same for Prometheus to scrape, `otel-logs` ids on what is logged.
//! - `observe`: health and metrics of a worker over HTTP.

// So that the support of the integration tests serves unit tests too.
#[cfg(all(test, feature = "postgres"))]
extern crate self as openworkflow;

mod arrival;
pub mod backend;
mod cancellation;
mod client;
mod clock;
mod context;
mod execution;
mod health;
mod join_set;
mod layer;
mod lease;
mod log;
mod lost;
mod name;
mod naming;
#[cfg(feature = "observe")]
pub mod observe;
mod payload;
mod progress;
mod race;
mod retry;
mod step;
pub mod trace;
mod wake;
mod when;
mod worker;
mod workflow;

pub use async_trait::async_trait;
pub use backend::RunStatus;
#[cfg(feature = "postgres")]
pub use backend::{Postgres, PostgresOptions};
#[cfg(feature = "sqlite")]
pub use backend::{Sqlite, SqliteOptions};
pub use cancellation::Cancellation;
pub use client::{
    Client, ClientBuilder, ClientError, ClientResult, ListRunsRequest, ListStepsRequest, RunHandle,
    SendSignalRequest, StartRunRequest, TraceEventsRequest, TraceSummaryRequest,
};
pub use clock::{Clock, ClockOffset};
pub use context::WorkflowContext;
pub use health::{Health, HealthCheck, HealthLimits, HealthReport, HealthStatus};
pub use join_set::JoinSet;
pub use layer::{StepLayer, StepRequest, StepService, StepServiceFuture};
pub use progress::Progress;
#[doc(hidden)]
pub use race::macros as __race;
pub use retry::RetryPolicy;
pub use step::{RunStep, RunWorkflowStep, SendSignalStep, SleepStep, WaitForSignalStep};
pub use when::When;
pub use worker::{BuildError, Worker, WorkerBuilder, WorkerHandle};
pub use workflow::{StatefulSpec, Workflow, WorkflowSpec};
pub use workflow_core::replay::is_replaying;
pub use workflow_core::{
    BoxError, BoxFuture, CancelRun, Carrier, CreateRun, CreatedRun, Error, ErrorKind, Event,
    ExecuteRun, Execution, ExecutionOutcome, Interceptor, Interruption, LostExecution, Next,
    NextFuture, ParentStep, Payload, Result, ResultExt, RunInfo, SendSignal, SentSignal, StepCall,
    StepKind, StepName, StepOutcome, StepPhase, Unwritten, WakeCause, from_fn, from_fn_with_state,
};
#[cfg(feature = "otel")]
pub use workflow_otel as otel;

/// The examples of the README, compiled.
#[cfg(all(doctest, feature = "otel-otlp", feature = "sqlite"))]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The examples of the page about writing workflows, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/writing-workflows.md")]
struct WritingPage;

/// The examples of the page about changing workflows, compiled.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../../../docs/changing-workflows.md")]
struct ChangingPage;

/// The examples of the page about errors, compiled.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../../../docs/errors.md")]
struct ErrorsPage;

/// The example of the page about what happened to a run, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/history.md")]
struct HistoryPage;

/// The examples of the page about tracing, compiled.
#[cfg(all(doctest, feature = "otel-testing", feature = "otel-tracing"))]
#[doc = include_str!("../../../docs/tracing.md")]
struct TracingPage;

/// The examples of the page about metrics, compiled.
#[cfg(all(
    doctest,
    feature = "observe",
    feature = "otel-prometheus",
    feature = "sqlite"
))]
#[doc = include_str!("../../../docs/metrics.md")]
struct MetricsPage;

/// The examples of the page about health, compiled.
#[cfg(all(
    doctest,
    feature = "observe",
    feature = "otel-otlp",
    feature = "sqlite"
))]
#[doc = include_str!("../../../docs/health.md")]
struct HealthPage;

/// The examples of the page about logs, compiled.
#[cfg(all(doctest, feature = "otel-logs"))]
#[doc = include_str!("../../../docs/logs.md")]
struct LogsPage;

/// The example of the page about PostgreSQL, compiled.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../../../docs/postgres.md")]
struct PostgresPage;

/// The examples of the page about alerts, compiled.
#[cfg(all(
    doctest,
    feature = "observe",
    feature = "otel-otlp",
    feature = "otel-prometheus",
    feature = "sqlite"
))]
#[doc = include_str!("../../../docs/observability/README.md")]
struct ObservabilityPage;

/// The examples of the pages about export, compiled.
#[cfg(all(doctest, feature = "otel-otlp", feature = "sqlite"))]
mod export_pages {
    #[doc = include_str!("../../../docs/exporting.md")]
    struct Exporting;
    #[doc = include_str!("../../../docs/backends/axiom.md")]
    struct Axiom;
    #[doc = include_str!("../../../docs/backends/grafana-cloud.md")]
    struct GrafanaCloud;
    #[doc = include_str!("../../../docs/backends/honeycomb.md")]
    struct Honeycomb;
}
