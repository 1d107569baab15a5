//! What came to pass in an execution so far, as far as its spans have to know it later.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use opentelemetry::Context;
use workflow_core::Error;

/// Of one execution. Everything in here is rare: failures, children, steps that were dropped.
#[derive(Default)]
pub(crate) struct Progress {
    /// The errors that are exception events on its spans, as hashes.
    recorded: Mutex<Vec<u64>>,
    /// The runs that its steps created, by the ids of their attempts, until their spans end.
    children: Mutex<Vec<(Arc<str>, Arc<str>)>>,
    dropped: Mutex<Dropped>,
    any_dropped: AtomicBool,
}

#[derive(Default)]
struct Dropped {
    steps: Vec<DroppedStep>,
    over: Option<Cause>,
}

/// A step's span whose future was dropped, as long as it is open why.
pub(crate) struct DroppedStep {
    pub(crate) cx: Context,
    pub(crate) name: Arc<str>,
    /// Whether it waits for something, and so can time out.
    pub(crate) waits: bool,
    pub(crate) at: SystemTime,
}

/// Why a step was dropped before its end, other than by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The workflow's code went on without it.
    GivenUp,
    /// The execution failed while it was at work.
    Failure,
}

impl Progress {
    /// Notes that an error, of a step or of the execution itself, is an exception event on a span.
    pub(crate) fn record(&self, step: Option<&str>, error: &Error) {
        lock(&self.recorded).push(hash(step, error));
    }

    /// Whether there is an exception event that says what one for this error would say.
    pub(crate) fn has_recorded(&self, step: Option<&str>, error: &Error) -> bool {
        let recorded = lock(&self.recorded);
        !recorded.is_empty() && recorded.contains(&hash(step, error))
    }

    /// Notes which run an attempt at a step created, or found.
    pub(crate) fn add_child(&self, attempt_id: &Arc<str>, run_id: &Arc<str>) {
        lock(&self.children).push((Arc::clone(attempt_id), Arc::clone(run_id)));
    }

    /// Takes the run that an attempt at a step created.
    pub(crate) fn take_child(&self, attempt_id: &str) -> Option<Arc<str>> {
        let mut children = lock(&self.children);
        let found = children.iter().position(|(id, _)| **id == *attempt_id)?;
        Some(children.swap_remove(found).1)
    }

    /// Keeps a dropped step until it is known why. Gives it back where it is known.
    pub(crate) fn keep(&self, step: DroppedStep) -> Option<(DroppedStep, Cause)> {
        let mut dropped = lock(&self.dropped);
        if let Some(cause) = dropped.over {
            return Some((step, cause));
        }
        dropped.steps.push(step);
        self.any_dropped.store(true, Ordering::Relaxed);
        None
    }

    /// Takes the dropped step of this name, of which more is known now.
    pub(crate) fn take(&self, name: &str) -> Option<DroppedStep> {
        let mut dropped = lock(&self.dropped);
        let found = dropped.steps.iter().position(|step| &*step.name == name)?;
        Some(dropped.steps.swap_remove(found))
    }

    /// Whether there may be dropped steps to take.
    #[inline]
    pub(crate) fn any_dropped(&self) -> bool {
        self.any_dropped.load(Ordering::Relaxed)
    }

    /// Takes the steps that were dropped so far.
    pub(crate) fn take_all(&self) -> Vec<DroppedStep> {
        self.any_dropped.store(false, Ordering::Relaxed);
        std::mem::take(&mut lock(&self.dropped).steps)
    }

    /// The execution is over: takes the steps that were dropped, and says of those to come why.
    /// `None` where it was over before.
    pub(crate) fn end(&self, cause: Cause) -> Option<Vec<DroppedStep>> {
        let mut dropped = lock(&self.dropped);
        if dropped.over.is_some() {
            return None;
        }
        dropped.over = Some(cause);
        Some(std::mem::take(&mut dropped.steps))
    }
}

/// What makes an error the same to who reads it. It need not be the same object: an engine may have
/// read it back from its database meanwhile.
fn hash(step: Option<&str>, error: &Error) -> u64 {
    let mut hasher = DefaultHasher::new();
    (step, error.kind(), error.name(), error.message()).hash(&mut hasher);
    hasher.finish()
}

/// Nothing panics half-way while one of these is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
