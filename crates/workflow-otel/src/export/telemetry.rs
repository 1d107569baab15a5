//! The guard of what was set up.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry::trace::noop::NoopTracerProvider;
#[cfg(feature = "logs")]
use opentelemetry_sdk::logs::SdkLoggerProvider;
#[cfg(feature = "metrics")]
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::Signal;
use super::builder::TelemetryBuilder;
use super::control::{Clock, Control, block_on};
use super::environment::Propagators;
use super::report::{ExportStats, Report};
use super::reporter;
use super::work::WorkResult;
#[cfg(feature = "metrics")]
use crate::MetricSelection;
use crate::OtelInterceptor;
#[cfg(feature = "prometheus")]
use crate::Prometheus;
#[cfg(feature = "logs")]
use crate::logs::appender_layer;
use crate::logs::{ReplayedEvents, RunFilter};
use crate::traces::bridge::tracing_layer;

/// How long a guard that is dropped waits for what is left.
const DROP_DEADLINE: Duration = Duration::from_secs(5);
/// The most of a shutdown's time that is kept for the delivery.
const LONGEST_RESERVE: Duration = Duration::from_secs(5);
/// How long after the deadline an answer is waited for.
const GRACE: Duration = Duration::from_millis(500);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the signals are made. One that is off has a provider that does nothing.
pub(super) struct Providers {
    pub(super) tracers: SdkTracerProvider,
    #[cfg(feature = "metrics")]
    pub(super) meters: SdkMeterProvider,
    /// Metrics are read by others too.
    #[cfg(feature = "metrics")]
    pub(super) has_readers: bool,
    /// Which scrapes what the interceptor measures.
    #[cfg(feature = "prometheus")]
    pub(super) prometheus: Option<Prometheus>,
    #[cfg(feature = "logs")]
    pub(super) loggers: SdkLoggerProvider,
}

impl Providers {
    pub(super) fn off() -> Self {
        Self {
            tracers: SdkTracerProvider::builder()
                .with_sampler(Sampler::AlwaysOff)
                .build(),
            #[cfg(feature = "metrics")]
            meters: SdkMeterProvider::default(),
            #[cfg(feature = "metrics")]
            has_readers: false,
            #[cfg(feature = "prometheus")]
            prometheus: None,
            #[cfg(feature = "logs")]
            loggers: SdkLoggerProvider::builder().build(),
        }
    }

    /// With a reader, for which nothing is measured.
    #[cfg(feature = "prometheus")]
    pub(super) fn scraped_in_vain(mut self, prometheus: &Prometheus) -> Self {
        let meters = SdkMeterProvider::builder().with_reader(prometheus.reader());
        self.meters = meters.build();
        self
    }

    /// Makes what is done with them later do nothing. The queues are through, so this does not block.
    fn shut_down(&self) {
        let _ = self.tracers.shutdown_with_timeout(Duration::ZERO);
        #[cfg(feature = "metrics")]
        let _ = self.meters.shutdown_with_timeout(Duration::ZERO);
        #[cfg(feature = "logs")]
        let _ = self.loggers.shutdown_with_timeout(Duration::ZERO);
    }
}

/// Export at work; made by [`init`](super::init) or [`Telemetry::builder`].
///
/// Call [`shutdown`](Self::shutdown) before the process ends. A guard that is dropped instead blocks
/// its thread for up to 5 s to deliver what is left, and logs a warning.
#[must_use = "dropping it ends export"]
pub struct Telemetry {
    providers: Providers,
    /// Of the signals that are exported.
    controls: Vec<Control>,
    propagators: Propagators,
    replayed: ReplayedEvents,
    /// Once somebody wants it.
    interceptor: Arc<OnceLock<OtelInterceptor>>,
    before: Vec<Work>,
    is_shut_down: bool,
}

impl Telemetry {
    /// Begins to set up telemetry, from the environment and from code.
    pub fn builder() -> TelemetryBuilder {
        TelemetryBuilder::new()
    }

    pub(super) fn new(
        providers: Providers,
        controls: Vec<Control>,
        propagators: Propagators,
        replayed: ReplayedEvents,
    ) -> Self {
        Self {
            providers,
            controls,
            propagators,
            replayed,
            interceptor: Arc::default(),
            before: Vec::new(),
            is_shut_down: false,
        }
    }

    /// The interceptor, for clients and workers, whose spans and metrics are exported here.
    ///
    /// For one with other settings, give [`tracer_provider`](Self::tracer_provider),
    /// `meter_provider` and [`propagator`](Self::propagator) to [`OtelInterceptor::builder`].
    #[must_use]
    pub fn interceptor(&self) -> OtelInterceptor {
        let interceptor = self.interceptor.get_or_init(|| self.make_interceptor());
        interceptor.clone()
    }

    fn make_interceptor(&self) -> OtelInterceptor {
        let builder = OtelInterceptor::builder().propagator(self.propagator());
        let builder = if self.is_enabled(Signal::Traces) {
            builder.tracer_provider(&self.providers.tracers)
        } else {
            // Contexts go through runs all the same.
            builder.tracer_provider(&NoopTracerProvider::new())
        };
        #[cfg(feature = "metrics")]
        let builder = if self.is_enabled(Signal::Metrics) {
            builder.meter_provider(&self.providers.meters)
        } else {
            builder.metrics(MetricSelection::None)
        };
        #[cfg(feature = "prometheus")]
        let builder = match &self.providers.prometheus {
            Some(prometheus) => builder.exemplars(prometheus),
            None => builder,
        };
        builder.build()
    }

    /// Whether a signal goes anywhere. One is off where `OTEL_SDK_DISABLED` is `true`, where
    /// [`without`](TelemetryBuilder::without) or a variable such as `OTEL_TRACES_EXPORTER` says so, where
    /// the destination does not take it, and where this build cannot export it.
    #[must_use]
    pub fn is_enabled(&self, signal: Signal) -> bool {
        #[cfg(feature = "metrics")]
        if signal == Signal::Metrics && self.providers.has_readers {
            return true;
        }
        self.control(signal).is_some()
    }

    fn clock(&self) -> Option<&Clock> {
        self.controls.first().map(|control| &control.clock)
    }

    fn control(&self, signal: Signal) -> Option<&Control> {
        let mut controls = self.controls.iter();
        controls.find(|control| control.account.signal == signal)
    }

    /// The provider of tracers, for the application's own spans.
    #[must_use]
    pub fn tracer_provider(&self) -> &SdkTracerProvider {
        &self.providers.tracers
    }

    /// The provider of meters, for the application's own metrics. The interceptor's are made with it too.
    #[cfg(feature = "metrics")]
    #[must_use]
    pub fn meter_provider(&self) -> &SdkMeterProvider {
        &self.providers.meters
    }

    /// The provider of loggers, for what hands log records to OpenTelemetry.
    #[cfg(feature = "logs")]
    #[must_use]
    pub fn logger_provider(&self) -> &SdkLoggerProvider {
        &self.providers.loggers
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
        tracing_layer(&self.providers.tracers)
    }

    /// Which events of runs are logged.
    pub(super) fn run_filter(&self) -> RunFilter {
        RunFilter::new().replayed(self.replayed)
    }

    /// A layer that exports `tracing` events as log records, for a subscriber of the application's own.
    /// Each has the ids of the run, the step and the span that it was made in, and what a replay repeats
    /// is treated as [`replayed_events`](TelemetryBuilder::replayed_events) says.
    ///
    /// ```no_run
    /// use tracing_subscriber::prelude::*;
    /// use workflow_otel::export::Telemetry;
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let telemetry = Telemetry::builder().build()?;
    /// tracing_subscriber::registry()
    ///     .with(telemetry.tracing_layer())
    ///     .with(telemetry.log_layer())
    ///     .try_init()?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "logs")]
    pub fn log_layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        appender_layer(&self.providers.loggers, self.run_filter())
    }

    /// What became of a signal so far.
    ///
    /// ```
    /// use workflow_otel::export::{Signal, Telemetry};
    ///
    /// # fn example(telemetry: &Telemetry) {
    /// let spans = telemetry.stats(Signal::Traces);
    /// println!("{} spans wait, {} were lost", spans.queued, spans.lost());
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self, signal: Signal) -> ExportStats {
        let control = self.control(signal);
        control.map_or_else(ExportStats::default, |control| control.account.stats())
    }

    /// How much was lost so far, as a count that only grows: of all signals what could not be exported, and
    /// the spans that [`interceptor`](Self::interceptor) could not make. It is there for as long as somebody
    /// has it, after the shutdown too; asking costs a few loads.
    ///
    /// A worker's health goes by it:
    ///
    /// ```
    /// use workflow_otel::export::Telemetry;
    ///
    /// # fn example(telemetry: &Telemetry) {
    /// let lost = telemetry.losses();
    /// // openworkflow::Worker::builder(store).telemetry_losses(lost)
    /// assert_eq!(lost(), 0);
    /// # }
    /// ```
    pub fn losses(&self) -> impl Fn() -> u64 + Clone + Send + Sync + use<> {
        let accounts = self.controls.iter().map(|c| Arc::clone(&c.account));
        let accounts: Arc<[_]> = accounts.collect();
        let interceptor = Arc::clone(&self.interceptor);
        move || {
            let exports = accounts.iter().map(|account| account.stats().lost());
            let made = interceptor.get();
            exports.sum::<u64>() + made.map_or(0, |made| made.losses().spans)
        }
    }

    /// Sends what has ended so far, and metrics as they are now, without waiting for a batch to fill or
    /// an interval to end. `false` if that was not done within `limit`: it goes on in the background.
    ///
    /// Dropping the future changes nothing.
    pub async fn flush(&self, limit: Duration) -> bool {
        let Some(clock) = self.clock() else {
            return true;
        };
        let queues = self.controls.iter();
        let queues = queues.filter(|control| control.account.signal != Signal::Metrics);
        let flushes: Vec<_> = queues.map(Control::flush).collect();
        // Only their reader can collect them.
        #[cfg(feature = "metrics")]
        let metrics = {
            let meters = self.providers.meters.clone();
            clock.aside(move || {
                let _ = meters.force_flush();
            })
        };
        let all = async {
            for flush in flushes {
                flush.await;
            }
            // Or a callback panicked.
            #[cfg(feature = "metrics")]
            let _ = metrics.await;
        };
        clock.within(limit, all).await.is_some()
    }

    /// Has [`shutdown`](Self::shutdown) wait for `work` before it ends export: for workers, whose
    /// last executions are to be seen. Several are waited for one after another. What it comes to is
    /// nothing, or a result, whose error is logged.
    ///
    /// ```no_run
    /// # struct Worker; impl Worker { async fn stop(&mut self) -> std::io::Result<()> { Ok(()) } }
    /// # async fn example(mut worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut telemetry = workflow_otel::init()?;
    /// telemetry.before_shutdown(async move { worker.stop().await });
    /// // …
    /// telemetry.shutdown(std::time::Duration::from_secs(30)).await;
    /// # Ok(()) }
    /// ```
    pub fn before_shutdown<T: WorkResult>(
        &mut self,
        work: impl Future<Output = T> + Send + 'static,
    ) {
        self.before.push(Box::pin(async {
            if let Some(error) = work.await.error() {
                tracing::error!(
                    target: "workflow_otel",
                    error,
                    "what was to be done before the shutdown of telemetry failed; telemetry is shut down all the same"
                );
            }
        }));
    }

    /// Ends export within `deadline`: first waits for what was handed to
    /// [`before_shutdown`](Self::before_shutdown), then delivers every span that has ended, every log
    /// record, and a last collection of metrics. Answers what became of all of them; that something was
    /// lost is in the log too, and is an error only [where asked for](Report::into_result).
    ///
    /// A quarter of the time, at most 5 s, is kept for the delivery; work that is not done by then is
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
        let reserve = (deadline / 4).min(LONGEST_RESERVE);
        let mut late = false;
        for work in mem::take(&mut self.before) {
            let left = (deadline - reserve).saturating_sub(start.elapsed());
            match self.clock() {
                Some(clock) => late |= clock.within(left, work).await.is_none(),
                None => work.await,
            }
        }
        if late {
            tracing::warn!(
                target: "workflow_otel",
                "work was not done in time for the shutdown of telemetry, and was dropped"
            );
        }
        let report = self.stop(deadline.saturating_sub(start.elapsed())).await;
        // Not before: if this future is dropped, `drop` does the rest.
        self.is_shut_down = true;
        self.providers.shut_down();
        report
    }

    /// Ends the export of all signals, side by side.
    async fn stop(&self, limit: Duration) -> Report {
        let stop = |control| (control, Control::stop(control, limit));
        let stopping: Vec<_> = self.controls.iter().map(stop).collect();
        // Collects for the last time.
        #[cfg(feature = "metrics")]
        let _collecting = self.clock().map(|clock| {
            let meters = self.providers.meters.clone();
            clock.aside(move || {
                let _ = meters.shutdown();
            })
        });
        let mut ended = Vec::new();
        for (control, stopped) in stopping {
            // Nobody answers where an instrument's callback panicked, or does not return.
            let limit = limit.saturating_add(GRACE);
            let stopped = control.clock.within(limit, stopped).await;
            let stopped = stopped.unwrap_or_else(|| control.account.ended());
            ended.push((control.account.signal, stopped));
        }
        let report = Report::new(ended);
        // No log record of what became of log records.
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        reporter::at_the_end(&report);
        report
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // What is being dropped may end spans.
        self.before.clear();
        if self.is_shut_down || self.controls.is_empty() {
            return;
        }
        tracing::warn!(
            target: "workflow_otel",
            "telemetry was dropped without a shutdown; delivering what is left for up to 5 s"
        );
        block_on(self.stop(DROP_DEADLINE));
        self.providers.shut_down();
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = |control: &Control| (control.account.signal, control.account.stats());
        let signals: Vec<_> = self.controls.iter().map(stats).collect();
        f.debug_struct("Telemetry")
            .field("propagators", &self.propagators)
            .field("signals", &signals)
            .finish_non_exhaustive()
    }
}
