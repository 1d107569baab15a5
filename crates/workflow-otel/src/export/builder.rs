//! Settings in code, above those of the environment.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracerProvider, ShouldSample, Span, SpanData, SpanExporter, SpanProcessor,
};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::destination::{Destination, Protocol};
use super::environment::Environment;
use super::exporters::{Exporters, Settings};
use super::queue::{Limits, Queue};
use super::sampling::{self, ResampleRuns};
use super::tail::TailSampling;
use super::telemetry::Telemetry;
use super::witness::Witness;
use super::{Compression, InitError};
use crate::logs::{ReplayedEvents, RunFilter};

const SERVICE_NAME: &str = "service.name";
const SERVICE_VERSION: &str = "service.version";
const SERVICE_INSTANCE_ID: &str = "service.instance.id";

/// Sets up [`Telemetry`]; from [`Telemetry::builder`]. What is set here goes before what the
/// environment says.
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
    settings: Settings,
    service: Vec<(&'static str, String)>,
    attributes: Vec<KeyValue>,
    sampler: Option<Box<dyn ShouldSample>>,
    sample_ratio: Option<f64>,
    resample_runs: Option<f64>,
    tail: Option<TailSampling>,
    processors: Vec<BoxedProcessor>,
    queue_size: Option<usize>,
    batch_size: Option<usize>,
    delay: Option<Duration>,
    replayed: ReplayedEvents,
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
            processors: Vec::new(),
            queue_size: None,
            batch_size: None,
            delay: None,
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

    /// Sends to this address, such as `http://collector:4318`; for HTTP, `/v1/traces` is added.
    /// Otherwise `OTEL_EXPORTER_OTLP_ENDPOINT`, or `localhost`.
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
        self.processors.push(BoxedProcessor(Box::new(processor)));
        self
    }

    /// How many spans may wait. Otherwise `OTEL_BSP_MAX_QUEUE_SIZE`, or 2048.
    pub fn max_queue_size(mut self, spans: usize) -> Self {
        self.queue_size = Some(spans);
        self
    }

    /// How many spans are sent at once, at most. Otherwise `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, or 512.
    pub fn max_batch_size(mut self, spans: usize) -> Self {
        self.batch_size = Some(spans);
        self
    }

    /// How long a span waits for others to be sent with. Otherwise `OTEL_BSP_SCHEDULE_DELAY`, or
    /// 5 s.
    pub fn schedule_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// What becomes of what workflow code logs again in replays, in the log that [`init`](Self::init) sets
    /// up. Otherwise it is left out.
    pub fn replayed_events(mut self, events: ReplayedEvents) -> Self {
        self.replayed = events;
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
        let replayed = self.replayed;
        let telemetry = self.build().inspect_err(|_| {
            INSTALLED.store(false, Ordering::SeqCst);
        })?;
        if telemetry.is_enabled() {
            global::set_tracer_provider(telemetry.tracer_provider().clone());
        }
        // The API's placeholder has no fields; nothing else tells that none was set.
        if !global::get_text_map_propagator(|p| p.fields().next().is_some()) {
            global::set_text_map_propagator(telemetry.propagator());
        }
        install_subscriber(&telemetry, replayed);
        Ok(telemetry)
    }

    /// Sets up telemetry without installing anything: for
    /// [`Telemetry::interceptor`], [`Telemetry::tracing_layer`], [`Telemetry::tracer_provider`].
    ///
    /// # Errors
    ///
    /// A setting that cannot be used, or a thread that cannot be started. A receiver that cannot be
    /// reached is no error: it may be later.
    pub fn build(self) -> Result<Telemetry, InitError> {
        let env = Environment::of_process();
        let propagators = env.propagators()?;
        if env.is_disabled()? {
            let provider = SdkTracerProvider::builder()
                .with_sampler(Sampler::AlwaysOff)
                .build();
            return Ok(Telemetry::new(provider, None, propagators));
        }
        let mut limits = self.limits(&env)?;
        let resource = self.resource();
        let sampler = self.sampler_or(&env)?;
        let exporters = Exporters::new(self.settings, &env)?;
        limits.patience = exporters.patience();
        let queue = start(&exporters, &resource, limits)?;
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(sampler);
        for processor in self.processors {
            provider = provider.with_span_processor(processor);
        }
        provider = match &self.tail {
            Some(tail) => provider.with_span_processor(tail.processor(queue.clone())?),
            None => provider.with_span_processor(queue.clone()),
        };
        Ok(Telemetry::new(provider.build(), Some(queue), propagators))
    }

    fn limits(&self, env: &Environment) -> Result<Limits, InitError> {
        let queue = match self.queue_size {
            Some(spans) => spans,
            None => env.queue_size()?.unwrap_or(2048),
        };
        let batch = match self.batch_size {
            Some(spans) => spans,
            None => env.batch_size()?.unwrap_or(512),
        };
        let delay = match self.delay {
            Some(delay) => delay,
            None => env.schedule_delay()?.unwrap_or(Duration::from_secs(5)),
        };
        for (what, is_zero) in [
            ("the size of the queue", queue == 0),
            ("the size of batches", batch == 0),
            ("the delay of batches", delay.is_zero()),
        ] {
            if is_zero {
                return Err(InitError::invalid(what, "it is 0"));
            }
        }
        Ok(Limits {
            queue,
            batch: batch.min(queue),
            delay,
            patience: Duration::MAX,
        })
    }

    fn resource(&self) -> Resource {
        // Reads OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME.
        let found = Resource::builder().build();
        let mut attributes = self.attributes.clone();
        let instance = opentelemetry::Key::from_static_str(SERVICE_INSTANCE_ID);
        if found.get(&instance).is_none() {
            let id = uuid::Uuid::new_v4().to_string();
            attributes.push(KeyValue::new(SERVICE_INSTANCE_ID, id));
        }
        for (key, value) in &self.service {
            attributes.push(KeyValue::new(*key, value.clone()));
        }
        Resource::builder().with_attributes(attributes).build()
    }

    fn sampler_or(&self, env: &Environment) -> Result<Box<dyn ShouldSample>, InitError> {
        let parent_based = |root| Sampler::ParentBased(Box::new(root));
        let sampler: Box<dyn ShouldSample> = match (&self.sampler, self.sample_ratio) {
            (Some(sampler), _) => sampler.clone(),
            (None, Some(ratio)) => Box::new(parent_based(sampling::ratio(
                "the ratio of samples",
                ratio,
            )?)),
            (None, None) => {
                let of_env = env.sampler()?;
                Box::new(of_env.unwrap_or_else(|| parent_based(Sampler::AlwaysOn)))
            }
        };
        Ok(match self.resample_runs {
            Some(ratio) => Box::new(ResampleRuns {
                otherwise: sampler,
                runs: sampling::ratio("the ratio of resampled runs", ratio)?,
            }),
            None => sampler,
        })
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
            .finish_non_exhaustive()
    }
}

/// Makes the exporter of spans, and starts the thread that drives it.
fn start(exporters: &Exporters, resource: &Resource, limits: Limits) -> Result<Queue, InitError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(InitError::Thread)?;
    let witness = Arc::new(Witness::default());
    let built = {
        let _current = runtime.enter();
        witness.strictly(|| exporters.spans(&witness))
    };
    match built {
        Ok(mut exporter) => {
            exporter.set_resource(resource);
            Queue::start(exporter, witness, runtime, limits).map_err(InitError::Thread)
        }
        Err(error) => {
            // It cannot be dropped where another runtime is at work.
            runtime.shutdown_background();
            Err(error)
        }
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

/// Sets up a log on standard error and the bridge, unless there is a subscriber.
fn install_subscriber(telemetry: &Telemetry, replayed: ReplayedEvents) {
    let wanted = std::env::var("RUST_LOG").ok();
    let wanted = wanted.and_then(|filter| filter.parse::<Targets>().ok());
    let info = || Targets::new().with_default(LevelFilter::INFO);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(wanted.unwrap_or_else(info))
        .with_filter(RunFilter::new().replayed(replayed));
    let registry = tracing_subscriber::registry().with(log);
    let installed = if telemetry.is_enabled() {
        let bridge = telemetry.tracing_layer().with_filter(info());
        tracing::subscriber::set_global_default(registry.with(bridge))
    } else {
        tracing::subscriber::set_global_default(registry)
    };
    if installed.is_err() && telemetry.is_enabled() {
        tracing::debug!(
            target: "workflow_otel",
            "there is a tracing subscriber already; for its spans to be exported, set up \
             telemetry with `build` and add its `tracing_layer`"
        );
    }
}

/// A processor of whatever kind, as the SDK takes them by type.
#[derive(Debug)]
struct BoxedProcessor(Box<dyn SpanProcessor>);

impl SpanProcessor for BoxedProcessor {
    fn on_start(&self, span: &mut Span, parent: &Context) {
        self.0.on_start(span, parent);
    }

    fn on_end(&self, span: SpanData) {
        self.0.on_end(span);
    }

    fn force_flush(&self) -> opentelemetry_sdk::error::OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> opentelemetry_sdk::error::OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}
