//! Steps at work, and when a step may begin.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use super::attention::Attention;
use super::order::{Stage, Turn};
use super::{ExecutionState, Inner};

/// Which of the steps at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkKey(usize);

/// The steps at work: a body is polled, a chain or a commit under way.
#[derive(Debug, Default)]
pub(super) struct Works {
    entries: Vec<Option<Work>>,
    free: Vec<usize>,
    count: usize,
    /// Of those that record that the run waits for a signal, where they stand in the order of the code.
    recording: BTreeSet<usize>,
}

#[derive(Debug)]
pub(super) struct Work {
    pub(super) attention: Attention,
    records_wait: Option<usize>,
}

impl Works {
    fn insert(&mut self, records_wait: Option<usize>) -> WorkKey {
        self.count += 1;
        self.recording.extend(records_wait);
        let work = Some(Work {
            attention: Attention::default(),
            records_wait,
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

    fn remove(&mut self, key: WorkKey) {
        if let Some(work) = self.entries.get_mut(key.0).and_then(Option::take) {
            self.count -= 1;
            if let Some(place) = work.records_wait {
                self.recording.remove(&place);
            }
            self.free.push(key.0);
        }
    }

    pub(super) fn get_mut(&mut self, WorkKey(at): WorkKey) -> Option<&mut Work> {
        self.entries.get_mut(at)?.as_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Work> {
        self.entries.iter_mut().flatten()
    }

    /// Whether a wait is being recorded that the code asked for before the step at `place`.
    fn records_before(&self, place: usize) -> bool {
        self.recording.first().is_some_and(|first| *first < place)
    }

    /// Those that record waits.
    pub(super) fn recording(&mut self) -> impl Iterator<Item = &mut Work> {
        let work = self.iter_mut();
        work.filter(|work| work.records_wait.is_some())
    }
}

/// A step is at work while this lives, and the run does not park meanwhile.
pub(crate) struct AtWork {
    state: Arc<ExecutionState>,
    key: WorkKey,
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
        inner.works.remove(self.key);
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
struct Inside;

impl Inside {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
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
    pub(super) place: usize,
    /// The wait that it is to settle, and since when that is over; `None` where it begins something new.
    pub(super) over: Option<(SystemTime, Arc<str>)>,
    pub(super) waker: Option<Waker>,
}

impl ExecutionState {
    /// Marks a step as at work until the guard is dropped.
    pub(crate) fn at_work(self: &Arc<Self>) -> AtWork {
        self.at_work_recording(None)
    }

    /// The same for a step, at `place` in the order of the code, that records a wait for a signal: what
    /// the code asked for later begins afterwards, so that no answer comes too early.
    pub(crate) fn at_work_recording(self: &Arc<Self>, place: Option<usize>) -> AtWork {
        let key = self.lock().works.insert(place);
        AtWork {
            state: Arc::clone(self),
            key,
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
        Deferral::new(self, place, None).await;
    }

    /// The same for the set-up of a wait, which does nothing that another wait could miss.
    pub(crate) async fn begin_wait(self: &Arc<Self>) {
        if self.lock().order.replays() {
            Deferral::new(self, 0, None).await;
        }
    }

    /// Waits until a wait may be settled that is over since `since`, and gives its result a number:
    /// among several in the order of their ends, whatever order they are polled in.
    pub(crate) async fn begin_to_settle(
        self: &Arc<Self>,
        place: usize,
        step_name: &Arc<str>,
        since: SystemTime,
    ) -> (AtWork, Turn) {
        let over = Some((since, Arc::clone(step_name)));
        let turn = Deferral::new(self, place, over).await;
        let at_work = self.at_work();
        let turn = turn.unwrap_or_else(|| at_work.number(step_name));
        turn.settle(at_work.key);
        (at_work, turn)
    }
}

/// Waits for the driver to say that a step may begin.
struct Deferral<'a> {
    state: &'a Arc<ExecutionState>,
    id: u64,
}

impl<'a> Deferral<'a> {
    fn new(
        state: &'a Arc<ExecutionState>,
        place: usize,
        over: Option<(SystemTime, Arc<str>)>,
    ) -> Self {
        let mut inner = state.lock();
        let id = inner.next_key();
        let deferred = Deferred {
            place,
            over,
            waker: None,
        };
        inner.deferred.insert(id, deferred);
        drop(inner);
        Self { state, id }
    }
}

impl Future for Deferral<'_> {
    type Output = Option<Turn>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        let mut inner = self.state.lock();
        if let Some(deferred) = inner.deferred.get_mut(&self.id) {
            deferred.waker = Some(cx.waker().clone());
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
    pub(super) fn release(&mut self, whatever: bool) -> Option<Vec<Waker>> {
        let works = &mut self.works;
        let (mut free, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.deferred)
            .into_iter()
            .partition(|(_, deferred)| whatever || !works.records_before(deferred.place));
        self.deferred = rest.into_iter().collect();
        if free.is_empty() {
            return None;
        }
        // Ends in the order of time, then what is new in the order of the code.
        free.sort_by_key(|(_, deferred)| {
            let since = deferred.over.as_ref().map(|(since, _)| *since);
            (since.is_none(), since, deferred.place)
        });
        let mut wakers = Vec::with_capacity(free.len());
        for (id, deferred) in free {
            let over = deferred.over.as_ref();
            let number = over.map(|(_, name)| self.order.append(name, Stage::Reserved));
            if let (Some(number), Some(waker)) = (number, &deferred.waker) {
                let epoch = self.order.epoch;
                if let Some(place) = self.order.places.get_mut(&number) {
                    place.attention.sighted(epoch, waker, false);
                    // Only to keep the waker: whether the code polls it is to be seen.
                    let _ = place.attention.call(epoch);
                }
            }
            self.released.insert(id, number);
            wakers.extend(deferred.waker);
        }
        self.order.changed();
        Some(wakers)
    }
}
