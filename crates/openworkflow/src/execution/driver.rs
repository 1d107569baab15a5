//! Polls the workflow's code and notices when it can get no further.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::SystemTime;

use futures_util::task::AtomicWaker;
use workflow_core::{BoxFuture, Error, Payload, Result};

use super::{ExecutionState, Pending};

/// The waker of the workflow's code: remembers that it was woken, and wakes the execution's task.
#[derive(Default)]
pub(super) struct DriverWaker {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl DriverWaker {
    pub(super) fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
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

/// How the workflow's code came to an end, in this execution.
pub(crate) enum DriverEnd {
    /// It returned.
    Returned(Result<Payload>),
    /// The run fails, whatever the code would do about it.
    Fatal(Error),
    /// Everything waits.
    Waiting {
        until: SystemTime,
        waits: Vec<Arc<str>>,
    },
    /// A step failed and is tried again.
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
}

impl Future for Driver {
    type Output = DriverEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<DriverEnd> {
        let this = &mut *self;
        let driver = &this.state.driver;
        driver.task.register(cx.waker());
        driver.woken.store(false, Ordering::Release);
        let mut code_cx = Context::from_waker(&this.waker);
        let polled = catch_unwind(AssertUnwindSafe(|| this.code.as_mut().poll(&mut code_cx)));
        let returned = match polled {
            Ok(Poll::Pending) => None,
            Ok(Poll::Ready(result)) => Some(result),
            Err(panic) => Some(Err(Error::from_panic(&*panic))),
        };
        if returned.is_none() && driver.woken.load(Ordering::Acquire) {
            // Somebody has more to do, perhaps a step that was not even polled yet: look again.
            return Poll::Pending;
        }
        match this.state.rest(returned) {
            Some(end) => Poll::Ready(end),
            None => Poll::Pending,
        }
    }
}

impl ExecutionState {
    /// What follows when the code has returned, or has been polled and got no further.
    fn rest(&self, returned: Option<Result<Payload>>) -> Option<DriverEnd> {
        let mut inner = self.lock();
        if let Some(result) = returned {
            return Some(match inner.fatal.take() {
                Some(error) => DriverEnd::Fatal(error),
                None => DriverEnd::Returned(result),
            });
        }
        if inner.at_work > 0 {
            return None;
        }
        if let Some(error) = inner.fatal.take() {
            return Some(DriverEnd::Fatal(error));
        }
        // One at a time, and what it sets to work comes to rest before the next is told: else that
        // could be dropped halfway. In the order of the code, which a replay repeats.
        let first = (0..inner.held.len()).min_by_key(|&i| inner.held[i].place);
        if let Some(first) = first {
            let held = inner.held.remove(first);
            inner.at_work += 1;
            let mut released = held.released.lock().unwrap_or_else(PoisonError::into_inner);
            released.0 = true;
            if let Some(waker) = released.1.take() {
                waker.wake();
            }
            return None;
        }
        // With nothing pending, the code awaits something that is not a step: it is left to it.
        let until = inner
            .pending
            .iter()
            .map(|(_, pending)| pending.until())
            .min()?;
        let mut waits = Vec::new();
        let mut failure = None;
        for (_, pending) in inner.pending.drain(..) {
            match pending {
                Pending::Wait { attempt_id, .. } => waits.push(attempt_id),
                Pending::Retry { error, .. } => failure = Some(error),
            }
        }
        Some(match failure {
            Some(error) => DriverEnd::Retrying {
                error,
                at: until,
                waits,
            },
            None => DriverEnd::Waiting { until, waits },
        })
    }
}

impl Pending {
    fn until(&self) -> SystemTime {
        match self {
            Self::Wait { until, .. } => *until,
            Self::Retry { at, .. } => *at,
        }
    }
}
