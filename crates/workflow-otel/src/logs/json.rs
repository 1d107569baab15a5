//! Which run a line of a JSON log is about.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::context::scope::{RunScope, StepScope};
use crate::names::attribute;

/// Adds `trace_id` and `span_id` to the lines of a JSON log, and inside a run `workflow_run.id`,
/// `workflow.name` and `step.name`: an event formatter around another that writes one JSON object a
/// line.
///
/// The fields are at the top of the object. Lines that are no JSON objects stay as they are, without
/// colors.
///
/// ```
/// use tracing_subscriber::prelude::*;
/// use workflow_otel::JsonRunFields;
///
/// let logs = tracing_subscriber::fmt::layer().json().map_event_format(JsonRunFields::new);
/// let subscriber = tracing_subscriber::registry().with(logs);
/// ```
#[derive(Debug, Clone)]
pub struct JsonRunFields<F> {
    format: F,
}

impl<F> JsonRunFields<F> {
    /// Adds to what `format` writes. From now on, every step of the process has its name in its
    /// context, which costs three allocations a step.
    pub fn new(format: F) -> Self {
        StepScope::want();
        Self { format }
    }
}

impl<S, N, F> FormatEvent<S, N> for JsonRunFields<F>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.format
            .format_event(ctx, Writer::new(&mut line), event)?;
        let Some(rest) = line.strip_prefix('{') else {
            return writer.write_str(&line);
        };
        let fields = Context::map_current(fields);
        if fields.is_empty() {
            return writer.write_str(&line);
        }
        // The object may have had no member.
        let comma = if rest.trim_start().starts_with('}') {
            ""
        } else {
            ","
        };
        write!(writer, "{{{fields}{comma}{rest}")
    }
}

/// The members to add, as JSON without braces.
fn fields(cx: &Context) -> String {
    let mut json = String::new();
    let mut add = |key: &str, value: &str| {
        let separator = if json.is_empty() { "" } else { "," };
        let value = serde_json::Value::from(value);
        json.push_str(&format!("{separator}\"{key}\":{value}"));
    };
    let span = cx.span();
    let span_context = span.span_context();
    if span_context.is_valid() {
        add("trace_id", &span_context.trace_id().to_string());
        add("span_id", &span_context.span_id().to_string());
    }
    if let Some(scope) = RunScope::of(cx) {
        let run = &scope.execution.run;
        add(attribute::WORKFLOW_RUN_ID, &run.id);
        add(attribute::WORKFLOW_NAME, &run.workflow_name);
        if let Some(StepScope(Some(name))) = cx.get() {
            add(attribute::STEP_NAME, name);
        }
    }
    json
}
