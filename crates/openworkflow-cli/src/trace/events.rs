//! What happened to a run, in order: a line per event.

use openworkflow::trace::{TraceEvent, TraceEventKind as Kind, TraceEvents};

use crate::failure::Failure;
use crate::screen::Screen;
use crate::table::styles;
use crate::text::{between, duration, fit, moment, pad, safe, width};

pub(super) fn show(trace: &TraceEvents, screen: &mut Screen) -> Result<(), Failure> {
    if screen.json {
        for event in &trace.events {
            screen.object(event)?;
        }
        for unreadable in &trace.unreadable {
            screen.note(&format!("cannot be read: {}", safe(&unreadable.problem)))?;
        }
        return Ok(());
    }
    let begin = trace.events.first().map(|event| event.at);
    let has_children = trace
        .events
        .iter()
        .any(|event| event.run_id != trace.run_id);
    for event in &trace.events {
        let since = begin.map(|begin| duration(between(begin, event.at)));
        let about = if event.estimated { "~" } else { " " };
        let (name, style) = (event.kind.name().replace('_', " "), style(&event.kind));
        let run = match has_children {
            true => format!("{} ", pad(&fit(&event.run_id, 36), 36)),
            false => String::new(),
        };
        let dim = styles::DIM;
        let head = format!(
            "{dim}{}{about}+{}{dim:#} {run}{style}{}{style:#} ",
            moment(event.at, 23),
            pad(&since.unwrap_or_default(), 11),
            pad(&name, 19),
        );
        // Time, offset, name, and the spaces between them.
        let used = 23 + 2 + 11 + 1 + width(&run) + 19 + 1;
        let room = screen.width.saturating_sub(used).max(16);
        screen.line(format!("{head}{}", fit(&detail(event), room)));
    }
    for unreadable in &trace.unreadable {
        let problem = safe(&unreadable.problem);
        screen.line(format!("cannot be read: {problem}"));
    }
    if trace.children_left_out > 0 {
        let count = trace.children_left_out;
        screen.line(format!(
            "{count} runs below it are left out: there are too many"
        ));
    }
    Ok(())
}

fn style(kind: &Kind) -> anstyle::Style {
    match kind {
        Kind::RunCompleted | Kind::StepCompleted { .. } => styles::GOOD,
        Kind::RunFailed { .. } | Kind::StepFailed { .. } | Kind::StepTimedOut { .. } => styles::BAD,
        Kind::RunRetryScheduled { .. } | Kind::RunTakenOver { .. } | Kind::RunCanceled => {
            styles::WARNING
        }
        Kind::SignalReceived { .. } | Kind::ChildEnded { .. } => styles::WAITING,
        kind if kind.is_internal() => styles::DIM,
        _ => styles::PLAIN,
    }
}

/// What it is about, not safe yet.
fn detail(event: &TraceEvent) -> String {
    let step = event.kind.step().map(|step| match step.attempt {
        1 => step.name.clone(),
        nth => format!("{} (attempt {nth})", step.name),
    });
    let more = match &event.kind {
        Kind::RunCreated { workflow_name, .. } => workflow_name.clone(),
        Kind::RunClaimed { worker_id, .. }
        | Kind::RunResumed { worker_id, .. }
        | Kind::RunTakenOver { worker_id, .. } => match worker_id {
            Some(id) => format!("by {id}"),
            None => String::new(),
        },
        Kind::RunParked { waits_for, .. } if !waits_for.is_empty() => {
            format!("waits for {}", waits_for.join(", "))
        }
        Kind::RunRetryScheduled {
            error: Some(error), ..
        } => error.to_string(),
        Kind::RunContinued { successor_run_id } => format!("as {successor_run_id}"),
        Kind::RunFailed { error } | Kind::StepFailed { error, .. } => error.to_string(),
        Kind::SignalReceived {
            signal: Some(signal),
            ..
        } => signal.clone(),
        Kind::ChildEnded {
            child_run_id,
            status,
            ..
        } => format!("{status} {child_run_id}"),
        _ => String::new(),
    };
    match (step, more.is_empty()) {
        (Some(step), true) => step,
        (Some(step), false) => format!("{step}: {more}"),
        (None, _) => more,
    }
}
