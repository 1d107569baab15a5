//! Runs, their executions, and how those end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crate::{Carrier, Error, Payload};

/// Who a run is. Ids are made by the SDK before the run is written, so hooks know them beforehand.
///
/// ```
/// use workflow_core::RunInfo;
///
/// let run = RunInfo::new("default", "6f9c", "process-order").with_workflow_version("v2");
/// assert_eq!(&*run.workflow_name, "process-order");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunInfo {
    /// The namespace, within which ids are unique.
    pub namespace_id: Arc<str>,
    /// The run's id.
    pub id: Arc<str>,
    /// The name of the workflow it runs. Empty in the cancellation of a run that could not be found.
    pub workflow_name: Arc<str>,
    /// The version of the workflow it runs, where it has one.
    pub workflow_version: Option<Arc<str>>,
    /// What was captured when the run was created.
    pub carrier: Carrier,
}

impl RunInfo {
    /// A run without a version and with an empty carrier.
    pub fn new(
        namespace_id: impl Into<Arc<str>>,
        id: impl Into<Arc<str>>,
        workflow_name: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            namespace_id: namespace_id.into(),
            id: id.into(),
            workflow_name: workflow_name.into(),
            workflow_version: None,
            carrier: Carrier::new(),
        }
    }

    /// This run with a workflow version.
    #[must_use]
    pub fn with_workflow_version(mut self, version: impl Into<Arc<str>>) -> Self {
        self.workflow_version = Some(version.into());
        self
    }

    /// This run with a carrier.
    #[must_use]
    pub fn with_carrier(mut self, carrier: Carrier) -> Self {
        self.carrier = carrier;
        self
    }
}

/// One execution of a run by a worker: from the claim to completion, failure or the next park.
///
/// ```
/// use std::time::SystemTime;
/// use workflow_core::{Execution, RunInfo};
///
/// let run = RunInfo::new("default", "6f9c", "process-order");
/// let execution = Execution::new(run, 1, false, "worker-1", SystemTime::now());
/// assert!(execution.interruption().is_none());
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Execution {
    /// The run that is executed.
    pub run: RunInfo,
    /// Which execution of the run this is, from 1: every claim counts, a wake-up and a take-over too.
    pub attempt: u32,
    /// Whether the run had history when this execution began.
    pub replay: bool,
    /// The worker (or the slot of a worker) that holds the claim.
    pub worker_id: Arc<str>,
    /// When this execution began.
    pub started_at: SystemTime,
    /// When the run was created, by the same clock; `None` where the engine does not tell.
    pub run_created_at: Option<SystemTime>,
    /// For how long the run was due before it was claimed; `None` where the engine does not tell.
    pub due_for: Option<Duration>,
    /// What made the run due; `None` where the engine does not tell.
    pub woken_by: Option<WakeCause>,
    claimed: Instant,
    begun: Instant,
    interruption: OnceLock<Interruption>,
    end_is_promised: AtomicBool,
}

impl Execution {
    /// An execution under way.
    pub fn new(
        run: RunInfo,
        attempt: u32,
        replay: bool,
        worker_id: impl Into<Arc<str>>,
        started_at: SystemTime,
    ) -> Self {
        let interruption = OnceLock::new();
        let begun = Instant::now();
        Self {
            run,
            attempt,
            replay,
            worker_id: worker_id.into(),
            started_at,
            run_created_at: None,
            due_for: None,
            woken_by: None,
            claimed: begun,
            begun,
            interruption,
            end_is_promised: AtomicBool::new(false),
        }
    }

    /// This execution of a run that was created at `created_at`. For engines.
    #[must_use]
    pub fn with_run_created_at(mut self, created_at: SystemTime) -> Self {
        self.run_created_at = Some(created_at);
        self
    }

    /// This execution, `claimed` before it began, when the run was `due_for` so long. For engines.
    #[must_use]
    pub fn with_claim(mut self, claimed: Instant, due_for: Duration) -> Self {
        self.claimed = claimed;
        self.due_for = Some(due_for);
        self
    }

    /// This execution of a run that `cause` made due. For engines.
    #[must_use]
    pub fn with_woken_by(mut self, cause: WakeCause) -> Self {
        self.woken_by = Some(cause);
        self
    }

    /// How long ago the run was claimed for this execution, whatever is done to the clock meanwhile.
    ///
    /// ```
    /// use std::time::{Duration, Instant, SystemTime};
    /// use workflow_core::{Execution, RunInfo};
    ///
    /// let run = RunInfo::new("default", "6f9c", "process-order");
    /// let now = SystemTime::now();
    /// let execution = Execution::new(run, 1, false, "worker-1", now)
    ///     .with_run_created_at(now - Duration::from_secs(60))
    ///     .with_claim(Instant::now(), Duration::from_secs(59));
    /// assert!(execution.run_age() >= Some(execution.elapsed() + Duration::from_secs(59)));
    /// ```
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.claimed.elapsed()
    }

    /// How long ago the run was created; `None` where the engine does not tell.
    #[must_use]
    pub fn run_age(&self) -> Option<Duration> {
        let before = self.started_at.duration_since(self.run_created_at?);
        Some(before.unwrap_or_default() + self.begun.elapsed())
    }

    /// Why the engine is dropping this execution's futures, if it is. Hooks whose future is dropped
    /// read it in `Drop` to tell a cancellation from a lost lease.
    #[must_use]
    pub fn interruption(&self) -> Option<Interruption> {
        self.interruption.get().copied()
    }

    /// Records why the futures are about to be dropped; the first reason stands. For engines.
    pub fn interrupt(&self, reason: Interruption) {
        // A second reason is no news: the futures are being dropped already.
        let _ = self.interruption.set(reason);
    }

    /// Whether the engine tells what came of this execution, by
    /// [`Event::ExecutionEnded`](crate::Event::ExecutionEnded): then a hook that has seen the outcome
    /// can wait for what was made of it.
    #[must_use]
    pub fn end_is_promised(&self) -> bool {
        self.end_is_promised.load(Ordering::Relaxed)
    }

    pub(crate) fn promise_end(&self) {
        self.end_is_promised.store(true, Ordering::Relaxed);
    }
}

/// What made a run due, so that a worker could claim it.
///
/// ```
/// use workflow_core::WakeCause;
///
/// assert_eq!(WakeCause::TakeOver.as_str(), "take_over");
/// assert_eq!(WakeCause::from_word("take_over"), Some(WakeCause::TakeOver));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WakeCause {
    /// It was created.
    Created,
    /// A signal was delivered that it waited for.
    Signal,
    /// A child ended that it waited for.
    Child,
    /// A sleep was over, or the time limit of a wait.
    Timer,
    /// The time had come to try again what failed.
    Retry,
    /// The lease of the worker that had it ran out.
    TakeOver,
    /// The worker that had it stopped, and gave it back.
    GivenBack,
}

impl WakeCause {
    const ALL: [Self; 7] = [
        Self::Created,
        Self::Signal,
        Self::Child,
        Self::Timer,
        Self::Retry,
        Self::TakeOver,
        Self::GivenBack,
    ];

    /// The cause in `snake_case`, for attributes and the like.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Signal => "signal",
            Self::Child => "child",
            Self::Timer => "timer",
            Self::Retry => "retry",
            Self::TakeOver => "take_over",
            Self::GivenBack => "given_back",
        }
    }

    /// The cause that is [called](Self::as_str) `word`.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word)
    }
}

/// Why an execution was dropped before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interruption {
    /// The run was canceled.
    Canceled,
    /// The run is no longer this worker's to write: another one took it over or finished it, or the
    /// database could not be written for so long that this must be assumed.
    LeaseLost,
    /// The worker was stopped hard, or its deadline for a graceful stop passed.
    WorkerStopped,
    /// The run's deadline passed and somebody marked it failed.
    DeadlineExceeded,
}

impl Interruption {
    /// The reason in `snake_case`, for `error.type` and the like.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::LeaseLost => "lease_lost",
            Self::WorkerStopped => "worker_stopped",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }
}

/// How an execution ended. A hook may change it before the engine writes it down.
///
/// An execution that is interrupted has no outcome: its future is dropped, see
/// [`Execution::interruption`].
///
/// ```
/// use async_trait::async_trait;
/// use workflow_core::{ExecuteRun, ExecutionOutcome, Interceptor, Next, Result};
///
/// /// Gives a run up at its tenth failure, whatever its policy says.
/// struct NineLives;
///
/// #[async_trait]
/// impl Interceptor for NineLives {
///     async fn execute(
///         &self,
///         call: ExecuteRun,
///         next: Next<'_, ExecuteRun>,
///     ) -> Result<ExecutionOutcome> {
///         let attempt = call.execution.attempt;
///         match next.run(call).await? {
///             ExecutionOutcome::Retrying { error, .. } if attempt > 9 => {
///                 Ok(ExecutionOutcome::Failed { error })
///             }
///             outcome => Ok(outcome),
///         }
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ExecutionOutcome {
    /// The workflow returned.
    Completed {
        /// What it returned.
        output: Payload,
    },
    /// The workflow ended in favor of a new run, which goes on with a new input. To everybody else the run is
    /// completed, without an output.
    Continued {
        /// The new run. An interceptor may still give it another id when it is created, which is then in the
        /// outcome that [was written](crate::Event::ExecutionEnded).
        run_id: Arc<str>,
    },
    /// Every branch waits; the run is put away.
    Parked {
        /// When the earliest wait ends by itself.
        until: SystemTime,
    },
    /// Something failed and is tried again: the run goes back to the queue.
    Retrying {
        /// What failed.
        error: Error,
        /// When it is tried again.
        at: SystemTime,
    },
    /// The run failed for good.
    Failed {
        /// What failed.
        error: Error,
    },
}

impl ExecutionOutcome {
    /// The error of an outcome that has one.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Retrying { error, .. } | Self::Failed { error } => Some(error),
            Self::Completed { .. } | Self::Continued { .. } | Self::Parked { .. } => None,
        }
    }
}
