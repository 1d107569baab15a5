//! The span `workflow.run` of a run, in its carrier: chosen by who creates the run, made by who ends it.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use workflow_core::{Carrier, RunInfo};

use super::traceparent;
use crate::ids;

/// The parent of the bar. The bar's own span is where the propagators wrote the executions' parent.
const KEY: &str = "workflow-run-parent";

/// The context in which the executions of `run` are, if its bar belongs to `creator`.
pub(crate) fn context(run: &RunInfo, creator: &Context, parent: &SpanContext) -> Context {
    creator.with_remote_span_context(SpanContext::new(
        parent.trace_id(),
        ids::run(&run.namespace_id, &run.id),
        parent.trace_flags(),
        true,
        parent.trace_state().clone(),
    ))
}

pub(crate) fn write(carrier: &mut Carrier, parent: &SpanContext) {
    carrier.insert(KEY, traceparent::write(parent));
}

/// The parent of the bar, where the run has one.
pub(crate) fn parent(carrier: &Carrier) -> Option<SpanContext> {
    carrier.get(KEY).and_then(traceparent::read)
}

pub(crate) fn remove(carrier: &mut Carrier) {
    carrier.remove(KEY);
}
