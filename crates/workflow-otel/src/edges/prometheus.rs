//! What Prometheus scrapes: the data points of the meter provider, as text.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, Pipeline, Temporality};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use super::openmetrics;
use crate::metrics::exemplars::Exemplars;

/// The metrics of one meter provider as Prometheus reads them. Clones are the same.
///
/// Its [reader](Self::reader) stands beside those that push, on the same provider: there is one registry,
/// and both ways show the same numbers. A provider's own resource comes out as `target_info`.
///
/// ```
/// use opentelemetry_sdk::metrics::SdkMeterProvider;
/// use workflow_otel::{OtelInterceptor, Prometheus};
///
/// let prometheus = Prometheus::new();
/// let provider = SdkMeterProvider::builder().with_reader(prometheus.reader()).build();
/// let otel = OtelInterceptor::builder().meter_provider(&provider).build();
/// // client.interceptor(otel.clone()), worker.interceptor(otel)
///
/// let scraped = prometheus.scrape()?;
/// assert!(scraped.contains("target_info"));
/// # Ok::<_, workflow_otel::ScrapeError>(())
/// ```
#[derive(Clone)]
pub struct Prometheus(Arc<Shared>);

struct Shared {
    registry: Registry,
    /// `None` where it could not be made, which nothing here causes.
    exporter: Option<PrometheusExporter>,
    attached: AtomicBool,
    exemplars: Arc<Exemplars>,
}

/// Metrics as text.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PrometheusText {
    /// Its media type.
    pub content_type: &'static str,
    /// The text.
    pub text: String,
}

impl Prometheus {
    /// One that belongs to no provider yet.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // Every series would have two labels more, which tell nobody anything.
            .scope_info_enabled(false)
            .build();
        Self(Arc::new(Shared {
            registry,
            exporter: exporter.ok(),
            attached: AtomicBool::new(false),
            exemplars: Arc::new(Exemplars::new()),
        }))
    }

    /// What a meter provider is built with: once, as further providers are passed over.
    #[must_use]
    pub fn reader(&self) -> PrometheusReader {
        PrometheusReader(Arc::clone(&self.0))
    }

    /// Collects what there is at the moment, in the text format 0.0.4. Runs the callbacks of observable
    /// instruments, so it takes as long as they do.
    ///
    /// # Errors
    ///
    /// [`ScrapeError`] where no provider has the [reader](Self::reader), or where what there is cannot be
    /// written.
    pub fn scrape(&self) -> Result<String, ScrapeError> {
        let families = self.gather()?;
        let text = TextEncoder::new().encode_to_string(&families);
        text.map_err(|error| ScrapeError(error.to_string()))
    }

    /// The same as a client wants it whose header `Accept` this is: OpenMetrics, which Prometheus asks for
    /// and which alone has [exemplars](crate::OtelInterceptorBuilder::exemplars), or the text format 0.0.4.
    ///
    /// ```
    /// # use opentelemetry_sdk::metrics::SdkMeterProvider;
    /// # use workflow_otel::Prometheus;
    /// # let prometheus = Prometheus::new();
    /// # let provider = SdkMeterProvider::builder().with_reader(prometheus.reader()).build();
    /// let answer = prometheus.scrape_as(Some("application/openmetrics-text; version=1.0.0"))?;
    /// assert!(answer.text.ends_with("# EOF\n"));
    /// # Ok::<_, workflow_otel::ScrapeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`scrape`](Self::scrape).
    pub fn scrape_as(&self, accept: Option<&str>) -> Result<PrometheusText, ScrapeError> {
        if accept.is_some_and(openmetrics::is_accepted) {
            let text = openmetrics::write(&self.gather()?, &self.0.exemplars);
            return Ok(PrometheusText {
                content_type: openmetrics::CONTENT_TYPE,
                text: text.map_err(|error| ScrapeError(error.to_string()))?,
            });
        }
        Ok(PrometheusText {
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            text: self.scrape()?,
        })
    }

    fn gather(&self) -> Result<Vec<MetricFamily>, ScrapeError> {
        if !self.0.attached.load(Ordering::Acquire) {
            return Err(ScrapeError(
                "no meter provider has its reader: build one `with_reader(prometheus.reader())`, and give \
                 it to the interceptor"
                    .to_owned(),
            ));
        }
        Ok(self.0.registry.gather())
    }

    pub(crate) fn exemplars(&self) -> Arc<Exemplars> {
        Arc::clone(&self.0.exemplars)
    }
}

impl Default for Prometheus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prometheus")
            .field("attached", &self.0.attached)
            .finish_non_exhaustive()
    }
}

/// Metrics cannot be scraped.
#[derive(Debug, thiserror::Error)]
#[error("cannot write metrics for Prometheus: {0}")]
pub struct ScrapeError(String);

/// The reader of a [`Prometheus`], for `SdkMeterProvider::builder().with_reader`.
pub struct PrometheusReader(Arc<Shared>);

impl MetricReader for PrometheusReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        if let Some(exporter) = &self.0.exporter {
            exporter.register_pipeline(pipeline);
            self.0.attached.store(true, Ordering::Release);
        }
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        match &self.0.exporter {
            Some(exporter) => exporter.collect(metrics),
            None => Ok(()),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.attached.store(false, Ordering::Release);
        match &self.0.exporter {
            Some(exporter) => exporter.shutdown_with_timeout(timeout),
            None => Ok(()),
        }
    }

    fn temporality(&self, _: InstrumentKind) -> Temporality {
        // What Prometheus knows.
        Temporality::Cumulative
    }
}

impl fmt::Debug for PrometheusReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrometheusReader").finish_non_exhaustive()
    }
}
