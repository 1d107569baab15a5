//! Facts that have no duration.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::{
    Error, Execution, ExecutionOutcome, Interruption, LostExecution, RunInfo, WorkerState,
};

/// A fact told to [`Interceptor::event`](crate::Interceptor::event): something happened that no hook
/// wraps.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use workflow_core::{Event, Interceptor};
///
/// #[derive(Default)]
/// struct Replays(AtomicU64);
///
/// impl Interceptor for Replays {
///     fn event(&self, event: &Event<'_>) {
///         if let Event::StepReplayed { .. } = event {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A step was answered from history.
    #[non_exhaustive]
    StepReplayed {
        /// The execution that replays.
        execution: &'a Execution,
        /// The step's name.
        step_name: &'a str,
    },
    /// A step failed: what came out of its chain is an error, or what history holds of it cannot be
    /// read. Told at once. An interceptor further in than the one that failed learns of it only here.
    #[non_exhaustive]
    StepFailed {
        /// The execution.
        execution: &'a Execution,
        /// The step's name.
        step_name: &'a str,
        /// What it failed with.
        error: &'a Error,
    },
    /// A step that failed is tried again later. Told when that is certain: where the failure is recorded,
    /// after the write.
    #[non_exhaustive]
    StepRetrying {
        /// The execution.
        execution: &'a Execution,
        /// The step.
        step: StepName<'a>,
        /// What it failed with.
        error: &'a Error,
        /// When it is tried again.
        at: SystemTime,
    },
    /// The workflow's code departed from the history of its run: it was changed, or it does not do
    /// the same in every execution.
    #[non_exhaustive]
    NonDeterminism {
        /// The execution that replays.
        execution: &'a Execution,
        /// The step that the code asked for; `None` where it asked for none, having ended.
        step_name: Option<&'a str>,
        /// The step that history has in its place; `None` where it has none. The same name as the one
        /// asked for means that the step was of another kind.
        recorded_step_name: Option<&'a str>,
    },
    /// A run was canceled, by a client's call or because its parent was. Told once for each run, after the
    /// write, by who made that. One that was canceled already is not told of.
    #[non_exhaustive]
    RunCanceled {
        /// The run, with its carrier.
        run: &'a RunInfo,
        /// When it was created; `None` where the database does not tell.
        created_at: Option<SystemTime>,
        /// How old it was when it was canceled; `None` where the database does not tell.
        age: Option<Duration>,
    },
    /// A run failed because its deadline passed, by nobody's execution: it waited, or who executed it had
    /// not noticed. Told once for each run, after the write, by a worker of the process that made it.
    #[non_exhaustive]
    RunOverdue {
        /// The run, with its carrier.
        run: &'a RunInfo,
        /// What it failed with.
        error: &'a Error,
        /// When it was created; `None` where the database does not tell.
        created_at: Option<SystemTime>,
        /// How old it was when it failed; `None` where the database does not tell.
        age: Option<Duration>,
    },
    /// An execution of this run was lost: its worker died, or was cut off. Told once for each, by who finds
    /// it: the worker that takes the run over (before it executes it), the one that fails the run for its
    /// deadline, the client that cancels it. Executions of engines that record none are not told of.
    #[non_exhaustive]
    ExecutionLost {
        /// The run, with its carrier.
        run: &'a RunInfo,
        /// When it was created; `None` where the database does not tell.
        created_at: Option<SystemTime>,
        /// What is known of the execution.
        lost: &'a LostExecution,
    },
    /// A worker begins to work: it can be asked [how it is](WorkerState), as long as it lives.
    #[non_exhaustive]
    WorkerStarted {
        /// The worker. To be kept as a `Weak`.
        worker: &'a Arc<dyn WorkerState>,
    },
    /// An execution's futures are about to be dropped, or its last write was refused.
    #[non_exhaustive]
    ExecutionInterrupted {
        /// The execution.
        execution: &'a Execution,
        /// Why.
        reason: Interruption,
    },
    /// An execution is over, and nothing more is written for it. Told once for each execution whose
    /// end is [promised](Execution::end_is_promised).
    #[non_exhaustive]
    ExecutionEnded {
        /// The execution.
        execution: &'a Execution,
        /// The outcome that is in the database now, or why there is none.
        written: Result<&'a ExecutionOutcome, Unwritten<'a>>,
    },
}

/// A step's name, and what it is made of.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StepName<'a> {
    /// The name, unique within the execution.
    pub name: &'a str,
    /// As [`StepCall::base_name`](crate::StepCall::base_name).
    pub base_name: &'a Arc<str>,
    /// As [`StepCall::is_named_after_signal`](crate::StepCall::is_named_after_signal).
    pub is_signals: bool,
}

impl<'a> StepName<'a> {
    /// For engines.
    #[must_use]
    pub fn new(name: &'a str, base_name: &'a Arc<str>, is_signals: bool) -> Self {
        Self {
            name,
            base_name,
            is_signals,
        }
    }
}

/// Why no outcome of an execution was written.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Unwritten<'a> {
    /// Its futures were dropped, or its last write was refused.
    Interrupted(Interruption),
    /// The database could not, or would not, write it. The run stays as it is until its lease ends.
    Failed(&'a Error),
}

impl<'a> Event<'a> {
    /// For engines.
    #[must_use]
    pub fn step_replayed(execution: &'a Execution, step_name: &'a str) -> Self {
        Self::StepReplayed {
            execution,
            step_name,
        }
    }

    /// For engines.
    #[must_use]
    pub fn step_failed(execution: &'a Execution, step_name: &'a str, error: &'a Error) -> Self {
        Self::StepFailed {
            execution,
            step_name,
            error,
        }
    }

    /// For engines.
    #[must_use]
    pub fn step_retrying(
        execution: &'a Execution,
        step: StepName<'a>,
        error: &'a Error,
        at: SystemTime,
    ) -> Self {
        Self::StepRetrying {
            execution,
            step,
            error,
            at,
        }
    }

    /// For engines.
    #[must_use]
    pub fn run_canceled(
        run: &'a RunInfo,
        created_at: Option<SystemTime>,
        age: Option<Duration>,
    ) -> Self {
        Self::RunCanceled {
            run,
            created_at,
            age,
        }
    }

    /// For engines.
    #[must_use]
    pub fn run_overdue(
        run: &'a RunInfo,
        error: &'a Error,
        created_at: Option<SystemTime>,
        age: Option<Duration>,
    ) -> Self {
        Self::RunOverdue {
            run,
            error,
            created_at,
            age,
        }
    }

    /// For engines.
    #[must_use]
    pub fn execution_lost(
        run: &'a RunInfo,
        created_at: Option<SystemTime>,
        lost: &'a LostExecution,
    ) -> Self {
        Self::ExecutionLost {
            run,
            created_at,
            lost,
        }
    }

    /// For engines.
    #[must_use]
    pub fn worker_started(worker: &'a Arc<dyn WorkerState>) -> Self {
        Self::WorkerStarted { worker }
    }

    /// For engines.
    #[must_use]
    pub fn non_determinism(
        execution: &'a Execution,
        step_name: Option<&'a str>,
        recorded_step_name: Option<&'a str>,
    ) -> Self {
        Self::NonDeterminism {
            execution,
            step_name,
            recorded_step_name,
        }
    }

    /// For engines.
    #[must_use]
    pub fn execution_interrupted(execution: &'a Execution, reason: Interruption) -> Self {
        Self::ExecutionInterrupted { execution, reason }
    }

    pub(crate) fn execution_ended(
        execution: &'a Execution,
        written: Result<&'a ExecutionOutcome, Unwritten<'a>>,
    ) -> Self {
        Self::ExecutionEnded { execution, written }
    }
}
