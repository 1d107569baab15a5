//! How a worker is asked to stop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Health;
use crate::backend::BackendError;
use crate::log;

/// How urgently a worker is to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    #[default]
    Working,
    /// Claim nothing more.
    Draining,
    /// Drop what is under way and give it back.
    Releasing,
    /// Drop what is under way and write nothing.
    Aborting,
}

/// The request to stop, shared by a worker and its executions.
#[derive(Debug, Clone)]
pub(super) struct Stop(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    urgency: watch::Sender<Urgency>,
    /// How many executions are under way.
    at_work: AtomicUsize,
}

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(Shared {
            urgency: watch::Sender::new(Urgency::Working),
            at_work: AtomicUsize::new(0),
        }))
    }
}

/// An execution is under way while this lives.
pub(super) struct AtWork(Stop);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stop {
    pub(super) fn at_work(&self) -> AtWork {
        self.0.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(self.clone())
    }

    /// How many executions are under way.
    pub(super) fn executions(&self) -> usize {
        self.0.at_work.load(Ordering::Relaxed)
    }

    pub(super) fn request(&self, urgency: Urgency) {
        self.0.urgency.send_if_modified(|current| {
            let more_urgent = urgency > *current;
            *current = urgency.max(*current);
            more_urgent
        });
    }

    pub(super) fn urgency(&self) -> Urgency {
        *self.0.urgency.borrow()
    }

    /// Resolves once the urgency is at least `urgency`.
    pub(super) async fn reached(&self, urgency: Urgency) {
        let mut changes = self.0.urgency.subscribe();
        // The sender lives as long as `self`, so this waits for the value alone.
        let _ = changes.wait_for(|current| *current >= urgency).await;
    }
}

/// A worker at work. Dropping it is a hard stop.
pub struct WorkerHandle {
    stop: Stop,
    task: Option<JoinHandle<Result<(), BackendError>>>,
    health: Health,
    #[cfg(feature = "observe")]
    observed_at: Option<std::net::SocketAddr>,
}

impl WorkerHandle {
    pub(super) fn new(
        stop: Stop,
        task: JoinHandle<Result<(), BackendError>>,
        health: Health,
        #[cfg(feature = "observe")] observed_at: Option<std::net::SocketAddr>,
    ) -> Self {
        Self {
            stop,
            task: Some(task),
            health,
            #[cfg(feature = "observe")]
            observed_at,
        }
    }

    /// Tells how the worker is. What it gives can be kept, and outlives the handle.
    ///
    /// ```
    /// # async fn example(handle: openworkflow::WorkerHandle) {
    /// let report = handle.health().report().await;
    /// println!("{}", report.status);
    /// # }
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Where health and metrics are told, if the worker was [to tell
    /// them](super::WorkerBuilder::observe).
    #[cfg(feature = "observe")]
    #[must_use]
    pub fn observed_at(&self) -> Option<std::net::SocketAddr> {
        self.observed_at
    }

    /// Stops gracefully: claims nothing more, lets what is under way finish or park, and after the
    /// [stop deadline](super::WorkerBuilder::stop_deadline) drops the rest and gives those runs back,
    /// so that another worker can claim them at once. Returns when all is done. If the future is
    /// dropped, the worker goes on stopping.
    ///
    /// # Errors
    ///
    /// As [`Worker::run`](super::Worker::run).
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    pub async fn stop(&mut self) -> Result<(), BackendError> {
        self.stop.request(Urgency::Draining);
        self.wait().await
    }

    /// Stops hard, as a crash would: drops everything under way and writes nothing. Other workers
    /// take the runs over when their lease has run out. If the future is dropped, the worker stops all
    /// the same.
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    pub async fn abort(&mut self) {
        self.stop.request(Urgency::Aborting);
        // What the worker would say of its end does not matter to who pulls the plug.
        let _ = self.wait().await;
    }

    /// Waits until the worker has stopped. Dropping the future is harmless. Once it has returned, it
    /// returns `Ok` at once.
    ///
    /// # Errors
    ///
    /// As [`Worker::run`](super::Worker::run), and [`BackendError::Closed`] when the runtime shuts
    /// down under the worker.
    ///
    /// # Panics
    ///
    /// If the worker's own task panicked, a defect of this library: with what it panicked with. Panics
    /// of workflows, steps and interceptors do not get here.
    pub async fn wait(&mut self) -> Result<(), BackendError> {
        let Some(task) = &mut self.task else {
            return Ok(());
        };
        let ended = task.await;
        self.task = None;
        match ended {
            Ok(result) => result,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => Err(BackendError::Closed),
            },
        }
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            let at_work = self.stop.executions();
            if at_work > 0 && self.stop.urgency() < Urgency::Aborting && !task.is_finished() {
                log::worker_dropped(at_work);
            }
            self.stop.request(Urgency::Aborting);
            task.abort();
        }
    }
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle")
            .field("stop", &self.stop.urgency())
            .finish_non_exhaustive()
    }
}

/// Resolves on Ctrl-C, or SIGTERM where there is one.
pub(super) async fn signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            },
            Err(error) => {
                tracing::warn!(%error, "cannot listen for SIGTERM");
                listen_for_ctrl_c().await;
            }
        }
    }
    #[cfg(not(unix))]
    listen_for_ctrl_c().await;
}

async fn listen_for_ctrl_c() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "cannot listen for Ctrl-C; stop the worker by its handle");
        std::future::pending::<()>().await;
    }
}
