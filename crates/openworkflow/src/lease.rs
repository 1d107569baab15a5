//! A run's lease as its execution knows it: until when its code may go on, and who asks for more.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;
use workflow_core::Interruption;

use crate::backend::{Backend, BackendError, Owner};
use crate::clock::LEAP;

/// A time by two clocks. The monotonic one is never set, but stands still in most systems while the
/// machine sleeps; the other one goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    at: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            at: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// A while later, or as late as it matters to anybody.
    fn after(self, duration: Duration) -> Self {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let sum = || {
            Some((
                self.at.checked_add(duration)?,
                self.wall.checked_add(duration)?,
            ))
        };
        let (at, wall) = sum().unwrap_or((self.at + YEAR, self.wall + YEAR));
        Self { at, wall }
    }

    /// Whether one of the clocks of `now` says that it is over.
    fn is_over(self, now: Self) -> bool {
        now.at >= self.at || now.wall >= self.wall
    }

    /// Whether the machine slept since, as far as the clocks tell: the one that goes on is ahead. Or it
    /// was set.
    fn slept_until(self, now: Self) -> bool {
        let counted = now.at.saturating_duration_since(self.at);
        let shown = now.wall.duration_since(self.wall).unwrap_or_default();
        shown > counted + LEAP
    }
}

/// How long a run is this execution's for sure.
pub(crate) struct Lease {
    length: Duration,
    state: Mutex<State>,
    /// Somebody cannot go on before the lease is extended.
    wanted: Notify,
}

struct State {
    asked: Moment,
    ends: Moment,
    held_up: Vec<Waker>,
}

impl State {
    fn lets_code_on(&self) -> bool {
        let now = Moment::now();
        !self.ends.is_over(now) && !self.asked.slept_until(now)
    }
}

impl Lease {
    /// A lease that was asked for at `asked`: it began no earlier.
    pub(crate) fn new(length: Duration, asked: Moment) -> Self {
        Self {
            length,
            state: Mutex::new(State {
                asked,
                ends: asked.after(length),
                held_up: Vec::new(),
            }),
            wanted: Notify::new(),
        }
    }

    pub(crate) fn length(&self) -> Duration {
        self.length
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends(&self) -> Moment {
        self.lock().ends
    }

    /// Whether nobody else can have the run yet.
    pub(crate) fn holds(&self) -> bool {
        !self.ends().is_over(Moment::now())
    }

    /// Whether the code may go on: the run is nobody else's, and what time it is was heard since the
    /// machine slept, if it did. Else a sleep that begins now would end too early.
    fn lets_code_on(&self) -> bool {
        let state = self.lock();
        state.lets_code_on()
    }

    /// The database extended it when it was asked at `asked`.
    pub(crate) fn renew(&self, asked: Moment) {
        let mut state = self.lock();
        state.asked = asked;
        state.ends = asked.after(self.length);
        let held_up = std::mem::take(&mut state.held_up);
        drop(state);
        held_up.into_iter().for_each(Waker::wake);
    }

    /// Polls `code` only while the lease holds. A process that stood still, or a thread that was
    /// blocked, finds its leases over before it does anything else.
    ///
    /// The code comes pinned: what is passed by value is kept twice, and these futures are large.
    pub(crate) fn gate<'a, F: Future>(
        &'a self,
        mut code: Pin<&'a mut F>,
    ) -> impl Future<Output = F::Output> + 'a {
        poll_fn(move |cx| match self.lets_on(cx) {
            true => code.as_mut().poll(cx),
            false => Poll::Pending,
        })
    }

    fn lets_on(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        if state.lets_code_on() {
            return true;
        }
        if !state
            .held_up
            .iter()
            .any(|waker| waker.will_wake(cx.waker()))
        {
            state.held_up.push(cx.waker().clone());
        }
        drop(state);
        self.wanted.notify_one();
        false
    }

    /// Extends the lease at half time, or when somebody cannot go on. Resolves when the run is no longer
    /// ours, or may be another's for all we know: the database has not answered for as long as the lease.
    pub(crate) async fn keep(&self, backend: &dyn Backend, owner: &Owner) -> Interruption {
        let half = self.length / 2;
        let ends = self.ends().at;
        let mut next = ends.checked_sub(half).unwrap_or_else(Instant::now);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.wanted.notified() => {
                    if self.lets_code_on() {
                        continue;
                    }
                    if self.holds() {
                        tracing::debug!(
                            workflow_run.id = &*owner.run_id,
                            "the machine slept, or its clock was set: the lease is extended before the code goes on"
                        );
                    } else {
                        tracing::warn!(
                            workflow_run.id = &*owner.run_id,
                            "the lease ran out before it was extended: the process stood still, or something blocked the thread"
                        );
                    }
                }
            }
            let asked = Moment::now();
            // Where this task comes late, as on a machine under load, the answer gets its time too.
            let patience = self.ends().at.max(asked.after(self.length / 4).at);
            let extend = backend.extend_lease(owner, self.length);
            match tokio::time::timeout_at(patience, extend).await {
                Ok(Ok(())) => {
                    self.renew(asked);
                    next = asked.after(half).at;
                    continue;
                }
                Ok(Err(BackendError::OwnershipLost { reason })) => return reason,
                Ok(Err(error)) => {
                    tracing::warn!(workflow_run.id = &*owner.run_id, %error, "cannot extend the lease");
                }
                Err(_) => {}
            }
            if !self.holds() {
                tracing::warn!(
                    workflow_run.id = &*owner.run_id,
                    "the lease has run out without an answer of the database; the execution is dropped"
                );
                return Interruption::LeaseLost;
            }
            next = asked.after(self.length / 10).at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use futures_util::FutureExt as _;

    use super::*;

    const LENGTH: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_secs(1);

    fn asked_ago(by_the_monotonic_clock: Duration, by_the_wall: Duration) -> Moment {
        let now = Moment::now();
        Moment {
            at: now.at - by_the_monotonic_clock,
            wall: now.wall - by_the_wall,
        }
    }

    #[test]
    fn a_lease_is_over_when_one_of_the_clocks_says_so() {
        for (moment, holds) in [
            (asked_ago(SHORT, SHORT), true),
            (asked_ago(LENGTH, SHORT), false),
            // The machine slept: only one clock went on.
            (asked_ago(SHORT, LENGTH), false),
        ] {
            assert_eq!(Lease::new(LENGTH, moment).holds(), holds, "{moment:?}");
        }
        // A clock that was set back does not make it longer.
        let mut set_back = asked_ago(LENGTH, SHORT);
        set_back.wall += LENGTH;
        assert!(!Lease::new(LENGTH, set_back).holds());
        assert!(Lease::new(Duration::MAX, Moment::now()).holds());
    }

    #[test]
    fn code_waits_while_the_lease_is_over_and_goes_on_with_the_next() {
        let lease = Lease::new(LENGTH, Moment::now());
        let polls = AtomicUsize::new(0);
        let code = poll_fn(|_| match polls.fetch_add(1, Ordering::Relaxed) {
            0 => Poll::Pending,
            _ => Poll::Ready(()),
        });
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut code = pin!(code);
        let mut gated = pin!(lease.gate(code.as_mut()));
        assert!(gated.as_mut().poll(&mut cx).is_pending());
        assert!(lease.wanted.notified().now_or_never().is_none());

        lease.lock().ends = asked_ago(LENGTH, LENGTH).after(LENGTH);
        assert!(gated.as_mut().poll(&mut cx).is_pending());
        assert!(lease.wanted.notified().now_or_never().is_some(), "it asks");
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);

        lease.renew(Moment::now());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(gated.as_mut().poll(&mut cx).is_ready());
        assert_eq!(polls.load(Ordering::Relaxed), 2, "not while it was over");
    }

    #[test]
    fn code_waits_after_the_machine_slept_although_the_lease_holds() {
        let lease = Lease::new(LENGTH, Moment::now());
        let mut held = pin!(std::future::pending::<()>());
        let mut code = pin!(lease.gate(held.as_mut()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(code.as_mut().poll(&mut cx).is_pending());
        assert!(lease.wanted.notified().now_or_never().is_none());

        lease.lock().asked.wall -= SHORT;
        assert!(code.as_mut().poll(&mut cx).is_pending());
        assert!(lease.wanted.notified().now_or_never().is_some(), "it asks");
        assert!(lease.holds());

        // Whether it slept is found out by the clock that goes on, so one that is set back says nothing.
        lease.renew(asked_ago(SHORT, Duration::ZERO));
        assert!(lease.lets_code_on());
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
