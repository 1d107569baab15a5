//! tower layers around steps.

use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::sync::Mutex;
use tower::{Layer, Service};
use workflow_core::{
    BoxError, Error, ErrorKind, Interceptor, Next, NextFuture, Result, StepCall, StepOutcome,
};

/// A step on its way through a tower service.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepRequest<'a> {
    /// The step.
    pub call: StepCall,
    next: Next<'a, StepCall>,
}

/// The innermost service of a stack of layers: it carries the step out.
///
/// A layer of one's own wraps it like any service:
///
/// ```
/// use std::task::{Context, Poll};
/// use openworkflow::{StepRequest, StepService};
/// use tower::{Layer, Service};
///
/// #[derive(Clone)]
/// struct Announce;
/// struct Announcing<S>(S);
///
/// impl<S> Layer<S> for Announce {
///     type Service = Announcing<S>;
///     fn layer(&self, inner: S) -> Announcing<S> {
///         Announcing(inner)
///     }
/// }
///
/// impl<'a, S: Service<StepRequest<'a>>> Service<StepRequest<'a>> for Announcing<S> {
///     type Response = S::Response;
///     type Error = S::Error;
///     type Future = S::Future;
///     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
///         self.0.poll_ready(cx)
///     }
///     fn call(&mut self, request: StepRequest<'a>) -> S::Future {
///         println!("step {}", request.call.name);
///         self.0.call(request)
///     }
/// }
/// ```
#[derive(Debug, Clone)]
pub struct StepService(PhantomData<()>);

impl StepService {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<'a> Service<StepRequest<'a>> for StepService {
    type Response = StepOutcome;
    type Error = BoxError;
    type Future = StepServiceFuture<'a>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: StepRequest<'a>) -> StepServiceFuture<'a> {
        StepServiceFuture(request.next.run(request.call))
    }
}

/// The future of [`StepService`].
#[derive(Debug)]
pub struct StepServiceFuture<'a>(NextFuture<'a, StepCall>);

impl Future for StepServiceFuture<'_> {
    type Output = Result<StepOutcome, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(Error::into_boxed)
    }
}

/// A tower layer that fits around steps: its service takes a [`StepRequest`] of any lifetime and answers
/// with a [`StepOutcome`], with a future and an error that are `Send`.
///
/// Implemented for every layer that does; `Fit` says so to the compiler, which then can say of others
/// what is wrong with them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no layer around steps",
    label = "its service does not take every `StepRequest` and answer with a `StepOutcome`",
    note = "a step stays in its task and runs once per attempt, so a layer can neither send it away \
            (tower's `buffer`, `spawn_ready`) nor repeat it (`retry`)",
    note = "limits, time-outs and load shedding fit; retries are the step's own: `RunStep::retry`"
)]
pub trait StepLayer<Fit>: Sized {
    #[doc(hidden)]
    fn into_interceptor(self) -> impl Interceptor;
}

#[doc(hidden)]
#[derive(Debug)]
pub enum Fits {}

impl<L> StepLayer<Fits> for L
where
    L: Layer<StepService>,
    L::Service: Send + 'static,
    L::Service: for<'a> Service<
            StepRequest<'a>,
            Response = StepOutcome,
            Error: Into<BoxError> + Send,
            Future: Send,
        >,
{
    fn into_interceptor(self) -> impl Interceptor {
        LayerInterceptor::new(self.layer(StepService::new()))
    }
}

/// Never implemented. With a second way to fit, the compiler looks into neither, and tells of
/// [`StepLayer`] rather than of what a layer lacks of the first.
trait Misfit {}

impl<L: Misfit> StepLayer<()> for L {
    fn into_interceptor(self) -> impl Interceptor {
        LayerInterceptor::new(StepService::new())
    }
}

/// A stack of layers as an interceptor of steps.
///
/// The service is made once and shared, behind a lock that is held until the service is ready and
/// takes the request, not while the step runs. So layers need not be `Clone`, and a limit counts
/// across all steps; steps that wait for a limit wait in line.
pub(crate) struct LayerInterceptor<S>(Mutex<S>);

impl<S> LayerInterceptor<S> {
    pub(crate) fn new(service: S) -> Self {
        Self(Mutex::new(service))
    }
}

#[async_trait]
impl<S> Interceptor for LayerInterceptor<S>
where
    S: Send + 'static,
    S: for<'a> Service<
            StepRequest<'a>,
            Response = StepOutcome,
            Error: Into<BoxError> + Send,
            Future: Send,
        >,
{
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let step = {
            let mut service = self.0.lock().await;
            poll_fn(|cx| service.poll_ready(cx))
                .await
                .map_err(into_error)?;
            service.call(StepRequest { call, next })
        };
        step.await.map_err(into_error)
    }
}

impl<S> fmt::Debug for LayerInterceptor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerInterceptor").finish_non_exhaustive()
    }
}

/// Gives tower's own errors their kind. An error of the step's that went through the layers as a box
/// comes out as it was.
fn into_error(error: impl Into<BoxError>) -> Error {
    let error = error.into();
    if error.is::<tower::timeout::error::Elapsed>() {
        return Error::of_kind(ErrorKind::Timeout, "the step timed out");
    }
    if error.is::<tower::load_shed::error::Overloaded>() {
        return Error::rejected("the step was shed: too many are at work");
    }
    Error::from(error)
}
