//! Executions whose worker is gone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::WakeCause;

/// An execution that nobody ended: its worker died, or was cut off until its lease ran out. What is known of
/// it is what was recorded when it began.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use workflow_core::{LostExecution, WakeCause};
///
/// let began = SystemTime::UNIX_EPOCH;
/// let lost = LostExecution::new(2, "worker-1", began, began + Duration::from_secs(9))
///     .with_replay(true)
///     .with_due_for(Duration::from_millis(5))
///     .with_woken_by(WakeCause::Signal);
/// assert_eq!(lost.attempt, 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostExecution {
    /// As [`Execution::attempt`](crate::Execution::attempt).
    pub attempt: u32,
    /// The worker (or the slot of a worker) that held the claim.
    pub worker_id: Arc<str>,
    /// Whether the run had history when this execution began.
    pub replay: bool,
    /// When it began.
    pub started_at: SystemTime,
    /// The last sign of life of its worker for this run: when the claim was last extended, or what was last
    /// written.
    pub last_seen_at: SystemTime,
    /// As [`Execution::due_for`](crate::Execution::due_for).
    pub due_for: Option<Duration>,
    /// As [`Execution::woken_by`](crate::Execution::woken_by).
    pub woken_by: Option<WakeCause>,
}

impl LostExecution {
    /// An execution without history, of which no more is known. For engines.
    pub fn new(
        attempt: u32,
        worker_id: impl Into<Arc<str>>,
        started_at: SystemTime,
        last_seen_at: SystemTime,
    ) -> Self {
        Self {
            attempt,
            worker_id: worker_id.into(),
            replay: false,
            started_at,
            last_seen_at,
            due_for: None,
            woken_by: None,
        }
    }

    /// This execution, with whether the run had history when it began. For engines.
    #[must_use]
    pub fn with_replay(mut self, replay: bool) -> Self {
        self.replay = replay;
        self
    }

    /// This execution of a run that was due for so long. For engines.
    #[must_use]
    pub fn with_due_for(mut self, due_for: Duration) -> Self {
        self.due_for = Some(due_for);
        self
    }

    /// This execution of a run that `cause` made due. For engines.
    #[must_use]
    pub fn with_woken_by(mut self, cause: WakeCause) -> Self {
        self.woken_by = Some(cause);
        self
    }
}
