//! Facts that have no duration.

use crate::{Execution, Interruption};

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
    /// An execution's futures are about to be dropped, or its last write was refused.
    #[non_exhaustive]
    ExecutionInterrupted {
        /// The execution.
        execution: &'a Execution,
        /// Why.
        reason: Interruption,
    },
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
}
