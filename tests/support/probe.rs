//! Ways to see what happens in a workflow, to hold it up, and to wait for it.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// How long anything may take before a test gives up. Generous: machines under load are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
///
/// # Panics
///
/// After 30 seconds, with `what` did not happen.
pub async fn wait_until<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    wait_for(what, || {
        let holds = condition();
        async move { holds.await.then_some(()) }
    })
    .await;
}

/// Waits until `look` finds something, and returns that.
///
/// # Panics
///
/// As [`wait_until`].
pub async fn wait_for<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain: {what}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Lines written by what runs, in order. Clones share them.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line.
    pub fn add(&self, line: impl Into<String>) {
        self.lock().push(line.into());
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// How often `line` is there.
    #[must_use]
    pub fn count(&self, line: &str) -> usize {
        self.lock().iter().filter(|one| *one == line).count()
    }

    /// Forgets all lines.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Waits until `line` is there `times` times.
    ///
    /// # Panics
    ///
    /// As [`wait_until`].
    pub async fn reached(&self, line: &str, times: usize) {
        wait_until(&format!("{times} × {line:?} in {self:?}"), || async {
            self.count(line) >= times
        })
        .await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().fmt(f)
    }
}

/// A gate that holds up those who come to it, until they are let through. Clones are one gate.
#[derive(Clone)]
pub struct Gate(Arc<GateState>);

struct GateState {
    permits: Semaphore,
    arrived: Mutex<usize>,
}

impl Gate {
    /// A gate that is closed.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(GateState {
            permits: Semaphore::new(0),
            arrived: Mutex::new(0),
        }))
    }

    /// Waits at the gate until let through.
    pub async fn pass(&self) {
        *self
            .0
            .arrived
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += 1;
        // A gate that stands open is a closed semaphore.
        if let Ok(permit) = self.0.permits.acquire().await {
            permit.forget();
        }
    }

    /// How many came to the gate so far, those let through included.
    #[must_use]
    pub fn arrived(&self) -> usize {
        *self
            .0
            .arrived
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `count` came to the gate.
    ///
    /// # Panics
    ///
    /// As [`wait_until`].
    pub async fn reached_by(&self, count: usize) {
        wait_until(&format!("{count} come to a gate"), || async {
            self.arrived() >= count
        })
        .await;
    }

    /// Lets one through, now or when it comes.
    pub fn let_one_through(&self) {
        self.0.permits.add_permits(1);
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        self.0.permits.close();
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("arrived", &self.arrived())
            .field("open", &self.0.permits.is_closed())
            .finish()
    }
}
