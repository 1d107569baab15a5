//! What a backend has for each runtime that it is used on. Connections live in tasks, and tasks in a
//! runtime: one that is gone, or that nobody polls, answers nobody on another.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use deadpool_postgres::{Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod};
use tokio::runtime::{Handle, Id};
use tokio::task::AbortHandle;
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::writer::Writer;
use crate::backend::{BackendError, BackendResult};

/// Where connections come from.
pub(super) enum Source {
    /// We make them.
    Own {
        config: Box<Config>,
        tls: MakeRustlsConnect,
        /// How many a runtime has at most.
        size: AtomicUsize,
    },
    /// The application's pool: neither resized nor closed, and its sessions are left as they are.
    Given(Pool),
}

/// The homes of all runtimes.
pub(super) struct Homes {
    source: Source,
    homes: RwLock<Vec<Arc<Home>>>,
    closed: AtomicBool,
}

/// The connections of one runtime, and the writes that share them.
pub(super) struct Home {
    runtime: Handle,
    pool: Pool,
    pub(super) writer: Writer,
    /// The task that is dropped with the runtime.
    watch: OnceLock<AbortHandle>,
}

impl Homes {
    pub(super) fn new(source: Source) -> Arc<Self> {
        Arc::new(Self {
            source,
            homes: RwLock::default(),
            closed: AtomicBool::new(false),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Arc<Home>>> {
        self.homes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Arc<Home>>> {
        self.homes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is for the runtime that the caller is on.
    pub(super) fn here(self: &Arc<Self>) -> BackendResult<Arc<Home>> {
        let Ok(runtime) = Handle::try_current() else {
            // Whatever is there may do, as long as its runtime is at work.
            let home = self.read().first().cloned();
            return home.ok_or_else(no_runtime);
        };
        let id = runtime.id();
        let known =
            |homes: &[Arc<Home>]| homes.iter().find(|home| home.runtime.id() == id).cloned();
        if let Some(home) = known(&self.read()) {
            return Ok(home);
        }
        let home = {
            let mut homes = self.write();
            if let Some(home) = known(&homes) {
                return Ok(home);
            }
            if self.closed.load(Ordering::Acquire) {
                return Err(BackendError::Closed);
            }
            let home = Arc::new(Home {
                runtime,
                pool: self.source.pool()?,
                writer: Writer::default(),
                watch: OnceLock::new(),
            });
            homes.push(Arc::clone(&home));
            home
        };
        // Not under the lock: a runtime that is shutting down drops it at once.
        let gone = Gone {
            homes: Arc::downgrade(self),
            runtime: id,
        };
        let watch = home.runtime.spawn(async move {
            let _gone = gone;
            std::future::pending::<()>().await;
        });
        // Set once, here.
        let _ = home.watch.set(watch.abort_handle());
        Ok(home)
    }

    /// The pool of each runtime.
    pub(super) fn pools(&self) -> Vec<Pool> {
        let homes = self.read();
        match &self.source {
            Source::Own { .. } => homes.iter().map(|home| home.pool.clone()).collect(),
            // It is the same on all of them.
            Source::Given(pool) => vec![pool.clone()],
        }
    }

    /// How many connections a runtime has at most, from now on.
    pub(super) fn resize(&self, size: usize) {
        let Source::Own { size: own, .. } = &self.source else {
            return;
        };
        own.store(size, Ordering::Relaxed);
        for home in &*self.read() {
            home.pool.resize(size);
        }
    }

    pub(super) fn close(&self) {
        let mut homes = self.write();
        self.closed.store(true, Ordering::Release);
        let left = match &self.source {
            Source::Own { .. } => {
                for home in &*homes {
                    home.pool.close();
                }
                Vec::new()
            }
            // Whoever looks for one from now on finds that we are closed.
            Source::Given(_) => std::mem::take(&mut *homes),
        };
        drop(homes);
        // Outside of the lock: what is dropped with it may look for a home.
        drop(left);
    }
}

impl Home {
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Does something that callers need not, or cannot, wait for.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.runtime.spawn(task).abort_handle()
    }
}

fn no_runtime() -> BackendError {
    BackendError::Driver {
        message: "PostgreSQL connections need a Tokio runtime, and this is called outside of one"
            .into(),
        transient: false,
        source: "no runtime".into(),
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.get() {
            watch.abort();
        }
    }
}

impl Source {
    fn pool(&self) -> BackendResult<Pool> {
        let (config, tls, size) = match self {
            Self::Own { config, tls, size } => (config, tls, size),
            Self::Given(pool) => return Ok(pool.clone()),
        };
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(
            (**config).clone(),
            tls.clone(),
            ManagerConfig { recycling_method },
        );
        let pool = Pool::builder(manager)
            .max_size(size.load(Ordering::Relaxed))
            // The connection used last has its statements, plans and caches at hand.
            .queue_mode(QueueMode::Lifo)
            .build();
        pool.map_err(|error| BackendError::Driver {
            message: format!("cannot make a pool of connections: {error}"),
            transient: false,
            source: error.into(),
        })
    }
}

/// Forgets a runtime when it ends, and every task on it is dropped.
struct Gone {
    homes: Weak<Homes>,
    runtime: Id,
}

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(homes) = self.homes.upgrade() {
            let gone: Vec<_> = homes
                .write()
                .extract_if(.., |home| home.runtime.id() == self.runtime)
                .collect();
            // Outside of the lock: what is dropped with it may look for a home.
            drop(gone);
        }
    }
}
