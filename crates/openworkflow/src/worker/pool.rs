//! The loop that claims runs for the slots that are free.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use workflow_core::Event;

use super::orphans::Lookout;
use super::state::LiveWorker;
use super::stop::{Stop, Urgency};
use super::{Shared, slot};
use crate::backend::{BackendError, BackendResult, ClaimedRun, WorkNews, codec};
use crate::execution::new_id;
use crate::lease::Moment;
use crate::{log, lost};

const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(1);
/// How long a hard stop waits for executions to be dropped. They are at once, unless user code blocks
/// its thread.
const ABORT_DEADLINE: Duration = Duration::from_millis(20);
/// Worker ids for each run that may execute at a time. One is held from the claim until the last write
/// has come through, but the next run begins as soon as the code of the one before is at its end.
const IDS_PER_SLOT: usize = 2;
/// How long giving runs back may take once their executions are dropped.
const RELEASE_DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn work(shared: Arc<Shared>, stop: Stop) -> BackendResult<()> {
    let ids = shared.concurrency * IDS_PER_SLOT;
    let mut free: Vec<Arc<str>> = (0..ids).map(|_| new_id()).collect();
    let mut executions: JoinSet<Arc<str>> = JoinSet::new();
    log::worker_started(
        &shared.namespace_id,
        &shared.registry,
        shared.concurrency,
        &shared.backend.label(),
    );
    let _over = Over(&stop);
    let work = shared.backend.wakeups().work_in(&shared.namespace_id);
    let worker = LiveWorker::introduce(&shared);
    let ended = claim_until_stopped(&shared, &stop, &mut free, &mut executions).await;
    // Also where nobody asked it to: the database was closed.
    stop.request(Urgency::Draining);
    shared.vitals.full();
    log::worker_stopping(&shared.namespace_id, stop.executions());
    drain(&shared, &stop, executions).await;
    tell_of_overdue(&shared, &work).await;
    drop(worker);
    log::worker_stopped(&shared.namespace_id);
    ended
}

/// A worker that is gone is stopping to whoever asks, however it went.
struct Over<'a>(&'a Stop);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.request(Urgency::Draining);
    }
}

async fn claim_until_stopped(
    shared: &Arc<Shared>,
    stop: &Stop,
    free: &mut Vec<Arc<str>>,
    executions: &mut JoinSet<Arc<str>>,
) -> BackendResult<()> {
    let work = shared.backend.wakeups().work_in(&shared.namespace_id);
    let clock = shared.backend.clock();
    let slots = Arc::new(Semaphore::new(shared.concurrency));
    let mut lookout = Lookout::new(shared);
    let mut empty_polls = 0;
    while stop.urgency() < Urgency::Draining {
        tell_of_overdue(shared, &work).await;
        while let Some(ended) = executions.try_join_next() {
            free.push(id_of(ended));
        }
        let vitals = &shared.vitals;
        if slots.available_permits() == 0 || free.is_empty() {
            vitals.full();
        }
        let slot = tokio::select! {
            // A slot that comes free at the same time must not be filled once more.
            biased;
            () = stop.reached(Urgency::Draining) => break,
            Ok(slot) = Arc::clone(&slots).acquire_owned(), if !free.is_empty() => slot,
            Some(ended) = executions.join_next() => {
                free.push(id_of(ended));
                continue;
            }
        };
        // Runs that were claimed together often end together; their slots are filled by one claim, too.
        tokio::task::yield_now().await;
        let mut taken = vec![slot];
        while taken.len() < free.len()
            && let Ok(slot) = Arc::clone(&slots).try_acquire_owned()
        {
            taken.push(slot);
        }

        vitals.claiming();
        // Both listen from here on, so that nothing is missed that happens during the claim.
        let mut news = std::pin::pin!(work.announced());
        let mut moved = std::pin::pin!(clock.moved());
        let asked = taken.len();
        let asked_at = Moment::now();
        let Some(claimed) = claim(shared, stop, &free[..asked]).await else {
            return Ok(());
        };
        match claimed {
            Ok(claimed) => {
                vitals.claimed();
                empty_polls = if claimed.is_empty() {
                    lookout.idle();
                    empty_polls + 1
                } else {
                    0
                };
                let all = claimed.len() >= asked;
                for (run, slot) in claimed.into_iter().zip(taken) {
                    free.retain(|id| **id != *run.worker_id);
                    let shared = Arc::clone(shared);
                    let slot = vitals.occupy(slot);
                    executions.spawn(slot::execute(shared, stop.clone(), slot, run, asked_at));
                }
                if all {
                    continue;
                }
            }
            Err(BackendError::Closed) => return Err(BackendError::Closed),
            Err(error) => {
                vitals.cannot_claim(&error);
                tracing::warn!(%error, "cannot claim runs; trying again");
                empty_polls += 1;
            }
        }

        let mut poll = std::pin::pin!(tokio::time::sleep(poll_delay(empty_polls)));
        loop {
            let due_changed = work.due_changed();
            let due = work.next_due(clock.now());
            tokio::select! {
                () = stop.reached(Urgency::Draining) => break,
                () = &mut poll => break,
                () = &mut news => break,
                () = &mut moved => break,
                () = until(shared, due) => break,
                () = due_changed => {}
                () = lookout.look() => {}
                Some(ended) = executions.join_next() => free.push(id_of(ended)),
            }
        }
    }
    Ok(())
}

/// Tells interceptors of runs that failed for their deadline, if nobody else of this process does.
pub(super) async fn tell_of_overdue(shared: &Shared, work: &WorkNews) {
    let overdue = work.take_overdue();
    if overdue.is_empty() {
        return;
    }
    let error = codec::deadline_error();
    for run in overdue {
        let info = run.info(&shared.namespace_id);
        lost::tell(&*shared.backend, &shared.chain, &info, run.lost_attempt).await;
        let event = Event::run_overdue(&info, &error, run.created_at, Some(run.age));
        shared.chain.event(&event);
    }
}

/// Claims runs for the slots that are free. A claim under way when the worker is to stop is waited
/// for, since what it claims would otherwise be left until its lease runs out; `None` if the database
/// does not answer.
async fn claim(
    shared: &Shared,
    stop: &Stop,
    free: &[Arc<str>],
) -> Option<BackendResult<Vec<ClaimedRun>>> {
    let too_late = async {
        stop.reached(Urgency::Draining).await;
        tokio::time::sleep(RELEASE_DEADLINE).await;
    };
    tokio::select! {
        biased;
        claimed = shared.claim(free.to_vec()) => Some(claimed),
        () = too_late => None,
        () = stop.reached(Urgency::Aborting) => None,
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

/// The worker id of an execution that ended. One that panicked despite all containment has a new one
/// in its place, since its run may still be claimed under the old one.
pub(super) fn id_of(ended: Result<Arc<str>, tokio::task::JoinError>) -> Arc<str> {
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
    // Where the database does not answer, the rest is dropped and the leases run out.
    tokio::select! {
        () = all(&mut executions) => return,
        () = tokio::time::sleep(RELEASE_DEADLINE) => {}
        () = stop.reached(Urgency::Aborting) => {}
    }
    let _ = tokio::time::timeout(ABORT_DEADLINE, all(&mut executions)).await;
}
