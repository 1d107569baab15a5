//! What happened to a run, event by event.

use maud::{Markup, html};
use openworkflow::trace::{TraceEvent, TraceEventKind};

use crate::Site;
use crate::problem::Problem;
use crate::story::Story;
use crate::text::{NAME, between, cut, moment, number};
use openworkflow::trace::picture::duration;

/// So many are on the page: the first ones, and the last.
const MOST: usize = 1_000;

pub(super) async fn show(site: &Site, story: &Story) -> Result<Markup, Problem> {
    let request = site.client.trace_events(&*story.run.id);
    let request = request.children(story.with_children).include_internal(true);
    let trace = request.await?;
    let count = trace.events.len();
    let left_out = count.saturating_sub(MOST);
    let (head, tail) = match left_out {
        0 => (&*trace.events, &[] as &[TraceEvent]),
        _ => (
            trace.events.get(..MOST / 2).unwrap_or_default(),
            trace.events.get(count - MOST / 2..).unwrap_or_default(),
        ),
    };
    Ok(html! {
        div.scroll tabindex="0" role="region" aria-label="Events" {
            table.events {
                thead { tr {
                    th.number scope="col" { "After" }
                    th scope="col" { "At (UTC)" }
                    th scope="col" { "Event" }
                    th scope="col" { "Of" }
                    th scope="col" { "With" }
                } }
                tbody {
                    @for event in head { (row(story, event)) }
                    @if left_out > 0 {
                        tr.left-out { td colspan="5" { "… " (number(left_out as u64)) " events in the middle are left out; /api has all" } }
                    }
                    @for event in tail { (row(story, event)) }
                }
            }
        }
    })
}

fn row(story: &Story, event: &TraceEvent) -> Markup {
    let class = match &event.kind {
        TraceEventKind::StepFailed { .. } | TraceEventKind::RunFailed { .. } => "bad",
        TraceEventKind::RunRetryScheduled { .. } | TraceEventKind::RunTakenOver { .. } => "warn",
        _ => "",
    };
    let is_own = event.run_id == story.run.id;
    html! {
        tr data-row {
            td.number {
                @if event.estimated { "about " }
                (duration(between(story.summary.created_at, event.at)))
            }
            td.quiet.line { (moment(event.at)) }
            td.line { span class=(class) { (event.kind.name().replace('_', " ")) } }
            td.name {
                @if let Some(step) = event.kind.step() {
                    span title=(cut(&step.name, NAME)) { (cut(&step.name, 60)) }
                    @if step.attempt > 1 { span.quiet { " attempt " (step.attempt) } }
                }
                @if !is_own { " " span.quiet { "child " (cut(&event.run_id, 36)) } }
            }
            td.quiet { (details(event)) }
        }
    }
}

/// What the event has beside its step.
fn details(event: &TraceEvent) -> String {
    let Ok(serde_json::Value::Object(members)) = serde_json::to_value(&event.kind) else {
        return String::new();
    };
    let mut parts = Vec::new();
    for (key, value) in members {
        let text = match value {
            _ if key == "event" || key == "step" => continue,
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => cut(&text, 200),
            serde_json::Value::Array(items) => {
                let items = items.iter().take(3).filter_map(|item| item.as_str());
                items
                    .map(|item| cut(item, 60))
                    .collect::<Vec<_>>()
                    .join(", ")
            }
            serde_json::Value::Object(error) => {
                let text = |key: &str| error.get(key).and_then(serde_json::Value::as_str);
                let message = cut(text("message").unwrap_or_default(), 200);
                match text("name") {
                    Some(name) => format!("{}: {message}", cut(name, 60)),
                    None => message,
                }
            }
            other => other.to_string(),
        };
        if !text.is_empty() {
            parts.push(format!("{} {text}", key.replace('_', " ")));
        }
    }
    parts.join(" · ")
}
