//! What time it is, and how a test says so.

#[cfg(feature = "postgres")]
pub(crate) mod following;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::backend::BackendResult;

/// How much further the wall clock may have got than the monotonic one. More means that the machine slept,
/// or that its clock was set.
pub(crate) const LEAP: Duration = Duration::from_millis(500);

/// The clock by which runs become due, sleeps end and leases expire.
///
/// The default is the system's. A [manual](Self::manual) clock stands still until it is told to
/// move, so that a test of a week-long sleep takes a millisecond. On SQLite the clock decides
/// everything. On PostgreSQL the server's clock does: the one that is given there is put right by what
/// the server says, so that a manual clock is no more than a machine's clock that is set wrong.
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
pub struct Clock(Kind);

#[derive(Clone, Default)]
enum Kind {
    #[default]
    System,
    OffBy(ClockOffset),
    Manual(Arc<Manual>),
    #[cfg(feature = "postgres")]
    Following(Arc<following::Following>),
}

struct Manual {
    now: Mutex<SystemTime>,
    moved: Notify,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Kind::System)
    }

    /// The system's clock as a machine would show it whose clock is off: for tests of what becomes of
    /// that.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use openworkflow::{Clock, ClockOffset};
    ///
    /// let slow = Clock::off_by(ClockOffset::Behind(Duration::from_secs(60)));
    /// assert!(slow.now() < SystemTime::now());
    /// ```
    #[must_use]
    pub fn off_by(offset: ClockOffset) -> Self {
        Self(Kind::OffBy(offset))
    }

    /// A clock that stands at `start` until it is [advanced](Self::advance).
    #[must_use]
    pub fn manual(start: SystemTime) -> Self {
        Self(Kind::Manual(Arc::new(Manual {
            now: Mutex::new(start),
            moved: Notify::new(),
        })))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Kind::System => SystemTime::now(),
            Kind::OffBy(offset) => offset.apply(SystemTime::now()),
            Kind::Manual(manual) => *manual.now.lock().unwrap_or_else(PoisonError::into_inner),
            #[cfg(feature = "postgres")]
            Kind::Following(following) => following.now(),
        }
    }

    /// Moves a manual clock forward and wakes the workers that wait by it. The system's clock is
    /// nobody's to move: there this does nothing.
    ///
    /// # Panics
    ///
    /// If the clock would stand at a time that `SystemTime` cannot hold.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(manual) = &self.0 {
            *manual.now.lock().unwrap_or_else(PoisonError::into_inner) += by;
            manual.moved.notify_waiters();
        }
    }

    /// Sets a manual clock, also back, and wakes the workers that wait by it. To any other this does
    /// nothing.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use openworkflow::Clock;
    ///
    /// let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(60));
    /// clock.set(SystemTime::UNIX_EPOCH);
    /// assert_eq!(clock.now(), SystemTime::UNIX_EPOCH);
    /// ```
    pub fn set(&self, now: SystemTime) {
        if let Kind::Manual(manual) = &self.0 {
            *manual.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
            manual.moved.notify_waiters();
        }
    }

    /// Has the time from where it comes, if what was heard of it last may be wrong by now: before an
    /// instant is made of it that others go by, by somebody who has not heard for long.
    pub(crate) async fn settle(&self) -> BackendResult<()> {
        match &self.0 {
            Kind::System | Kind::OffBy(_) | Kind::Manual(_) => Ok(()),
            #[cfg(feature = "postgres")]
            Kind::Following(following) => following.settle().await,
        }
    }

    /// Ends when a manual clock is moved; never for the system's. It listens from the moment it is made.
    pub(crate) fn moved(&self) -> impl Future<Output = ()> + '_ {
        let moved = self.as_manual().map(|manual| manual.moved.notified());
        async {
            match moved {
                None => std::future::pending().await,
                Some(moved) => moved.await,
            }
        }
    }

    fn as_manual(&self) -> Option<&Manual> {
        match &self.0 {
            Kind::System | Kind::OffBy(_) => None,
            Kind::Manual(manual) => Some(manual),
            #[cfg(feature = "postgres")]
            Kind::Following(following) => following.machine().as_manual(),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::System => f.write_str("Clock(system)"),
            Kind::OffBy(offset) => write!(f, "Clock({offset})"),
            Kind::Manual(_) => f.write_str("Clock(manual)"),
            #[cfg(feature = "postgres")]
            Kind::Following(_) => f.write_str("Clock(of a server)"),
        }
    }
}

/// How far a machine's clock is off.
///
/// ```
/// use std::time::Duration;
/// use openworkflow::ClockOffset;
///
/// let offset = ClockOffset::Behind(Duration::from_millis(2300));
/// assert_eq!(offset.to_string(), "2.3s behind");
/// assert_eq!(offset.by(), Duration::from_millis(2300));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockOffset {
    /// It shows an earlier time than it should.
    Behind(Duration),
    /// It shows a later time than it should.
    Ahead(Duration),
}

impl ClockOffset {
    /// No difference.
    pub const NONE: Self = Self::Behind(Duration::ZERO);

    /// How far, whichever way.
    #[must_use]
    pub fn by(self) -> Duration {
        match self {
            Self::Behind(by) | Self::Ahead(by) => by,
        }
    }

    /// What a clock shows that is off like this, at a time; the time itself, where that is beyond all
    /// times.
    fn apply(self, time: SystemTime) -> SystemTime {
        let shown = match self {
            Self::Behind(by) => time.checked_sub(by),
            Self::Ahead(by) => time.checked_add(by),
        };
        shown.unwrap_or(time)
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind(by) => write!(f, "{by:.1?} behind"),
            Self::Ahead(by) => write!(f, "{by:.1?} ahead"),
        }
    }
}
