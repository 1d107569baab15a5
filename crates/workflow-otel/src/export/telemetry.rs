//! The guard of what was set up.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry::trace::noop::NoopTracerProvider;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::builder::TelemetryBuilder;
use super::environment::Propagators;
use super::queue::Queue;
use super::report::{ExportStats, Report};
use crate::OtelInterceptor;
use crate::traces::bridge::tracing_layer;

/// How long a guard that is dropped waits for the spans that are left.
const DROP_DEADLINE: Duration = Duration::from_secs(5);
/// The most of a shutdown's time that is kept for spans.
const LONGEST_RESERVE: Duration = Duration::from_secs(5);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Export at work; made by [`init`](super::init) or [`Telemetry::builder`].
///
/// Call [`shutdown`](Self::shutdown) before the process ends. A guard that is dropped instead blocks
/// its thread for up to 5 s to deliver what is left, and logs a warning.
#[must_use = "dropping it ends export"]
pub struct Telemetry {
    provider: SdkTracerProvider,
    /// `None` where telemetry is switched off.
    queue: Option<Queue>,
    propagators: Propagators,
    before: Vec<Work>,
    is_shut_down: bool,
}

impl Telemetry {
    /// Begins to set up telemetry, from the environment and from code.
    pub fn builder() -> TelemetryBuilder {
        TelemetryBuilder::new()
    }

    pub(super) fn new(
        provider: SdkTracerProvider,
        queue: Option<Queue>,
        propagators: Propagators,
    ) -> Self {
        Self {
            provider,
            queue,
            propagators,
            before: Vec::new(),
            is_shut_down: false,
        }
    }

    /// An interceptor, for clients and workers, whose spans are exported here.
    ///
    /// For one with other settings, give [`tracer_provider`](Self::tracer_provider) and
    /// [`propagator`](Self::propagator) to [`OtelInterceptor::builder`].
    #[must_use]
    pub fn interceptor(&self) -> OtelInterceptor {
        let builder = OtelInterceptor::builder().propagator(self.propagator());
        if self.is_enabled() {
            builder.tracer_provider(&self.provider).build()
        } else {
            // Contexts go through runs all the same.
            builder.tracer_provider(&NoopTracerProvider::new()).build()
        }
    }

    /// Whether spans are exported: not where `OTEL_SDK_DISABLED` is `true`, or
    /// `OTEL_TRACES_EXPORTER` is `none`.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.queue.is_some()
    }

    /// The provider of tracers, for the application's own spans.
    #[must_use]
    pub fn tracer_provider(&self) -> &SdkTracerProvider {
        &self.provider
    }

    /// What carries context: W3C trace context and baggage, unless `OTEL_PROPAGATORS` says otherwise.
    #[must_use]
    pub fn propagator(&self) -> TextMapCompositePropagator {
        let mut all: Vec<Box<dyn TextMapPropagator + Send + Sync>> = Vec::new();
        if self.propagators.trace_context {
            all.push(Box::new(TraceContextPropagator::new()));
        }
        if self.propagators.baggage {
            all.push(Box::new(BaggagePropagator::new()));
        }
        TextMapCompositePropagator::new(all)
    }

    /// A layer that exports `tracing` spans too, for a subscriber of the application's own.
    ///
    /// ```no_run
    /// use tracing_subscriber::prelude::*;
    /// use workflow_otel::export::Telemetry;
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let telemetry = Telemetry::builder().build()?;
    /// tracing_subscriber::registry()
    ///     .with(tracing_subscriber::fmt::layer())
    ///     .with(telemetry.tracing_layer())
    ///     .try_init()?;
    /// # Ok(()) }
    /// ```
    pub fn tracing_layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_layer(&self.provider)
    }

    /// What became of the spans so far.
    #[must_use]
    pub fn stats(&self) -> ExportStats {
        self.queue.as_ref().map(Queue::stats).unwrap_or_default()
    }

    /// Sends what has ended so far without waiting for a batch to fill. `false` if that was not done
    /// within `limit`: it goes on in the background.
    ///
    /// Dropping the future changes nothing.
    pub async fn flush(&self, limit: Duration) -> bool {
        match &self.queue {
            Some(queue) => queue.flush(limit).await,
            None => true,
        }
    }

    /// Has [`shutdown`](Self::shutdown) wait for `work` before it ends export: for workers, whose
    /// last executions are to be seen. Several are waited for one after another.
    ///
    /// ```no_run
    /// # struct Worker; impl Worker { async fn stop(&mut self) {} }
    /// # async fn example(mut worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut telemetry = workflow_otel::init()?;
    /// telemetry.before_shutdown(async move { worker.stop().await });
    /// // …
    /// telemetry.shutdown(std::time::Duration::from_secs(30)).await;
    /// # Ok(()) }
    /// ```
    pub fn before_shutdown(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.before.push(Box::pin(work));
    }

    /// Ends export within `deadline`: first waits for what was handed to
    /// [`before_shutdown`](Self::before_shutdown), then delivers every span that has ended. Answers
    /// what became of all spans; that some were lost is in the log too, and is an error only
    /// [where asked for](Report::into_result).
    ///
    /// A quarter of the time, at most 5 s, is kept for the spans; work that is not done by then is
    /// dropped. A receiver that cannot be reached is tried four times in a row, then given up.
    /// Works on any runtime, single-threaded ones included, and on none. Dropping the future does what
    /// dropping the guard does.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let telemetry = workflow_otel::init()?;
    /// // …
    /// telemetry.shutdown(std::time::Duration::from_secs(10)).await;
    /// # Ok(()) }
    /// ```
    pub async fn shutdown(mut self, deadline: Duration) -> Report {
        let start = std::time::Instant::now();
        let for_spans = (deadline / 4).min(LONGEST_RESERVE);
        let mut late = false;
        for work in std::mem::take(&mut self.before) {
            let left = (deadline - for_spans).saturating_sub(start.elapsed());
            match &self.queue {
                Some(queue) => late |= queue.within(left, work).await.is_none(),
                None => work.await,
            }
        }
        if late {
            tracing::warn!(
                target: "workflow_otel",
                "work was not done in time for the shutdown of telemetry, and was dropped"
            );
        }
        let left = deadline.saturating_sub(start.elapsed());
        // Before the guard is marked: if this future is dropped, `drop` does the rest.
        let report = match &self.queue {
            Some(queue) => queue.stop(left).await,
            None => Report::new(ExportStats::default(), 0, ""),
        };
        self.is_shut_down = true;
        // Makes later spans no-ops. The queue is through, so this does not block.
        let _ = self.provider.shutdown_with_timeout(Duration::ZERO);
        report
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // What is being dropped may end spans.
        self.before.clear();
        let Some(queue) = &self.queue else { return };
        if self.is_shut_down {
            return;
        }
        tracing::warn!(
            target: "workflow_otel",
            "telemetry was dropped without a shutdown; delivering what is left for up to 5 s"
        );
        queue.stop_blocking(DROP_DEADLINE);
        let _ = self.provider.shutdown_with_timeout(Duration::ZERO);
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("enabled", &self.is_enabled())
            .field("propagators", &self.propagators)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
