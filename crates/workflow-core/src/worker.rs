//! What a worker knows of itself at the moment: what is counted now, rather than what happened.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A worker at work, as [`Event::WorkerStarted`](crate::Event::WorkerStarted) introduces it. It is asked
/// by whoever collects gauges, as often as they like, and answers at once: without I/O.
///
/// ```
/// use std::sync::{Arc, Mutex, PoisonError, Weak};
/// use workflow_core::{Event, Interceptor, WorkerState};
///
/// #[derive(Default)]
/// struct Slots(Mutex<Vec<Weak<dyn WorkerState>>>);
///
/// impl Slots {
///     /// Over all workers that live.
///     fn free(&self) -> u64 {
///         let workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
///         let readings = workers.iter().filter_map(Weak::upgrade).map(|worker| worker.read());
///         readings.map(|reading| reading.slots_free).sum()
///     }
/// }
///
/// impl Interceptor for Slots {
///     fn event(&self, event: &Event<'_>) {
///         if let Event::WorkerStarted { worker, .. } = event {
///             let mut workers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
///             workers.push(Arc::downgrade(worker));
///         }
///     }
/// }
/// ```
pub trait WorkerState: fmt::Debug + Send + Sync + 'static {
    /// How it is at the moment.
    fn read(&self) -> WorkerReading;
}

/// How a worker is at a moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WorkerReading {
    /// Slots in which runs execute.
    pub slots_used: u64,
    /// Slots that are free.
    pub slots_free: u64,
    /// The connections to its database, where the engine has a pool that tells.
    pub connections: Option<ConnectionsReading>,
    /// The runs in its database, where the worker reads that.
    pub queue: Option<Arc<QueueReading>>,
}

/// A pool of connections to a database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionsReading {
    /// What the pool is called. Workers that name the same pool share it.
    pub pool: Arc<str>,
    /// Connections in use.
    pub used: u64,
    /// Connections that wait for somebody to use them.
    pub idle: u64,
}

impl ConnectionsReading {
    /// For engines.
    #[must_use]
    pub fn new(pool: Arc<str>, used: u64, idle: u64) -> Self {
        Self { pool, used, idle }
    }
}

/// The runs that an engine has in its database, as far as they were counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueReading {
    /// Which queue it is. Workers that tell the same number tell of the same queue.
    pub source: usize,
    /// Runs that a worker could claim now.
    pub due: u64,
    /// Runs that begin, or are tried again, later.
    pub scheduled: u64,
    /// Runs that wait for something: a time, a signal, a child.
    pub waiting: u64,
    /// Runs that a worker has.
    pub running: u64,
    /// For how long the oldest of those that are due has been; `None` where none is.
    pub oldest_due: Option<Duration>,
    /// How many runs have each status, in the words of the engine's database.
    pub runs: Vec<(&'static str, u64)>,
}
