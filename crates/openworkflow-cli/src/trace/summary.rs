//! A run at a glance: executions, steps by kind and state, and the slowest.

use openworkflow::trace::{TraceExecution, TraceSummary};

use super::rows::word;
use crate::screen::Screen;
use crate::table::{Table, styles};
use crate::text::{between, duration, fit, moment};

/// How many executions are listed: the first ones, and the last.
const EXECUTIONS: usize = 20;

pub(super) fn show(summary: &TraceSummary, screen: &mut Screen) {
    if !summary.step_counts.is_empty() {
        screen.line("");
        let mut table = Table::new(&["STEPS", "KIND", "STATE"]);
        for count in &summary.step_counts {
            let number = count.count.to_string();
            table.row(vec![
                (&*number, styles::PLAIN),
                (count.kind.as_str(), styles::PLAIN),
                (word(count.state), styles::PLAIN),
            ]);
        }
        table.show(screen);
    }
    if !summary.slowest.is_empty() {
        screen.line("");
        let mut table = Table::new(&["TOOK", "SLOWEST STEPS"]);
        for name in &summary.slowest {
            let step = summary.steps.iter().find(|step| step.name == *name);
            let took = step.and_then(|step| step.duration);
            let took = took.map(duration).unwrap_or_default();
            table.row(vec![(&*took, styles::PLAIN), (&**name, styles::BOLD)]);
        }
        table.show(screen);
    }
    executions(&summary.executions, screen);
    for run in &summary.descendants {
        let style = styles::of_run(&run.status);
        screen.line(format!(
            "{} {style}{}{style:#} {} · {} steps, {} failures",
            fit(&run.run_id, 40),
            fit(run.status.as_str(), 12),
            fit(&run.workflow_name, 40),
            run.steps.len(),
            run.errors.len(),
        ));
    }
}

fn executions(executions: &[TraceExecution], screen: &mut Screen) {
    if executions.is_empty() {
        return;
    }
    screen.line("");
    let mut table = Table::new(&["EXECUTION", "BEGAN (UTC)", "TOOK", "CAUSE", "ENDED"]);
    let left_out = executions.len().saturating_sub(EXECUTIONS);
    let shown = executions.iter().take(EXECUTIONS / 2);
    let shown = shown.chain(executions.iter().skip(EXECUTIONS / 2 + left_out));
    for one in shown {
        let number = one.number.map(|number| number.to_string());
        let number = number.unwrap_or_else(|| "?".to_owned());
        let about = if one.estimated { "about " } else { "" };
        let began = one.began_at.map(|at| moment(at, 23)).unwrap_or_default();
        let took = one.began_at.zip(one.ended_at);
        let took = took.map(|(from, to)| format!("{about}{}", duration(between(from, to))));
        let cause = one.cause.map(|cause| cause.as_str()).unwrap_or_default();
        let ended = one.ending.map(|ending| snake(&ending)).unwrap_or_default();
        table.row(vec![
            (&*number, styles::PLAIN),
            (&*began, styles::DIM),
            (took.as_deref().unwrap_or(""), styles::PLAIN),
            (cause, styles::PLAIN),
            (&*ended, styles::PLAIN),
        ]);
    }
    table.show(screen);
    if left_out > 0 {
        screen.line(format!("{left_out} executions in the middle are left out"));
    }
}

/// The word that the JSON has for it.
fn snake(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        _ => String::new(),
    }
}
