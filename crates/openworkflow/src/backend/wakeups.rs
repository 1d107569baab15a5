//! News within a process: what became due, and what ended.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use workflow_core::{Carrier, RunInfo};

/// How many future due times are remembered, and how far ahead; the rest is found by polling.
const REMEMBERED_DUE_TIMES: usize = 10_000;
const HORIZON: Duration = Duration::from_secs(3600);
/// How many overdue runs wait to be told of.
const REMEMBERED_OVERDUE: usize = 10_000;

/// Where a backend says what it committed, and where workers and handles of the same process hear
/// of it. Only a matter of latency: everything here is found by polling too.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use openworkflow::backend::Wakeups;
///
/// let wakeups = Wakeups::new();
/// let now = SystemTime::now();
/// // After the commit that parks a run for a minute, and after the one that ends another:
/// wakeups.work_due_in("default", now + Duration::from_secs(60), now);
/// wakeups.run_ended("6f9c");
/// ```
#[derive(Default)]
pub struct Wakeups {
    /// Of the namespaces that somebody works in.
    work: Mutex<HashMap<String, Weak<WorkNews>>>,
    watched: Mutex<HashMap<String, Weak<Notify>>>,
}

/// What those hear who work in one namespace.
#[derive(Default)]
pub(crate) struct WorkNews {
    announced: Notify,
    due_changed: Notify,
    due: Mutex<BinaryHeap<Reverse<SystemTime>>>,
    overdue: Mutex<Vec<OverdueRun>>,
}

/// A run that failed because its deadline passed while nobody's execution ended it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverdueRun {
    /// The run's id.
    pub id: String,
    /// The name of its workflow.
    pub workflow_name: String,
    /// The version of its workflow.
    pub version: Option<String>,
    /// What is kept with it.
    pub carrier: Carrier,
    /// When it was created.
    pub created_at: Option<SystemTime>,
    /// How old it was when it failed.
    pub age: Duration,
    /// Which execution was under way, if its worker is gone and it was recorded.
    pub lost_attempt: Option<u32>,
}

impl OverdueRun {
    /// For backends.
    pub fn new(id: impl Into<String>, workflow_name: impl Into<String>, age: Duration) -> Self {
        Self {
            id: id.into(),
            workflow_name: workflow_name.into(),
            version: None,
            carrier: Carrier::new(),
            created_at: None,
            age,
            lost_attempt: None,
        }
    }

    /// This run, as interceptors are told of it.
    pub(crate) fn info(&self, namespace_id: &Arc<str>) -> RunInfo {
        let run = RunInfo::new(Arc::clone(namespace_id), &*self.id, &*self.workflow_name)
            .with_carrier(self.carrier.clone());
        match &self.version {
            Some(version) => run.with_workflow_version(version.as_str()),
            None => run,
        }
    }
}

impl Wakeups {
    /// Nothing due, nobody watching.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A run of the namespace becomes claimable at `at`.
    pub fn work_due_in(&self, namespace_id: &str, at: SystemTime, now: SystemTime) {
        let work = lock(&self.work).get(namespace_id).and_then(Weak::upgrade);
        // Who begins to work there later, looks first.
        if let Some(work) = work {
            work.due(at, now);
        }
    }

    /// Runs become claimable at `at`, in namespaces that are not known: everybody looks.
    pub fn work_due(&self, at: SystemTime, now: SystemTime) {
        let all: Vec<_> = lock(&self.work)
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        for work in all {
            work.due(at, now);
        }
    }

    /// A run reached a terminal status.
    pub fn run_ended(&self, run_id: &str) {
        let watcher = lock(&self.watched).remove(run_id);
        if let Some(watcher) = watcher.and_then(|weak| weak.upgrade()) {
            watcher.notify_waiters();
        }
    }

    /// A run of the namespace was failed since its deadline passed. One who works there tells interceptors
    /// of it; who watches the run is told [otherwise](Self::run_ended).
    pub fn run_overdue(&self, namespace_id: &str, run: OverdueRun) {
        let work = lock(&self.work).get(namespace_id).and_then(Weak::upgrade);
        if let Some(work) = work {
            work.run_overdue(run);
        }
    }

    /// What becomes due in the namespace, from now on.
    pub(crate) fn work_in(&self, namespace_id: &str) -> Arc<WorkNews> {
        shared(&self.work, namespace_id)
    }

    /// Something that is notified when the run ends in this process.
    pub(crate) fn watch(&self, run_id: &str) -> Arc<Notify> {
        shared(&self.watched, run_id)
    }
}

impl WorkNews {
    fn due(&self, at: SystemTime, now: SystemTime) {
        if at <= now {
            self.announced.notify_waiters();
            return;
        }
        if at > now + HORIZON {
            return;
        }
        let mut due = lock(&self.due);
        let earliest = due.peek().is_none_or(|Reverse(first)| at < *first);
        if due.len() < REMEMBERED_DUE_TIMES {
            due.push(Reverse(at));
        }
        drop(due);
        if earliest {
            self.due_changed.notify_waiters();
        }
    }

    fn run_overdue(&self, run: OverdueRun) {
        let mut overdue = lock(&self.overdue);
        if overdue.len() < REMEMBERED_OVERDUE {
            overdue.push(run);
        } else {
            tracing::debug!(
                workflow_run.id = run.id,
                "too many runs were overdue at once: interceptors are not told of this one"
            );
        }
    }

    /// The overdue runs that nobody has told of yet. Whoever takes them, does.
    pub(crate) fn take_overdue(&self) -> Vec<OverdueRun> {
        std::mem::take(&mut *lock(&self.overdue))
    }

    /// A future that ends when work is announced. It listens from the moment it is made.
    pub(crate) fn announced(&self) -> tokio::sync::futures::Notified<'_> {
        self.announced.notified()
    }

    /// A future that ends when the earliest known due time changes.
    pub(crate) fn due_changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.due_changed.notified()
    }

    /// The earliest time after `now` at which work is known to become due. Forgets earlier ones.
    pub(crate) fn next_due(&self, now: SystemTime) -> Option<SystemTime> {
        let mut due = lock(&self.due);
        while due.peek().is_some_and(|Reverse(at)| *at <= now) {
            due.pop();
        }
        due.peek().map(|Reverse(at)| *at)
    }
}

/// What is kept under a key as long as somebody has it.
fn shared<T: Default>(map: &Mutex<HashMap<String, Weak<T>>>, key: &str) -> Arc<T> {
    let mut map = lock(map);
    if let Some(known) = map.get(key).and_then(Weak::upgrade) {
        return known;
    }
    // Those that were dropped leave their entry behind; clear them before the map grows.
    if map.len() == map.capacity() {
        map.retain(|_, known| known.strong_count() > 0);
    }
    let new = Arc::<T>::default();
    map.insert(key.to_owned(), Arc::downgrade(&new));
    new
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Wakeups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wakeups").finish_non_exhaustive()
    }
}
