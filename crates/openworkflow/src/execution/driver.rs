//! Polls the workflow's code, hands results over to it, and notices when it can get no further.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::SystemTime;

use futures_util::task::AtomicWaker;
use workflow_core::{BoxFuture, Error, ErrorKind, Event, Payload, Result, replay};

use super::attention::{Epoch, Polled};
use super::order::Stage;
use super::work::Work;
use super::{ExecutionState, Inner, Pending, Stopped};

/// How often the code is polled before the runtime gets its turn.
const POLLS_AT_A_TIME: u32 = 256;

/// The waker of the workflow's code: remembers that it was woken, and wakes the execution's task.
#[derive(Default)]
pub(super) struct DriverWaker {
    woken: AtomicBool,
    /// Whether the driver is at it and will look at `woken` before it rests.
    attentive: AtomicBool,
    task: AtomicWaker,
}

impl DriverWaker {
    pub(super) fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.attentive.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        (*self).wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        (**self).wake();
    }
}

thread_local! {
    /// The execution whose code this thread polls, as the address of its state.
    static POLLED: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread polls the code of that execution.
pub(super) fn polls(state: &ExecutionState) -> bool {
    POLLED.get() == std::ptr::from_ref(state).addr()
}

/// How the workflow's code came to an end, in this execution.
pub(crate) enum DriverEnd {
    /// It returned.
    Returned(Result<Payload>),
    /// The run fails, whatever the code would do about it.
    Fatal(Error),
    /// The run ends in favor of a new one.
    Continued { input: Payload },
    /// Everything waits.
    Waiting {
        until: SystemTime,
        waits: Vec<Arc<str>>,
    },
    /// A step failed and is tried again, or the run waits for somebody to mend something.
    Retrying {
        error: Error,
        at: SystemTime,
        waits: Vec<Arc<str>>,
    },
}

/// The workflow's code at work.
pub(crate) struct Driver {
    state: Arc<ExecutionState>,
    code: BoxFuture<'static, Result<Payload>>,
    waker: Waker,
}

impl Driver {
    pub(crate) fn new(
        state: Arc<ExecutionState>,
        code: BoxFuture<'static, Result<Payload>>,
    ) -> Self {
        let waker = Waker::from(Arc::clone(&state.driver));
        Self { state, code, waker }
    }

    fn poll_code(&mut self) -> Option<Result<Payload>> {
        let repeats = {
            let mut inner = self.state.lock();
            inner.order.begin_poll();
            inner.order.repeats
        };
        let _code = replay::code(repeats);
        let outer = POLLED.replace(std::ptr::from_ref(&*self.state).addr());
        let mut cx = Context::from_waker(&self.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| self.code.as_mut().poll(&mut cx)));
        POLLED.set(outer);
        match polled {
            Ok(Poll::Pending) => None,
            Ok(Poll::Ready(result)) => Some(result),
            Err(panic) => Some(Err(Error::from_panic(&*panic))),
        }
    }

    /// Polls the code until nothing moves any more.
    fn drive(&mut self) -> Poll<DriverEnd> {
        for polls in 0..POLLS_AT_A_TIME {
            // The execution's gate saw the lease before the first poll, which may have taken long.
            if polls > 0 && !self.state.lease.holds() {
                break;
            }
            self.state.driver.woken.store(false, Ordering::SeqCst);
            if let Some(result) = self.poll_code() {
                return self.state.returned(result);
            }
            if self.state.driver.woken.load(Ordering::SeqCst) {
                // Somebody has more to do, perhaps a step that was not even polled yet. What collections
                // and the runtime put off comes first.
                self.state.driver.task.wake();
                return Poll::Pending;
            }
            let settled = self.state.lock().settle();
            match settled {
                Settled::Waits => return Poll::Pending,
                Settled::PollAgain(wakers) => wakers.into_iter().for_each(Waker::wake),
                Settled::PollLater(waker) => {
                    waker.into_iter().for_each(Waker::wake);
                    self.state.driver.task.wake();
                    return Poll::Pending;
                }
                Settled::Departed { recorded, asked } => {
                    self.state.depart(&recorded, asked.as_deref());
                }
                Settled::Ended(end) => return Poll::Ready(end),
            }
        }
        self.state.driver.task.wake();
        Poll::Pending
    }
}

impl Future for Driver {
    type Output = DriverEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DriverEnd> {
        let this = &mut *self;
        this.state.driver.task.register(cx.waker());
        this.state.driver.attentive.store(true, Ordering::SeqCst);
        let polled = this.drive();
        let driver = &this.state.driver;
        driver.attentive.store(false, Ordering::SeqCst);
        if polled.is_pending() && driver.woken.load(Ordering::SeqCst) {
            // By somebody who relied on our attention.
            driver.task.wake();
        }
        polled
    }
}

/// What follows when the code was polled and nobody woke it.
enum Settled {
    /// A step is at work, or the code awaits something that is no step.
    Waits,
    /// Somebody has to be polled.
    PollAgain(Vec<Waker>),
    /// The same, when the runtime has had its turn.
    PollLater(Option<Waker>),
    /// The code has departed from its history: what was recorded, and what it asks for instead.
    Departed {
        recorded: Arc<str>,
        asked: Option<Arc<str>>,
    },
    Ended(DriverEnd),
}

/// Whether something goes on that is to be waited for.
enum Working {
    Yes,
    No,
    Unknown(Settled),
}

impl Working {
    fn of(polled: Polled) -> Self {
        match polled {
            Polled::Yes => Self::Yes,
            Polled::No => Self::No,
            Polled::Wake(waker) => Self::Unknown(Settled::PollAgain(waker.into_iter().collect())),
            Polled::WakeAndYield(waker) => Self::Unknown(Settled::PollLater(waker)),
        }
    }

    /// Whether the code polls one of those at work.
    fn at<'a>(works: impl Iterator<Item = &'a mut Work>, epoch: Epoch) -> Self {
        for work in works {
            match Self::of(work.attention.polled(epoch)) {
                Self::No => {}
                known => return known,
            }
        }
        Self::No
    }
}

impl ExecutionState {
    /// What follows when the code has returned.
    fn returned(&self, result: Result<Payload>) -> Poll<DriverEnd> {
        let left = {
            let inner = self.lock();
            if inner.is_over() {
                None
            } else {
                inner.overlooked(u32::MAX)
            }
        };
        if let Some(recorded) = left {
            self.depart(&recorded, None);
        }
        let mut inner = self.lock();
        Poll::Ready(match inner.over() {
            Some(end) => end,
            None => DriverEnd::Returned(result),
        })
    }

    /// Tells that the code does not do what it did before.
    fn depart(&self, recorded: &Arc<str>, asked: Option<&str>) {
        self.lock().departed = true;
        let did = match asked {
            Some(asked) => format!("goes on with step {asked:?}"),
            None => "goes on without it".to_owned(),
        };
        tracing::warn!(
            workflow.name = &*self.execution.run.workflow_name,
            workflow_run.id = &*self.owner.run_id,
            recorded_step = &**recorded,
            asked_step = asked,
            strict = self.strict_replay,
            "the workflow's code departs from the history of its run: it did not ask for the step recorded \
             next and {did}. Code of runs that are under way must not change: give it a new version"
        );
        self.chain.event(&Event::non_determinism(
            &self.execution,
            asked,
            Some(recorded),
        ));
        if self.strict_replay {
            let message = format!(
                "run {} departs from its history: step {recorded:?} is recorded next, and the workflow's \
                 code {did}: it has changed while the run was under way. Deploy the old code, and give \
                 the new code a version of its own (docs/changing-workflows.md); the run goes on by itself",
                self.owner.run_id
            );
            let error = Error::of_kind(ErrorKind::NonDeterminism, message);
            self.lock().stop(error, self.mend_at());
        }
    }
}

impl Inner {
    fn settle(&mut self) -> Settled {
        if !self.is_over() {
            if !self.order.replays()
                && let Some(settled) = self.settle_deferred()
            {
                return settled;
            }
            if let Some(settled) = self.settle_results() {
                return settled;
            }
            if let Some(settled) = self.settle_deferred() {
                return settled;
            }
            if self.pending.is_empty() {
                // The code awaits a step at work, or something that is no step: it is left to it.
                return Settled::Waits;
            }
        }
        match self.at_work() {
            Working::Yes => return Settled::Waits,
            Working::Unknown(settled) => return settled,
            Working::No => {}
        }
        if self.continued.is_some()
            && self.fatal.is_none()
            && self.stopped.is_none()
            && let Some(recorded) = self.overlooked(u32::MAX)
        {
            return Settled::Departed {
                recorded,
                asked: None,
            };
        }
        if let Some(end) = self.over() {
            return Settled::Ended(end);
        }
        if let Some(recorded) = self.overlooked(u32::MAX) {
            let first = self.pending.first_key_value();
            let asked = first.and_then(|(_, pending)| pending.step_name());
            return Settled::Departed { recorded, asked };
        }
        Settled::Ended(self.put_away())
    }

    /// Offers the next result to the code: the first of those that it polls. Where that is not written
    /// yet, the others wait for it.
    fn settle_results(&mut self) -> Option<Settled> {
        let epoch = self.order.epoch;
        if self.order.has_ready() && self.works.withdraws() {
            match Working::at(self.works.withdrawing(), epoch) {
                Working::Yes => return Some(Settled::Waits),
                Working::Unknown(settled) => return Some(settled),
                Working::No => {}
            }
        }
        let mut number = 0;
        while self.order.has_ready() {
            number = self.order.place_after(number)?;
            let place = self.order.places.get_mut(&number)?;
            let polled = match place.stage {
                Stage::Ready if place.attention.is_given_up(epoch) => continue,
                Stage::Ready => return Some(self.offer(number)),
                Stage::Reserved | Stage::Offered => place.attention.polled(epoch),
                Stage::Written(key) => match self.works.get_mut(key) {
                    Some(work) => work.attention.polled(epoch),
                    None => Polled::No,
                },
            };
            match Working::of(polled) {
                Working::Yes => return Some(Settled::Waits),
                Working::Unknown(settled) => return Some(settled),
                // The code holds it and does not poll it: its turn comes when it does.
                Working::No => self.order.take_back(number),
            }
        }
        None
    }

    fn offer(&mut self, number: u32) -> Settled {
        if let Some(recorded) = self.overlooked(number) {
            let asked = self.order.places.get(&number);
            let asked = asked.map(|place| Arc::clone(&place.step_name));
            return Settled::Departed { recorded, asked };
        }
        let when_at_rest = self
            .order
            .places
            .get(&number)
            .is_some_and(|place| place.when_at_rest);
        if when_at_rest {
            match self.at_work() {
                Working::Yes => return Settled::Waits,
                Working::Unknown(settled) => return settled,
                Working::No => {}
            }
        }
        Settled::PollAgain(self.order.offer(number).into_iter().collect())
    }

    /// Lets steps begin.
    fn settle_deferred(&mut self) -> Option<Settled> {
        if self.deferred.is_empty() {
            return None;
        }
        if let Some(wakers) = self.release_free() {
            return Some(Settled::PollAgain(wakers));
        }
        // Each waits for a wait to be recorded.
        let epoch = self.order.epoch;
        match Working::at(self.works.recording(), epoch) {
            Working::Yes => return Some(Settled::Waits),
            Working::Unknown(settled) => return Some(settled),
            Working::No => {}
        }
        // The code holds that wait and does not poll it. What it polls goes on.
        let mut polled = Vec::new();
        for (id, deferred) in &mut self.deferred {
            match Working::of(deferred.attention.polled(epoch)) {
                Working::Yes => polled.push(*id),
                Working::Unknown(settled) => return Some(settled),
                Working::No => {}
            }
        }
        self.release(polled).map(Settled::PollAgain)
    }

    /// Whether a step is at work that the code polls.
    fn at_work(&mut self) -> Working {
        Working::at(self.works.begun(), self.order.epoch)
    }

    /// The recorded result that the code should have asked for before `number`. Told once.
    fn overlooked(&self, number: u32) -> Option<Arc<str>> {
        if self.departed {
            return None;
        }
        let overlooked = self.order.overlooked(number)?;
        Some(Arc::clone(&overlooked.step_name))
    }

    /// The end of an execution whose code has no say in it.
    fn over(&mut self) -> Option<DriverEnd> {
        if let Some(error) = self.fatal.take() {
            return Some(DriverEnd::Fatal(error));
        }
        if let Some(Stopped { error, at }) = self.stopped.take() {
            return Some(DriverEnd::Retrying {
                error,
                at,
                waits: Vec::new(),
            });
        }
        let input = self.continued.take()?;
        Some(DriverEnd::Continued { input })
    }

    fn put_away(&mut self) -> DriverEnd {
        let mut until = None;
        let mut waits = Vec::new();
        let mut failure = None;
        for (_, pending) in std::mem::take(&mut self.pending) {
            let at = match pending {
                Pending::Wait { attempt, until } => {
                    waits.push(attempt.id);
                    until
                }
                Pending::Retry { error, at } => {
                    failure = Some(error);
                    at
                }
            };
            until = Some(until.map_or(at, |until: SystemTime| until.min(at)));
        }
        let until = until.unwrap_or(SystemTime::UNIX_EPOCH);
        match failure {
            Some(error) => DriverEnd::Retrying {
                error,
                at: until,
                waits,
            },
            None => DriverEnd::Waiting { until, waits },
        }
    }
}

impl Pending {
    fn step_name(&self) -> Option<Arc<str>> {
        match self {
            Self::Wait { attempt, .. } => Some(Arc::clone(&attempt.step_name)),
            Self::Retry { error, .. } => error.step_name().map(Arc::from),
        }
    }
}
