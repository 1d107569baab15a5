//! The calls that go through a chain of interceptors.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::chain::BoxFuture;
use crate::{
    Execution, ExecutionOutcome, Interceptor, Next, Payload, Result, RunInfo, StepKind,
    StepOutcome, StepPhase,
};

/// A call that goes through a chain. Sealed: the calls are those of this crate.
pub trait Call: sealed::Sealed + Send + Sized + 'static {
    /// What the call yields when it succeeds.
    type Output: Send + 'static;

    #[doc(hidden)]
    fn dispatch<'a>(
        self,
        interceptor: &'a dyn Interceptor,
        next: Next<'a, Self>,
    ) -> BoxFuture<'a, Result<Self::Output>>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! calls {
    ($($call:ty => $hook:ident -> $output:ty;)*) => {$(
        impl sealed::Sealed for $call {}

        impl Call for $call {
            type Output = $output;

            fn dispatch<'a>(
                self,
                interceptor: &'a dyn Interceptor,
                next: Next<'a, Self>,
            ) -> BoxFuture<'a, Result<$output>> {
                interceptor.$hook(self, next)
            }
        }
    )*};
}

calls! {
    CreateRun => create_run -> CreatedRun;
    ExecuteRun => execute -> ExecutionOutcome;
    StepCall => step -> StepOutcome;
    SendSignal => send_signal -> SentSignal;
    CancelRun => cancel_run -> ();
}

/// A run is about to be created: by a client, or by a step of a parent run.
///
/// `run.carrier` may be written; it is stored by the statement that writes the run.
///
/// ```
/// use async_trait::async_trait;
/// use workflow_core::{CreateRun, CreatedRun, Error, Interceptor, Next, Result};
///
/// struct Tenancy(&'static str);
///
/// #[async_trait]
/// impl Interceptor for Tenancy {
///     async fn create_run(
///         &self,
///         mut call: CreateRun,
///         next: Next<'_, CreateRun>,
///     ) -> Result<CreatedRun> {
///         if call.input.size() > 1_000_000 {
///             return Err(Error::rejected("the input is too large").non_retryable());
///         }
///         // Every execution of the run finds it in `execution.run.carrier`.
///         call.run.carrier.insert("tenant", self.0);
///         next.run(call).await
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct CreateRun {
    /// The run to be created.
    pub run: RunInfo,
    /// Its input.
    pub input: Payload,
    /// The key under which a second creation finds the first run, where one was given.
    pub idempotency_key: Option<String>,
    /// When it may first be executed; at once where `None`.
    pub available_at: Option<SystemTime>,
    /// When it fails, if it has not ended by then.
    pub deadline_at: Option<SystemTime>,
    /// The step that creates it, where it is a child.
    pub parent: Option<ParentStep>,
    /// The execution that ends in its favor, where a run continues as this one: it has that run's carrier,
    /// and is created by the write that ends that run.
    pub continues: Option<Arc<Execution>>,
}

impl CreateRun {
    /// A creation without key, delay, deadline and parent. For engines.
    #[must_use]
    pub fn new(run: RunInfo, input: Payload) -> Self {
        Self {
            run,
            input,
            idempotency_key: None,
            available_at: None,
            deadline_at: None,
            parent: None,
            continues: None,
        }
    }
}

/// The step of a parent run that creates a child run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ParentStep {
    /// The execution of the parent.
    pub execution: Arc<Execution>,
    /// The step's name.
    pub step_name: Arc<str>,
    /// The id of the step's attempt.
    pub attempt_id: Arc<str>,
}

impl ParentStep {
    /// For engines.
    #[must_use]
    pub fn new(execution: Arc<Execution>, step_name: Arc<str>, attempt_id: Arc<str>) -> Self {
        Self {
            execution,
            step_name,
            attempt_id,
        }
    }
}

/// The run that a creation led to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreatedRun {
    /// Its id: another than the one asked for where `deduplicated`.
    pub run_id: Arc<str>,
    /// Whether an earlier run with the same idempotency key was found instead.
    pub deduplicated: bool,
}

impl CreatedRun {
    /// For engines, and for interceptors that answer themselves.
    pub fn new(run_id: impl Into<Arc<str>>, deduplicated: bool) -> Self {
        Self {
            run_id: run_id.into(),
            deduplicated,
        }
    }
}

/// A worker is about to run a workflow's code from the start.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExecuteRun {
    /// The execution.
    pub execution: Arc<Execution>,
    /// The run's input.
    pub input: Payload,
}

impl ExecuteRun {
    /// For engines.
    #[must_use]
    pub fn new(execution: Arc<Execution>, input: Payload) -> Self {
        Self { execution, input }
    }
}

/// A step is about to begin, or a wait has ended. A step answered from history makes no call.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepCall {
    /// The execution that the step belongs to.
    pub execution: Arc<Execution>,
    /// The step's name, unique within the execution.
    pub name: Arc<str>,
    /// The name that the code asked for: without what was added to tell steps of one name apart, so that it
    /// is the same for all of them.
    pub base_name: Arc<str>,
    /// Whether the workflow's author chose the name (else it is the child's or the signal's).
    pub named: bool,
    /// The kind, with what is known beforehand.
    pub kind: StepKind,
    /// Whether the step begins or a wait has ended.
    pub phase: StepPhase,
    /// The id of this attempt at the step.
    pub attempt_id: Arc<str>,
    /// How many attempts at this step failed before.
    pub prior_failures: u32,
    /// At the end of a wait, how long it lasted: from when the step began until what it waited for was there,
    /// or its time limit passed. `None` at the beginning, and where the engine does not tell.
    pub parked_for: Option<Duration>,
}

impl StepCall {
    /// A first attempt at a step that begins, under a name of the author's choice. For engines.
    #[must_use]
    pub fn new(
        execution: Arc<Execution>,
        name: Arc<str>,
        kind: StepKind,
        attempt_id: Arc<str>,
    ) -> Self {
        Self {
            execution,
            base_name: Arc::clone(&name),
            name,
            named: true,
            kind,
            phase: StepPhase::Start,
            attempt_id,
            prior_failures: 0,
            parked_for: None,
        }
    }

    /// Whether the step is called after its signal, a name that often holds an id or an address.
    #[must_use]
    pub fn is_named_after_signal(&self) -> bool {
        !self.named && self.kind.is_about_signal()
    }
}

/// A client is about to send a signal. (A workflow's signals are steps.)
#[derive(Debug)]
#[non_exhaustive]
pub struct SendSignal {
    /// The namespace whose runs can receive it.
    pub namespace_id: Arc<str>,
    /// The signal's name.
    pub signal: Arc<str>,
    /// What is sent with it.
    pub data: Payload,
    /// The key under which a second sending delivers nothing, where one was given.
    pub idempotency_key: Option<String>,
}

impl SendSignal {
    /// A signal without key. For engines.
    #[must_use]
    pub fn new(namespace_id: Arc<str>, signal: Arc<str>, data: Payload) -> Self {
        Self {
            namespace_id,
            signal,
            data,
            idempotency_key: None,
        }
    }
}

/// Who received a signal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentSignal {
    /// The ids of the runs that received it.
    pub run_ids: Vec<String>,
}

impl SentSignal {
    /// For engines, and for interceptors that answer themselves.
    #[must_use]
    pub fn new(run_ids: Vec<String>) -> Self {
        Self { run_ids }
    }
}

/// A client is about to cancel a run.
#[derive(Debug)]
#[non_exhaustive]
pub struct CancelRun {
    /// The run to be canceled.
    pub run: RunInfo,
}

impl CancelRun {
    /// For engines.
    #[must_use]
    pub fn new(run: RunInfo) -> Self {
        Self { run }
    }
}
