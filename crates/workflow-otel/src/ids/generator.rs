//! The generator that lets spans of ours have the ids that were derived for them.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

/// Gives the spans of runs, executions and steps the ids that are [derived](crate::ids) from those in the
/// database, and every other span and trace an id of the generator that it wraps: the SDK's, unless
/// another is given.
///
/// [`init`](crate::init) installs it. A provider of one's own takes it like this:
///
/// ```
/// use opentelemetry_sdk::trace::SdkTracerProvider;
/// use workflow_otel::OtelInterceptor;
/// use workflow_otel::ids::DerivedIds;
///
/// let provider = SdkTracerProvider::builder()
///     .with_id_generator(DerivedIds::default())
///     .build();
/// let otel = OtelInterceptor::builder().tracer_provider(&provider).build();
/// ```
///
/// Without it spans have whatever ids their provider makes. Everything works, but a trace that is rebuilt
/// from history stands beside the exported one, and the spans of a worker that was killed have no parent.
#[derive(Debug, Clone)]
pub struct DerivedIds<G = RandomIdGenerator> {
    otherwise: G,
}

impl<G: IdGenerator> DerivedIds<G> {
    /// Takes the ids of everything else from `otherwise`.
    ///
    /// ```
    /// use opentelemetry_sdk::trace::RandomIdGenerator;
    /// use workflow_otel::ids::DerivedIds;
    ///
    /// // Or one that makes ids as a certain backend wants them.
    /// let ids = DerivedIds::new(RandomIdGenerator::default());
    /// ```
    #[must_use]
    pub fn new(otherwise: G) -> Self {
        Self { otherwise }
    }
}

/// Around the SDK's generator.
impl Default for DerivedIds {
    fn default() -> Self {
        Self::new(RandomIdGenerator::default())
    }
}

impl<G: IdGenerator> IdGenerator for DerivedIds<G> {
    fn new_trace_id(&self) -> TraceId {
        let wanted = WANTED.get().trace;
        if wanted == TraceId::INVALID {
            return self.otherwise.new_trace_id();
        }
        WANTED.set(Wanted {
            trace: TraceId::INVALID,
            ..WANTED.get()
        });
        wanted
    }

    fn new_span_id(&self) -> SpanId {
        let wanted = WANTED.get().span;
        if wanted == SpanId::INVALID {
            return self.otherwise.new_span_id();
        }
        WANTED.set(Wanted {
            span: SpanId::INVALID,
            ..WANTED.get()
        });
        wanted
    }
}

/// The ids that the next span of this thread is to have; invalid where any will do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) span: SpanId,
    /// The trace's, should the span be the root of one.
    pub(crate) trace: TraceId,
}

impl Wanted {
    pub(crate) const ANY: Self = Self {
        span: SpanId::INVALID,
        trace: TraceId::INVALID,
    };

    pub(crate) fn span(span: SpanId) -> Self {
        Self { span, ..Self::ANY }
    }

    /// Wants these ids of the next span that this thread starts, whose ids are each made once. Gives back
    /// what was wanted before.
    pub(crate) fn replace(self) -> Self {
        WANTED.replace(self)
    }
}

thread_local! {
    static WANTED: Cell<Wanted> = const { Cell::new(Wanted::ANY) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_given_once() {
        let ids = DerivedIds::new(RandomIdGenerator::default());
        let wanted = Wanted {
            span: SpanId::from(7),
            trace: TraceId::from(9),
        };
        wanted.replace();
        assert_eq!(
            (ids.new_span_id(), ids.new_trace_id()),
            (wanted.span, wanted.trace)
        );
        assert_ne!(ids.new_span_id(), wanted.span);
        assert_ne!(ids.new_trace_id(), wanted.trace);
    }

    #[test]
    fn other_threads_get_other_ids() {
        Wanted::span(SpanId::from(7)).replace();
        let other = std::thread::spawn(|| DerivedIds::default().new_span_id());
        assert_ne!(other.join().expect("it does not panic"), SpanId::from(7));
    }
}
