//! What made a run due.

use std::time::SystemTime;

use workflow_core::WakeCause;

use crate::backend::codec::{self, whole_millis};
use crate::backend::{History, StepAttemptKind, StepStatus};

/// A wait that was open when the run became due.
pub(crate) struct OpenWait {
    /// What it waited for, and when that was there.
    pub(crate) arrival: Option<(SystemTime, WakeCause)>,
    /// When it is over by itself.
    pub(crate) until: Option<SystemTime>,
}

/// What made a run due at `due_at`, where `otherwise` did if none of its waits did.
///
/// Whoever brings what a wait waits for makes the run due by the same write, so an arrival that is no later
/// than that is the cause. A timer's run is due when it is over, to the millisecond.
pub(crate) fn cause(
    otherwise: Option<WakeCause>,
    due_at: SystemTime,
    waits: impl Iterator<Item = OpenWait>,
) -> Option<WakeCause> {
    if matches!(otherwise, Some(WakeCause::Created | WakeCause::TakeOver)) {
        return otherwise;
    }
    let mut arrived: Option<(SystemTime, WakeCause)> = None;
    let mut is_over = false;
    for wait in waits {
        if let Some((at, cause)) = wait.arrival
            && at <= due_at
            && arrived.is_none_or(|(last, _)| last < at)
        {
            arrived = Some((at, cause));
        }
        is_over |= wait
            .until
            .is_some_and(|until| whole_millis(until) == whole_millis(due_at));
    }
    match arrived {
        Some((_, cause)) => Some(cause),
        None if is_over => Some(WakeCause::Timer),
        None => otherwise,
    }
}

/// The waits of a run that was just claimed.
pub(crate) fn open_waits(history: &History) -> impl Iterator<Item = OpenWait> {
    use StepAttemptKind as K;
    let open = history.attempts.iter().filter(|attempt| {
        !matches!(
            attempt.status,
            StepStatus::Completed | StepStatus::Succeeded | StepStatus::Failed
        ) && matches!(attempt.kind, K::Sleep | K::Workflow | K::SignalWait)
    });
    open.map(|attempt| {
        let signal = history.signals.get(&attempt.id);
        let child = history.children.get(&attempt.id);
        let context = codec::decode_wait_context(attempt.context.as_deref());
        OpenWait {
            arrival: match (signal, child.and_then(|child| child.finished_at)) {
                (Some(signal), _) => Some((signal.at, WakeCause::Signal)),
                (None, Some(at)) => Some((at, WakeCause::Child)),
                (None, None) => None,
            },
            until: context.resume_at.or(context.timeout_at),
        }
    })
}
