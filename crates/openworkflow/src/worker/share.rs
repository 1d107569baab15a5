//! A worker's claims, and which share of them goes to runs that were started before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Shared;
use crate::backend::{BackendResult, Claim, ClaimedRun};

impl Shared {
    /// Claims a run for each of `worker_ids` at most.
    pub(super) async fn claim(&self, worker_ids: Vec<Arc<str>>) -> BackendResult<Vec<ClaimedRun>> {
        let kept = self.share.of(worker_ids.len());
        let mut claim = Claim::new(
            Arc::clone(&self.namespace_id),
            worker_ids,
            self.registry.claimable(),
            self.lease,
        );
        claim.started_first = kept;
        let claimed = self.backend.claim_runs(claim).await?;
        self.share.claimed(claimed.len(), kept);
        Ok(claimed)
    }
}

/// Of this many runs that a worker claims, one is kept for those that were started before.
const OF: usize = 4;

/// Counts the runs that a worker claimed since it was last the turn of one that was started before.
#[derive(Debug)]
pub(super) struct Share(AtomicUsize);

impl Share {
    /// Begins anywhere: a worker that lives for a single claim must not always begin with new runs.
    pub(super) fn new() -> Self {
        let anywhere = usize::from(uuid::Uuid::new_v4().as_bytes()[0]);
        Self(AtomicUsize::new(anywhere % OF))
    }

    /// How many of the next claim's slots are kept.
    fn of(&self, slots: usize) -> usize {
        (self.0.load(Ordering::Relaxed) + slots) / OF
    }

    /// So many runs were claimed by a claim that kept so many slots.
    fn claimed(&self, runs: usize, kept: usize) {
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |since| {
                Some((since + runs).saturating_sub(kept * OF))
            });
    }
}
