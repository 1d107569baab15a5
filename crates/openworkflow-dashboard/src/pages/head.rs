//! What stands above every view of a run: what it is, where its time went, where it stands, what failed.

use std::time::SystemTime;

use maud::{Markup, html};
use openworkflow::backend::StoredError;
use openworkflow::trace::picture::duration;
use openworkflow::trace::{Standing, TraceFailure};

use super::{ago, bars, exactly, status};
use crate::Site;
use crate::link::trace_id;
use crate::request::Visit;
use crate::story::Story;
use crate::text::{MESSAGE, NAME, anchor, between, count, cut, encode, lines};

pub(super) fn title(site: &Site, visit: &Visit, story: &Story) -> Markup {
    let run = &story.run;
    let is_over = run.status.is_terminal();
    let waits = matches!(story.summary.standing, Standing::Parked { .. });
    html! {
        nav.crumbs aria-label="Where this is" {
            a href=(visit.path("/runs")) { "← Runs" }
            @if let Some(parent) = &story.summary.parent_run_id {
                " · "
                a href=(visit.run(parent, "")) title=(cut(parent, NAME)) { "↑ Parent" }
            }
        }
        div.title {
            h1 {
                a.plain href=(visit.path(&format!("/workflows/{}", encode(&run.workflow_name)))) { (cut(&run.workflow_name, NAME)) }
                @if let Some(version) = &run.version { " " span.version { "version " (cut(version, 40)) } }
            }
            div.now { (status(&run.status)) span.total { (duration(story.summary.total)) } }
            @if !site.read_only && is_over {
                div.buttons { a.button.again href=(visit.run(&run.id, "/again")) { "Run again…" } }
            }
            @if !site.read_only && !is_over {
                div.buttons {
                    @if waits { a.button href=(visit.run(&run.id, "/signal")) { "Send signal…" } }
                    a.button.danger href=(visit.run(&run.id, "/cancel")) { "Cancel…" }
                }
            }
        }
    }
}

pub(super) fn facts(site: &Site, visit: &Visit, story: &Story, now: SystemTime) -> Markup {
    let (run, summary) = (&story.run, &story.summary);
    let trace = run.carrier.get("traceparent").and_then(trace_id);
    let workers = match &*summary.worker_ids {
        [] => None,
        [one] => Some(cut(one, 60)),
        [one, rest @ ..] => Some(format!("{} and {} more", cut(one, 60), rest.len())),
    };
    html! {
        dl.facts {
            div.wide { dt { "Id" } dd { code data-copy { (cut(&run.id, NAME)) } } }
            div { dt { "Created" } dd { (exactly(run.created_at)) " " span.quiet { (ago(run.created_at, now)) } } }
            @if let Some(ended) = run.finished_at {
                div { dt { "Ended" } dd { (exactly(ended)) " " span.quiet { (ago(ended, now)) } } }
            }
            div {
                dt { "Work" }
                dd {
                    (count(summary.attempts as usize, "execution", "executions")) ", "
                    (count(summary.steps.len(), "step", "steps")) ", "
                    (count(summary.retries as usize, "retry", "retries"))
                }
            }
            @if let Some(workers) = workers { div { dt { "Worker" } dd { (workers) } } }
            @if let Some(key) = &run.idempotency_key { div { dt { "Key" } dd { (cut(key, NAME)) } } }
            @if let Some(deadline) = run.deadline_at.filter(|_| run.finished_at.is_none()) {
                div { dt { "Deadline" } dd { (exactly(deadline)) " " span.quiet { (ago(deadline, now)) } } }
            }
            @if let Some(next) = &run.continued_as {
                div.wide { dt { "Continued as" } dd { a href=(visit.run(next, "")) { code { (cut(next, NAME)) } } } }
            }
            @if let Some(of) = &story.related.made_of {
                div.wide { dt { "Made of" } dd { a href=(visit.run(&of.run_id, "")) { code { (cut(&of.run_id, NAME)) } } " " span.quiet { (of.kind.as_str()) } } }
            }
            @if let Some(last) = story.related.made_into.last() {
                div.wide {
                    dt { "Run again as" }
                    dd {
                        a href=(visit.run(&last.run_id, "")) { code { (cut(&last.run_id, NAME)) } }
                        @if story.related.made_into.len() > 1 { span.quiet { " and " (story.related.made_into.len() - 1) " before" } }
                    }
                }
            }
            @if !summary.children.is_empty() {
                div.wide {
                    dt { (count(summary.children.len(), "child", "children")) }
                    dd.children {
                        @for child in summary.children.iter().take(6) {
                            a href=(visit.run(&child.run_id, "")) title=(cut(&child.run_id, NAME)) {
                                (status(&child.status)) " "
                                (cut(child.workflow_name.as_deref().unwrap_or(&child.run_id), 40))
                            }
                        }
                        @if summary.children.len() > 6 { span.quiet { "and " (summary.children.len() - 6) " more" } }
                    }
                }
            }
            @if let Some(id) = trace {
                div.wide {
                    dt { "Trace" }
                    dd {
                        code data-copy { (id) }
                        @for link in &site.links {
                            " " a href=(link.to(id)) rel="noreferrer noopener" target="_blank" { (link.name) " ↗" }
                        }
                    }
                }
            }
        }
    }
}

/// Where the time went, and where the run stands.
pub(super) fn time(story: &Story, now: SystemTime) -> Markup {
    html! {
        section.card.time aria-label="Where the time went" {
            (bars::spent(&story.summary))
            @if let Some(words) = standing(&story.summary.standing, now) {
                p.standing { b { "Now: " } (words) }
            }
        }
    }
}

fn standing(standing: &Standing, now: SystemTime) -> Option<Markup> {
    let words = match standing {
        Standing::Delayed { until } => html! { "starts " (ago(*until, now)) },
        Standing::Queued { since } => html! {
            "waits for a worker"
            @if let Some(since) = since { ", due " (ago(*since, now)) }
        },
        Standing::Executing { worker_id, since } => html! {
            "executing on " (cut(worker_id, 80))
            @if let Some(since) = since { ", since " (ago(*since, now)) }
        },
        Standing::Lost { worker_id, since } => html! {
            span.warn { "its worker " (cut(worker_id, 80)) " was lost" }
            @if let Some(since) = since { " " (ago(*since, now)) }
            "; another takes it over"
        },
        Standing::Parked { until, waits_for } => html! {
            @if waits_for.is_empty() { "parked" } @else { "waits for " }
            @for (index, name) in waits_for.iter().take(3).enumerate() {
                @if index > 0 { ", " }
                a href={ "#" (encode(&anchor(None, name))) } { (cut(name, 80)) }
            }
            @if waits_for.len() > 3 { " and " (waits_for.len() - 3) " more" }
            @if let Some(until) = until { ", ends " (ago(*until, now)) " at the latest" }
        },
        Standing::BackingOff { until, .. } => html! {
            "tries again"
            @if let Some(until) = until { " " (ago(*until, now)) }
        },
        Standing::Over => return None,
        _ => html! { "has a status that this page does not know" },
    };
    Some(words)
}

/// The first failure, and the last.
pub(super) fn failures(visit: &Visit, story: &Story, now: SystemTime) -> Markup {
    let errors = &story.summary.errors;
    let Some(first) = errors.first() else {
        return html! {};
    };
    let last = errors.last().filter(|_| errors.len() > 1);
    html! {
        section.card.failures aria-label="What failed" {
            (failure(story, first, now))
            @if errors.len() > 2 {
                p.quiet {
                    "… " (count(errors.len() - 2, "more failure", "more failures")) " in between: "
                    a href=(visit.run(&story.run.id, "?view=events")) { "events" }
                }
            }
            @if let Some(last) = last { (failure(story, last, now)) }
        }
    }
}

fn failure(story: &Story, failure: &TraceFailure, now: SystemTime) -> Markup {
    let is_over = story.run.status.is_terminal();
    html! {
        article {
            h2 {
                span.bad aria-hidden="true" { "✗ " }
                @match &failure.step {
                    Some(step) => {
                        a href={ "#" (encode(&anchor(None, &step.name))) } { (cut(&step.name, NAME)) }
                        span.quiet { " · attempt " (step.attempt) }
                    }
                    None => { "The run" }
                }
                span.quiet { " · " (ago(failure.at, now)) }
            }
            (error(&failure.error))
            p.next {
                @match failure.next_try_at {
                    Some(at) if at > now => { "Next try " (ago(at, now)) "." }
                    Some(at) => { "Tried again " (duration(between(failure.at, at))) " later." }
                    None if is_over && failure.step.is_none() => { "Not tried again: the run failed for good." }
                    None => { "Not tried again." }
                }
            }
        }
    }
}

/// An error with its causes.
pub(super) fn error(error: &StoredError) -> Markup {
    let stack = error.stack.as_deref().unwrap_or_default().trim_end();
    let causes: Vec<&str> = stack
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let first: Vec<&str> = causes.iter().take(4).copied().collect();
    html! {
        p.message {
            @if let Some(name) = &error.name { b { (cut(name, NAME)) } ": " }
            (lines(&error.message, MESSAGE))
        }
        @if !first.is_empty() {
            pre.causes { (lines(&first.join("\n"), MESSAGE)) }
        }
        @if causes.len() > first.len() {
            details {
                summary { (count(causes.len() - first.len(), "more line", "more lines")) }
                pre.causes { (lines(&causes.get(4..).unwrap_or_default().join("\n"), 5 * MESSAGE)) }
            }
        }
    }
}
