//! A clock that is put right by what a server says.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use workflow_core::BoxFuture;

use super::{Clock, ClockOffset, Kind, LEAP};
use crate::backend::BackendResult;

impl Clock {
    /// A clock that goes by the machine's (this one), and is put right by what a server says.
    pub(crate) fn following(self) -> (Self, Arc<Following>) {
        let following = Arc::new(Following {
            began: (Instant::now(), self.now()),
            machine: self,
            state: Mutex::default(),
            asker: OnceLock::new(),
        });
        (Self(Kind::Following(Arc::clone(&following))), following)
    }
}

impl ClockOffset {
    /// How far a clock is off that shows `shown` at a time.
    fn of(shown: SystemTime, time: SystemTime) -> Self {
        match time.duration_since(shown) {
            Ok(by) => Self::Behind(by),
            Err(error) => Self::Ahead(error.duration()),
        }
    }

    /// The time at which a clock that is off like this shows `shown`.
    fn correct(self, shown: SystemTime) -> SystemTime {
        let opposite = match self {
            Self::Behind(by) => Self::Ahead(by),
            Self::Ahead(by) => Self::Behind(by),
        };
        opposite.apply(shown)
    }

    /// Whether two clocks of these offsets differ notably.
    fn is_far_from(self, other: Self) -> bool {
        let apart =
            match (self, other) {
                (Self::Behind(one), Self::Behind(other))
                | (Self::Ahead(one), Self::Ahead(other)) => one.abs_diff(other),
                (Self::Behind(one), Self::Ahead(other))
                | (Self::Ahead(one), Self::Behind(other)) => one.saturating_add(other),
            };
        apart > NOTABLE
    }
}

/// A clock that a server puts right: it never shows an earlier time than the server said last.
pub(crate) struct Following {
    machine: Clock,
    /// The machine's clock may be set; time since this moment is counted by one that is not.
    began: (Instant, SystemTime),
    state: Mutex<State>,
    asker: OnceLock<Asker>,
}

/// Asks the server, and has the clock hear the answer.
type Asker = Box<dyn Fn() -> BoxFuture<'static, BackendResult<()>> + Send + Sync>;

struct State {
    /// Of the time that is counted here.
    counted: ClockOffset,
    /// Of the machine's clock.
    machine: ClockOffset,
    /// When the server answered last.
    heard: Option<Asked>,
    /// When it was last to be asked.
    asked: Option<Instant>,
    /// The offset that was said last, and when.
    said: (ClockOffset, Option<Instant>),
}

impl Default for State {
    fn default() -> Self {
        Self {
            counted: ClockOffset::NONE,
            machine: ClockOffset::NONE,
            heard: None,
            asked: None,
            said: (ClockOffset::NONE, None),
        }
    }
}

/// When a server was asked for the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    at: Instant,
    counted: SystemTime,
    shown: SystemTime,
}

/// A difference that is worth saying.
pub(crate) const NOTABLE: Duration = Duration::from_secs(1);

/// How often it is said at most.
const SAYING_INTERVAL: Duration = Duration::from_secs(60);

/// How long an answer is good for: clocks drift apart by some milliseconds in it.
const GOOD_FOR: Duration = Duration::from_secs(60);

impl Following {
    pub(super) fn machine(&self) -> &Clock {
        &self.machine
    }

    /// Time as it goes by here, right or not.
    fn counted(&self, now: Instant) -> SystemTime {
        match self.machine.0 {
            Kind::System | Kind::OffBy(_) => {
                self.began.1 + now.saturating_duration_since(self.began.0)
            }
            Kind::Manual(_) | Kind::Following(_) => self.machine.now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> SystemTime {
        let offset = self.lock().counted;
        offset.correct(self.counted(Instant::now()))
    }

    /// Says how the server is asked.
    pub(crate) fn ask_by(
        &self,
        asker: impl Fn() -> BoxFuture<'static, BackendResult<()>> + Send + Sync + 'static,
    ) {
        // Whoever made the clock says it once.
        let _ = self.asker.set(Box::new(asker));
    }

    /// Asks the server where what it said last is in doubt.
    pub(super) async fn settle(&self) -> BackendResult<()> {
        match self.asker.get() {
            Some(ask) if self.is_in_doubt() => ask().await,
            _ => Ok(()),
        }
    }

    /// The server is about to be asked.
    pub(crate) fn ask(&self) -> Asked {
        let at = Instant::now();
        Asked {
            at,
            counted: self.counted(at),
            shown: self.machine.now(),
        }
    }

    /// The server has said what time it is. It read its clock between the question and now, so what
    /// contradicts that is put right, and what does not stays as it is. Gives the offset of the machine's
    /// clock where that should be said.
    pub(crate) fn hear(&self, asked: Asked, server: SystemTime) -> Option<ClockOffset> {
        let now = self.ask();
        let mut state = self.lock();
        if state.counted.correct(now.counted) < server {
            state.counted = ClockOffset::of(now.counted, server);
        } else if state.counted.correct(asked.counted) > server {
            state.counted = ClockOffset::of(asked.counted, server);
        }
        let earliest = ClockOffset::of(now.shown, server);
        let latest = ClockOffset::of(asked.shown, server);
        state.machine = match (earliest, latest) {
            // The answer took longer than the clocks differ: nothing is known to differ.
            (ClockOffset::Ahead(_), ClockOffset::Behind(_)) => ClockOffset::NONE,
            (ClockOffset::Behind(_), _) => earliest,
            (ClockOffset::Ahead(_), _) => latest,
        };
        state.heard = Some(now);
        let (offset, (said, at)) = (state.machine, state.said);
        let again = at.is_none_or(|at| now.at.duration_since(at) >= SAYING_INTERVAL);
        if !(again && offset.is_far_from(said)) {
            return None;
        }
        state.said = (offset, Some(now.at));
        Some(offset)
    }

    /// How far the machine's clock is off.
    pub(crate) fn offset(&self) -> ClockOffset {
        self.lock().machine
    }

    /// Whether somebody should ask, since nobody did for so long. Whoever hears that, does.
    pub(crate) fn is_to_ask(&self, interval: Duration) -> bool {
        let mut state = self.lock();
        let now = Instant::now();
        let heard = state.heard.map(|heard| heard.at).max(state.asked);
        let due = heard.is_none_or(|heard| now.saturating_duration_since(heard) >= interval);
        if due {
            state.asked = Some(now);
        }
        due
    }

    /// Whether the last answer is too old to go by, or the machine slept since.
    fn is_in_doubt(&self) -> bool {
        let now = self.ask();
        let Some(heard) = self.lock().heard else {
            return true;
        };
        let counted = now.counted.duration_since(heard.counted);
        let shown = now.shown.duration_since(heard.shown);
        now.at.saturating_duration_since(heard.at) > GOOD_FOR
            || shown.unwrap_or_default() > counted.unwrap_or_default() + LEAP
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// A machine at 1000 s, and the clock that follows a server.
    fn following() -> (Clock, Clock, Arc<Following>) {
        let machine = Clock::manual(at(1000));
        let (clock, following) = machine.clone().following();
        (machine, clock, following)
    }

    #[test]
    fn it_shows_what_the_server_said_however_wrong_the_machine_is() {
        for (server, offset) in [
            (at(1000), ClockOffset::NONE),
            (at(1002), ClockOffset::Behind(2 * SECOND)),
            (at(999), ClockOffset::Ahead(SECOND)),
            (at(4600), ClockOffset::Behind(3600 * SECOND)),
        ] {
            let (machine, clock, following) = following();
            following.hear(following.ask(), server);
            assert_eq!(clock.now(), server);
            assert_eq!(following.offset(), offset);
            machine.advance(SECOND);
            assert_eq!(clock.now(), server + SECOND);
        }
    }

    #[test]
    fn a_machine_that_is_off_from_the_beginning_is_put_right() {
        for by in [Duration::from_millis(30), 2 * SECOND, 3600 * SECOND] {
            for offset in [ClockOffset::Behind(by), ClockOffset::Ahead(by)] {
                let (clock, following) = Clock::off_by(offset).following();
                let before = SystemTime::now();
                let asked = following.ask();
                following.hear(asked, SystemTime::now());
                let (now, after) = (clock.now(), SystemTime::now());
                // As right as the answer was quick.
                let took = after.duration_since(before).unwrap_or_default();
                assert!(before <= now && now <= after + took, "{offset}");
                // What is known for sure is less, by how long the answer took.
                assert!(following.offset().by() <= by, "{offset}");
            }
        }
    }

    #[test]
    fn an_answer_that_took_long_changes_no_more_than_it_proves() {
        let (machine, clock, following) = following();
        // Between 1000 and 1010 by this machine, the server read 1005: nothing is wrong.
        let asked = following.ask();
        machine.advance(10 * SECOND);
        assert_eq!(following.hear(asked, at(1005)), None);
        assert_eq!(clock.now(), at(1010));
        assert_eq!(following.offset(), ClockOffset::NONE);
        // Then it read 1030: by now it is that at least.
        let asked = following.ask();
        machine.advance(10 * SECOND);
        following.hear(asked, at(1030));
        assert_eq!(clock.now(), at(1030));
        assert_eq!(following.offset(), ClockOffset::Behind(10 * SECOND));
        // Then it read 1029: when it was asked it was no later, and ten seconds went by since.
        let asked = following.ask();
        machine.advance(10 * SECOND);
        following.hear(asked, at(1029));
        assert_eq!(clock.now(), at(1039));
    }

    #[test]
    fn answers_may_come_in_another_order() {
        let (machine, clock, following) = following();
        let first = following.ask();
        machine.advance(SECOND);
        let second = following.ask();
        machine.advance(SECOND);
        following.hear(second, at(1102));
        following.hear(first, at(1101));
        assert_eq!(clock.now(), at(1102));
    }

    #[test]
    fn a_machine_whose_clock_is_set_is_put_right_by_the_next_answer() {
        let (machine, clock, following) = following();
        for set in [at(5), at(90_000)] {
            machine.set(set);
            following.hear(following.ask(), at(2000));
            assert_eq!(clock.now(), at(2000));
        }
    }

    #[test]
    fn an_answer_is_in_doubt_once_the_machine_slept() {
        let (_, following) = Clock::system().following();
        assert!(following.is_in_doubt(), "nobody asked");
        following.hear(following.ask(), SystemTime::now());
        assert!(!following.is_in_doubt());
        // The machine's clock showed less, by what the clock that counts did not notice.
        if let Some(heard) = &mut following.lock().heard {
            heard.shown -= SECOND;
        }
        assert!(following.is_in_doubt());
        following.hear(following.ask(), SystemTime::now());
        assert!(!following.is_in_doubt());
    }

    #[tokio::test]
    async fn the_server_is_asked_only_where_its_answer_is_in_doubt() {
        let (clock, following) = Clock::system().following();
        clock.settle().await.unwrap();
        let (asks, counted) = (Arc::new(AtomicUsize::new(0)), Arc::downgrade(&following));
        let count = Arc::clone(&asks);
        following.ask_by(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let following = counted.upgrade();
            Box::pin(async move {
                let following = following.unwrap();
                following.hear(following.ask(), SystemTime::now());
                Ok(())
            })
        });
        for asked in [1, 1] {
            clock.settle().await.unwrap();
            assert_eq!(asks.load(Ordering::Relaxed), asked);
        }
        if let Some(heard) = &mut following.lock().heard {
            heard.at = heard.at.checked_sub(2 * GOOD_FOR).unwrap_or(heard.at);
        }
        for asked in [2, 2] {
            clock.settle().await.unwrap();
            assert_eq!(asks.load(Ordering::Relaxed), asked);
        }
    }

    #[test]
    fn one_asks_for_all() {
        let (_, following) = Clock::system().following();
        assert!(following.is_to_ask(SECOND * 3600));
        assert!(!following.is_to_ask(SECOND * 3600));
        assert!(following.is_to_ask(Duration::ZERO));
    }

    #[test]
    fn a_difference_is_said_once_and_again_when_it_is_another() {
        let (_, _, following) = following();
        let a_minute_passes = || {
            let said = &mut following.lock().said.1;
            *said = said.and_then(|said| said.checked_sub(SAYING_INTERVAL));
        };
        let hear = |seconds| following.hear(following.ask(), at(seconds));
        assert_eq!(hear(1001), None, "no more than a second");
        let offset = ClockOffset::Behind(2 * SECOND);
        assert_eq!(hear(1002), Some(offset));
        assert_eq!(hear(1060), None, "soon after");
        a_minute_passes();
        assert_eq!(hear(1003), None, "about the same");
        assert_eq!(hear(1060), Some(ClockOffset::Behind(60 * SECOND)));
        a_minute_passes();
        assert_eq!(hear(990), Some(ClockOffset::Ahead(10 * SECOND)));
        a_minute_passes();
        assert_eq!(hear(1000), Some(ClockOffset::NONE), "right again");
        a_minute_passes();
        assert_eq!(hear(1000), None);
    }
}
