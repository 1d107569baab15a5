//! Interceptors in a row, and the way through them.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::{
    Call, Error, Event, Execution, ExecutionOutcome, Interceptor, Interruption, Result, Unwritten,
};

/// A boxed future that can cross threads: what `#[async_trait]` makes of an `async fn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a chain ends in: the operation itself.
type Terminal<'a, C> = dyn FnMut(C) -> BoxFuture<'a, Result<<C as Call>::Output>> + Send + 'a;

/// Interceptors in the order in which they wrap a call: the first is the outermost.
///
/// For engines; users register interceptors with a client or a worker. Cloning is cheap.
///
/// ```
/// use std::sync::Arc;
/// use workflow_core::{CancelRun, Chain, Interceptor, RunInfo};
/// # struct Audit;
/// # impl Interceptor for Audit {}
///
/// # futures::executor::block_on(async {
/// let chain = Chain::new([Arc::new(Audit) as Arc<dyn Interceptor>]);
/// let call = CancelRun::new(RunInfo::new("default", "6f9c", "process-order"));
/// chain.call(call, |_call| async { Ok(()) }).await.unwrap();
/// # });
/// ```
#[derive(Clone, Default)]
pub struct Chain(Option<Arc<[Arc<dyn Interceptor>]>>);

impl Chain {
    /// A chain of `interceptors`, the outermost first.
    pub fn new(interceptors: impl IntoIterator<Item = Arc<dyn Interceptor>>) -> Self {
        let interceptors: Arc<[_]> = interceptors.into_iter().collect();
        Self((!interceptors.is_empty()).then_some(interceptors))
    }

    /// Whether there is nothing to call. Engines then skip making the call altogether.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Sends `call` through the chain to `terminal`. Without interceptors this is `terminal` itself:
    /// no allocation, no dynamic call. Dropping the future drops the hooks and `terminal` where they
    /// are.
    ///
    /// # Errors
    ///
    /// What comes out of the outermost interceptor. A panic in an interceptor or in `terminal` comes
    /// out as an error of kind [`ErrorKind::Panic`](crate::ErrorKind::Panic), unless there is no
    /// interceptor at all: then it is not caught.
    pub async fn call<C, F, Fut>(&self, call: C, terminal: F) -> Result<C::Output>
    where
        C: Call,
        F: FnOnce(C) -> Fut + Send,
        Fut: Future<Output = Result<C::Output>> + Send,
    {
        let Some(interceptors) = &self.0 else {
            return terminal(call).await;
        };
        let mut terminal = Some(terminal);
        let mut end = |call: C| -> BoxFuture<'_, Result<C::Output>> {
            match terminal.take() {
                Some(terminal) => Box::pin(terminal(call)),
                // `Next` is consumed by its only use, so there is no second call.
                None => Box::pin(std::future::pending()),
            }
        };
        Next {
            rest: interceptors,
            terminal: &mut end,
        }
        .run(call)
        .await
    }

    /// Promises every interceptor to tell the end of `execution`. To be called before the execution
    /// goes through the chain. Without interceptors this does nothing.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::time::SystemTime;
    /// use workflow_core::{Chain, ExecuteRun, Execution, ExecutionOutcome, Payload, RunInfo};
    /// # struct Audit;
    /// # impl workflow_core::Interceptor for Audit {}
    ///
    /// # futures::executor::block_on(async {
    /// let chain = Chain::new([Arc::new(Audit) as Arc<dyn workflow_core::Interceptor>]);
    /// let run = RunInfo::new("default", "6f9c", "process-order");
    /// let execution = Arc::new(Execution::new(run, 1, false, "worker-1", SystemTime::now()));
    ///
    /// let end = chain.promise_end(&execution);
    /// let call = ExecuteRun::new(Arc::clone(&execution), Payload::NULL);
    /// let run_code = |_| async { Ok(ExecutionOutcome::Completed { output: Payload::NULL }) };
    /// let outcome = chain.call(call, run_code).await.unwrap();
    /// // Here the outcome is written.
    /// end.tell(Ok(&outcome));
    /// # });
    /// ```
    pub fn promise_end(&self, execution: &Arc<Execution>) -> PromisedEnd {
        if self.is_empty() {
            return PromisedEnd(None);
        }
        execution.promise_end();
        PromisedEnd(Some((self.clone(), Arc::clone(execution))))
    }

    /// Tells every interceptor of `event`. One that panics is passed over.
    pub fn event(&self, event: &Event<'_>) {
        for interceptor in self.0.iter().flat_map(|all| all.iter()) {
            // The panic hook has reported it; there is nothing to return it through.
            let _ = catch_unwind(AssertUnwindSafe(|| interceptor.event(event)));
        }
    }

    /// Does `work`, once, inside of what every interceptor keeps current in `execution`: see
    /// [`Interceptor::within`]. One that panics, or does not pass it on, is passed over.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use workflow_core::{Chain, Execution, RunInfo};
    ///
    /// let run = RunInfo::new("default", "6f9c", "process-order");
    /// let execution = Execution::new(run, 1, false, "worker-1", SystemTime::now());
    /// Chain::default().within(&execution, || println!("{} has ended", execution.run.id));
    /// ```
    pub fn within(&self, execution: &Execution, work: impl FnOnce()) {
        let mut work = Some(work);
        let mut once = || {
            if let Some(work) = work.take() {
                work();
            }
        };
        if let Some(interceptors) = &self.0 {
            nest(interceptors, execution, &mut once);
        }
        once();
    }
}

fn nest(rest: &[Arc<dyn Interceptor>], execution: &Execution, work: &mut dyn FnMut()) {
    let Some((first, rest)) = rest.split_first() else {
        return work();
    };
    let mut work = || nest(rest, execution, work);
    // As with events.
    let _ = catch_unwind(AssertUnwindSafe(|| first.within(execution, &mut work)));
}

/// The promise that the end of an execution will be told; see [`Chain::promise_end`].
///
/// Dropped without a word, as with the task that it was made in, it tells that the execution was
/// interrupted: for the reason that [`Execution`] holds, or because the worker was stopped.
#[must_use = "dropped, it tells that the execution was interrupted"]
pub struct PromisedEnd(Option<(Chain, Arc<Execution>)>);

impl PromisedEnd {
    /// Tells what came of the execution, after its last write.
    pub fn tell(mut self, written: Result<&ExecutionOutcome, Unwritten<'_>>) {
        if let Some((chain, execution)) = self.0.take() {
            chain.event(&Event::execution_ended(&execution, written));
        }
    }
}

impl Drop for PromisedEnd {
    fn drop(&mut self) {
        if let Some((chain, execution)) = self.0.take() {
            let reason = execution.interruption();
            let reason = Unwritten::Interrupted(reason.unwrap_or(Interruption::WorkerStopped));
            chain.event(&Event::execution_ended(&execution, Err(reason)));
        }
    }
}

impl fmt::Debug for PromisedEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromisedEnd").finish_non_exhaustive()
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interceptors = self.0.as_ref().map_or(0, |all| all.len());
        f.debug_struct("Chain")
            .field("interceptors", &interceptors)
            .finish()
    }
}

/// The rest of the chain, as a hook sees it. Used once: retrying is the engine's job.
#[must_use = "a call that is not passed on is skipped"]
pub struct Next<'a, C: Call> {
    rest: &'a [Arc<dyn Interceptor>],
    terminal: &'a mut Terminal<'a, C>,
}

impl<'a, C: Call> Next<'a, C> {
    /// Passes `call` on to the next interceptor, or to the operation itself.
    ///
    /// A panic in there comes back as an `Err` of kind [`ErrorKind::Panic`](crate::ErrorKind::Panic).
    /// Dropping the returned future cancels what it was doing.
    pub fn run(self, call: C) -> NextFuture<'a, C> {
        let Self { rest, terminal } = self;
        // A hook written by hand may panic before it returns a future.
        let made = catch_unwind(AssertUnwindSafe(|| match rest.split_first() {
            Some((first, rest)) => call.dispatch(&**first, Next { rest, terminal }),
            None => terminal(call),
        }));
        NextFuture(match made {
            Ok(future) => State::Running(future),
            Err(panic) => State::Panicked(Box::new(Error::from_panic(&*panic))),
        })
    }
}

impl<C: Call> fmt::Debug for Next<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next")
            .field("remaining", &self.rest.len())
            .finish()
    }
}

/// The future of [`Next::run`]: the rest of the chain at work. Once it has resolved it stays pending.
#[must_use = "futures do nothing unless awaited"]
pub struct NextFuture<'a, C: Call>(State<'a, C>);

enum State<'a, C: Call> {
    Running(BoxFuture<'a, Result<C::Output>>),
    // In a box, because a future is to be `Unpin` and an error is not.
    Panicked(Box<Error>),
    Done,
}

impl<'a, C: Call> NextFuture<'a, C> {
    /// This future as a hook returns it when written by hand. Costs no allocation.
    ///
    /// A panic further in then is caught by whoever awaits the returned future: the next hook
    /// outwards, or the engine.
    #[must_use]
    pub fn boxed(self) -> BoxFuture<'a, Result<C::Output>> {
        match self.0 {
            State::Running(future) => future,
            State::Panicked(error) => Box::pin(std::future::ready(Err(*error))),
            State::Done => Box::pin(std::future::pending()),
        }
    }
}

impl<C: Call> Future for NextFuture<'_, C> {
    type Output = Result<C::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let State::Running(future) = &mut self.0 else {
            return match std::mem::replace(&mut self.0, State::Done) {
                State::Panicked(error) => Poll::Ready(Err(*error)),
                State::Running(_) | State::Done => Poll::Pending,
            };
        };
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        let result = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result,
            Err(panic) => Err(Error::from_panic(&*panic)),
        };
        self.0 = State::Done;
        Poll::Ready(result)
    }
}

impl<C: Call> fmt::Debug for NextFuture<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextFuture").finish_non_exhaustive()
    }
}
