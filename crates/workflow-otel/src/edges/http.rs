//! Trace context at the edges, for HTTP: out of incoming requests, into outgoing ones.
//!
//! For applications that have nothing else for it. Instrumentation that makes a span for each
//! request, such as `axum-tracing-opentelemetry`, does more and takes the place of these.
//!
//! Context is read and written by the global propagator, or as W3C trace context and baggage where
//! none was set.

use std::task::{Context as Task, Poll};

use ::http::{HeaderMap, Request};
use opentelemetry::Context;
use opentelemetry::context::{FutureExt, WithContext};
use opentelemetry::trace::TraceContextExt;
use tower_layer::Layer;
use tower_service::Service;

use crate::context::propagation::Propagation;

/// A layer that makes the context in a request's headers (`traceparent`, `baggage`) the current one
/// while the request is handled: a run that is started there is traced under the caller's span, and
/// sampled as the caller says.
///
/// Where the current context has a span already, it is left as it is. Anybody who can send a request
/// can choose its trace: at the border to the world, have a proxy remove the headers.
///
/// ```
/// # use tower_layer::Layer;
/// use workflow_otel::http::ExtractContextLayer;
///
/// // With axum: Router::new().route(…).layer(ExtractContextLayer::new())
/// # let _ = ExtractContextLayer::new().layer(());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct ExtractContextLayer(());

impl ExtractContextLayer {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for ExtractContextLayer {
    type Service = ExtractContext<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ExtractContext { inner }
    }
}

/// The service of [`ExtractContextLayer`].
#[derive(Debug, Clone)]
pub struct ExtractContext<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for ExtractContext<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = WithContext<S::Future>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let current = Context::current();
        let cx = if current.span().span_context().is_valid() {
            current
        } else {
            Propagation::Global.extract_headers(request.headers())
        };
        let future = {
            let _current = cx.clone().attach();
            self.inner.call(request)
        };
        future.with_context(cx)
    }
}

/// A layer that writes the current context into the headers of requests, so that what the receiver
/// does is traced under the step that asked for it. For clients that are tower services of
/// `http::Request`; for others, [`inject`].
///
/// ```
/// # use tower_layer::Layer;
/// use workflow_otel::http::InjectContextLayer;
///
/// // tower::ServiceBuilder::new().layer(InjectContextLayer::new()).service(client)
/// # let _ = InjectContextLayer::new().layer(());
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct InjectContextLayer(());

impl InjectContextLayer {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for InjectContextLayer {
    type Service = InjectContext<S>;

    fn layer(&self, inner: S) -> Self::Service {
        InjectContext { inner }
    }
}

/// The service of [`InjectContextLayer`].
#[derive(Debug, Clone)]
pub struct InjectContext<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for InjectContext<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        inject(request.headers_mut());
        self.inner.call(request)
    }
}

/// Writes the current context into `headers`, in place of what they said of it. Nothing is written
/// where there is none.
///
/// With reqwest: `builder.headers(headers)`, or on a request that was built:
///
/// ```
/// use http::HeaderMap;
///
/// let mut headers = HeaderMap::new();
/// workflow_otel::http::inject(&mut headers);
/// assert!(headers.is_empty(), "there is no span here");
/// ```
pub fn inject(headers: &mut HeaderMap) {
    Propagation::Global.inject_headers(&Context::current(), headers);
}
