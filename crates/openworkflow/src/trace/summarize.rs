//! From the rows of a run to its summary.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::event::TraceStep;
use super::events::waiting_at;
use super::execution::{ExecutionEnding, TraceExecution};
use super::steps::{Fate, Tale, tales};
use super::summary::{
    Measured, Standing, StepCount, StepState, TimeSpent, TraceChild, TraceFailure,
    TraceStepSummary, TraceSummary,
};
use super::{Story, recorded};
use crate::backend::{RunStatus, StepAttemptKind, StoredError};

/// How many of the slowest steps are named.
const SLOWEST: usize = 5;

/// The summary of a run, without those of its children.
pub(crate) fn summarize(story: &Story) -> TraceSummary {
    let run = &story.run;
    let tales = tales(story);
    let executions = recorded::executions(story, &tales);
    let steps = steps(story, &tales);
    let mut worker_ids: Vec<String> = Vec::new();
    for worker_id in executions.iter().filter_map(|of| of.worker_id.as_ref()) {
        if !worker_ids.contains(worker_id) {
            worker_ids.push(worker_id.clone());
        }
    }
    let (errors, retries) = failures(story, &tales);
    TraceSummary {
        run_id: run.id.clone(),
        workflow_name: run.workflow_name.clone(),
        workflow_version: run.version.clone(),
        parent_run_id: story.parent_run_id.clone(),
        status: run.status.clone(),
        standing: standing(story, &tales, &executions),
        created_at: run.created_at,
        finished_at: run.finished_at,
        deadline_at: run.deadline_at,
        continued_as: run.successor().map(str::to_owned),
        total: between(run.created_at, story.horizon()),
        time: time(story, &executions),
        attempts: run.attempts,
        worker_ids,
        step_counts: counts(&steps),
        retries,
        errors,
        slowest: slowest(&steps),
        children: children(&tales),
        unreadable: story.unreadable.clone(),
        descendants: Vec::new(),
        children_left_out: 0,
        executions,
        steps,
    }
}

fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

fn standing(story: &Story, tales: &[Tale<'_>], executions: &[TraceExecution]) -> Standing {
    let run = &story.run;
    let due_at = run.available_at;
    let is_due = due_at.is_some_and(|at| at <= story.now);
    match (&run.status, &run.worker_id) {
        (status, _) if status.is_terminal() => Standing::Over,
        (RunStatus::Other(_), _) => Standing::Unknown,
        (RunStatus::Running, Some(worker_id)) => {
            let worker_id = worker_id.clone();
            if is_due {
                return Standing::Lost {
                    worker_id,
                    since: due_at,
                };
            }
            let last = executions.last();
            Standing::Executing {
                worker_id,
                since: last.and_then(|last| last.began_at),
            }
        }
        _ if is_due => Standing::Queued { since: due_at },
        (RunStatus::Pending, _) if run.error.is_some() || run.attempts > 0 => {
            Standing::BackingOff {
                until: due_at,
                error: run.error.clone(),
            }
        }
        (RunStatus::Pending, _) => match due_at {
            Some(until) => Standing::Delayed { until },
            None => Standing::Queued { since: None },
        },
        _ => Standing::Parked {
            until: due_at,
            waits_for: waiting_at(tales, story.now).map(str::to_owned).collect(),
        },
    }
}

/// The parts, while they are added up.
#[derive(Default)]
struct Parts {
    delayed: Duration,
    queued: Duration,
    executing: Duration,
    parked: Duration,
    backing_off: Duration,
    lost: Duration,
}

impl Parts {
    /// Where the time goes after an execution.
    fn after(&mut self, ending: Option<ExecutionEnding>) -> Option<&mut Duration> {
        match ending? {
            ExecutionEnding::Parked => Some(&mut self.parked),
            ExecutionEnding::Retrying => Some(&mut self.backing_off),
            ExecutionEnding::Lost => Some(&mut self.lost),
            _ => None,
        }
    }
}

fn time(story: &Story, executions: &[TraceExecution]) -> TimeSpent {
    let run = &story.run;
    let horizon = story.horizon();
    let total = between(run.created_at, horizon);
    let mut parts = Parts::default();
    // Whether all of it is recorded, and whether it is known when the run became due each time.
    let mut recorded = executions.len() as u64 == u64::from(run.attempts);
    let mut dues_known = true;
    let mut reached = run.created_at;
    let mut before: Option<&TraceExecution> = None;
    for execution in executions {
        let began_at = execution.began_at;
        recorded &= !execution.estimated;
        dues_known &= execution.due_at.is_some();
        if let Some(began_at) = began_at {
            let due_at = execution.due_at.unwrap_or(match before {
                // A delay, if there was one, is not told from waiting for a worker.
                None => reached,
                Some(_) => began_at,
            });
            let due_at = due_at.clamp(reached.min(began_at), began_at);
            match before {
                None => parts.delayed += between(reached, due_at),
                Some(before) => {
                    if let Some(part) = parts.after(before.ending) {
                        *part += between(reached, due_at);
                    }
                }
            }
            parts.queued += between(due_at, began_at);
            let ended_at = execution.ended_at.unwrap_or(horizon);
            parts.executing += between(began_at, ended_at);
            reached = ended_at;
        } else {
            recorded = false;
            reached = execution.ended_at.unwrap_or(reached);
        }
        before = Some(execution);
    }
    // What came after the last execution, or before the first.
    let due_at = run.available_at.filter(|_| !run.status.is_terminal());
    let is_open = before.is_some_and(|last| last.ended_at.is_none());
    if !is_open {
        let until = due_at
            .unwrap_or(horizon)
            .clamp(reached.min(horizon), horizon);
        let rested = match before {
            None => Some(&mut parts.delayed),
            Some(last) => parts.after(last.ending),
        };
        if let Some(part) = rested {
            *part += between(reached, until);
            parts.queued += between(until, horizon);
        }
    }
    let measured = |duration, estimated| {
        Some(Measured {
            duration,
            estimated,
        })
    };
    // Of what was executed more than once, waiting for a worker is not told from what came before it.
    let queued = match (recorded && dues_known, run.attempts) {
        (true, _) => measured(parts.queued, false),
        (false, 0 | 1) => measured(parts.queued, true),
        (false, _) => None,
    };
    let known = recorded && dues_known;
    let all = [
        parts.delayed,
        parts.executing,
        parts.parked,
        parts.backing_off,
        parts.lost,
        queued.map_or(Duration::ZERO, |queued: Measured| queued.duration),
    ];
    TimeSpent {
        delayed: measured(parts.delayed, false).filter(|_| known),
        queued,
        executing: measured(parts.executing, !recorded),
        parked: measured(parts.parked, !known),
        backing_off: measured(parts.backing_off, !known),
        lost: measured(parts.lost, false).filter(|_| known),
        unaccounted: total.saturating_sub(all.iter().sum()),
    }
}

fn steps(story: &Story, tales: &[Tale<'_>]) -> Vec<TraceStepSummary> {
    let mut order: Vec<&str> = Vec::new();
    let mut by_name: BTreeMap<&str, Vec<&Tale<'_>>> = BTreeMap::new();
    for tale in tales {
        let attempts = by_name.entry(tale.name()).or_default();
        if attempts.is_empty() {
            order.push(tale.name());
        }
        attempts.push(tale);
    }
    let attempts = order.into_iter().filter_map(|name| by_name.remove(name));
    attempts.filter_map(|of| step(story, &of)).collect()
}

fn step(story: &Story, attempts: &[&Tale<'_>]) -> Option<TraceStepSummary> {
    let (first, last) = (attempts.first()?, attempts.last()?);
    // Of a step that has a result, whatever else stands there is beside the point: TypeScript begins some
    // waits anew.
    let result = attempts
        .iter()
        .find(|tale| matches!(tale.fate, Fate::Completed | Fate::TimedOut));
    let decisive = result.unwrap_or(last);
    let began_at = first.began_at;
    let ended_at = decisive.ended_at;
    Some(TraceStepSummary {
        name: decisive.name().to_owned(),
        kind: decisive.of.attempt.kind.clone(),
        state: state(story, decisive),
        attempts: u32::try_from(attempts.len()).unwrap_or(u32::MAX),
        began_at,
        ended_at,
        duration: ended_at.map(|ended_at| between(began_at, ended_at)),
        resume_at: decisive.wait.resume_at,
        timeout_at: decisive.wait.timeout_at,
        signal: decisive.wait.signal.as_deref().map(str::to_owned),
        child_run_id: decisive.of.child.as_ref().map(|child| child.id.clone()),
    })
}

fn state(story: &Story, tale: &Tale<'_>) -> StepState {
    let run = &story.run;
    let is_over = run.status.is_terminal();
    match tale.fate {
        Fate::Completed => StepState::Completed,
        Fate::TimedOut => StepState::TimedOut,
        Fate::Withdrawn => StepState::Withdrawn,
        Fate::Failed if is_over || tale.is_told() => StepState::Failed,
        Fate::Failed => StepState::Retrying,
        Fate::Open if is_over => StepState::Abandoned,
        Fate::Open if tale.is_wait() => StepState::Waiting,
        Fate::Open if run.worker_id.is_some() => StepState::Running,
        Fate::Open => StepState::Abandoned,
    }
}

fn counts(steps: &[TraceStepSummary]) -> Vec<StepCount> {
    let mut counts: Vec<StepCount> = Vec::new();
    for step in steps {
        let of_this = |count: &&mut StepCount| count.kind == step.kind && count.state == step.state;
        match counts.iter_mut().find(of_this) {
            Some(count) => count.count += 1,
            None => counts.push(StepCount {
                kind: step.kind.clone(),
                state: step.state,
                count: 1,
            }),
        }
    }
    counts.sort_by(|a, b| (a.kind.as_str(), a.state).cmp(&(b.kind.as_str(), b.state)));
    counts
}

fn slowest(steps: &[TraceStepSummary]) -> Vec<String> {
    use StepAttemptKind as K;
    let mut steps: Vec<_> = steps
        .iter()
        .filter(|step| !matches!(step.kind, K::Sleep | K::SignalWait))
        .filter_map(|step| Some((step.duration?, &step.name)))
        .collect();
    steps.sort_by_key(|(duration, _)| std::cmp::Reverse(*duration));
    let names = steps.into_iter().take(SLOWEST);
    names.map(|(_, name)| name.clone()).collect()
}

/// What failed, and how often something was tried again.
fn failures(story: &Story, tales: &[Tale<'_>]) -> (Vec<TraceFailure>, u32) {
    let run = &story.run;
    let retry_at = match run.status {
        RunStatus::Pending => run.available_at,
        _ => None,
    };
    let mut retries = 0;
    let mut failures: Vec<TraceFailure> = Vec::new();
    for (index, tale) in tales.iter().enumerate() {
        let (Fate::Failed, Some(at)) = (tale.fate, tale.ended_at) else {
            continue;
        };
        let later = &tales[index + 1..];
        let next = later.iter().find(|later| later.name() == tale.name());
        retries += u32::from(next.is_some());
        let next_try_at = match next {
            Some(next) => Some(next.began_at),
            None => retry_at.filter(|_| !tale.is_told()),
        };
        failures.push(of_step(at, tale.step(), tale.error(), next_try_at));
    }
    // The error of a run is mostly that of a step.
    let of_run = run.error.clone().filter(|error| {
        let is_current = matches!(run.status, RunStatus::Failed | RunStatus::Pending);
        let of_a_step = || {
            let mut failures = failures.iter();
            failures.any(|failure| {
                failure.error.message == error.message && failure.error.name == error.name
            })
        };
        is_current && !of_a_step()
    });
    if let Some(error) = of_run {
        failures.push(TraceFailure {
            at: run.finished_at.unwrap_or(run.updated_at),
            step: None,
            error,
            next_try_at: retry_at,
        });
    }
    failures.sort_by_key(|failure| failure.at);
    (failures, retries)
}

fn of_step(
    at: SystemTime,
    step: TraceStep,
    error: StoredError,
    next_try_at: Option<SystemTime>,
) -> TraceFailure {
    TraceFailure {
        at,
        step: Some(step),
        error,
        next_try_at,
    }
}

fn children(tales: &[Tale<'_>]) -> Vec<TraceChild> {
    let children = tales.iter().filter_map(|tale| {
        let child = tale.of.child.as_ref()?;
        Some(TraceChild {
            run_id: child.id.clone(),
            step_name: tale.name().to_owned(),
            workflow_name: child.workflow_name.clone(),
            status: child.status.clone(),
        })
    });
    children.collect()
}
