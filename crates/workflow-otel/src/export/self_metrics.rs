//! What became of spans, as metrics: the numbers of [`ExportStats`](super::ExportStats), under the names that OpenTelemetry has
//! for SDKs that observe themselves, so that what alerts on other SDKs' losses alerts on ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::Signal;
use super::account::Account;
use crate::names::{attribute, metric};

/// What the standard has for parts that are not the SDK's own: a name of ours.
const COMPONENT_TYPE: &str = "workflow_otel_export_queue";

/// Has `provider` tell what is in the account of spans, whenever somebody collects. There are no names for
/// the others' yet.
pub(super) fn observe(provider: &SdkMeterProvider, account: &Arc<Account>) {
    if account.signal != Signal::Traces {
        return;
    }
    let account = Arc::clone(account);
    let stats = move || account.stats();
    let meter = provider.meter_with_scope(crate::tracer::scope());
    static COMPONENTS: AtomicUsize = AtomicUsize::new(0);
    let number = COMPONENTS.fetch_add(1, Ordering::Relaxed);
    let component: Arc<[KeyValue]> = Arc::new([
        KeyValue::new(attribute::OTEL_COMPONENT_TYPE, COMPONENT_TYPE),
        KeyValue::new(
            attribute::OTEL_COMPONENT_NAME,
            format!("{COMPONENT_TYPE}/{number}"),
        ),
    ]);
    let failed = {
        let component = Arc::clone(&component);
        move |why| {
            let why = KeyValue::new(attribute::ERROR_TYPE, why);
            [&*component, &[why]].concat()
        }
    };

    let (queue_full, of, read) = (failed("queue_full"), Arc::clone(&component), stats.clone());
    meter
        .u64_observable_counter(metric::OTEL_SDK_PROCESSOR_SPAN_PROCESSED)
        .with_unit("{span}")
        .with_description("Spans that left the queue of the export, or found no room in it.")
        .with_callback(move |observer| {
            let stats = read();
            let handed_on = stats.exported + stats.refused + stats.undelivered;
            observer.observe(handed_on, &of);
            observer.observe(stats.dropped, &queue_full);
        })
        .build();

    let (rejected, undelivered) = (failed("rejected"), failed("undelivered"));
    let (of, read) = (Arc::clone(&component), stats.clone());
    meter
        .u64_observable_counter(metric::OTEL_SDK_EXPORTER_SPAN_EXPORTED)
        .with_unit("{span}")
        .with_description("Spans whose export is over.")
        .with_callback(move |observer| {
            let stats = read();
            observer.observe(stats.exported, &of);
            observer.observe(stats.refused, &rejected);
            observer.observe(stats.undelivered, &undelivered);
        })
        .build();

    meter
        .i64_observable_up_down_counter(metric::OTEL_SDK_PROCESSOR_SPAN_QUEUE_SIZE)
        .with_unit("{span}")
        .with_description("Spans that wait in the queue of the export, or are being sent.")
        .with_callback(move |observer| {
            let queued = i64::try_from(stats().queued).unwrap_or(i64::MAX);
            observer.observe(queued, &component);
        })
        .build();
}
