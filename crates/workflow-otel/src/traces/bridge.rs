//! For applications that use the `tracing` crate: its spans into the trace.

use opentelemetry::trace::{Tracer, TracerProvider};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

/// A layer that turns the spans of the `tracing` crate into spans of `provider`, set up so that they
/// nest with OpenTelemetry's own: one made in a step belongs to the step, and `workflow.start` to the
/// one it is made in.
///
/// ```
/// use opentelemetry_sdk::trace::SdkTracerProvider;
/// use tracing_subscriber::prelude::*;
///
/// let provider = SdkTracerProvider::builder().build();
/// let subscriber = tracing_subscriber::registry().with(workflow_otel::tracing_layer(&provider));
/// tracing::subscriber::with_default(subscriber, || {
///     tracing::info_span!("app.orders.handler").in_scope(|| {
///         // client.start(…)
///     });
/// });
/// ```
///
/// An application that has a layer of `tracing-opentelemetry` already keeps it: this one is that,
/// with its context activation on (as it is by default since version 0.32).
pub fn tracing_layer<S, P>(provider: &P) -> impl Layer<S> + Send + Sync + use<S, P>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    P: TracerProvider,
    P::Tracer: Tracer + Send + Sync + 'static,
    <P::Tracer as Tracer>::Span: Send + Sync + 'static,
{
    tracing_opentelemetry::layer()
        .with_context_activation(true)
        .with_tracer(provider.tracer("tracing"))
}
