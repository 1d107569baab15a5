//! Steps: their kinds, phases and outcomes.

use std::sync::Arc;
use std::time::SystemTime;

use crate::Payload;

/// What a step does, with what is known of it beforehand.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum StepKind {
    /// Runs a function of the user's.
    Run,
    /// Sleeps.
    #[non_exhaustive]
    Sleep {
        /// When it ends.
        resume_at: SystemTime,
    },
    /// Runs a child workflow.
    #[non_exhaustive]
    RunWorkflow {
        /// The child's workflow.
        workflow_name: Arc<str>,
        /// The version of the child's workflow, where it has one.
        workflow_version: Option<Arc<str>>,
        /// The child's run id. At set-up the one under which it is to be created; an execution that
        /// died may have created it already, under another.
        run_id: Arc<str>,
        /// When the parent gives up waiting.
        timeout_at: SystemTime,
    },
    /// Waits for a signal.
    #[non_exhaustive]
    WaitForSignal {
        /// The signal's name.
        signal: Arc<str>,
        /// When it stops waiting.
        timeout_at: SystemTime,
    },
    /// Sends a signal.
    #[non_exhaustive]
    SendSignal {
        /// The signal's name.
        signal: Arc<str>,
        /// What is sent with it.
        data: Payload,
    },
}

impl StepKind {
    /// Sleeps until `resume_at`.
    #[must_use]
    pub fn sleep(resume_at: SystemTime) -> Self {
        Self::Sleep { resume_at }
    }

    /// Runs a child workflow.
    #[must_use]
    pub fn run_workflow(
        workflow_name: Arc<str>,
        workflow_version: Option<Arc<str>>,
        run_id: Arc<str>,
        timeout_at: SystemTime,
    ) -> Self {
        Self::RunWorkflow {
            workflow_name,
            workflow_version,
            run_id,
            timeout_at,
        }
    }

    /// Waits for a signal.
    #[must_use]
    pub fn wait_for_signal(signal: Arc<str>, timeout_at: SystemTime) -> Self {
        Self::WaitForSignal { signal, timeout_at }
    }

    /// Sends a signal.
    #[must_use]
    pub fn send_signal(signal: Arc<str>, data: Payload) -> Self {
        Self::SendSignal { signal, data }
    }

    /// The name under which the database protocol stores this kind.
    ///
    /// ```
    /// assert_eq!(workflow_core::StepKind::Run.as_str(), "function");
    /// ```
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Run => "function",
            Self::Sleep { .. } => "sleep",
            Self::RunWorkflow { .. } => "workflow",
            Self::WaitForSignal { .. } => "signal-wait",
            Self::SendSignal { .. } => "signal-send",
        }
    }

    /// Whether it waits for a signal or sends one.
    #[must_use]
    pub fn is_about_signal(&self) -> bool {
        matches!(self, Self::WaitForSignal { .. } | Self::SendSignal { .. })
    }

    /// Whether it waits for something that can take longer than it is given.
    #[must_use]
    pub fn waits(&self) -> bool {
        !matches!(self, Self::Run | Self::SendSignal { .. })
    }
}

/// Which half of a step a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepPhase {
    /// The step begins: a function runs, a signal is sent, a wait is set up.
    Start,
    /// A wait that an earlier execution set up has ended: the child finished, the signal came, or
    /// the time ran out. Sleeps end silently and have no such call.
    Resolve,
}

/// How a step ended. Failure is the `Err` beside it.
///
/// ```
/// use async_trait::async_trait;
/// use workflow_core::{Interceptor, Next, Payload, Result, StepCall, StepOutcome};
///
/// /// Answers for a step that must not really run.
/// struct DryRun;
///
/// #[async_trait]
/// impl Interceptor for DryRun {
///     async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
///         if &*call.name == "charge" {
///             return Ok(StepOutcome::Completed { output: Payload::from_json("0") });
///         }
///         next.run(call).await
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum StepOutcome {
    /// The step has a result.
    Completed {
        /// The result.
        output: Payload,
    },
    /// The signal was sent.
    SignalSent {
        /// The runs that received it.
        run_ids: Vec<String>,
    },
    /// The signal did not come in time; the workflow gets "none".
    TimedOut,
    /// The wait is set up and the run may be put away.
    Parked {
        /// When the wait ends by itself.
        until: SystemTime,
    },
}
