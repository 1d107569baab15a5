//! Settings in code, above those of the environment, and what they make.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};
#[cfg(feature = "logs")]
use opentelemetry_sdk::logs::{LogProcessor, LoggerProviderBuilder, SdkLoggerProvider};
#[cfg(feature = "metrics")]
use opentelemetry_sdk::metrics::{MeterProviderBuilder, SdkMeterProvider};
use opentelemetry_sdk::trace::{
    SdkTracerProvider, ShouldSample, SpanProcessor, TracerProviderBuilder,
};

use super::destination::{Destination, Protocol};
use super::exporters::Settings;
use super::set_up::{Remark, SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION};
use super::subscriber::{self, LogFormat};
use super::tail::TailSampling;
use super::telemetry::Telemetry;
use super::{Compression, InitError, Signal};
#[cfg(feature = "prometheus")]
use crate::Prometheus;
use crate::logs::ReplayedEvents;

/// Sets up [`Telemetry`]; from [`Telemetry::builder`]. What is set here holds for all signals unless it
/// says otherwise, and goes before what the environment says.
///
/// ```no_run
/// use workflow_otel::export::{Destination, Telemetry};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let telemetry = Telemetry::builder()
///     .service_name("orders")
///     .service_version(env!("CARGO_PKG_VERSION"))
///     .destination(Destination::axiom_from_env()?)
///     .sample_ratio(0.1)
///     .init()?;
/// # Ok(()) }
/// ```
#[must_use = "call `init` or `build`"]
pub struct TelemetryBuilder {
    pub(super) settings: Settings,
    pub(super) service: Vec<(&'static str, String)>,
    pub(super) attributes: Vec<KeyValue>,
    pub(super) sampler: Option<Box<dyn ShouldSample>>,
    pub(super) sample_ratio: Option<f64>,
    pub(super) resample_runs: Option<f64>,
    pub(super) tail: Option<TailSampling>,
    pub(super) queue_size: Option<usize>,
    pub(super) batch_size: Option<usize>,
    pub(super) delay: Option<Duration>,
    pub(super) without: Vec<Signal>,
    /// With the processors, readers and views that were given.
    pub(super) tracers: TracerProviderBuilder,
    #[cfg(feature = "metrics")]
    pub(super) meters: MeterProviderBuilder,
    #[cfg(feature = "metrics")]
    pub(super) has_readers: bool,
    #[cfg(feature = "metrics")]
    pub(super) interval: Option<Duration>,
    #[cfg(feature = "logs")]
    pub(super) loggers: LoggerProviderBuilder,
    #[cfg(feature = "prometheus")]
    pub(super) prometheus: Option<Prometheus>,
    format: LogFormat,
    pub(super) replayed: ReplayedEvents,
}

impl TelemetryBuilder {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings::default(),
            service: Vec::new(),
            attributes: Vec::new(),
            sampler: None,
            sample_ratio: None,
            resample_runs: None,
            tail: None,
            queue_size: None,
            batch_size: None,
            delay: None,
            without: Vec::new(),
            tracers: SdkTracerProvider::builder(),
            #[cfg(feature = "metrics")]
            meters: SdkMeterProvider::builder(),
            #[cfg(feature = "metrics")]
            has_readers: false,
            #[cfg(feature = "metrics")]
            interval: None,
            #[cfg(feature = "logs")]
            loggers: SdkLoggerProvider::builder(),
            #[cfg(feature = "prometheus")]
            prometheus: None,
            format: LogFormat::default(),
            replayed: ReplayedEvents::default(),
        }
    }

    /// Sends to this destination. The protocol, endpoint and headers of the environment are not used
    /// then, and neither are [`protocol`](Self::protocol) and [`endpoint`](Self::endpoint).
    pub fn destination(mut self, destination: Destination) -> Self {
        self.settings.destination = Some(destination);
        self
    }

    /// How OTLP is spoken. Otherwise `OTEL_EXPORTER_OTLP_PROTOCOL`, or HTTP.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.settings.protocol = Some(protocol);
        self
    }

    /// Does not export this signal. Otherwise `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` and
    /// `OTEL_LOGS_EXPORTER` say so: `otlp` or `none`.
    ///
    /// ```
    /// use workflow_otel::export::{Signal, Telemetry};
    ///
    /// // For a receiver that takes traces alone.
    /// let builder = Telemetry::builder()
    ///     .endpoint("http://jaeger:4318")
    ///     .without(Signal::Metrics)
    ///     .without(Signal::Logs);
    /// ```
    pub fn without(mut self, signal: Signal) -> Self {
        self.without.push(signal);
        self
    }

    /// Sends to this address, such as `http://collector:4318`; for HTTP, `/v1/traces` and the like are
    /// added. Otherwise `OTEL_EXPORTER_OTLP_ENDPOINT`, or `localhost`.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.settings.endpoint = Some(endpoint.into());
        self
    }

    /// Sends this header too. Those of `OTEL_EXPORTER_OTLP_HEADERS` are sent as well, unless they
    /// have the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.headers.push((name.into(), value.into()));
        self
    }

    /// How requests are compressed. Otherwise as the destination has it, then
    /// `OTEL_EXPORTER_OTLP_COMPRESSION`, then not at all.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = Some(compression);
        self
    }

    /// How long one attempt to deliver a batch may take. Otherwise `OTEL_EXPORTER_OTLP_TIMEOUT`, or
    /// 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Trusts these certificates (PEM) in place of the system's. Otherwise those in the file that
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE` names.
    pub fn certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.settings.tls.trusted = Some(pem.into());
        self
    }

    /// Shows this certificate to receivers that ask for one: a chain and its key, both in PEM.
    /// Otherwise those in the files that `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE` and
    /// `OTEL_EXPORTER_OTLP_CLIENT_KEY` name.
    pub fn client_certificate(
        mut self,
        chain: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.settings.tls.identity = Some((chain.into(), key.into()));
        self
    }

    /// The name of this service, `service.name`. Otherwise `OTEL_SERVICE_NAME`.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service.push((SERVICE_NAME, name.into()));
        self
    }

    /// Its version, `service.version`.
    pub fn service_version(mut self, version: impl Into<String>) -> Self {
        self.service.push((SERVICE_VERSION, version.into()));
        self
    }

    /// Which of its instances this is, `service.instance.id`. Otherwise that of
    /// `OTEL_RESOURCE_ATTRIBUTES`, or a random one.
    pub fn service_instance_id(mut self, id: impl Into<String>) -> Self {
        self.service.push((SERVICE_INSTANCE_ID, id.into()));
        self
    }

    /// Another attribute of everything that is exported from here, such as
    /// `deployment.environment.name`.
    pub fn resource_attribute(mut self, attribute: KeyValue) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// Records this share of the traces that begin here, from 0 to 1, and those of callers that were
    /// sampled. Decided once per run: the flag is in its carrier. Otherwise `OTEL_TRACES_SAMPLER`,
    /// or all.
    pub fn sample_ratio(mut self, ratio: f64) -> Self {
        self.sample_ratio = Some(ratio);
        self
    }

    /// Decides anew for runs that are started by a caller which was *not* sampled: records this
    /// share of them, from 0 to 1. For services whose requests are mostly unsampled, but whose runs
    /// matter. In the backend such a run's `workflow.start` has a parent that nobody exported.
    pub fn resample_runs(mut self, ratio: f64) -> Self {
        self.resample_runs = Some(ratio);
        self
    }

    /// Records what `sampler` says, in place of [`sample_ratio`](Self::sample_ratio).
    pub fn sampler(mut self, sampler: impl ShouldSample + 'static) -> Self {
        self.sampler = Some(Box::new(sampler));
        self
    }

    /// Keeps the executions that matter and a share of the rest.
    pub fn tail_sampling(mut self, tail: TailSampling) -> Self {
        self.tail = Some(tail);
        self
    }

    /// Adds a span processor before the one that exports, such as
    /// [`RunAttributesProcessor`](crate::RunAttributesProcessor).
    pub fn span_processor(mut self, processor: impl SpanProcessor + 'static) -> Self {
        self.tracers = self.tracers.with_span_processor(processor);
        self
    }

    /// Adds a log processor before the one that exports: what it adds to a record is exported.
    #[cfg(feature = "logs")]
    pub fn log_processor(mut self, processor: impl LogProcessor + 'static) -> Self {
        self.loggers = self.loggers.with_log_processor(processor);
        self
    }

    /// Has Prometheus scrape the metrics too, or alone where they are not exported: its reader on the same
    /// meter provider, and exemplars of what [`Telemetry::interceptor`] measures. (Where telemetry is
    /// switched off by `OTEL_SDK_DISABLED`, it finds nothing.) Of several that are given the last counts.
    ///
    /// ```no_run
    /// use workflow_otel::Prometheus;
    /// use workflow_otel::export::Telemetry;
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let prometheus = Prometheus::new();
    /// let telemetry = Telemetry::builder().prometheus(&prometheus).init()?;
    /// // worker.interceptor(telemetry.interceptor()), Observe::on("0.0.0.0:9464").metrics(&prometheus)
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "prometheus")]
    pub fn prometheus(mut self, prometheus: &Prometheus) -> Self {
        self.prometheus = Some(prometheus.clone());
        self.has_readers = true;
        self
    }

    /// Adds to the meter provider: readers that metrics go to besides, and views, which change buckets,
    /// attributes and names. Metrics are taken then, whether they are exported or not.
    ///
    /// ```
    /// use workflow_otel::export::Telemetry;
    /// use workflow_otel::metric;
    /// use workflow_otel::opentelemetry_sdk::metrics::{Instrument, Stream};
    ///
    /// let short = |instrument: &Instrument| {
    ///     let wanted = instrument.name() == metric::WORKFLOW_DURATION;
    ///     wanted.then(|| Stream::builder().with_cardinality_limit(100).build().ok())?
    /// };
    /// let builder = Telemetry::builder().meters(|provider| provider.with_view(short));
    /// ```
    #[cfg(feature = "metrics")]
    pub fn meters(
        mut self,
        add: impl FnOnce(MeterProviderBuilder) -> MeterProviderBuilder,
    ) -> Self {
        self.meters = add(self.meters);
        self.has_readers = true;
        self
    }

    /// How often metrics are collected and exported. Otherwise `OTEL_METRIC_EXPORT_INTERVAL`, or 60 s.
    #[cfg(feature = "metrics")]
    pub fn metric_interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// How many spans may wait, and how many log records. Otherwise `OTEL_BSP_MAX_QUEUE_SIZE` and
    /// `OTEL_BLRP_MAX_QUEUE_SIZE`, or 2048.
    pub fn max_queue_size(mut self, items: usize) -> Self {
        self.queue_size = Some(items);
        self
    }

    /// How many of them are sent at once, at most. Otherwise `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` and
    /// `OTEL_BLRP_MAX_EXPORT_BATCH_SIZE`, or 512.
    pub fn max_batch_size(mut self, items: usize) -> Self {
        self.batch_size = Some(items);
        self
    }

    /// How long a span or log record waits for others to be sent with. Otherwise
    /// `OTEL_BSP_SCHEDULE_DELAY`, or 5 s, and `OTEL_BLRP_SCHEDULE_DELAY`, or 1 s.
    pub fn schedule_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// What becomes of what workflow code logs again in replays, in the log that [`init`](Self::init) sets
    /// up and in what is exported of it. Otherwise it is left out.
    pub fn replayed_events(mut self, events: ReplayedEvents) -> Self {
        self.replayed = events;
        self
    }

    /// How the log is written that [`init`](Self::init) sets up on standard error. Otherwise as text on a
    /// terminal, and as JSON lines with the ids of runs, steps and spans elsewhere.
    ///
    /// ```
    /// use workflow_otel::export::{LogFormat, Telemetry};
    ///
    /// let builder = Telemetry::builder().log_format(LogFormat::Json);
    /// ```
    pub fn log_format(mut self, format: LogFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets up telemetry and installs it for the whole process, as [`init`](super::init) does.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build); and [`InitError::AlreadyInstalled`].
    pub fn init(self) -> Result<Telemetry, InitError> {
        static INSTALLED: AtomicBool = AtomicBool::new(false);
        if has_global_provider() || INSTALLED.swap(true, Ordering::SeqCst) {
            return Err(InitError::AlreadyInstalled);
        }
        let format = self.format;
        let (telemetry, remarks) = self.set_up(true).inspect_err(|_| {
            INSTALLED.store(false, Ordering::SeqCst);
        })?;
        if telemetry.is_enabled(Signal::Traces) {
            global::set_tracer_provider(telemetry.tracer_provider().clone());
        }
        #[cfg(feature = "metrics")]
        if telemetry.is_enabled(Signal::Metrics) {
            global::set_meter_provider(telemetry.meter_provider().clone());
        }
        // The API's placeholder has no fields; nothing else tells that none was set.
        if !global::get_text_map_propagator(|p| p.fields().next().is_some()) {
            global::set_text_map_propagator(telemetry.propagator());
        }
        subscriber::install(&telemetry, format);
        remarks.iter().for_each(Remark::tell);
        Ok(telemetry)
    }

    /// Sets up telemetry without installing anything: for [`Telemetry::interceptor`], the providers and
    /// the layers that it gives.
    ///
    /// # Errors
    ///
    /// A setting that cannot be used, or a thread that cannot be started. A receiver that cannot be
    /// reached is no error: it may be later.
    pub fn build(self) -> Result<Telemetry, InitError> {
        let (telemetry, remarks) = self.set_up(false)?;
        remarks.iter().for_each(Remark::tell);
        Ok(telemetry)
    }
}

impl fmt::Debug for TelemetryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<_> = self.settings.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("TelemetryBuilder")
            .field("destination", &self.settings.destination)
            .field("protocol", &self.settings.protocol)
            .field("headers", &headers)
            .field("service", &self.service)
            .field("tail_sampling", &self.tail)
            .field("without", &self.without)
            .finish_non_exhaustive()
    }
}

/// Whether somebody has set a global tracer provider. The API does not tell, but in a context where
/// telemetry is suppressed an SDK makes spans of no trace, and the API's placeholder passes its parent
/// on.
fn has_global_provider() -> bool {
    let parent = SpanContext::new(
        TraceId::from(1),
        SpanId::from(1),
        TraceFlags::NOT_SAMPLED,
        true,
        TraceState::NONE,
    );
    let cx = Context::new()
        .with_remote_span_context(parent.clone())
        .with_telemetry_suppressed();
    let span = global::tracer("workflow-otel").start_with_context("", &cx);
    opentelemetry::trace::Span::span_context(&span) != &parent
}
