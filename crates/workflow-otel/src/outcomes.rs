//! How things ended, in the words that every signal has for it.

use workflow_core::{Error, ErrorKind, ExecutionOutcome, Interruption, StepOutcome};

/// A step that the workflow's code dropped, or that was cut off.
pub(crate) const CANCELED: &str = "canceled";
/// A run that ended with an error.
pub(crate) const FAILED: &str = "failed";
/// An execution that left nothing in the database.
pub(crate) const STALE: &str = "stale";

/// An execution whose worker is gone, as another one tells.
pub(crate) const LOST: &str = "lost";

/// `None` for an outcome that this version does not know.
pub(crate) fn of_execution(outcome: &ExecutionOutcome) -> Option<&'static str> {
    Some(match outcome {
        ExecutionOutcome::Completed { .. } | ExecutionOutcome::Continued { .. } => "completed",
        ExecutionOutcome::Parked { .. } => "parked",
        ExecutionOutcome::Retrying { .. } => "retrying",
        ExecutionOutcome::Failed { .. } => "failed",
        _ => return None,
    })
}

/// The outcome of an execution that an interceptor ended: the engine puts the run back or fails it.
pub(crate) fn of_refused(error: &Error) -> &'static str {
    if error.is_retryable() {
        "retrying"
    } else {
        "failed"
    }
}

/// The outcome of what was interrupted, and its `error.type`.
pub(crate) fn of_interruption(reason: Interruption) -> (&'static str, &'static str) {
    let outcome = match reason {
        Interruption::Canceled => CANCELED,
        Interruption::DeadlineExceeded => "failed",
        _ => STALE,
    };
    (outcome, reason.as_str())
}

/// `None` for an outcome that this version does not know.
pub(crate) fn of_step(outcome: &StepOutcome) -> Option<&'static str> {
    Some(match outcome {
        StepOutcome::Completed { .. } | StepOutcome::SignalSent { .. } => "completed",
        StepOutcome::Parked { .. } => "parked",
        StepOutcome::TimedOut => "timed_out",
        _ => return None,
    })
}

/// A step that failed; one that `waits` for something can have timed out.
pub(crate) fn of_failed_step(waits: bool, error: &Error) -> &'static str {
    if waits && error.kind() == ErrorKind::Timeout {
        "timed_out"
    } else {
        "failed"
    }
}
