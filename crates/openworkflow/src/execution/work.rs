//! Steps at work, and when a step may begin.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use workflow_core::replay;

use super::attention::Attention;
use super::order::{Stage, Turn};
use super::{ExecutionState, Inner, StandingWait, never};
use crate::backend::EndedStep;

/// Which of the steps at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkKey(usize);

/// The steps at work: a body is polled, a chain or a commit under way.
#[derive(Debug, Default)]
pub(super) struct Works {
    entries: Vec<Option<Work>>,
    free: Vec<usize>,
    count: usize,
    /// Of those that record that the run waits for a signal, or are to, where they stand in the order of
    /// the code.
    recording: BTreeSet<usize>,
    /// How many of them close the waits that lost a race.
    withdrawing: usize,
}

#[derive(Debug)]
pub(super) struct Work {
    pub(super) attention: Attention,
    task: Task,
}

/// What a step at work does that others wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// It records a wait for a signal, at that place in the order of the code.
    RecordWait(usize),
    /// The same, and has not begun: it is not at work yet.
    AskToRecordWait(usize),
    /// It closes waits that lost a race.
    Withdraw,
    /// Something else.
    Other,
}

impl Works {
    fn insert(&mut self, task: Task) -> WorkKey {
        self.count += 1;
        match task {
            Task::RecordWait(place) | Task::AskToRecordWait(place) => {
                self.recording.insert(place);
            }
            Task::Withdraw => self.withdrawing += 1,
            Task::Other => {}
        }
        let work = Some(Work {
            attention: Attention::default(),
            task,
        });
        match self.free.pop() {
            Some(at) => {
                self.entries[at] = work;
                WorkKey(at)
            }
            None => {
                self.entries.push(work);
                WorkKey(self.entries.len() - 1)
            }
        }
    }

    fn remove(&mut self, key: WorkKey) -> Option<Task> {
        let work = self.entries.get_mut(key.0)?.take()?;
        self.count -= 1;
        match work.task {
            Task::RecordWait(place) | Task::AskToRecordWait(place) => {
                self.recording.remove(&place);
            }
            Task::Withdraw => self.withdrawing -= 1,
            Task::Other => {}
        }
        self.free.push(key.0);
        Some(work.task)
    }

    pub(super) fn get_mut(&mut self, WorkKey(at): WorkKey) -> Option<&mut Work> {
        self.entries.get_mut(at)?.as_mut()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Work> {
        self.entries.iter_mut().flatten()
    }

    /// Those that have begun.
    pub(super) fn begun(&mut self) -> impl Iterator<Item = &mut Work> {
        let work = self.iter_mut();
        work.filter(|work| !matches!(work.task, Task::AskToRecordWait(_)))
    }

    fn begin(&mut self, key: WorkKey) {
        if let Some(work) = self.get_mut(key)
            && let Task::AskToRecordWait(place) = work.task
        {
            work.task = Task::RecordWait(place);
        }
    }

    /// Whether a wait is being recorded that the code asked for before the step at `place`.
    fn records_before(&self, place: usize) -> bool {
        self.recording.first().is_some_and(|first| *first < place)
    }

    /// Those that record waits, or are to.
    pub(super) fn recording(&mut self) -> impl Iterator<Item = &mut Work> {
        self.iter_mut()
            .filter(|work| matches!(work.task, Task::RecordWait(_) | Task::AskToRecordWait(_)))
    }

    /// Whether waits are being closed that lost a race.
    pub(super) fn withdraws(&self) -> bool {
        self.withdrawing > 0
    }

    /// Those that close them.
    pub(super) fn withdrawing(&mut self) -> impl Iterator<Item = &mut Work> {
        let work = self.iter_mut();
        work.filter(|work| work.task == Task::Withdraw)
    }
}

/// A step is at work while this lives, and the run does not park meanwhile.
pub(crate) struct AtWork {
    state: Arc<ExecutionState>,
    key: WorkKey,
    /// The wait that the work sets up or settles: to be closed where the code gives up the work.
    wait: Option<StandingWait>,
}

impl AtWork {
    /// Does the step's work, telling each time that it is polled that the code still polls it.
    pub(crate) async fn during<F: Future>(&self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            let polled = {
                let _inside = Inside::enter();
                work.as_mut().poll(cx)
            };
            if polled.is_pending() {
                let elsewhere = !self.state.is_polling_code();
                let mut inner = self.state.lock();
                let epoch = inner.order.epoch;
                if let Some(work) = inner.works.get_mut(self.key) {
                    work.attention.sighted(epoch, cx.waker(), elsewhere);
                }
            }
            polled
        })
        .await
    }

    /// The wait's row is about to be written: that is how it is closed.
    pub(super) fn closes_with(&mut self, ended: &EndedStep) {
        if let Some(wait) = &mut self.wait {
            wait.closed = ended.clone();
        }
    }

    /// The work is done, and the wait stands.
    pub(crate) fn rest(mut self) -> Option<StandingWait> {
        self.wait.take()
    }

    /// The same, and it is waited for until a later execution: never resolves. The run may park.
    pub(crate) async fn park(self, until: SystemTime) -> ! {
        match self.rest() {
            Some(wait) => wait.wait(until).await,
            None => never().await,
        }
    }

    /// A number for the step's result, whose row is about to be written.
    pub(crate) fn number(&self, step_name: &Arc<str>) -> Turn {
        let stage = Stage::Written(self.key);
        let number = self.state.lock().order.append(step_name, stage);
        Turn::new(&self.state, number)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        if inner.works.remove(self.key) == Some(Task::Withdraw) {
            inner.order.goes_on();
        }
        inner.order.changed();
        drop(inner);
        self.state.rouse();
    }
}

thread_local! {
    /// How many steps are at work in each other on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread polls the work of a step: a step taken there is inside of that one.
pub(super) fn is_inside_step() -> bool {
    DEPTH.get() > 0
}

/// The work of a step is polled while this lives.
struct Inside {
    _aside: replay::Aside,
}

impl Inside {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self {
            _aside: replay::aside(),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// A step that waits until it may begin.
pub(super) struct Deferred {
    /// Where it stands in the order of the code.
    place: usize,
    begins: Begins,
    pub(super) attention: Attention,
}

/// What a step waits to begin.
#[derive(Debug, PartialEq, Eq)]
enum Begins {
    /// Something new, which may reach those whom the run waits for.
    Step,
    /// A wait.
    Wait,
    /// To settle a wait that is over.
    Settle {
        since: SystemTime,
        step_name: Arc<str>,
    },
}

impl Deferred {
    fn settles(&self) -> Option<(SystemTime, &Arc<str>)> {
        match &self.begins {
            Begins::Settle { since, step_name } => Some((*since, step_name)),
            _ => None,
        }
    }
}

impl ExecutionState {
    /// Marks a step as at work until the guard is dropped.
    pub(crate) fn at_work(self: &Arc<Self>) -> AtWork {
        self.at_work_on(Task::Other, None)
    }

    /// The same for the closing of waits that lost a race. No result is handed over meanwhile: the code
    /// goes on after the race before anything else happens, as it does in a replay, where nothing is left to
    /// close.
    pub(super) fn at_work_withdrawing(self: &Arc<Self>) -> AtWork {
        self.at_work_on(Task::Withdraw, None)
    }

    /// The same for a step that sets up a wait.
    pub(crate) fn at_work_waiting(self: &Arc<Self>, wait: StandingWait) -> AtWork {
        self.at_work_on(Task::Other, Some(wait))
    }

    fn at_work_on(self: &Arc<Self>, task: Task, wait: Option<StandingWait>) -> AtWork {
        let key = self.lock().works.insert(task);
        AtWork {
            state: Arc::clone(self),
            key,
            wait,
        }
    }

    /// Waits until something new may begin: once all recorded results are observed, so that what the
    /// code drops on their account never begins, and once the waits for signals are recorded that the
    /// code asked for before.
    pub(crate) async fn begin(self: &Arc<Self>, place: usize) {
        {
            let inner = self.lock();
            if !inner.order.replays() && !inner.works.records_before(place) {
                return;
            }
        }
        Deferral::new(self, place, Begins::Step).await;
    }

    /// The same for the set-up of a wait, which does nothing that another wait could miss.
    pub(crate) async fn begin_wait(self: &Arc<Self>, place: usize) {
        if self.lock().order.replays() {
            Deferral::new(self, place, Begins::Wait).await;
        }
    }

    /// The same for a wait for a signal. What the code asked for later waits until it is recorded, so that
    /// no answer comes too early.
    pub(crate) async fn begin_to_record(self: &Arc<Self>, place: usize) -> Recording {
        let at_work = self.at_work_on(Task::AskToRecordWait(place), None);
        at_work.during(self.begin_wait(place)).await;
        Recording(at_work)
    }

    /// Waits until a wait may be settled that is over since `since`, and gives its result a number:
    /// among several in the order of their ends, whatever order they are polled in.
    pub(crate) async fn begin_to_settle(
        self: &Arc<Self>,
        place: usize,
        wait: StandingWait,
        since: SystemTime,
    ) -> (AtWork, Turn) {
        let step_name = Arc::clone(&wait.closed.attempt.step_name);
        let begins = Begins::Settle {
            since,
            step_name: Arc::clone(&step_name),
        };
        let turn = Deferral::new(self, place, begins).await;
        let at_work = self.at_work_waiting(wait);
        let turn = turn.unwrap_or_else(|| at_work.number(&step_name));
        turn.settle(at_work.key);
        (at_work, turn)
    }
}

/// A wait for a signal is about to be recorded.
pub(crate) struct Recording(AtWork);

impl Recording {
    /// Marks the step as at work until the guard is dropped.
    pub(crate) fn at_work(self, wait: StandingWait) -> AtWork {
        let mut at_work = self.0;
        at_work.state.lock().works.begin(at_work.key);
        at_work.wait = Some(wait);
        at_work
    }
}

/// Waits for the driver to say that a step may begin.
struct Deferral<'a> {
    state: &'a Arc<ExecutionState>,
    id: u64,
}

impl<'a> Deferral<'a> {
    fn new(state: &'a Arc<ExecutionState>, place: usize, begins: Begins) -> Self {
        let mut inner = state.lock();
        let id = inner.next_key();
        let deferred = Deferred {
            place,
            begins,
            attention: Attention::default(),
        };
        inner.deferred.insert(id, deferred);
        drop(inner);
        Self { state, id }
    }
}

impl Future for Deferral<'_> {
    type Output = Option<Turn>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        let in_code = self.state.is_polling_code();
        let mut inner = self.state.lock();
        let epoch = inner.order.epoch;
        if let Some(deferred) = inner.deferred.get_mut(&self.id) {
            deferred.attention.sighted(epoch, cx.waker(), !in_code);
            drop(inner);
            self.state.rouse();
            return Poll::Pending;
        }
        let number = inner.released.remove(&self.id).flatten();
        drop(inner);
        Poll::Ready(number.map(|number| Turn::new(self.state, number)))
    }
}

impl Drop for Deferral<'_> {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        inner.deferred.remove(&self.id);
        let number = inner.released.remove(&self.id).flatten();
        drop(inner);
        if let Some(number) = number {
            // Nobody came for the place.
            drop(Turn::new(self.state, number));
        }
        self.state.rouse();
    }
}

impl Inner {
    /// Lets the steps begin that may. Gives their wakers in the order in which they begin; `None` where
    /// each has to wait for a wait to be recorded.
    pub(super) fn release_free(&mut self) -> Option<Vec<Waker>> {
        let works = &self.works;
        let free = self.deferred.iter().filter(|(_, deferred)| {
            deferred.begins != Begins::Step || !works.records_before(deferred.place)
        });
        let free = free.map(|(id, _)| *id).collect();
        self.release(free)
    }

    pub(super) fn release(&mut self, free: Vec<u64>) -> Option<Vec<Waker>> {
        if free.is_empty() {
            return None;
        }
        let free = free
            .into_iter()
            .filter_map(|id| Some((id, self.deferred.remove(&id)?)));
        let mut free: Vec<_> = free.collect();
        // Ends in the order of time, then what is new in the order of the code.
        free.sort_by_key(|(_, deferred)| {
            let since = deferred.settles().map(|(since, _)| since);
            (since.is_none(), since, deferred.place)
        });
        let mut wakers = Vec::with_capacity(free.len());
        for (id, mut deferred) in free {
            // From here on it is to be seen whether the code polls it.
            wakers.extend(deferred.attention.call(self.order.epoch));
            let settles = deferred.settles();
            let number = settles.map(|(_, name)| self.order.append(name, Stage::Reserved));
            if let Some(number) = number
                && let Some(place) = self.order.places.get_mut(&number)
            {
                place.attention = deferred.attention;
            }
            self.released.insert(id, number);
        }
        self.order.changed();
        Some(wakers)
    }
}
