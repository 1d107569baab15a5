//! What time it is, and how a test says so.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

/// The clock by which runs become due, sleeps end and leases expire.
///
/// The default is the system's. A [manual](Self::manual) clock stands still until it is told to
/// move, so that a test of a week-long sleep takes a millisecond. On SQLite the clock decides
/// everything; on PostgreSQL the server's own clock decides what the server decides.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use openworkflow::Clock;
///
/// let clock = Clock::manual(SystemTime::UNIX_EPOCH);
/// clock.advance(Duration::from_secs(3600));
/// assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(3600));
/// ```
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<Manual>>);

struct Manual {
    now: Mutex<SystemTime>,
    moved: Notify,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `start` until it is [advanced](Self::advance).
    #[must_use]
    pub fn manual(start: SystemTime) -> Self {
        Self(Some(Arc::new(Manual {
            now: Mutex::new(start),
            moved: Notify::new(),
        })))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            None => SystemTime::now(),
            Some(manual) => *manual.now.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Moves a manual clock forward and wakes the workers that wait by it. The system's clock is
    /// nobody's to move: there this does nothing.
    ///
    /// # Panics
    ///
    /// If the clock would stand at a time that `SystemTime` cannot hold.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.0 {
            *manual.now.lock().unwrap_or_else(PoisonError::into_inner) += by;
            manual.moved.notify_waiters();
        }
    }

    /// Ends when a manual clock is moved; never for the system's. It listens from the moment it is made.
    pub(crate) fn moved(&self) -> impl Future<Output = ()> + '_ {
        let moved = self.0.as_ref().map(|manual| manual.moved.notified());
        async {
            match moved {
                None => std::future::pending().await,
                Some(moved) => moved.await,
            }
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Clock(manual)"
        } else {
            "Clock(system)"
        })
    }
}
