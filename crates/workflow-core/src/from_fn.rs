//! Interceptors with one hook, made of an async function.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use crate::chain::BoxFuture;
use crate::{
    Call, CancelRun, CreateRun, CreatedRun, ExecuteRun, ExecutionOutcome, Interceptor, Next,
    Result, SendSignal, SentSignal, StepCall, StepOutcome,
};

/// Makes an interceptor of an async function. Which hook it is, is told by the type of its first
/// argument: [`StepCall`], [`ExecuteRun`], [`CreateRun`], [`SendSignal`] or [`CancelRun`].
///
/// ```
/// use workflow_core::{Interceptor, Next, Result, StepCall, StepOutcome, from_fn};
///
/// async fn timing(call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
///     let name = call.name.clone();
///     let begin = std::time::Instant::now();
///     let outcome = next.run(call).await;
///     println!("{name} took {:?}", begin.elapsed());
///     outcome
/// }
///
/// let interceptor = from_fn(timing);
/// # fn register(_: impl Interceptor) {}
/// # register(interceptor);
/// ```
///
/// An `async` closure works where it captures nothing and names the types of its arguments. What it
/// would capture is given to it by [`from_fn_with_state`]: a future that borrows from its closure, or
/// from the arguments of a closure that returns an `async` block, is something that the compiler cannot
/// name yet.
///
/// ```
/// use workflow_core::{ExecuteRun, Next, from_fn};
/// # use workflow_core::Interceptor;
/// # fn register(_: impl Interceptor) {}
///
/// let announcing = from_fn(async |call: ExecuteRun, next: Next<'_, ExecuteRun>| {
///     println!("execution {} of {}", call.execution.attempt, call.execution.run.workflow_name);
///     next.run(call).await
/// });
/// # register(announcing);
/// ```
pub fn from_fn<C, F>(hook: F) -> FromFn<F, C>
where
    C: Call,
    F: for<'a> HookFn<'a, C>, // what it would capture: `from_fn_with_state`
{
    FromFn {
        hook,
        call: PhantomData,
    }
}

/// As [`from_fn`], of a function whose first argument is a clone of `state`, made for each call.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use workflow_core::{Next, Result, StepCall, StepOutcome, from_fn_with_state};
///
/// async fn count(
///     failures: Arc<AtomicU64>,
///     call: StepCall,
///     next: Next<'_, StepCall>,
/// ) -> Result<StepOutcome> {
///     let outcome = next.run(call).await;
///     if outcome.is_err() {
///         failures.fetch_add(1, Ordering::Relaxed);
///     }
///     outcome
/// }
///
/// let failures = Arc::new(AtomicU64::new(0));
/// let interceptor = from_fn_with_state(Arc::clone(&failures), count);
/// # fn register(_: impl workflow_core::Interceptor) {}
/// # register(interceptor);
/// ```
pub fn from_fn_with_state<S, C, F>(state: S, hook: F) -> FromFn<WithState<S, F>, C>
where
    S: Clone + Send + Sync + 'static,
    C: Call,
    WithState<S, F>: for<'a> HookFn<'a, C>,
{
    FromFn {
        hook: WithState { state, hook },
        call: PhantomData,
    }
}

/// An async function that is a hook around calls of the type `C`, with a future that is `Send`:
///
/// - `async fn hook(call: C, next: Next<'_, C>) -> Result<C::Output>`, for [`from_fn`], which says what
///   closures need;
/// - `async fn hook(state: S, call: C, next: Next<'_, C>) -> Result<C::Output>`, for
///   [`from_fn_with_state`].
pub trait HookFn<'a, C: Call>: Send + Sync + 'static {
    #[doc(hidden)]
    fn around(&self, call: C, next: Next<'a, C>) -> BoxFuture<'a, Result<C::Output>>;
}

impl<'a, C, F, Fut> HookFn<'a, C> for F
where
    C: Call,
    F: Fn(C, Next<'a, C>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<C::Output>> + Send + 'a,
{
    fn around(&self, call: C, next: Next<'a, C>) -> BoxFuture<'a, Result<C::Output>> {
        Box::pin(self(call, next))
    }
}

/// A hook with the state that it is given; see [`from_fn_with_state`].
#[derive(Clone)]
pub struct WithState<S, F> {
    state: S,
    hook: F,
}

impl<'a, S, C, F, Fut> HookFn<'a, C> for WithState<S, F>
where
    S: Clone + Send + Sync + 'static,
    C: Call,
    F: Fn(S, C, Next<'a, C>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<C::Output>> + Send + 'a,
{
    fn around(&self, call: C, next: Next<'a, C>) -> BoxFuture<'a, Result<C::Output>> {
        Box::pin((self.hook)(self.state.clone(), call, next))
    }
}

impl<S, F> fmt::Debug for WithState<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithState").finish_non_exhaustive()
    }
}

/// The interceptor that [`from_fn`] and [`from_fn_with_state`] make.
pub struct FromFn<F, C> {
    hook: F,
    call: PhantomData<fn(C)>,
}

impl<F: Clone, C> Clone for FromFn<F, C> {
    fn clone(&self) -> Self {
        Self {
            hook: self.hook.clone(),
            call: PhantomData,
        }
    }
}

impl<F, C> fmt::Debug for FromFn<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn").finish_non_exhaustive()
    }
}

macro_rules! hooks {
    ($($hook:ident($call:ty) -> $output:ty;)*) => {$(
        impl<F: for<'a> HookFn<'a, $call>> Interceptor for FromFn<F, $call> {
            fn $hook<'life0, 'life1, 'async_trait>(
                &'life0 self,
                call: $call,
                next: Next<'life1, $call>,
            ) -> BoxFuture<'async_trait, Result<$output>>
            where
                'life0: 'async_trait,
                'life1: 'async_trait,
                Self: 'async_trait,
            {
                self.hook.around(call, next)
            }
        }
    )*};
}

hooks! {
    create_run(CreateRun) -> CreatedRun;
    execute(ExecuteRun) -> ExecutionOutcome;
    step(StepCall) -> StepOutcome;
    send_signal(SendSignal) -> SentSignal;
    cancel_run(CancelRun) -> ();
}
