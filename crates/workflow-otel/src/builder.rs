//! How the interceptor is set up.

use std::fmt;
use std::sync::Arc;

use opentelemetry::KeyValue;
#[cfg(feature = "metrics")]
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Tracer, TracerProvider};

#[cfg(any(feature = "logs", feature = "tracing"))]
use crate::config::LogSelection;
use crate::config::{
    BaggagePolicy, Config, ErrorDetail, SignalNames, SpanCall, SpanSelection, SuccessStatus,
    TraceMode,
};
#[cfg(feature = "metrics")]
use crate::config::{MetricSelection, MetricsConfig};
use crate::context::propagation::Propagation;
use crate::interceptor::OtelInterceptor;
use crate::losses::LossCounters;
#[cfg(feature = "metrics")]
use crate::metrics::Metrics;
#[cfg(feature = "prometheus")]
use crate::metrics::exemplars::Exemplars;
use crate::tracer::Tracing;
use crate::traces::Traces;

impl OtelInterceptor {
    /// Sets one up.
    pub fn builder() -> OtelInterceptorBuilder {
        OtelInterceptorBuilder::new()
    }
}

impl Default for OtelInterceptor {
    fn default() -> Self {
        Self::builder().build()
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
#[derive(Clone)]
#[must_use = "call `build` to get the interceptor"]
pub struct OtelInterceptorBuilder {
    config: Config,
    tracing: Tracing,
    propagation: Propagation,
    #[cfg(feature = "metrics")]
    metrics: MetricsConfig,
    #[cfg(feature = "metrics")]
    meter: Option<Meter>,
    #[cfg(feature = "prometheus")]
    exemplars: Option<Arc<Exemplars>>,
}

impl OtelInterceptorBuilder {
    fn new() -> Self {
        Self {
            config: Config::default(),
            tracing: Tracing::Global,
            propagation: Propagation::Global,
            #[cfg(feature = "metrics")]
            metrics: MetricsConfig::default(),
            #[cfg(feature = "metrics")]
            meter: None,
            #[cfg(feature = "prometheus")]
            exemplars: None,
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
        self.tracing = Tracing::given(provider);
        self
    }

    /// Passes context on with `propagator`. Otherwise with the global one, or with W3C trace context
    /// and baggage where none was set.
    pub fn propagator(
        mut self,
        propagator: impl TextMapPropagator + Send + Sync + 'static,
    ) -> Self {
        self.propagation = Propagation::Given(Arc::new(propagator));
        self
    }

    /// How executions relate to the caller's trace. Otherwise the caller is their parent.
    pub fn trace_mode(mut self, mode: TraceMode) -> Self {
        self.config.mode = mode;
        self
    }

    /// Whether the runs that are created have a span `workflow.run` of their own, from creation to end,
    /// with their executions under it: a backend then shows at a glance how long a run took, and how it
    /// ended. Otherwise executions are directly under what created the run.
    ///
    /// Whoever creates a run chooses. Whoever ends it makes the span, and needs an interceptor too, and
    /// [`DerivedIds`](crate::ids::DerivedIds) in the provider; a run that ends where there is none (in a
    /// worker of another language, or one that dies at that moment) lacks the span, and so its executions
    /// a parent.
    ///
    /// ```
    /// use workflow_otel::OtelInterceptor;
    ///
    /// let otel = OtelInterceptor::builder().run_bar(true).build();
    /// ```
    pub fn run_bar(mut self, shown: bool) -> Self {
        self.config.run_bar = shown;
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

    /// What is logged, where a [`RunFilter`](crate::logs::RunFilter) is at work. Otherwise all of it.
    #[cfg(any(feature = "logs", feature = "tracing"))]
    pub fn logs(mut self, selection: LogSelection) -> Self {
        self.config.logs = selection;
        self
    }

    /// What is logged of the workflow of this name, whatever its version; overrides
    /// [`logs`](Self::logs).
    ///
    /// ```
    /// use workflow_otel::{LogSelection, OtelInterceptor};
    ///
    /// let otel = OtelInterceptor::builder()
    ///     .logs_of("heartbeat", LogSelection::None)
    ///     .build();
    /// ```
    #[cfg(any(feature = "logs", feature = "tracing"))]
    pub fn logs_of(mut self, workflow: impl Into<String>, selection: LogSelection) -> Self {
        self.config.logs_of.insert(workflow.into(), selection);
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

    /// Takes metrics with `provider`. Otherwise with the global provider: the first that is there when a
    /// run is created or executed, or a signal sent. As long as none is, nothing is computed. (The one that
    /// does nothing is known by its size, so a global provider of the application's own must not be of a
    /// type without fields.)
    ///
    /// ```
    /// use workflow_otel::OtelInterceptor;
    /// use workflow_otel::opentelemetry_sdk::metrics::SdkMeterProvider;
    ///
    /// let provider = SdkMeterProvider::builder().build();
    /// let otel = OtelInterceptor::builder().meter_provider(&provider).build();
    /// ```
    #[cfg(feature = "metrics")]
    pub fn meter_provider(mut self, provider: &impl MeterProvider) -> Self {
        self.meter = Some(provider.meter_with_scope(crate::tracer::scope()));
        self
    }

    /// Keeps, for each bucket of a duration, the last trace that was seen in it, and shows it to who
    /// scrapes `prometheus` and takes OpenMetrics: so a bucket leads to a trace. Only spans that are
    /// sampled count. Otherwise none is kept.
    ///
    /// ```
    /// use workflow_otel::{OtelInterceptor, Prometheus};
    ///
    /// let prometheus = Prometheus::new();
    /// let otel = OtelInterceptor::builder().exemplars(&prometheus).build();
    /// ```
    #[cfg(feature = "prometheus")]
    pub fn exemplars(mut self, prometheus: &crate::Prometheus) -> Self {
        self.exemplars = Some(prometheus.exemplars());
        self
    }

    /// Which metrics are taken. Otherwise all.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, selection: MetricSelection) -> Self {
        self.metrics.selection = selection;
        self
    }

    /// Which metrics are taken of the workflow of this name, whatever its version; overrides
    /// [`metrics`](Self::metrics).
    ///
    /// ```
    /// use workflow_otel::{MetricSelection, OtelInterceptor};
    ///
    /// let otel = OtelInterceptor::builder()
    ///     .metrics_of("heartbeat", MetricSelection::None)
    ///     .build();
    /// ```
    #[cfg(feature = "metrics")]
    pub fn metrics_of(mut self, workflow: impl Into<String>, selection: MetricSelection) -> Self {
        self.metrics.selections.insert(workflow.into(), selection);
        self
    }

    /// How many different names of steps metrics tell apart; further ones are called `other`. Otherwise
    /// 1000. It protects a backend from names that are built from data.
    #[cfg(feature = "metrics")]
    pub fn metric_step_names(mut self, limit: usize) -> Self {
        self.metrics.step_names = limit;
        self
    }

    /// The interceptor.
    #[must_use]
    pub fn build(self) -> OtelInterceptor {
        let losses = Arc::new(LossCounters::default());
        #[cfg(feature = "metrics")]
        let metrics = Metrics::new(self.metrics, self.meter.as_ref(), Arc::clone(&losses));
        #[cfg(feature = "prometheus")]
        let metrics = metrics.with_exemplars(self.exemplars);
        #[cfg(any(feature = "logs", feature = "tracing"))]
        if self.config.selects_logs() {
            crate::context::scope::LogScope::want();
        }
        OtelInterceptor::new(
            #[cfg(feature = "metrics")]
            metrics,
            Traces::new(self.config, self.tracing, self.propagation, losses),
        )
    }
}

impl fmt::Debug for OtelInterceptorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("OtelInterceptorBuilder");
        shown.field("config", &self.config);
        #[cfg(feature = "metrics")]
        shown.field("metrics", &self.metrics);
        shown.finish_non_exhaustive()
    }
}
