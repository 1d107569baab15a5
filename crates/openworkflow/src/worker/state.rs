//! What a worker at work tells of itself at the moment, to interceptors that collect gauges.

use std::fmt;
use std::sync::Arc;

use tokio::task::AbortHandle;
use workflow_core::{ConnectionsReading, Event, WorkerReading, WorkerState};

use super::Shared;
use super::queue::QueueWatch;

/// A worker at work: as long as this lives.
pub(super) struct LiveWorker {
    shared: Arc<Shared>,
    /// What the pool of connections is called.
    pool: Arc<str>,
    queue: Option<Watching>,
}

struct Watching {
    watch: Arc<QueueWatch>,
    task: AbortHandle,
}

impl LiveWorker {
    /// Introduces the worker to its interceptors.
    pub(super) fn introduce(shared: &Arc<Shared>) -> Arc<dyn WorkerState> {
        let queue = shared.counts_queue.then(|| {
            let watch = QueueWatch::of(&shared.backend, &shared.namespace_id);
            let task = tokio::spawn(Arc::clone(&watch).keep()).abort_handle();
            Watching { watch, task }
        });
        let worker: Arc<dyn WorkerState> = Arc::new(Self {
            shared: Arc::clone(shared),
            pool: shared.backend.label().into(),
            queue,
        });
        shared.chain.event(&Event::worker_started(&worker));
        worker
    }
}

impl WorkerState for LiveWorker {
    fn read(&self) -> WorkerReading {
        let (used, free) = self.shared.vitals.slots();
        let mut reading = WorkerReading::default();
        (reading.slots_used, reading.slots_free) = (used as u64, free as u64);
        reading.connections = self.shared.backend.connections().map(|connections| {
            let pool = Arc::clone(&self.pool);
            ConnectionsReading::new(pool, connections.used, connections.idle)
        });
        reading.queue = self.queue.as_ref().and_then(|queue| queue.watch.last());
        reading
    }
}

impl fmt::Debug for LiveWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("namespace_id", &self.shared.namespace_id)
            .finish_non_exhaustive()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
    }
}
