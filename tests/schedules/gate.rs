//! Where an actor's steps are held until they are let through.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// A gate. It stands open until somebody acts.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    /// Told whenever something arrives or is done.
    moved: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    held: VecDeque<(String, oneshot::Sender<()>)>,
    under_way: usize,
}

/// A step that was let through; it is done when this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Gate>);

impl Gate {
    pub(crate) fn new(moved: &Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            moved: Arc::clone(moved),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this step is let through. `None` where nothing is held at all.
    pub(crate) async fn pass(self: &Arc<Self>, step: impl Into<String>) -> Option<UnderWay> {
        let passed = {
            let mut state = self.lock();
            if !state.closed {
                return None;
            }
            let (go, passed) = oneshot::channel();
            state.held.push_back((step.into(), go));
            passed
        };
        self.moved.notify_one();
        passed.await.ok()?;
        Some(UnderWay(Arc::clone(self)))
    }

    /// From now on steps are held, or are not.
    pub(crate) fn close(&self, closed: bool) {
        self.lock().closed = closed;
    }

    /// Whether a step is held, and none is under way.
    pub(crate) fn is_holding(&self) -> bool {
        let state = self.lock();
        state.under_way == 0 && !state.held.is_empty()
    }

    /// Whether a step was let through and is not done.
    pub(crate) fn is_under_way(&self) -> bool {
        self.lock().under_way > 0
    }

    /// Lets the next step through, and tells which it is.
    pub(crate) fn release(&self) -> String {
        let mut state = self.lock();
        let (step, go) = state.held.pop_front().expect("a step is held");
        state.under_way += 1;
        assert!(go.send(()).is_ok(), "whoever is held waits");
        step
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
        self.0.moved.notify_one();
    }
}
