//! How the interceptor is set up.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Tracer, TracerProvider};

use crate::baggage::BaggagePolicy;
use crate::call::SpanCall;
use crate::interceptor::OtelInterceptor;
use crate::propagation::Propagation;
use crate::tracer::Tracing;

/// How the executions of a run relate to the trace of its caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceMode {
    /// Every execution is a child of the run's `workflow.start` span, in the caller's trace.
    #[default]
    CallerAsParent,
    /// Every execution is the root of a trace of its own, with a link to the span that created the
    /// run. Traces then end when an execution ends, however long the run takes. An execution of a
    /// run whose creator was not sampled is not recorded, as in the other mode.
    Linked,
}

/// Which spans are made for a workflow. Whatever is chosen, trace context and baggage are passed on
/// through its runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanSelection {
    /// All of them.
    #[default]
    All,
    /// The run's: its start, its executions, its cancellation. None for steps.
    RunsOnly,
    /// None. What is made inside of it (the user's own spans, child runs) belongs to the span that
    /// created the run.
    None,
}

/// The status of a span whose operation succeeded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SuccessStatus {
    /// Ok.
    #[default]
    Ok,
    /// Unset, as OpenTelemetry advises instrumentation libraries.
    Unset,
}

/// How much of an error goes onto a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorDetail {
    /// Its name, its message (up to 4 KiB) and where it came from (up to 16 KiB).
    #[default]
    Full,
    /// Its name alone, for messages that may hold personal data.
    TypeOnly,
}

/// Whether the names of signals are on spans. They often hold an id or an address, so that a wait is
/// for the signal of one customer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalNames {
    /// As attributes: `signal.name`, and `step.name` where a step is named after its signal. Never in
    /// the name of a span.
    #[default]
    Shown,
    /// Nowhere. The messages of errors may quote them: see [`ErrorDetail`].
    LeftOut,
}

pub(crate) type ExtraAttributes = dyn Fn(SpanCall<'_>) -> Vec<KeyValue> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) tracing: Tracing,
    pub(crate) propagation: Propagation,
    pub(crate) mode: TraceMode,
    pub(crate) success: SuccessStatus,
    pub(crate) errors: ErrorDetail,
    pub(crate) signal_names: SignalNames,
    pub(crate) baggage: BaggagePolicy,
    pub(crate) attributes: Option<Arc<ExtraAttributes>>,
    spans: SpanSelection,
    spans_of: HashMap<String, SpanSelection>,
}

impl Config {
    pub(crate) fn spans_of(&self, workflow: &str) -> SpanSelection {
        if self.spans_of.is_empty() {
            return self.spans;
        }
        self.spans_of.get(workflow).copied().unwrap_or(self.spans)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("mode", &self.mode)
            .field("success", &self.success)
            .field("errors", &self.errors)
            .field("signal_names", &self.signal_names)
            .field("baggage", &self.baggage)
            .field("spans", &self.spans)
            .field("spans_of", &self.spans_of)
            .finish_non_exhaustive()
    }
}

/// Sets up an [`OtelInterceptor`]; from [`OtelInterceptor::builder`].
///
/// ```
/// use workflow_otel::{ErrorDetail, OtelInterceptor, SpanSelection, TraceMode};
///
/// let otel = OtelInterceptor::builder()
///     .trace_mode(TraceMode::Linked)
///     .error_detail(ErrorDetail::TypeOnly)
///     .spans_of("heartbeat", SpanSelection::None)
///     .build();
/// ```
#[derive(Debug, Clone)]
#[must_use = "call `build` to get the interceptor"]
pub struct OtelInterceptorBuilder {
    config: Config,
}

impl OtelInterceptorBuilder {
    pub(crate) fn new() -> Self {
        Self {
            config: Config {
                tracing: Tracing::Global,
                propagation: Propagation::Global,
                mode: TraceMode::default(),
                success: SuccessStatus::default(),
                errors: ErrorDetail::default(),
                signal_names: SignalNames::default(),
                baggage: BaggagePolicy::default(),
                attributes: None,
                spans: SpanSelection::default(),
                spans_of: HashMap::new(),
            },
        }
    }

    /// Makes spans with `provider`. Otherwise with the global provider that is set at the time: it
    /// may be set after the interceptor was built.
    pub fn tracer_provider<P>(mut self, provider: &P) -> Self
    where
        P: TracerProvider,
        P::Tracer: Send + Sync + 'static,
        <P::Tracer as Tracer>::Span: Send + Sync + 'static,
    {
        self.config.tracing = Tracing::given(provider);
        self
    }

    /// Passes context on with `propagator`. Otherwise with the global one, or with W3C trace context
    /// and baggage where none was set.
    pub fn propagator(
        mut self,
        propagator: impl TextMapPropagator + Send + Sync + 'static,
    ) -> Self {
        self.config.propagation = Propagation::Given(Arc::new(propagator));
        self
    }

    /// How executions relate to the caller's trace. Otherwise the caller is their parent.
    pub fn trace_mode(mut self, mode: TraceMode) -> Self {
        self.config.mode = mode;
        self
    }

    /// The status of a span whose operation succeeded. Otherwise Ok.
    pub fn success_status(mut self, status: SuccessStatus) -> Self {
        self.config.success = status;
        self
    }

    /// How much of an error goes onto a span. Otherwise all of it.
    pub fn error_detail(mut self, detail: ErrorDetail) -> Self {
        self.config.errors = detail;
        self
    }

    /// Whether the names of signals are on spans. Otherwise as attributes.
    ///
    /// ```
    /// use workflow_otel::{OtelInterceptor, SignalNames};
    ///
    /// // For signals like `confirmed:ada@example.com`.
    /// let otel = OtelInterceptor::builder().signal_names(SignalNames::LeftOut).build();
    /// ```
    pub fn signal_names(mut self, names: SignalNames) -> Self {
        self.config.signal_names = names;
        self
    }

    /// Which baggage is stored with a run. Otherwise all of it, up to 8192 bytes.
    pub fn baggage(mut self, policy: BaggagePolicy) -> Self {
        self.config.baggage = policy;
        self
    }

    /// Which spans are made. Otherwise all.
    pub fn spans(mut self, selection: SpanSelection) -> Self {
        self.config.spans = selection;
        self
    }

    /// Which spans are made for the workflow of this name, whatever its version; overrides
    /// [`spans`](Self::spans).
    pub fn spans_of(mut self, workflow: impl Into<String>, selection: SpanSelection) -> Self {
        self.config.spans_of.insert(workflow.into(), selection);
        self
    }

    /// Adds what `attributes` returns to each span when it starts. This is the only way for inputs
    /// and signal data to get onto a span: what is exposed there leaves the process. It is called for
    /// spans that a sampler may still drop, so it should be quick.
    ///
    /// ```
    /// use opentelemetry::KeyValue;
    /// use workflow_otel::{OtelInterceptor, SpanCall};
    ///
    /// let otel = OtelInterceptor::builder()
    ///     .attributes(|call| match call {
    ///         SpanCall::CreateRun(call) => {
    ///             vec![KeyValue::new("app.input_bytes", call.input.size() as i64)]
    ///         }
    ///         _ => Vec::new(),
    ///     })
    ///     .build();
    /// ```
    pub fn attributes(
        mut self,
        attributes: impl Fn(SpanCall<'_>) -> Vec<KeyValue> + Send + Sync + 'static,
    ) -> Self {
        self.config.attributes = Some(Arc::new(attributes));
        self
    }

    /// The interceptor.
    #[must_use]
    pub fn build(self) -> OtelInterceptor {
        OtelInterceptor::new(self.config)
    }
}
