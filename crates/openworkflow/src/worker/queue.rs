//! What stands in the queue, counted now and then for metrics: by one reader for all workers of a process
//! that look at the same queue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use workflow_core::QueueReading;

use crate::backend::{Backend, BackendResult, QueueCounts};

/// How often a queue is read at most.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long what was read is shown, if no more can be read.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// Up to how many runs of each kind are counted.
const COUNTED: u32 = 100_000;

/// A namespace of a database, and what was last read there.
pub(super) struct QueueWatch {
    backend: Arc<dyn Backend>,
    namespace_id: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: Option<Instant>,
    read: Option<(Instant, Arc<QueueReading>)>,
}

/// Who reads what, by the database's address in this process and the namespace.
static WATCHES: Mutex<BTreeMap<Key, Weak<QueueWatch>>> = Mutex::new(BTreeMap::new());

type Key = (usize, Arc<str>);

impl QueueWatch {
    /// The one for this namespace.
    pub(super) fn of(backend: &Arc<dyn Backend>, namespace_id: &Arc<str>) -> Arc<Self> {
        // Those who have the same database open share these. They live as long as the watch.
        let source = std::ptr::from_ref(backend.wakeups()).addr();
        let key = (source, Arc::clone(namespace_id));
        let mut watches = lock(&WATCHES);
        if let Some(known) = watches.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        watches.retain(|_, watch| watch.strong_count() > 0);
        let watch = Arc::new(Self {
            backend: Arc::clone(backend),
            namespace_id: Arc::clone(namespace_id),
            state: Mutex::default(),
        });
        watches.insert(key, Arc::downgrade(&watch));
        watch
    }

    /// Reads now and then, and never resolves.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            let next = self.read_if_due().await;
            tokio::time::sleep(next).await;
        }
    }

    /// Gives when to look again.
    async fn read_if_due(&self) -> Duration {
        {
            let mut state = lock(&self.state);
            let since = state.asked.map(|asked| asked.elapsed());
            if let Some(left) = since.and_then(|since| INTERVAL.checked_sub(since))
                && !left.is_zero()
            {
                return left;
            }
            state.asked = Some(Instant::now());
        }
        match self.read().await {
            Ok(()) => {}
            // Claims fail likewise, and say so.
            Err(error) if error.is_transient() => tracing::debug!(%error, "cannot read the queue"),
            Err(error) => tracing::warn!(%error, "cannot read the queue for metrics"),
        }
        INTERVAL
    }

    async fn read(&self) -> BackendResult<()> {
        let counted = self.backend.count_queue(&self.namespace_id, COUNTED);
        let Some(counts) = counted.await? else {
            tracing::debug!("this backend does not count its queue");
            return Ok(());
        };
        let reading = Arc::new(self.reading(&counts));
        lock(&self.state).read = Some((Instant::now(), reading));
        Ok(())
    }

    fn reading(&self, counts: &QueueCounts) -> QueueReading {
        let mut reading = QueueReading::default();
        reading.source = std::ptr::from_ref(self).addr();
        reading.due = counts.due;
        reading.scheduled = counts.scheduled;
        reading.waiting = counts.waiting;
        reading.running = counts.running;
        reading.oldest_due = counts.oldest_due;
        let runs = &counts.runs;
        reading.runs = vec![
            ("pending", runs.pending),
            ("running", runs.running),
            ("completed", runs.completed),
            ("failed", runs.failed),
            ("canceled", runs.canceled),
        ];
        reading
    }

    /// What was read last, unless that is long ago.
    pub(super) fn last(&self) -> Option<Arc<QueueReading>> {
        let state = lock(&self.state);
        let (at, reading) = state.read.as_ref()?;
        (at.elapsed() <= GOOD_FOR).then(|| Arc::clone(reading))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
