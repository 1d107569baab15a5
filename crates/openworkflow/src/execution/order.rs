//! The one order in which the workflow's code observes the results of its steps.
//!
//! Each result has a number, written with its row, and is handed over in the order of the numbers, one
//! at a time: in the execution in which it came about and in every replay. `docs/architecture.md` tells
//! why that makes code repeat itself, whatever it waits with.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use workflow_core::replay;

use super::ExecutionState;
use super::attention::{Attention, Epoch};
use super::history::Unasked;
use super::work::{WorkKey, is_inside_step};

/// Where the results of an execution stand.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Results that are asked for and not observed yet, by number.
    pub(super) places: BTreeMap<u32, Place>,
    /// Recorded results that nobody has asked for yet, by number.
    pub(super) unasked: BTreeMap<u32, Unasked>,
    /// How many of the places hold recorded results.
    recorded: usize,
    /// Whether the code has observed nothing yet that earlier executions had not.
    pub(super) repeats: bool,
    /// How many of the places hold results that could be observed.
    ready: usize,
    last: u32,
    /// Which poll of the code is under way, or was the last.
    pub(super) poll: u64,
    /// Whether a result was observed in that poll, or the code goes on otherwise. The next result waits
    /// for the next poll.
    observed: bool,
    pub(super) epoch: Epoch,
}

/// A result's place in the order.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) step_name: Arc<str>,
    pub(super) stage: Stage,
    /// Whether it may be observed only when no step is at work: a failure, for which the code may drop
    /// the steps beside it.
    pub(super) when_at_rest: bool,
    recorded: bool,
    since: u64,
    pub(super) attention: Attention,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// A wait that is over, whose step has not begun to settle it.
    Reserved,
    /// The row is being written.
    Written(WorkKey),
    /// There, and waits for its turn.
    Ready,
    /// Its turn has come.
    Offered,
}

impl Stage {
    fn is_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Offered)
    }
}

impl Order {
    pub(super) fn new(unasked: BTreeMap<u32, Unasked>, last: u32, repeats: bool) -> Self {
        Self {
            unasked,
            last,
            repeats,
            ..Self::default()
        }
    }

    pub(super) fn begin_poll(&mut self) {
        self.poll += 1;
        self.observed = false;
    }

    /// The code goes on in this poll, and observes no result in it.
    pub(super) fn goes_on(&mut self) {
        self.observed = true;
    }

    /// What the code awaits has changed.
    pub(super) fn changed(&mut self) {
        self.epoch += 1;
    }

    /// Whether recorded results are left to observe. What is new waits for that.
    pub(super) fn replays(&self) -> bool {
        self.recorded > 0 || !self.unasked.is_empty()
    }

    /// The place of a recorded result that the code has just asked for.
    pub(super) fn ask(&mut self, number: u32, step_name: &Arc<str>) {
        self.unasked.remove(&number);
        self.recorded += 1;
        self.insert(number, step_name, Stage::Ready, true);
    }

    /// A place at the end for a result that comes about.
    pub(super) fn append(&mut self, step_name: &Arc<str>, stage: Stage) -> u32 {
        self.last = self.last.saturating_add(1);
        self.insert(self.last, step_name, stage, false);
        self.last
    }

    fn insert(&mut self, number: u32, step_name: &Arc<str>, stage: Stage, recorded: bool) {
        self.ready += usize::from(stage.is_ready());
        let place = Place {
            step_name: Arc::clone(step_name),
            stage,
            when_at_rest: false,
            recorded,
            since: self.poll,
            attention: Attention::default(),
        };
        self.places.insert(number, place);
    }

    fn remove(&mut self, number: u32) {
        if let Some(place) = self.places.remove(&number) {
            self.recorded -= usize::from(place.recorded);
            self.ready -= usize::from(place.stage.is_ready());
            self.changed();
        }
    }

    fn move_to(&mut self, number: u32, stage: Stage) -> Option<&mut Place> {
        let place = self.places.get_mut(&number)?;
        self.ready -= usize::from(place.stage.is_ready());
        self.ready += usize::from(stage.is_ready());
        place.stage = stage;
        Some(place)
    }

    pub(super) fn has_ready(&self) -> bool {
        self.ready > 0
    }

    pub(super) fn place_after(&self, number: u32) -> Option<u32> {
        let mut after = self
            .places
            .range((Bound::Excluded(number), Bound::Unbounded));
        after.next().map(|(number, _)| *number)
    }

    /// Its turn has come. Gives the waker of who waits for it.
    pub(super) fn offer(&mut self, number: u32) -> Option<Waker> {
        let epoch = self.epoch;
        let place = self.move_to(number, Stage::Offered)?;
        place.attention.call(epoch)
    }

    /// Its turn passes, since nobody came for it.
    pub(super) fn take_back(&mut self, number: u32) {
        if self
            .places
            .get(&number)
            .is_some_and(|p| p.stage == Stage::Offered)
        {
            self.move_to(number, Stage::Ready);
        }
    }

    /// The recorded result that the code should have asked for before it observes `number`; `None` where
    /// all is as it was.
    pub(super) fn overlooked(&self, number: u32) -> Option<&Unasked> {
        let before = self.unasked.range(..number);
        before.map(|(_, result)| result).find(|r| r.numbered)
    }

    /// Whether the code may observe `number` right now, without the driver.
    fn is_next(&self, number: u32, place: &Place) -> bool {
        place.stage == Stage::Ready
            && !place.when_at_rest
            && !self.observed
            // In the poll in which the step was asked for, the steps beside it may still be to come.
            && place.since < self.poll
            && self.places.first_key_value().is_some_and(|(first, _)| *first == number)
            && self.unasked.first_key_value().is_none_or(|(first, _)| *first > number)
    }
}

/// The right to a place in the order. Resolves when the result may be observed; dropped before, the
/// place is given up.
#[must_use = "a result is observed in its turn"]
pub(crate) struct Turn {
    state: Arc<ExecutionState>,
    number: u32,
    /// Whether it is a step inside of another's function, which a replay does not come by again once
    /// that one is done.
    inside: bool,
}

impl Turn {
    pub(super) fn new(state: &Arc<ExecutionState>, number: u32) -> Self {
        Self {
            state: Arc::clone(state),
            number,
            inside: is_inside_step(),
        }
    }

    /// The number to record; none for a step inside of another.
    pub(crate) fn number(&self) -> Option<u32> {
        (!self.inside).then_some(self.number)
    }

    /// The step settles, as the work `key`.
    pub(super) fn settle(&self, key: WorkKey) {
        let stage = Stage::Written(key);
        self.state.lock().order.move_to(self.number, stage);
    }

    /// The row is written.
    pub(crate) fn written(self) -> Self {
        self.ready(false)
    }

    /// The same for a failure that is told once no step is at work: so that `try_join!` does not drop
    /// the steps beside it halfway.
    pub(crate) fn when_at_rest(self) -> Self {
        // The step around it is at work until it is told.
        let when_at_rest = !self.inside;
        self.ready(when_at_rest)
    }

    fn ready(self, when_at_rest: bool) -> Self {
        let mut inner = self.state.lock();
        if let Some(place) = inner.order.move_to(self.number, Stage::Ready) {
            place.when_at_rest = when_at_rest;
        }
        drop(inner);
        self
    }
}

impl Future for Turn {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let in_code = self.state.is_polling_code();
        let mut inner = self.state.lock();
        let held = inner.is_over() || inner.works.withdraws();
        let order = &mut inner.order;
        let Some(place) = order.places.get(&self.number) else {
            // Observed already.
            return Poll::Ready(());
        };
        let now = place.stage == Stage::Offered
            || (in_code && !held && order.is_next(self.number, place));
        if now {
            // A step inside of another is not observed by the workflow's own code.
            if !place.recorded && !self.inside {
                order.repeats = false;
                if in_code {
                    replay::over();
                }
            }
            order.remove(self.number);
            order.observed = true;
            drop(inner);
            self.state.rouse();
            return Poll::Ready(());
        }
        let epoch = order.epoch;
        if let Some(place) = order.places.get_mut(&self.number) {
            place.attention.sighted(epoch, cx.waker(), !in_code);
        }
        drop(inner);
        self.state.rouse();
        Poll::Pending
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        if inner.order.places.contains_key(&self.number) {
            inner.order.remove(self.number);
            drop(inner);
            self.state.rouse();
        }
    }
}
