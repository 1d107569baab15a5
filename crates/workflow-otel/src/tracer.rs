//! Where spans come from, with the types of the SDK in use hidden.

use std::cell::Cell;
use std::sync::Arc;

use opentelemetry::trace::{Span, SpanBuilder, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, global};

use crate::ids::Wanted;

/// A span that was started and put into a context.
pub(crate) struct Started {
    /// The parent's context with the span in it.
    pub(crate) cx: Context,
    /// Whether anything set on the span has an effect.
    pub(crate) recording: bool,
}

/// A tracer of whatever SDK.
pub(crate) trait StartSpan: Send + Sync {
    /// Starts a span under `parent`. `None` where there is none to speak of, because no SDK is
    /// installed or it was shut down: then the parent's context is to be kept as it is.
    fn start(&self, span: SpanBuilder, parent: &Context) -> Option<Started>;
}

impl<T> StartSpan for T
where
    T: Tracer + Send + Sync,
    T::Span: Send + Sync + 'static,
{
    fn start(&self, span: SpanBuilder, parent: &Context) -> Option<Started> {
        let span = self.build_with_context(span, parent);
        let valid = span.span_context().is_valid();
        valid.then(|| Started {
            recording: span.is_recording(),
            cx: parent.with_span(span),
        })
    }
}

/// The provider in use.
#[derive(Clone)]
pub(crate) enum Tracing {
    /// The global one at the time of the call: a tracer taken before one is set stays without
    /// effect for ever.
    Global,
    Given(Arc<dyn StartSpan>),
}

impl Tracing {
    pub(crate) fn given<P>(provider: &P) -> Self
    where
        P: TracerProvider,
        P::Tracer: Send + Sync + 'static,
        <P::Tracer as Tracer>::Span: Send + Sync + 'static,
    {
        Self::Given(Arc::new(provider.tracer_with_scope(scope())))
    }

    pub(crate) fn tracer(&self) -> Arc<dyn StartSpan> {
        match self {
            Self::Global => Arc::new(global::tracer_with_scope(scope())),
            Self::Given(tracer) => Arc::clone(tracer),
        }
    }
}

/// Who makes the spans and takes the metrics.
pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

thread_local! {
    static OWN: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, the span that this thread starts is one of ours.
pub(crate) struct Own {
    before: bool,
    wanted_before: Wanted,
}

impl Own {
    /// The span is to have the ids that are `wanted`.
    pub(crate) fn starting(wanted: Wanted) -> Self {
        Self {
            before: OWN.replace(true),
            wanted_before: wanted.replace(),
        }
    }

    pub(crate) fn is_starting() -> bool {
        OWN.get()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        OWN.set(self.before);
        // Whatever generator was in use: the next span is another's.
        self.wanted_before.replace();
    }
}
