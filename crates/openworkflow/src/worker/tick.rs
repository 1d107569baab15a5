//! One claim, executed to its end: for tests, and for hosts that something else wakes.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::stop::Stop;
use super::{Shared, pool, slot};
use crate::backend::BackendResult;
use crate::execution::new_id;
use crate::lease::Moment;

/// Gives how many runs were claimed. Their executions are dropped with the future.
pub(super) async fn tick(shared: &Arc<Shared>) -> BackendResult<usize> {
    // Ids of its own: another tick, or a worker that was started, may be at work beside it.
    let ids = (0..shared.concurrency).map(|_| new_id()).collect();
    let slots = Arc::new(Semaphore::new(shared.concurrency));
    let news = shared.backend.wakeups().work_in(&shared.namespace_id);
    let asked_at = Moment::now();
    let claimed = shared.claim(ids).await?;
    let count = claimed.len();
    let mut executions = JoinSet::new();
    for run in claimed {
        // There is one for each run, since nobody else has this semaphore.
        if let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            let slot = shared.vitals.occupy(slot);
            let shared = Arc::clone(shared);
            executions.spawn(slot::execute(shared, Stop::default(), slot, run, asked_at));
        }
    }
    while let Some(ended) = executions.join_next().await {
        pool::id_of(ended);
    }
    pool::tell_of_overdue(shared, &news).await;
    Ok(count)
}
