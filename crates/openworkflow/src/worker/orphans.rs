//! A worker's look-out for due runs that nobody takes, while it has nothing to do itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;

use super::Shared;
use crate::backend::{BackendResult, OrphanSearch, Orphans, WorkflowKey};
use crate::log;

/// How often to look, and for how long a run is due before anybody is told. Every worker has polled ten
/// times by then.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long nothing is told after something was.
const SILENCE: Duration = Duration::from_secs(60);
/// How many workflows are told of at once.
const TOLD: usize = 5;

pub(super) struct Lookout {
    shared: Arc<Shared>,
    looked: Option<SystemTime>,
    /// How long after the last look the next one is.
    pause: Duration,
    /// The run of each workflow that was due for the longest time at the last look. One that stands there
    /// at the next, too, has been taken by nobody, while a backlog that somebody works on moves.
    oldest: HashMap<WorkflowKey, String>,
    /// The look, if there is one. In a task: it holds a connection, or has its place in the queue for one,
    /// and the worker that claims meanwhile would wait for what it does not poll.
    under_way: JoinSet<BackendResult<Vec<Orphans>>>,
}

impl Lookout {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            looked: None,
            pause: INTERVAL,
            oldest: HashMap::new(),
            under_way: JoinSet::new(),
        }
    }

    /// The worker has nothing to do: begins a look, if it is time for one.
    pub(super) fn idle(&mut self) {
        // A worker that claims whatever is due leaves nothing behind.
        let Some(workflows) = self.shared.registry.claimable() else {
            return;
        };
        let now = self.shared.backend.clock().now();
        // A clock that was set back makes it due, too.
        let is_due = self.looked.is_none_or(|looked| {
            now.duration_since(looked)
                .map_or(true, |since| since >= self.pause)
        });
        if is_due && self.under_way.is_empty() {
            self.looked = Some(now);
            let search = OrphanSearch::new(self.shared.namespace_id.clone(), workflows);
            let backend = Arc::clone(&self.shared.backend);
            self.under_way
                .spawn(async move { backend.find_orphans(search).await });
        }
    }

    /// Tells what the look under way finds, and never resolves. If the future is dropped, the next one
    /// goes on.
    pub(super) async fn look(&mut self) {
        while let Some(found) = self.under_way.join_next().await {
            match found {
                Ok(Ok(found)) => self.tell(found),
                // Claims fail likewise, and say so.
                Ok(Err(error)) => tracing::debug!(%error, "cannot look for runs that nobody takes"),
                Err(error) => tracing::error!(%error, "a look for runs that nobody takes panicked"),
            }
        }
        std::future::pending::<()>().await;
    }

    fn tell(&mut self, found: Vec<Orphans>) {
        let stuck = |orphans: &&Orphans| {
            orphans.due_for >= INTERVAL
                && self.oldest.get(&orphans.workflow) == Some(&orphans.oldest_run_id)
        };
        let told: Vec<_> = found.iter().filter(stuck).take(TOLD).collect();
        for orphans in &told {
            log::runs_orphaned(&self.shared.namespace_id, orphans);
        }
        self.pause = if told.is_empty() { INTERVAL } else { SILENCE };
        let oldest = found.into_iter();
        self.oldest = oldest
            .map(|orphans| (orphans.workflow, orphans.oldest_run_id))
            .collect();
    }
}
