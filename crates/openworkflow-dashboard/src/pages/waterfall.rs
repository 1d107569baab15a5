//! The picture of a run: a row per step, or per execution, over time.

use std::collections::HashMap;
use std::time::SystemTime;

use maud::{Markup, html};
use openworkflow::WakeCause;
use openworkflow::trace::picture::{Axis, Line, MOST_ROWS, Row, SegmentKind, duration};
use openworkflow::trace::{StepState, TraceFailure};

use super::bars;
use super::run::Options;
use crate::request::Visit;
use crate::story::Story;
use crate::text::{NAME, anchor, between, count, cut, encode, moment};

/// Columns of time; about as many characters fit into it on a screen of usual width.
const COLUMNS: usize = 96;
/// No page has more rows than this.
const MOST_SHOWN: usize = 5_000;
/// How many failures are told below their rows.
const MOST_FAILURES: usize = 50;

type Failures<'a> = HashMap<(&'a str, &'a str), Vec<&'a TraceFailure>>;

pub(super) fn steps(visit: &Visit, story: &Story, options: &Options) -> Markup {
    let picture = &story.picture;
    if picture.rows.is_empty() {
        let is_over = story.run.status.is_terminal();
        let text = match is_over {
            true => "It had no steps.",
            false => "No step has begun yet.",
        };
        return html! { div.empty { p { (text) } } };
    }
    let all = picture.rows.len();
    let lines = match options.all() {
        true => picture
            .rows
            .iter()
            .take(MOST_SHOWN)
            .cloned()
            .map(Line::Row)
            .collect(),
        false => picture.folded(),
    };
    let axis = picture.axis(COLUMNS, options.folds());
    let failures = failures(story);
    let mut told = 0;
    html! {
        div.scroll tabindex="0" role="region" aria-label="Waterfall" {
            table.waterfall {
                thead { tr {
                    th.name scope="col" { "Step" }
                    th.over scope="col" { span.hidden { "Over time" } (bars::scale(&axis)) }
                    th.number scope="col" { "Took" }
                    th.outcome scope="col" { "Outcome" }
                } }
                @for (index, group) in families(&lines).into_iter().enumerate() {
                    @let is_family = group.len() > 1;
                    tbody {
                        @for (place, line) in group.into_iter().enumerate() {
                            @match line {
                                Line::Row(row) => {
                                    (step(story, row, &axis, (is_family && place == 0).then_some(index)))
                                    (below(row, &failures, &mut told))
                                }
                                Line::LeftOut(count) => {
                                    tr.left-out { th scope="row" { "… " (count) " more" } td colspan="3" {} }
                                }
                                _ => {}
                            }
                        }
                    }
                }
            }
        }
        p.legend.quiet {
            (legend("work", "work")) (legend("wait", "wait")) (legend("dots", "until the next try"))
            (legend("failed", "failed")) (legend("band", "folded time"))
        }
        @if all > MOST_ROWS {
            p.fold-note {
                @if options.all() {
                    (count(all.min(MOST_SHOWN), "row", "rows")) ". "
                    @if all > MOST_SHOWN { "Those after are left out: there are too many. " }
                    a href=(visit.run(&story.run.id, &options.query(&[("all", "")]))) { "Fold by name" }
                } @else {
                    (count(all, "step", "steps")) ", folded by name. "
                    a href=(visit.run(&story.run.id, &options.query(&[("all", "1")]))) { "Show all" }
                }
            }
        }
    }
}

/// The rows of the run's own steps, each with those of the children that it created.
fn families(lines: &[Line]) -> Vec<Vec<&Line>> {
    let mut families: Vec<Vec<&Line>> = Vec::new();
    for line in lines {
        let is_deep = matches!(line, Line::Row(row) if row.depth > 0);
        match families.last_mut() {
            Some(family) if is_deep => family.push(line),
            _ => families.push(vec![line]),
        }
    }
    families
}

fn failures(story: &Story) -> Failures<'_> {
    let mut failures: Failures<'_> = HashMap::new();
    let runs = std::iter::once(&story.summary).chain(&story.summary.descendants);
    for run in runs {
        for failure in &run.errors {
            if let Some(step) = &failure.step {
                let key = (&*run.run_id, &*step.name);
                failures.entry(key).or_default().push(failure);
            }
        }
    }
    failures
}

fn id(story: &Story, row: &Row) -> String {
    let is_own = row.run_id == story.run.id;
    anchor((!is_own).then_some(&*row.run_id), &row.name)
}

fn step(story: &Story, row: &Row, axis: &Axis, family: Option<usize>) -> Markup {
    let id = id(story, row);
    let is_going = matches!(
        row.state,
        StepState::Running | StepState::Waiting | StepState::Retrying
    );
    let depth = row.depth.min(8);
    html! {
        tr id=(id) data-row class={ @if depth > 0 { "deep depth-" (depth) } } {
            th.name scope="row" {
                @if let Some(family) = family {
                    label.fold title="Steps of the child" {
                        input type="checkbox" id={ "family-" (family) };
                        span.hidden { "Show the steps of the child" }
                    }
                }
                a href={ "#" (encode(&id)) } title=(cut(&row.name, NAME)) { (cut(&row.name, 60)) }
                " " span.kind { (cut(row.kind.as_str(), 20)) }
            }
            td.over { (bars::row(axis, &row.segments, is_going, &told(story, row))) }
            td.number { (row.took()) }
            td.outcome { (outcome(row)) }
        }
    }
}

/// What is drawn, in words.
fn told(story: &Story, row: &Row) -> String {
    let after = duration(between(story.picture.from, row.began_at));
    let tries = row
        .segments
        .iter()
        .filter(|of| of.kind == SegmentKind::Failed)
        .count();
    let mut text = format!("began after {after}");
    if let Some(took) = row.duration {
        text.push_str(&format!(", took {}", duration(took)));
    }
    if tries > 0 {
        text.push_str(&format!(
            ", {}",
            count(tries, "failed attempt", "failed attempts")
        ));
    }
    text
}

fn outcome(row: &Row) -> Markup {
    let (class, glyph) = match row.state {
        StepState::Completed => ("good", "✓"),
        StepState::Failed | StepState::TimedOut => ("bad", "✗"),
        StepState::Retrying => ("warn", "↻"),
        StepState::Waiting => ("waiting", "◐"),
        StepState::Running => ("going", "●"),
        StepState::Abandoned => ("warn", "?"),
        _ => ("over", "⊘"),
    };
    html! {
        span class={ "status " (class) } { span.glyph aria-hidden="true" { (glyph) } " " (row.outcome()) }
    }
}

/// What failed in a row's attempts: the first of it.
fn below(row: &Row, failures: &Failures<'_>, told: &mut usize) -> Markup {
    let of_row = failures.get(&(&*row.run_id, &*row.name));
    let Some([first, rest @ ..]) = of_row.map(Vec::as_slice) else {
        return html! {};
    };
    if *told >= MOST_FAILURES || row.group.is_some() {
        return html! {};
    }
    *told += 1;
    let attempt = first.step.as_ref().map_or(1, |step| step.attempt);
    html! {
        tr class={ "below" @if row.depth > 0 { " deep" } } {
            td colspan="4" {
                span.bad aria-hidden="true" { "✗ " }
                @if let Some(name) = &first.error.name { b { (cut(name, 60)) } ": " }
                (cut(&first.error.message, 300))
                span.quiet {
                    " · attempt " (attempt)
                    @if let Some(next) = first.next_try_at { " · next try " (duration(between(first.at, next))) " later" }
                    @if !rest.is_empty() { " · " (count(rest.len(), "more failure", "more failures")) }
                }
            }
        }
    }
}

fn legend(class: &str, word: &str) -> Markup {
    html! {
        span {
            svg.key aria-hidden="true" width="16" height="12" {
                @match class {
                    "dots" => { line.dots x1="0" x2="16" y1="6" y2="6" {} }
                    "failed" => { path.failed d="M4 2l8 8M12 2l-8 8" {} }
                    "wait" => { rect.wait x="0.5" y="2.5" width="15" height="7" rx="3.5" {} }
                    class => { rect class=(class) x="0" y="1" width="16" height="10" rx="2" {} }
                }
            }
            " " (word)
        }
    }
}

/// A row per execution.
pub(super) fn executions(story: &Story, options: &Options) -> Markup {
    let executions = &story.summary.executions;
    if executions.is_empty() {
        return html! { div.empty { p { "No worker has claimed it yet." } } };
    }
    let axis = story.picture.axis(COLUMNS, options.folds());
    let left_out = executions.len().saturating_sub(MOST_SHOWN);
    let are_several = story.summary.worker_ids.len() > 1;
    html! {
        div.scroll tabindex="0" role="region" aria-label="Executions" {
            table.waterfall {
                thead { tr {
                    th.name scope="col" { "Execution" }
                    th.over scope="col" { span.hidden { "Over time" } (bars::scale(&axis)) }
                    th.number scope="col" { "Took" }
                    th.outcome scope="col" { "Ended" }
                } }
                tbody {
                    @for one in executions.iter().take(MOST_SHOWN) {
                        @let end = one.ended_at.unwrap_or(story.picture.to);
                        @let took = one.began_at.map(|began| between(began, end));
                        tr data-row {
                            th.name scope="row" {
                                a href="#main" {
                                    @if let Some(number) = one.number { "execution " (number) } @else { "an execution" }
                                }
                                " "
                                span.kind {
                                    @match one.cause {
                                        Some(WakeCause::Created) => { "the first" }
                                        Some(cause) => { "woken by " (cause.as_str().replace('_', " ")) }
                                        None => {}
                                    }
                                    @if one.estimated { " · concluded" }
                                }
                            }
                            td.over {
                                @if let Some(began) = one.began_at {
                                    (bars::execution(&axis, one.due_at, began, end, &moments(began, end)))
                                }
                            }
                            td.number {
                                @if let Some(took) = took { @if one.estimated { "about " } (duration(took)) }
                            }
                            td.outcome {
                                @match one.ending {
                                    Some(ending) => (word(&ending)),
                                    None if one.ended_at.is_none() && !story.run.status.is_terminal() => { "under way" }
                                    None => {}
                                }
                                @if let Some(worker) = one.worker_id.as_ref().filter(|_| are_several) {
                                    " " span.quiet title=(cut(worker, NAME)) { "by " (cut(worker, 18)) }
                                }
                            }
                        }
                    }
                }
            }
        }
        p.legend.quiet { (legend("queued", "queued")) (legend("work", "executing")) (legend("band", "folded time")) }
        @if executions.iter().any(|one| one.estimated) {
            p.basis.quiet { "What is concluded from the steps is bounds: it began no later, and ended no earlier." }
        }
        @if left_out > 0 { p.quiet { (left_out) " more are left out: there are too many." } }
    }
}

fn moments(began: SystemTime, ended: SystemTime) -> String {
    format!("from {} to {}", moment(began), moment(ended))
}

/// The word that the JSON has for it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        _ => String::new(),
    }
}
