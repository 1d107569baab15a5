//! What becomes of settings and of the environment: providers, and the thread that exports.

use std::mem;
use std::time::Duration;

use opentelemetry::KeyValue;
#[cfg(feature = "metrics")]
use opentelemetry::global;
use opentelemetry_sdk::Resource;
#[cfg(feature = "logs")]
use opentelemetry_sdk::logs::{LoggerProviderBuilder, SdkLoggerProvider};
#[cfg(feature = "metrics")]
use opentelemetry_sdk::metrics::MeterProviderBuilder;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, ShouldSample, TracerProviderBuilder};

use super::builder::TelemetryBuilder;
use super::environment::Environment;
use super::exporters::Exporters;
#[cfg(feature = "metrics")]
use super::metrics;
use super::queue::{Limits, Queue};
use super::sampling::{self, ResampleRuns};
#[cfg(feature = "metrics")]
use super::self_metrics;
use super::telemetry::{Providers, Telemetry};
use super::thread::ExportThread;
use super::{InitError, Signal};
use crate::ids::DerivedIds;
#[cfg(feature = "logs")]
use crate::logs::RunIdsProcessor;

pub(super) const SERVICE_NAME: &str = "service.name";
pub(super) const SERVICE_VERSION: &str = "service.version";
pub(super) const SERVICE_INSTANCE_ID: &str = "service.instance.id";

/// What is to be told when there is a log.
pub(super) enum Remark {
    Note(String),
    /// Something that was asked for is not there.
    Warning(String),
}

impl Remark {
    pub(super) fn tell(&self) {
        match self {
            Self::Note(text) => tracing::info!(target: "workflow_otel", "{text}"),
            Self::Warning(text) => tracing::warn!(target: "workflow_otel", "{text}"),
        }
    }
}

/// What is at hand while telemetry is set up.
struct Work {
    env: Environment,
    resource: Resource,
    thread: ExportThread,
    remarks: Vec<Remark>,
}

impl Work {
    fn in_runtime<T>(&self, make: impl FnOnce(&Resource) -> T) -> T {
        let _current = self.thread.enter();
        make(&self.resource)
    }
}

impl TelemetryBuilder {
    /// Also what is to be told when there is a log.
    pub(super) fn set_up(
        mut self,
        #[cfg_attr(not(feature = "metrics"), expect(unused_variables))] globally: bool,
    ) -> Result<(Telemetry, Vec<Remark>), InitError> {
        let env = Environment::of_process();
        let propagators = env.propagators()?;
        if env.is_disabled()? {
            let providers = Providers::off();
            // A scrape finds nothing, and is no error.
            #[cfg(feature = "prometheus")]
            let providers = match &self.prometheus {
                Some(prometheus) => providers.scraped_in_vain(prometheus),
                None => providers,
            };
            let telemetry = Telemetry::new(providers, Vec::new(), propagators, self.replayed);
            return Ok((telemetry, Vec::new()));
        }
        let mut work = Work {
            resource: self.resource(),
            thread: ExportThread::new().map_err(InitError::Thread)?,
            remarks: env.in_vain(Signal::is_built).map(Remark::Warning).collect(),
            env,
        };
        // Providers are built when nothing can go wrong any more: one that is dropped waits for the thread.
        let tracers = self.tracer_provider(&mut work)?;
        #[cfg(feature = "logs")]
        let loggers = self.logger_provider(&mut work)?;
        #[cfg(feature = "metrics")]
        let (meters, reader) = self.meter_provider(&mut work, globally)?;
        let controls = work.thread.start().map_err(InitError::Thread)?;
        let providers = Providers {
            tracers: tracers.build(),
            #[cfg(feature = "metrics")]
            meters: match reader {
                Some(reader) => meters.with_reader(reader.build()).build(),
                None => meters.build(),
            },
            #[cfg(feature = "metrics")]
            has_readers: self.has_readers,
            #[cfg(feature = "prometheus")]
            prometheus: self.prometheus,
            #[cfg(feature = "logs")]
            loggers: loggers.build(),
        };
        #[cfg(feature = "metrics")]
        for control in &controls {
            self_metrics::observe(&providers.meters, &control.account);
        }
        let telemetry = Telemetry::new(providers, controls, propagators, self.replayed);
        Ok((telemetry, work.remarks))
    }

    fn tracer_provider(&mut self, work: &mut Work) -> Result<TracerProviderBuilder, InitError> {
        let Some(way) = self.way(Signal::Traces, work)? else {
            return Ok(SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff));
        };
        let exporter = work.in_runtime(|resource| way.spans(resource))?;
        let limits = self.limits(&work.env, "OTEL_BSP", Duration::from_secs(5))?;
        let queue = Queue::open(&mut work.thread, Signal::Traces, exporter, limits);
        let tracers = mem::take(&mut self.tracers)
            .with_resource(work.resource.clone())
            .with_id_generator(DerivedIds::default())
            .with_sampler(self.sampler_or(&work.env)?);
        Ok(match &self.tail {
            Some(tail) => tracers.with_span_processor(tail.processor(queue)?),
            None => tracers.with_span_processor(queue),
        })
    }

    #[cfg(feature = "metrics")]
    fn meter_provider(
        &mut self,
        work: &mut Work,
        globally: bool,
    ) -> Result<(MeterProviderBuilder, Option<metrics::ReaderBuilder>), InitError> {
        let way = self.way(Signal::Metrics, work)?;
        // The API does not tell whether one was set. The one that does nothing has nothing.
        let is_set = || size_of_val(&*global::meter_provider()) > 0;
        if globally && (way.is_some() || self.has_readers) && is_set() {
            return Err(InitError::AlreadyInstalled);
        }
        let meters = mem::take(&mut self.meters).with_resource(work.resource.clone());
        #[cfg(feature = "prometheus")]
        let meters = match &self.prometheus {
            Some(prometheus) => meters.with_reader(prometheus.reader()),
            None => meters,
        };
        let Some(way) = way else {
            return Ok((meters, None));
        };
        let interval = match self.interval {
            Some(interval) => Some(interval),
            None => work.env.metric_interval()?,
        };
        let interval = interval.unwrap_or(Duration::from_secs(60));
        if interval.is_zero() {
            return Err(InitError::invalid("the interval of metrics", "it is 0"));
        }
        let exporter = work.in_runtime(|_| way.metrics())?;
        let reader = metrics::reader(&mut work.thread, exporter, interval);
        Ok((meters, Some(reader)))
    }

    #[cfg(feature = "logs")]
    fn logger_provider(&mut self, work: &mut Work) -> Result<LoggerProviderBuilder, InitError> {
        let Some(way) = self.way(Signal::Logs, work)? else {
            return Ok(SdkLoggerProvider::builder());
        };
        let exporter = work.in_runtime(|resource| way.logs(resource))?;
        let limits = self.limits(&work.env, "OTEL_BLRP", Duration::from_secs(1))?;
        let queue = Queue::open(&mut work.thread, Signal::Logs, exporter, limits);
        Ok(mem::take(&mut self.loggers)
            .with_resource(work.resource.clone())
            .with_log_processor(RunIdsProcessor::new())
            .with_log_processor(queue))
    }

    /// The way out for a signal, unless it is off.
    fn way(&self, signal: Signal, work: &mut Work) -> Result<Option<Exporters>, InitError> {
        #[cfg(feature = "prometheus")]
        let is_scraped = self.prometheus.is_some();
        #[cfg(not(feature = "prometheus"))]
        let is_scraped = false;
        if self.without.contains(&signal) || !work.env.is_exported(signal, is_scraped)? {
            return Ok(None);
        }
        let destination = self.settings.destination.as_ref();
        let off = destination.and_then(|to| to.off.iter().find(|(off, _)| *off == signal));
        if let Some((_, why)) = off {
            let why = format!("{signal} are not exported: {why}");
            work.remarks.push(Remark::Note(why));
            return Ok(None);
        }
        Exporters::new(signal, &self.settings, &work.env).map(Some)
    }

    /// `set` is the beginning of the variables' names.
    fn limits(&self, env: &Environment, set: &str, delay: Duration) -> Result<Limits, InitError> {
        let queue = match self.queue_size {
            Some(items) => items,
            None => env.queue_size(set)?.unwrap_or(2048),
        };
        let batch = match self.batch_size {
            Some(items) => items,
            None => env.batch_size(set)?.unwrap_or(512),
        };
        let delay = match self.delay {
            Some(delay) => delay,
            None => env.schedule_delay(set)?.unwrap_or(delay),
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
