//! Stamps the user's own spans with the run they were made in.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::Span as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use crate::context::scope::{RunScope, StepScope};
use crate::names::attribute;
use crate::tracer::Own;

/// A span processor that sets `workflow_run.id`, `workflow.name` and, inside a step, `step.name` on
/// the spans which the application makes inside a run, so that they are found by these too.
///
/// Opt-in: add it to the tracer provider *before* the processor that exports. It sees the spans made
/// where the run's context is current, those of spawned tasks included if the context was passed on.
///
/// ```
/// use opentelemetry_sdk::trace::SdkTracerProvider;
/// use workflow_otel::{OtelInterceptor, RunAttributesProcessor};
///
/// let provider = SdkTracerProvider::builder()
///     .with_span_processor(RunAttributesProcessor::new())
///     // .with_batch_exporter(…)
///     .build();
/// let otel = OtelInterceptor::builder().tracer_provider(&provider).build();
/// ```
#[derive(Debug)]
pub struct RunAttributesProcessor(());

impl RunAttributesProcessor {
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

impl SpanProcessor for RunAttributesProcessor {
    fn on_start(&self, span: &mut Span, parent: &Context) {
        if Own::is_starting() {
            return;
        }
        let Some(scope) = RunScope::of(parent) else {
            return;
        };
        let run = &scope.execution.run;
        span.set_attribute(KeyValue::new(
            attribute::WORKFLOW_RUN_ID,
            Arc::clone(&run.id),
        ));
        span.set_attribute(KeyValue::new(
            attribute::WORKFLOW_NAME,
            Arc::clone(&run.workflow_name),
        ));
        if let Some(StepScope(Some(name))) = parent.get() {
            span.set_attribute(KeyValue::new(attribute::STEP_NAME, Arc::clone(name)));
        }
    }

    fn on_end(&self, _span: SpanData) {}

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}
