//! The trait that interceptors implement.

use crate::chain::BoxFuture;
use crate::{
    CancelRun, CreateRun, CreatedRun, Event, ExecuteRun, Execution, ExecutionOutcome, Next, Result,
    SendSignal, SentSignal, StepCall, StepOutcome,
};
use std::sync::Arc;

/// Code around what a workflow engine does: creating a run, executing it, carrying out its steps.
///
/// Each hook gets the call by value and the rest of the chain as [`Next`]. It may read and change
/// the call before it passes it on, await the result and change or replace that, or answer itself
/// and skip the rest. Every hook defaults to passing on, so an implementation names only those that
/// it cares about, and hooks that are added later break nobody.
///
/// # Writing one
///
/// The hooks are declared in the form that `#[async_trait]` gives an `async fn`, so with that macro
/// an implementation is written as `async fn`s; this crate does not depend on it.
///
/// ```
/// use async_trait::async_trait;
/// use workflow_core::{Interceptor, Next, Result, StepCall, StepOutcome};
///
/// struct Timing;
///
/// #[async_trait]
/// impl Interceptor for Timing {
///     async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
///         let name = call.name.clone();
///         let begin = std::time::Instant::now();
///         let outcome = next.run(call).await;
///         println!("{name} took {:?}", begin.elapsed());
///         outcome
///     }
/// }
/// ```
///
/// A single hook needs no type: [`from_fn`](crate::from_fn) makes an interceptor of an `async fn`.
///
/// By hand, the same hook spells the lifetimes out:
///
/// ```
/// use std::{future::Future, pin::Pin};
/// use workflow_core::{Interceptor, Next, Result, StepCall, StepOutcome};
///
/// struct Counting(std::sync::atomic::AtomicU64);
///
/// impl Interceptor for Counting {
///     fn step<'life0, 'life1, 'async_trait>(
///         &'life0 self,
///         call: StepCall,
///         next: Next<'life1, StepCall>,
///     ) -> Pin<Box<dyn Future<Output = Result<StepOutcome>> + Send + 'async_trait>>
///     where
///         'life0: 'async_trait,
///         'life1: 'async_trait,
///         Self: 'async_trait,
///     {
///         self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///         next.run(call).boxed()
///     }
/// }
/// ```
///
/// # What an engine promises
///
/// - **Order** is the order of registration: the first registered is the outermost, as in
///   `tower::ServiceBuilder`.
/// - **The engine commits what comes out of the chain**, not what went into it: a result that a hook
///   replaced is the one that is stored, and one that a hook refused is never stored.
/// - **A panic** in a hook surfaces to the hook outside it as an `Err` of kind
///   [`ErrorKind::Panic`](crate::ErrorKind::Panic), and ends nothing else.
/// - **Dropping**: the engine drops a chain's future when the run is canceled, its lease lost or the
///   worker stopped; [`Execution::interruption`](crate::Execution::interruption) then says why.
///   User code may drop a step's future too, in a `select!`. Hooks must be sound when dropped at
///   any `await`.
/// - **A step answered from history makes no call**: there is an [`Event`] for those who count.
///
/// An interceptor runs outside the history. Whatever it awaits or reads (a clock, a random number, a
/// remote service) can differ from execution to execution without harm.
pub trait Interceptor: Send + Sync + 'static {
    /// Around the creation of a run: by a client, by a step of a parent run (with `call.parent` set), or
    /// where a run continues as a new one (with `call.continues` set, after that execution's hooks). What is
    /// added to `call.run.carrier` is written with the run.
    ///
    /// An `Err` reaches the client; where a step creates the run, it fails that step; where a run was to
    /// continue, it counts as an `Err` of [`execute`](Self::execute).
    fn create_run<'life0, 'life1, 'async_trait>(
        // An `async fn` for this needs `#[async_trait]` above its `impl`.
        &'life0 self,
        call: CreateRun,
        next: Next<'life1, CreateRun>,
    ) -> BoxFuture<'async_trait, Result<CreatedRun>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        next.run(call).boxed()
    }

    /// Around one execution of a run: everything between the claim and the write that ends it.
    ///
    /// A workflow's own failure is an [`ExecutionOutcome`], with the retry decision already made; an
    /// `Err` is an interceptor's. A retryable `Err` puts the run back into the queue, unless its
    /// deadline comes first; any other fails it.
    ///
    /// What comes out is written afterwards. Whether it was is told by
    /// [`Event::ExecutionEnded`](crate::Event::ExecutionEnded).
    fn execute<'life0, 'life1, 'async_trait>(
        // An `async fn` for this needs `#[async_trait]` above its `impl`.
        &'life0 self,
        call: ExecuteRun,
        next: Next<'life1, ExecuteRun>,
    ) -> BoxFuture<'async_trait, Result<ExecutionOutcome>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        next.run(call).boxed()
    }

    /// Around a step of whatever kind: a function's body, a signal being sent, a wait being set up,
    /// and (in a later execution, with [`StepPhase::Resolve`](crate::StepPhase::Resolve)) the end
    /// of a wait.
    ///
    /// An `Err` fails this attempt at the step, and a retryable one is tried again. Where the wait
    /// that it is about was set up already, the wait stands and only the call is made again.
    fn step<'life0, 'life1, 'async_trait>(
        // An `async fn` for this needs `#[async_trait]` above its `impl`.
        &'life0 self,
        call: StepCall,
        next: Next<'life1, StepCall>,
    ) -> BoxFuture<'async_trait, Result<StepOutcome>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        next.run(call).boxed()
    }

    /// Around a client's sending of a signal. An `Err` reaches the client.
    fn send_signal<'life0, 'life1, 'async_trait>(
        // An `async fn` for this needs `#[async_trait]` above its `impl`.
        &'life0 self,
        call: SendSignal,
        next: Next<'life1, SendSignal>,
    ) -> BoxFuture<'async_trait, Result<SentSignal>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        next.run(call).boxed()
    }

    /// Around a client's cancellation of a run. An `Err` reaches the client.
    fn cancel_run<'life0, 'life1, 'async_trait>(
        // An `async fn` for this needs `#[async_trait]` above its `impl`.
        &'life0 self,
        call: CancelRun,
        next: Next<'life1, CancelRun>,
    ) -> BoxFuture<'async_trait, Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        next.run(call).boxed()
    }

    /// Told of facts that have no duration to wrap. Must not block. A panic is passed over.
    fn event(&self, event: &Event<'_>) {
        let _ = event;
    }

    /// Around something short that the engine does about an execution outside of its future: it logs what
    /// became of it, after [`execute`](Self::execute) and before
    /// [`Event::ExecutionEnded`](crate::Event::ExecutionEnded). An interceptor that keeps something current
    /// inside of an execution, such as a trace's context, has it current around `work`, too. Must not
    /// block.
    ///
    /// ```
    /// use workflow_core::{Execution, Interceptor};
    ///
    /// struct Named;
    ///
    /// impl Interceptor for Named {
    ///     fn within(&self, execution: &Execution, work: &mut dyn FnMut()) {
    ///         println!("about {}:", execution.run.id);
    ///         work();
    ///     }
    /// }
    /// ```
    fn within(&self, execution: &Execution, work: &mut dyn FnMut()) {
        let _ = execution;
        work();
    }
}

macro_rules! forward {
    ($($hook:ident($call:ty) -> $output:ty;)*) => {
        /// An interceptor behind an `Arc` is the interceptor: one object can serve a client and a worker.
        impl<I: Interceptor + ?Sized> Interceptor for Arc<I> {
            $(fn $hook<'life0, 'life1, 'async_trait>(
                &'life0 self,
                call: $call,
                next: Next<'life1, $call>,
            ) -> BoxFuture<'async_trait, Result<$output>>
            where
                'life0: 'async_trait,
                'life1: 'async_trait,
                Self: 'async_trait,
            {
                (**self).$hook(call, next)
            })*

            fn event(&self, event: &Event<'_>) {
                (**self).event(event);
            }

            fn within(&self, execution: &Execution, work: &mut dyn FnMut()) {
                (**self).within(execution, work);
            }
        }
    };
}

forward! {
    create_run(CreateRun) -> CreatedRun;
    execute(ExecuteRun) -> ExecutionOutcome;
    step(StepCall) -> StepOutcome;
    send_signal(SendSignal) -> SentSignal;
    cancel_run(CancelRun) -> ();
}
