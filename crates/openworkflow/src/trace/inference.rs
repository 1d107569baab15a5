//! Executions concluded from what the steps of a run did: what can be known of one whose executions nobody
//! recorded, such as one that TypeScript executed.
//!
//! A run is parked, or waits for a retry, where something waits and nothing is at work. Whatever is written
//! of a step was written by an execution. So the stretches in which nothing was written, no function ran and
//! something waited lie between executions.

use std::time::SystemTime;

use workflow_core::WakeCause;

use super::Story;
use super::execution::{ExecutionEnding, TraceExecution};
use super::steps::{Fate, Tale};
use crate::backend::{RunStatus, StepAttemptKind};

/// A stretch between two executions.
struct Rest {
    from: SystemTime,
    to: SystemTime,
    ending: ExecutionEnding,
    /// What ended it, where that shows.
    cause: Option<WakeCause>,
}

/// The executions of a run that was claimed.
pub(super) fn executions(story: &Story, tales: &[Tale<'_>]) -> Vec<TraceExecution> {
    let run = &story.run;
    let horizon = story.horizon();
    let rests = rests(story, tales);
    let mut executions = vec![TraceExecution::estimated(None)];
    for rest in &rests {
        if let Some(last) = executions.last_mut() {
            last.ended_at = Some(rest.from);
            last.ending = Some(rest.ending);
        }
        let mut next = TraceExecution::estimated(None);
        next.began_at = Some(rest.to);
        next.cause = rest.cause;
        executions.push(next);
    }
    // The last stretch may be one that nothing has ended.
    let is_resting = !run.status.is_terminal() && run.worker_id.is_none();
    let was_resting = matches!(run.status, RunStatus::Canceled)
        || (run.status == RunStatus::Failed && run.started_at.is_some());
    let rests_to_the_end = rests.last().is_some_and(|rest| rest.to == horizon);
    if rests_to_the_end && (is_resting || was_resting) {
        executions.pop();
    } else if let Some(last) = executions.last_mut() {
        if rests_to_the_end && !run.status.is_terminal() {
            // It is at work, and the rows do not tell since when.
            last.began_at = None;
            last.cause = None;
        }
        end(story, last);
    }
    let count = u32::try_from(executions.len()).unwrap_or(u32::MAX);
    if count == run.attempts {
        for (number, execution) in (1..).zip(&mut executions) {
            execution.number = Some(number);
        }
    }
    first(story, tales, &mut executions);
    if let [only] = &mut executions[..]
        && run.attempts == 1
    {
        let ended = only.ended_at == run.finished_at && run.finished_at.is_some();
        only.estimated = !(only.began_at == run.started_at && run.started_at.is_some())
            || !(ended || (only.ended_at.is_none() && run.worker_id.is_some()));
    }
    if let Some(last) = executions.last_mut()
        && last
            .ending
            .is_none_or(|ending| ending == ExecutionEnding::Completed)
    {
        last.worker_id.clone_from(&run.worker_id);
    }
    executions
}

/// What is known of the first one.
fn first(story: &Story, tales: &[Tale<'_>], executions: &mut [TraceExecution]) {
    let run = &story.run;
    let Some(first) = executions.first_mut() else {
        return;
    };
    first.cause = Some(WakeCause::Created);
    // This library records a delay. Who claimed the run shows in the worker's id alone.
    let is_ours = run.worker_id.as_deref().is_some_and(is_ours);
    first.due_at = (run.attempts == 1 && is_ours).then_some(run.created_at);
    let began = tales.iter().map(|tale| tale.began_at).min();
    // It is when the first execution began, unless there was a failure since.
    first.began_at = match (run.started_at, began) {
        (Some(started_at), Some(began)) if run.attempts > 1 => Some(started_at.min(began)),
        (Some(started_at), _) => Some(started_at),
        (None, began) => began,
    };
}

/// Whether a worker is one of this library's, whose ids are UUIDs of version 7.
pub(super) fn is_ours(worker_id: &str) -> bool {
    let id = uuid::Uuid::parse_str(worker_id);
    id.is_ok_and(|id| id.get_version_num() == 7)
}

/// How the last one ended.
pub(super) fn end(story: &Story, last: &mut TraceExecution) {
    use ExecutionEnding as E;
    let run = &story.run;
    let (ended_at, ending) = match run.status {
        RunStatus::Completed | RunStatus::Succeeded => (run.finished_at, Some(E::Completed)),
        RunStatus::Failed => (run.finished_at, Some(E::Failed)),
        RunStatus::Canceled => (run.finished_at, Some(E::Canceled)),
        _ if run.worker_id.is_some() => (None, None),
        RunStatus::Pending => (Some(run.updated_at), Some(E::Retrying)),
        _ => (Some(run.updated_at), Some(E::Parked)),
    };
    last.ended_at = ended_at;
    last.ending = ending;
}

fn rests(story: &Story, tales: &[Tale<'_>]) -> Vec<Rest> {
    let run = &story.run;
    let horizon = story.horizon();
    let end = |tale: &Tale<'_>| tale.ended_at.unwrap_or(horizon).min(horizon);
    // Where something was written, and where functions ran.
    let mut marks = Vec::new();
    let mut busy = Vec::new();
    for tale in tales {
        marks.push(tale.began_at);
        marks.extend(tale.ended_at);
        if !tale.is_wait() && tale.fate != Fate::Open {
            busy.push((tale.began_at, end(tale)));
        }
    }
    marks.extend(run.started_at);
    marks.push(horizon);
    marks.sort_unstable();
    marks.dedup();
    busy.sort_unstable();
    let is_busy = |from: SystemTime, to: SystemTime| {
        let before = busy.partition_point(|(began, _)| *began < to);
        busy[..before].iter().any(|(_, ended)| *ended > from)
    };
    // Each failure that was tried again, until then.
    let retries: Vec<(SystemTime, SystemTime)> = tales
        .iter()
        .enumerate()
        .filter(|(_, tale)| tale.fate == Fate::Failed)
        .filter_map(|(index, tale)| {
            let next = tales[index + 1..]
                .iter()
                .find(|later| later.name() == tale.name());
            let until = match next {
                Some(next) => next.began_at,
                None if run.status == RunStatus::Pending && !tale.is_told() => horizon,
                None => return None,
            };
            let failed_at = tale.ended_at?;
            // The claim since the last failure stands in the run's row.
            let claimed_at = run.started_at.filter(|at| *at >= failed_at);
            Some((failed_at, claimed_at.map_or(until, |at| until.min(at))))
        })
        .collect();
    let mut rests: Vec<Rest> = Vec::new();
    for pair in marks.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        if is_busy(from, to) {
            continue;
        }
        let within = |began: SystemTime, ended: SystemTime| began <= from && ended >= to;
        let waits = tales
            .iter()
            .any(|tale| tale.is_wait() && within(tale.began_at, end(tale)));
        let retries = retries.iter().any(|(began, ended)| within(*began, *ended));
        if !waits && !retries {
            continue;
        }
        let ended = tales
            .iter()
            .filter(|tale| tale.is_wait() && tale.ended_at == Some(to));
        let cause = ended.filter_map(woken_by).next();
        rests.push(Rest {
            from,
            to,
            ending: match retries {
                true => ExecutionEnding::Retrying,
                false => ExecutionEnding::Parked,
            },
            cause: cause.or(retries.then_some(WakeCause::Retry)),
        });
    }
    rests
}

/// What the end of a wait has woken the run by.
fn woken_by(tale: &Tale<'_>) -> Option<WakeCause> {
    match (&tale.of.attempt.kind, tale.fate) {
        (_, Fate::Withdrawn | Fate::Open) => None,
        (StepAttemptKind::SignalWait, Fate::Completed) => Some(WakeCause::Signal),
        (StepAttemptKind::Workflow, _) => {
            let child = tale.of.child.as_ref()?;
            let ended = child
                .finished_at
                .is_some_and(|at| Some(at) <= tale.ended_at);
            Some(if ended {
                WakeCause::Child
            } else {
                WakeCause::Timer
            })
        }
        _ => Some(WakeCause::Timer),
    }
}
