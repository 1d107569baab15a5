//! A worker's look-out for due runs that nobody takes, while it has nothing to do itself.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use workflow_core::BoxFuture;

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

pub(super) struct Lookout<'a> {
    shared: &'a Shared,
    looked: Option<SystemTime>,
    /// How long after the last look the next one is.
    pause: Duration,
    /// The run of each workflow that was due for the longest time at the last look. One that stands there
    /// at the next, too, has been taken by nobody, while a backlog that somebody works on moves.
    oldest: HashMap<WorkflowKey, String>,
    under_way: Option<BoxFuture<'a, BackendResult<Vec<Orphans>>>>,
}

impl<'a> Lookout<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            looked: None,
            pause: INTERVAL,
            oldest: HashMap::new(),
            under_way: None,
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
        if is_due && self.under_way.is_none() {
            self.looked = Some(now);
            let search = OrphanSearch::new(self.shared.namespace_id.clone(), workflows);
            self.under_way = Some(self.shared.backend.find_orphans(search));
        }
    }

    /// Sees to the look that is under way, and never resolves. If the future is dropped, the next one goes
    /// on.
    pub(super) async fn look(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            let found = under_way.await;
            self.under_way = None;
            match found {
                Ok(found) => self.tell(found),
                // Claims fail likewise, and say so.
                Err(error) => tracing::debug!(%error, "cannot look for runs that nobody takes"),
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
