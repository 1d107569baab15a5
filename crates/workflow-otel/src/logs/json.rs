//! Which run, step and span a line of a JSON log is about.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use serde_json::Value;
use serde_json::value::RawValue;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use super::RunFilter;
use super::ids::{self, Id};
use crate::context::scope::StepScope;
use crate::names::attribute;

const TRACE_ID: &str = "trace_id";
const SPAN_ID: &str = "span_id";
const EVENT_NAME: &str = "event.name";

/// What an event can say of itself that would be added otherwise.
const IDS: [&str; 4] = [
    attribute::WORKFLOW_RUN_ID,
    attribute::WORKFLOW_NAME,
    attribute::WORKFLOW_RUN_ATTEMPT,
    attribute::STEP_NAME,
];

/// Writes events that pass `filter` to `writer`, each as a line of JSON with its ids: time, level, target,
/// fields and the `tracing` span around it as [`tracing_subscriber`] writes them, and what
/// [`JsonRunFields`] adds.
///
/// ```
/// use tracing_subscriber::filter::LevelFilter;
/// use tracing_subscriber::prelude::*;
/// use workflow_otel::logs::{RunFilter, json_layer};
///
/// let lines = json_layer(std::io::stdout, RunFilter::new()).with_filter(LevelFilter::INFO);
/// let subscriber = tracing_subscriber::registry().with(lines);
/// ```
pub fn json_layer<S, W>(writer: W, filter: RunFilter) -> impl Layer<S> + Send + Sync + use<S, W>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer()
        .json()
        .with_span_list(false)
        .with_writer(writer)
        .map_event_format(|format| JsonRunFields {
            keeps_fields_apart: true,
            ..JsonRunFields::new(format)
        })
        .with_filter(filter)
}

/// Adds `trace_id`, `span_id` and, where it has one, `event.name` to the lines of a JSON log, and inside a
/// run `workflow_run.id`, `workflow.name`, `workflow_run.attempt` and `step.name`: an event formatter around
/// another that writes one JSON object a line. [`json_layer`] is that with all that belongs to it.
///
/// The fields are at the top of the object, also those of these that an event has itself, unless they stand
/// there already. An event that is about another run than the one that is executed has nothing of that one.
/// What replays repeat has `workflow_run.replaying`. Lines that are no JSON objects stay as they are,
/// without colors.
///
/// ```
/// use tracing_subscriber::prelude::*;
/// use workflow_otel::logs::JsonRunFields;
///
/// let lines = tracing_subscriber::fmt::layer().json().flatten_event(true);
/// let lines = lines.map_event_format(JsonRunFields::new);
/// let subscriber = tracing_subscriber::registry().with(lines);
/// ```
#[derive(Debug, Clone)]
pub struct JsonRunFields<F> {
    format: F,
    /// Whether the event's fields are known to be in an object of their own, where no id of ours meets one.
    keeps_fields_apart: bool,
}

impl<F> JsonRunFields<F> {
    /// Adds to what `format` writes. From now on, every step of the process has its name in its
    /// context, which costs three allocations a step.
    pub fn new(format: F) -> Self {
        StepScope::want();
        Self {
            format,
            keeps_fields_apart: false,
        }
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
        let mixed = (!self.keeps_fields_apart).then_some(&*line);
        let members = Context::map_current(|cx| members(cx, event, mixed));
        if members.is_empty() {
            return writer.write_str(&line);
        }
        // The object may have had no member.
        let comma = if rest.trim_start().starts_with('}') {
            ""
        } else {
            ","
        };
        write!(writer, "{{{members}{comma}{rest}")
    }
}

/// The members to add to a line about `event`, as JSON without braces. `mixed` is the line where the event's
/// fields may stand among its members.
fn members(cx: &Context, event: &Event<'_>, mixed: Option<&str>) -> String {
    let metadata = event.metadata();
    let has = |key: &&str| metadata.fields().field(*key).is_some();
    let own = if IDS.iter().any(has) {
        Own::of(event)
    } else {
        Own::default()
    };
    let collides = !own.0.is_empty() || [TRACE_ID, SPAN_ID, EVENT_NAME].iter().any(has);
    // The event's fields may be there under the same names.
    let there: HashMap<String, &RawValue> = match mixed {
        Some(line) if collides => serde_json::from_str(line).unwrap_or_default(),
        _ => HashMap::new(),
    };
    let mut json = String::new();
    let mut add = |key: &str, value: &dyn fmt::Display| {
        if !there.contains_key(key) {
            let separator = if json.is_empty() { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(json, "{separator}\"{key}\":{value}");
        }
    };
    let span = cx.span();
    let span_context = span.span_context();
    if span_context.is_valid() {
        add(TRACE_ID, &format_args!("\"{}\"", span_context.trace_id()));
        add(SPAN_ID, &format_args!("\"{}\"", span_context.span_id()));
    }
    // One without a name is called after its place.
    if !metadata.name().starts_with("event ") {
        add(EVENT_NAME, &Value::from(metadata.name()));
    }
    for (key, value) in &own.0 {
        add(key, value);
    }
    let own_run = own.get(attribute::WORKFLOW_RUN_ID);
    let own_run = own_run.map(|run| run.as_str().unwrap_or_default());
    ids::each(cx, own_run, |key, id| {
        if own.get(key).is_none() {
            match id {
                Id::Text(text) => add(key, &Value::from(&**text)),
                Id::Number(number) => add(key, &number),
                Id::Flag(flag) => add(key, &flag),
            }
        }
    });
    json
}

/// What an event says of itself.
#[derive(Default)]
struct Own(Vec<(&'static str, Value)>);

impl Own {
    fn of(event: &Event<'_>) -> Self {
        let mut own = Self::default();
        event.record(&mut own);
        own
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(own, _)| *own == key);
        found.map(|(_, value)| value)
    }

    fn put(&mut self, field: &Field, value: impl FnOnce() -> Value) {
        if IDS.contains(&field.name()) {
            self.0.push((field.name(), value()));
        }
    }
}

impl Visit for Own {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, || format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, || value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, || value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, || value.into());
    }
}
