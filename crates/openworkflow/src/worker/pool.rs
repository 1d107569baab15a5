//! The loop that claims runs for the slots that are free.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;

use super::stop::{Stop, Urgency};
use super::{Shared, slot};
use crate::backend::{BackendError, BackendResult, Claim};
use crate::execution::new_id;

const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(1);
/// How long giving runs back may take once their executions are dropped.
const RELEASE_DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn work(shared: Arc<Shared>, stop: Stop) -> BackendResult<()> {
    let mut free: Vec<Arc<str>> = (0..shared.concurrency).map(|_| new_id()).collect();
    let mut executions: JoinSet<Arc<str>> = JoinSet::new();
    let ended = claim_until_stopped(&shared, &stop, &mut free, &mut executions).await;
    drain(&shared, &stop, executions).await;
    ended
}

async fn claim_until_stopped(
    shared: &Arc<Shared>,
    stop: &Stop,
    free: &mut Vec<Arc<str>>,
    executions: &mut JoinSet<Arc<str>>,
) -> BackendResult<()> {
    let mut stopping = std::pin::pin!(stop.reached(Urgency::Draining));
    let wakeups = shared.backend.wakeups();
    let mut empty_polls = 0;
    loop {
        while let Some(ended) = executions.try_join_next() {
            free.push(slot_of(ended));
        }
        if free.is_empty() {
            tokio::select! {
                () = &mut stopping => return Ok(()),
                Some(ended) = executions.join_next() => free.push(slot_of(ended)),
            }
            continue;
        }

        if stop.urgency() > Urgency::Working {
            return Ok(());
        }
        // Listens from here on, so that what is committed during the claim is not missed.
        let mut news = std::pin::pin!(wakeups.work());
        let asked = free.len();
        let claim = Claim::new(
            Arc::clone(&shared.namespace_id),
            free.clone(),
            shared.registry.claimable(),
            shared.lease,
        );
        let claimed = tokio::select! {
            biased;
            claimed = shared.backend.claim_runs(claim) => claimed,
            () = claim_given_up(stop) => return Ok(()),
        };
        match claimed {
            Ok(claimed) => {
                empty_polls = if claimed.is_empty() {
                    empty_polls + 1
                } else {
                    0
                };
                let all = claimed.len() >= asked;
                for run in claimed {
                    free.retain(|slot| **slot != *run.worker_id);
                    let shared = Arc::clone(shared);
                    executions.spawn(slot::execute(shared, stop.clone(), run));
                }
                if all {
                    continue;
                }
            }
            Err(BackendError::Closed) => return Err(BackendError::Closed),
            Err(error) => {
                tracing::warn!(%error, "cannot claim runs; trying again");
                empty_polls += 1;
            }
        }

        let poll = tokio::time::sleep(poll_delay(empty_polls));
        let mut poll = std::pin::pin!(poll);
        loop {
            let due_changed = wakeups.due_changed();
            let due = wakeups.next_due(shared.backend.clock().now());
            tokio::select! {
                () = &mut stopping => return Ok(()),
                () = &mut poll => break,
                () = &mut news => break,
                () = until(shared, due) => break,
                () = shared.backend.clock().moved() => break,
                () = due_changed => {}
                Some(ended) = executions.join_next() => free.push(slot_of(ended)),
            }
        }
    }
}

/// Resolves when a stop waits no longer for a claim under way. A claim that is dropped halfway may have
/// happened, and nobody would work on its runs until the lease runs out; so a graceful stop waits for
/// it while the database may still answer, and its runs count as under way.
async fn claim_given_up(stop: &Stop) {
    stop.reached(Urgency::Draining).await;
    tokio::select! {
        () = tokio::time::sleep(RELEASE_DEADLINE) => {}
        () = stop.reached(Urgency::Aborting) => {}
    }
}

async fn until(shared: &Shared, due: Option<SystemTime>) {
    match due {
        None => std::future::pending().await,
        Some(due) => {
            let now = shared.backend.clock().now();
            // Due times have whole milliseconds; a claim a moment too early would find nothing.
            let wait = due.duration_since(now).unwrap_or_default() + Duration::from_millis(1);
            tokio::time::sleep(wait).await;
        }
    }
}

/// Backs off from 100 ms to 1 s, with jitter so that workers do not march in step.
fn poll_delay(empty_polls: u32) -> Duration {
    let doublings = empty_polls.saturating_sub(1).min(10);
    let delay = (POLL_MIN * 2_u32.pow(doublings)).min(POLL_MAX);
    let jitter = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    delay.mul_f64(0.5 + jitter / 2.0)
}

/// The worker id of an execution that ended. One that panicked despite all containment gives its
/// slot a new id, since its run may still be claimed under the old one.
fn slot_of(ended: Result<Arc<str>, tokio::task::JoinError>) -> Arc<str> {
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "an execution panicked outside of user code");
        new_id()
    })
}

async fn drain(shared: &Shared, stop: &Stop, mut executions: JoinSet<Arc<str>>) {
    async fn all(executions: &mut JoinSet<Arc<str>>) {
        while executions.join_next().await.is_some() {}
    }
    tokio::select! {
        () = all(&mut executions) => return,
        () = tokio::time::sleep(shared.stop_deadline) => {}
        () = stop.reached(Urgency::Releasing) => {}
    }
    stop.request(Urgency::Releasing);
    // Ends early where the database does not answer; the leases then run out.
    let _ = tokio::time::timeout(RELEASE_DEADLINE, all(&mut executions)).await;
}
