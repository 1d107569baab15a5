//! What is counted for metrics.

use std::time::Duration;

use super::RunCounts;

/// What stands in a namespace, each number up to a limit. Every run that is not over is in one of the first
/// four.
///
/// ```
/// # async fn example(store: openworkflow::Sqlite) -> Result<(), Box<dyn std::error::Error>> {
/// use openworkflow::backend::Backend;
///
/// if let Some(counts) = store.count_queue("default", 1000).await? {
///     println!("{} due, the oldest for {:?}", counts.due, counts.oldest_due);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueCounts {
    /// Could be claimed now: also those of workers that died, whose leases ran out.
    pub due: u64,
    /// `pending`, and due later: they were delayed, or are tried again.
    pub scheduled: u64,
    /// Parked: they wait for a time, a signal or a child.
    pub waiting: u64,
    /// A worker has them.
    pub running: u64,
    /// For how long the oldest that is due has been.
    pub oldest_due: Option<Duration>,
    /// All runs by their status.
    pub runs: RunCounts,
}

impl QueueCounts {
    /// Adds what was counted of a status whose runs are not over, up to `limit`.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn add(&mut self, status: &super::RunStatus, counted: &Counted, limit: u64) {
        self.due = (self.due + counted.due).min(limit);
        if *status == super::RunStatus::Pending {
            self.scheduled = counted.later;
        } else {
            let waiting = counted.later - counted.held.min(counted.later);
            self.waiting = (self.waiting + waiting).min(limit);
            self.running = (self.running + counted.held).min(limit);
        }
        self.oldest_due = self.oldest_due.max(counted.oldest_due);
        self.add_runs(status, counted.due + counted.later, limit);
    }

    /// Adds how many runs have a status, up to `limit`.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(super) fn add_runs(&mut self, status: &super::RunStatus, runs: u64, limit: u64) {
        let all = &mut self.runs;
        all.add(status, runs);
        for count in [
            &mut all.pending,
            &mut all.running,
            &mut all.completed,
            &mut all.failed,
            &mut all.canceled,
        ] {
            *count = (*count).min(limit);
        }
    }
}

/// Runs of one status that are not over.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) due: u64,
    pub(super) oldest_due: Option<Duration>,
    /// Not due yet.
    pub(super) later: u64,
    /// Of these, those that a worker has.
    pub(super) held: u64,
}

/// The connections of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connections {
    /// In use.
    pub used: u64,
    /// Not in use.
    pub idle: u64,
}

impl Connections {
    /// For backends.
    #[must_use]
    pub fn new(used: u64, idle: u64) -> Self {
        Self { used, idle }
    }
}
