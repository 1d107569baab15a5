//! What became of telemetry, as metrics: the numbers of [`ExportStats`](super::ExportStats), under the names
//! that OpenTelemetry has for SDKs that observe themselves, so that what alerts on other SDKs' losses alerts
//! on ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::Signal;
use super::account::Account;
use crate::names::{attribute, metric};

/// The instruments of one signal.
struct Names {
    /// What the standard has for parts that are not the SDK's own: a name of ours.
    component: &'static str,
    unit: &'static str,
    exported: &'static str,
    /// Where there is a queue.
    queue: Option<QueueNames>,
}

struct QueueNames {
    processed: &'static str,
    size: &'static str,
}

const QUEUE: &str = "workflow_otel_export_queue";
const READER: &str = "workflow_otel_metric_export";

const fn names(signal: Signal) -> Names {
    match signal {
        Signal::Traces => Names {
            component: QUEUE,
            unit: "{span}",
            exported: metric::OTEL_SDK_EXPORTER_SPAN_EXPORTED,
            queue: Some(QueueNames {
                processed: metric::OTEL_SDK_PROCESSOR_SPAN_PROCESSED,
                size: metric::OTEL_SDK_PROCESSOR_SPAN_QUEUE_SIZE,
            }),
        },
        Signal::Logs => Names {
            component: QUEUE,
            unit: "{log_record}",
            exported: metric::OTEL_SDK_EXPORTER_LOG_EXPORTED,
            queue: Some(QueueNames {
                processed: metric::OTEL_SDK_PROCESSOR_LOG_PROCESSED,
                size: metric::OTEL_SDK_PROCESSOR_LOG_QUEUE_SIZE,
            }),
        },
        Signal::Metrics => Names {
            component: READER,
            unit: "{data_point}",
            exported: metric::OTEL_SDK_EXPORTER_METRIC_DATA_POINT_EXPORTED,
            queue: None,
        },
    }
}

/// Has `provider` tell what is in an account, whenever somebody collects.
pub(super) fn observe(provider: &SdkMeterProvider, account: &Arc<Account>) {
    static COMPONENTS: AtomicUsize = AtomicUsize::new(0);
    let names = names(account.signal);
    let number = COMPONENTS.fetch_add(1, Ordering::Relaxed);
    let component = [
        KeyValue::new(attribute::OTEL_COMPONENT_TYPE, names.component),
        KeyValue::new(
            attribute::OTEL_COMPONENT_NAME,
            format!("{}/{number}", names.component),
        ),
    ];
    let observed = Observed {
        meter: provider.meter_with_scope(crate::tracer::scope()),
        account: Arc::clone(account),
        component,
        unit: names.unit,
    };
    observed.exports(names.exported);
    if let Some(queue) = names.queue {
        observed.queue(&queue);
    }
}

struct Observed {
    meter: Meter,
    account: Arc<Account>,
    component: [KeyValue; 2],
    unit: &'static str,
}

impl Observed {
    fn failed(&self, why: &'static str) -> [KeyValue; 3] {
        let [kind, name] = self.component.clone();
        [kind, name, KeyValue::new(attribute::ERROR_TYPE, why)]
    }

    fn exports(&self, name: &'static str) {
        let (account, component) = (Arc::clone(&self.account), self.component.clone());
        let (rejected, undelivered) = (self.failed("rejected"), self.failed("undelivered"));
        self.meter
            .u64_observable_counter(name)
            .with_unit(self.unit)
            .with_description("Items whose export is over.")
            .with_callback(move |observer| {
                let stats = account.stats();
                observer.observe(stats.exported, &component);
                observer.observe(stats.refused, &rejected);
                observer.observe(stats.undelivered, &undelivered);
            })
            .build();
    }

    fn queue(&self, names: &QueueNames) {
        let (account, component) = (Arc::clone(&self.account), self.component.clone());
        let queue_full = self.failed("queue_full");
        self.meter
            .u64_observable_counter(names.processed)
            .with_unit(self.unit)
            .with_description("Items that left the queue of the export, or found no room in it.")
            .with_callback(move |observer| {
                let stats = account.stats();
                let handed_on = stats.exported + stats.refused + stats.undelivered;
                observer.observe(handed_on, &component);
                observer.observe(stats.dropped, &queue_full);
            })
            .build();

        let (account, component) = (Arc::clone(&self.account), self.component.clone());
        self.meter
            .i64_observable_up_down_counter(names.size)
            .with_unit(self.unit)
            .with_description("Items that wait in the queue of the export, or are being sent.")
            .with_callback(move |observer| {
                let queued = i64::try_from(account.stats().queued).unwrap_or(i64::MAX);
                observer.observe(queued, &component);
            })
            .build();
    }
}
