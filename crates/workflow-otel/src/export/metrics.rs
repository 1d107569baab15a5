//! The way out for metrics: behind the SDK's periodic reader, which collects them, what it has for an
//! exporter.
//!
//! A collection is on its way until it arrives or is refused. What is measured meanwhile is in the next,
//! whichever the temporality, so nothing is lost while a receiver is away, and memory holds one collection.

use std::future::Future;
use std::time::Duration;

use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, PeriodicReaderBuilder, Temporality};
use tokio::sync::{Mutex, oneshot};

use super::Signal;
use super::control::{Clock, block_on};
use super::courier::{Courier, Exporter, Watched};
use super::thread::ExportThread;

/// What the reader is made of when all is ready: it starts a thread of its own.
pub(super) type ReaderBuilder = PeriodicReaderBuilder<Sender>;

/// A reader of a meter provider that sends what it collects, once each `interval`, by way of `exporter`.
pub(super) fn reader(
    thread: &mut ExportThread,
    exporter: Watched<MetricExporter>,
    interval: Duration,
) -> ReaderBuilder {
    let temporality = exporter.exporter.temporality();
    let (control, courier) = thread.open(Signal::Metrics, exporter);
    let (at_work, over) = oneshot::channel();
    let sender = Sender {
        temporality,
        clock: control.clock,
        work: Mutex::new(Some((courier, at_work))),
    };
    // Which never answers: what it waits for is that the other end is dropped.
    thread.add(async {
        let _ = over.await;
    });
    PeriodicReader::builder(sender).with_interval(interval)
}

/// The reader's exporter, until the reader is shut down.
pub(super) struct Sender {
    temporality: Temporality,
    clock: Clock,
    work: Mutex<Option<(Courier<MetricExporter>, oneshot::Sender<()>)>>,
}

impl PushMetricExporter for Sender {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut work = self.work.lock().await;
        if let Some((courier, _)) = &mut *work {
            let points = data_points(metrics);
            courier.account.queued.set(points);
            let delivery = courier.deliver(metrics, points as u64);
            self.clock.drive(delivery).await;
            courier.account.queued.set(0);
            courier.report();
        }
        // What is wrong is told elsewhere, and not as an error for each collection.
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        if let Some((courier, _)) = block_on(self.work.lock()).take() {
            courier.finish();
        }
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        self.temporality
    }
}

impl Exporter for MetricExporter {
    type Batch = ResourceMetrics;

    fn export(&self, batch: &ResourceMetrics) -> impl Future<Output = OTelSdkResult> + Send {
        PushMetricExporter::export(self, batch)
    }
}

/// How many there are: what a receiver that rejects some counts too.
fn data_points(metrics: &ResourceMetrics) -> usize {
    let scopes = metrics.scope_metrics();
    let metrics = scopes.flat_map(|scope| scope.metrics());
    let points = metrics.map(|metric| match metric.data() {
        AggregatedMetrics::F64(data) => points_of(data),
        AggregatedMetrics::U64(data) => points_of(data),
        AggregatedMetrics::I64(data) => points_of(data),
    });
    points.sum()
}

fn points_of<T>(data: &MetricData<T>) -> usize {
    match data {
        MetricData::Gauge(gauge) => gauge.data_points().count(),
        MetricData::Sum(sum) => sum.data_points().count(),
        MetricData::Histogram(histogram) => histogram.data_points().count(),
        MetricData::ExponentialHistogram(histogram) => histogram.data_points().count(),
    }
}
