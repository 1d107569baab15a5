//! Health and metrics over HTTP: as a router to nest into an application's own, and as a listener for
//! workers that have none.
//!
//! ```no_run
//! use openworkflow::observe::{Endpoints, Observe};
//! use openworkflow::{Sqlite, Worker, Workflow};
//!
//! # async fn example(store: Sqlite, greet: Workflow) -> Result<(), Box<dyn std::error::Error>> {
//! // A worker without HTTP of its own.
//! let worker = Worker::builder(store.clone()).workflow(greet.clone()).observe("0.0.0.0:9464").build()?;
//! let handle = worker.start();
//!
//! // One beside an axum application.
//! let app: axum::Router = axum::Router::new().nest("/ops", Endpoints::new(handle.health()).router());
//! # Ok(()) }
//! ```

mod routes;
mod server;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use workflow_core::BoxError;

use crate::Health;

pub(crate) use server::{Bound, Server};

/// Metrics as text, for whoever scrapes them.
///
/// With the feature `otel-prometheus` an `openworkflow::otel::Prometheus` is one; anything else is made
/// of a function.
///
/// ```
/// use openworkflow::observe::{MetricsText, Scraped};
///
/// let metrics = MetricsText::new(|_accept| {
///     Ok(Scraped::new("text/plain; version=0.0.4", "# TYPE up gauge\nup 1\n"))
/// });
/// ```
#[derive(Clone)]
pub struct MetricsText(Arc<Scrape>);

type Scrape = dyn Fn(Option<&str>) -> Result<Scraped, BoxError> + Send + Sync;

/// What was scraped.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Scraped {
    /// Its media type.
    pub content_type: &'static str,
    /// The text.
    pub text: String,
}

impl Scraped {
    /// A text of that media type.
    pub fn new(content_type: &'static str, text: impl Into<String>) -> Self {
        Self {
            content_type,
            text: text.into(),
        }
    }
}

impl MetricsText {
    /// Metrics that are collected by a function, which gets the request's `Accept`. It may block.
    pub fn new(
        scrape: impl Fn(Option<&str>) -> Result<Scraped, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(scrape))
    }
}

impl fmt::Debug for MetricsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsText").finish_non_exhaustive()
    }
}

#[cfg(feature = "otel-prometheus")]
impl From<&workflow_otel::Prometheus> for MetricsText {
    fn from(prometheus: &workflow_otel::Prometheus) -> Self {
        let prometheus = prometheus.clone();
        Self::new(move |accept| {
            let answer = prometheus.scrape_as(accept)?;
            Ok(Scraped::new(answer.content_type, answer.text))
        })
    }
}

/// What a worker tells over HTTP, as routes for an application's own server:
///
/// | route | answer |
/// |---|---|
/// | `/health/live` | 200: the process turns |
/// | `/health/ready` | 200, or 503 where the worker is unhealthy or stopping |
/// | `/health` | the [report](crate::HealthReport) as JSON |
/// | `/metrics` | the metrics, or 404 where it was given none |
///
/// Reasons in the report name the database: do not show it to everybody.
#[derive(Debug, Clone)]
pub struct Endpoints {
    health: Health,
    metrics: Option<MetricsText>,
}

impl Endpoints {
    /// The routes of a worker.
    #[must_use]
    pub fn new(health: Health) -> Self {
        Self {
            health,
            metrics: None,
        }
    }

    /// What `/metrics` answers with.
    #[must_use]
    pub fn metrics(mut self, metrics: impl Into<MetricsText>) -> Self {
        self.metrics = Some(metrics.into());
        self
    }

    /// The routes, to be nested where the application likes.
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> axum::Router<S> {
        routes::router(self)
    }
}

/// Where a worker listens, and what it tells there; for [`WorkerBuilder::observe`].
///
/// ```
/// use openworkflow::observe::{MetricsText, Observe, Scraped};
///
/// let metrics = MetricsText::new(|_| Ok(Scraped::new("text/plain; version=0.0.4", "up 1\n")));
/// let observe = Observe::on("0.0.0.0:9464").metrics(metrics);
/// ```
///
/// [`WorkerBuilder::observe`]: crate::WorkerBuilder::observe
#[derive(Debug, Clone)]
pub struct Observe {
    address: String,
    metrics: Option<MetricsText>,
}

impl Observe {
    /// Listens on an address such as `0.0.0.0:9464`; the port 0 stands for any that is free.
    #[must_use]
    pub fn on(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            metrics: None,
        }
    }

    /// What `/metrics` answers with.
    #[must_use]
    pub fn metrics(mut self, metrics: impl Into<MetricsText>) -> Self {
        self.metrics = Some(metrics.into());
        self
    }
}

impl From<&str> for Observe {
    fn from(address: &str) -> Self {
        Self::on(address)
    }
}

impl From<String> for Observe {
    fn from(address: String) -> Self {
        Self::on(address)
    }
}

impl From<SocketAddr> for Observe {
    fn from(address: SocketAddr) -> Self {
        Self::on(address.to_string())
    }
}
