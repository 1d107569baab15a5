//! Which traces are recorded.

use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingResult, ShouldSample};

use super::InitError;
use crate::names::operation;
use crate::tracer::Own;

/// A sampler of this share of traces, decided by the trace id. `setting` is to blame for a share
/// that is none.
pub(super) fn ratio(setting: &str, ratio: f64) -> Result<Sampler, InitError> {
    if (0.0..=1.0).contains(&ratio) {
        Ok(Sampler::TraceIdRatioBased(ratio))
    } else {
        Err(InitError::invalid(
            setting,
            format!("{ratio} is not between 0 and 1"),
        ))
    }
}

/// Decides anew where a run is started by a caller that was not sampled.
#[derive(Debug, Clone)]
pub(super) struct ResampleRuns {
    pub(super) otherwise: Box<dyn ShouldSample>,
    pub(super) runs: Sampler,
}

impl ShouldSample for ResampleRuns {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let starts_run = Own::is_starting()
            && name
                .strip_prefix(operation::WORKFLOW_START)
                .is_some_and(|rest| rest.starts_with(' '));
        let parent_not_sampled = parent.is_some_and(|cx| {
            let span = cx.span();
            span.span_context().is_valid() && !span.span_context().is_sampled()
        });
        let sampler: &dyn ShouldSample = if starts_run && parent_not_sampled {
            &self.runs
        } else {
            &*self.otherwise
        };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}
