//! The executions of a run, as they are recorded, else as they are concluded.
//!
//! There is a row of each execution that its owner ended other than by completing the run, and a member of
//! the run's `config` for each that somebody else ended. What is under way, or has completed the run, is the
//! last claim, which stands in `config`, too, unless the run's row tells all of it.

use std::time::SystemTime;

use workflow_core::{LostExecution, WakeCause};

use super::execution::{ExecutionEnding, TraceExecution};
use super::steps::{Tale, tales};
use super::{Story, inference};
use crate::backend::{ExecutionRecord, RunRecord, StepAttemptKind};
use crate::wake::{self, OpenWait};

/// The executions of a run, in their order.
pub(super) fn executions(story: &Story, tales: &[Tale<'_>]) -> Vec<TraceExecution> {
    let attempts = story.run.attempts;
    if attempts == 0 {
        return Vec::new();
    }
    let mut known: Vec<TraceExecution> = story
        .executions
        .iter()
        .filter(|record| record.attempt > 0 && record.attempt <= attempts)
        .map(recorded)
        .collect();
    let is_last_known = known
        .last()
        .is_some_and(|last| last.number == Some(attempts));
    if !is_last_known && let Some(last) = last(story) {
        known.push(last);
    }
    if known.is_empty() {
        return inference::executions(story, tales);
    }
    let mut executions = with_gaps(story, tales, known);
    for index in 0..executions.len() {
        see_last_of(story, tales, &mut executions, index);
        executions[index].cause = cause(tales, &executions, index);
    }
    executions
}

/// An execution of a run that was lost, as interceptors are told of it. `None` where it is not recorded.
pub(crate) fn lost(record: RunRecord, now: SystemTime, attempt: u32) -> Option<LostExecution> {
    let story = Story::new(record, now);
    let tales = tales(&story);
    let executions = executions(&story, &tales);
    let lost = executions.into_iter().find(|execution| {
        execution.number == Some(attempt)
            && execution.ending == Some(ExecutionEnding::Lost)
            && !execution.estimated
    })?;
    let (began_at, ended_at) = (lost.began_at?, lost.ended_at?);
    let mut told = LostExecution::new(attempt, lost.worker_id?, began_at, ended_at)
        .with_replay(tales.iter().any(|tale| tale.began_at < began_at));
    told.due_for = lost
        .due_at
        .map(|due_at| began_at.duration_since(due_at).unwrap_or_default());
    told.woken_by = lost.cause;
    Some(told)
}

fn recorded(record: &ExecutionRecord) -> TraceExecution {
    TraceExecution {
        number: Some(record.attempt),
        due_at: Some(record.times.due_at),
        began_at: Some(record.times.claimed_at),
        ended_at: Some(record.ended_at),
        ending: Some(record.ending.into()),
        worker_id: Some(record.worker_id.clone()),
        cause: None,
        estimated: false,
    }
}

/// What the last claim came to, where the run's own row tells.
fn last(story: &Story) -> Option<TraceExecution> {
    let run = &story.run;
    let claim = story.claim.filter(|(number, _)| *number == run.attempts);
    let (due_at, began_at) = match claim {
        Some((_, times)) => (times.due_at, times.claimed_at),
        // A first claim of a run that was due at once is not noted: its row has it all.
        None => {
            let is_first = run.attempts == 1 && story.claim.is_none();
            let is_ours = run.worker_id.as_deref().is_some_and(inference::is_ours);
            (
                run.created_at,
                run.started_at.filter(|_| is_first && is_ours)?,
            )
        }
    };
    let mut last = TraceExecution {
        number: Some(run.attempts),
        due_at: Some(due_at),
        began_at: Some(began_at),
        ended_at: None,
        ending: None,
        worker_id: run.worker_id.clone(),
        cause: None,
        estimated: false,
    };
    inference::end(story, &mut last);
    // It was put away, and nobody recorded when: somebody may have written the row since.
    last.estimated = !run.status.is_terminal() && last.ended_at.is_some();
    Some(last)
}

/// Puts one in the place of those that nobody recorded in a row: TypeScript made them, say.
fn with_gaps(story: &Story, tales: &[Tale<'_>], known: Vec<TraceExecution>) -> Vec<TraceExecution> {
    let mut marks: Vec<SystemTime> = tales
        .iter()
        .flat_map(|tale| [Some(tale.began_at), tale.ended_at])
        .flatten()
        .collect();
    marks.sort_unstable();
    let gap = |after: Option<&TraceExecution>, before: Option<&TraceExecution>| {
        let from = after.map_or(0, |after| after.number.unwrap_or_default()) + 1;
        let to = before.map_or(story.run.attempts + 1, |before| {
            before.number.unwrap_or_default()
        });
        if from >= to {
            return None;
        }
        let mut execution = TraceExecution::estimated((from + 1 == to).then_some(from));
        let since = after.and_then(|after| after.ended_at);
        let until = before.and_then(|before| before.began_at);
        let is_between = |at: &&SystemTime| {
            since.is_none_or(|since| **at > since) && until.is_none_or(|until| **at < until)
        };
        execution.began_at = marks.iter().find(is_between).copied();
        execution.ended_at = marks.iter().rev().find(is_between).copied();
        if before.is_none() {
            inference::end(story, &mut execution);
        }
        Some(execution)
    };
    let mut executions: Vec<TraceExecution> = Vec::with_capacity(known.len());
    for execution in known {
        let unknown = gap(executions.last(), Some(&execution));
        executions.extend(unknown);
        executions.push(execution);
    }
    let unknown = gap(executions.last(), None);
    executions.extend(unknown);
    executions
}

/// Of an execution that was lost, the last sign of life may be what was written of a step.
fn see_last_of(story: &Story, tales: &[Tale<'_>], executions: &mut [TraceExecution], index: usize) {
    let until = executions.get(index + 1).and_then(|next| next.began_at);
    let until = until.unwrap_or(story.horizon());
    let execution = &mut executions[index];
    let (Some(ExecutionEnding::Lost), Some(began_at)) = (execution.ending, execution.began_at)
    else {
        return;
    };
    let signs = tales.iter().flat_map(|tale| {
        [
            Some(tale.began_at),
            tale.ended_at,
            Some(tale.of.attempt.updated_at),
        ]
    });
    let signs = signs.flatten().filter(|at| began_at <= *at && *at < until);
    execution.ended_at = execution.ended_at.max(signs.max());
}

/// What made the run due before one of its executions.
fn cause(tales: &[Tale<'_>], executions: &[TraceExecution], index: usize) -> Option<WakeCause> {
    let execution = executions.get(index)?;
    if execution.number == Some(1) {
        return Some(WakeCause::Created);
    }
    let before = executions.get(index.checked_sub(1)?)?;
    let follows = before.number.and_then(|number| number.checked_add(1)) == execution.number;
    if !follows || execution.number.is_none() || before.ending.is_none() {
        return None;
    }
    let (due_at, began_at) = (execution.due_at?, execution.began_at?);
    let otherwise = match before.ending? {
        ExecutionEnding::Lost => Some(WakeCause::TakeOver),
        ExecutionEnding::GivenBack => Some(WakeCause::GivenBack),
        ExecutionEnding::Retrying => Some(WakeCause::Retry),
        _ => None,
    };
    // A short sleep may be over before it is recorded.
    let set_up_by = before
        .ended_at
        .map_or(due_at, |ended_at| ended_at.max(due_at));
    let open = tales.iter().filter(|tale| {
        tale.is_wait()
            && tale.began_at <= set_up_by
            && tale.ended_at.is_none_or(|ended_at| began_at <= ended_at)
    });
    let waits = open.map(|tale| OpenWait {
        arrival: match (&tale.of.attempt.kind, tale.of.received_at, &tale.of.child) {
            (_, Some(at), _) => Some((at, WakeCause::Signal)),
            (StepAttemptKind::Workflow, None, Some(child)) => {
                child.finished_at.map(|at| (at, WakeCause::Child))
            }
            _ => None,
        },
        until: tale.wait.resume_at.or(tale.wait.timeout_at),
    });
    wake::cause(otherwise, due_at, waits)
}
