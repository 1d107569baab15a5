//! OpenTelemetry log records, made of what is logged with `tracing`.

use std::time::Duration;

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger, LoggerProvider, Severity};
use opentelemetry::{Context, InstrumentationScope, Key, StringValue};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::RunFilter;
use super::ids::{self, Id};
use crate::context::scope::StepScope;
use crate::names::attribute;

/// Adds `workflow_run.id`, `workflow.name`, `workflow_run.attempt` and, inside a step, `step.name` to the log
/// records that are made inside a run, and `workflow_run.replaying` to those that a replay repeats. (The SDK
/// adds the trace and the span.) What a record says of itself stays.
///
/// Add it to the logger provider *before* the processor that exports.
///
/// ```
/// use opentelemetry_sdk::logs::SdkLoggerProvider;
/// use tracing_subscriber::filter::LevelFilter;
/// use tracing_subscriber::prelude::*;
/// use workflow_otel::logs::{RunFilter, RunIdsProcessor, appender_layer};
///
/// let provider = SdkLoggerProvider::builder()
///     .with_log_processor(RunIdsProcessor::new())
///     // .with_batch_exporter(…)
///     .build();
/// let records = appender_layer(&provider, RunFilter::new()).with_filter(LevelFilter::INFO);
/// let subscriber = tracing_subscriber::registry().with(records);
/// ```
#[derive(Debug)]
pub struct RunIdsProcessor(());

impl RunIdsProcessor {
    /// Makes one. From now on, every step of the process has its name in its context, which costs
    /// three allocations a step.
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "it has an effect on the process"
    )]
    pub fn new() -> Self {
        StepScope::want();
        Self(())
    }
}

impl LogProcessor for RunIdsProcessor {
    fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
        Context::map_current(|cx| add_ids(record, cx));
    }

    /// Not of itself: a record is wanted where one of the others wants it.
    fn event_enabled(&self, _: Severity, _: &str, _: Option<&str>) -> bool {
        false
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn add_ids(record: &mut SdkLogRecord, cx: &Context) {
    let own_run = of(record, attribute::WORKFLOW_RUN_ID);
    let own_run = own_run.map(|run| match run {
        AnyValue::String(id) => id.clone(),
        // It names one, in whatever way.
        _ => StringValue::from(""),
    });
    ids::each(cx, own_run.as_ref().map(StringValue::as_str), |key, id| {
        if of(record, key).is_none() {
            let value = match id {
                Id::Text(text) => AnyValue::String(StringValue::from(text.clone())),
                Id::Number(number) => AnyValue::Int(number.into()),
                Id::Flag(flag) => AnyValue::Boolean(flag),
            };
            record.add_attribute(Key::from_static_str(key), value);
        }
    });
}

fn of<'r>(record: &'r SdkLogRecord, key: &str) -> Option<&'r AnyValue> {
    let mut attributes = record.attributes_iter();
    attributes
        .find(|(own, _)| own.as_str() == key)
        .map(|(_, value)| value)
}

/// A layer that makes a log record of `provider` of each event that passes `filter`, with its name, level,
/// target and fields. [`RunIdsProcessor`] adds the ids.
///
/// It takes every level: give it a filter of levels, too, one that leaves out what the exporter's own
/// libraries log.
pub fn appender_layer<S, P, L>(
    provider: &P,
    filter: RunFilter,
) -> impl Layer<S> + Send + Sync + use<S, P, L>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    P: LoggerProvider<Logger = L> + Send + Sync + 'static,
    L: Logger + Send + Sync + 'static,
{
    OpenTelemetryTracingBridge::new(provider).with_filter(filter)
}
