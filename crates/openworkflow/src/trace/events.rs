//! From the rows of a run to its events, in the order in which they happened.
//!
//! Times alone do not tell it: they are milliseconds, some of them, and what shares a commit shares a time. So the
//! executions of a run are one sequence, the events of a step another, and where times are equal the one is
//! laid through the other as it must have been: a wait ends in a later execution than the one that set it up,
//! and results are in the order in which the workflow's code observed them.

use std::collections::{HashSet, VecDeque};
use std::time::SystemTime;

use super::event::{TraceEvent, TraceEventKind as Kind};
use super::execution::{ExecutionEnding, TraceExecution};
use super::steps::{Fate, Tale, tales};
use super::{Story, recorded};
use crate::backend::codec::whole_millis;
use crate::backend::{RunStatus, StepAttemptKind, StoredError};

/// An event of the run itself.
struct OfRun {
    at: SystemTime,
    estimated: bool,
    /// The execution that begins, if one does.
    begins: Option<Option<u32>>,
    is_last: bool,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    Start,
    /// What a wait waits for is there.
    Arrival,
    End,
}

/// An event of a step.
struct OfStep<'a> {
    at: SystemTime,
    moment: Moment,
    tale: &'a Tale<'a>,
    kind: Kind,
}

/// The events of a run, in order.
pub(crate) fn events(story: &Story, include_internal: bool) -> Vec<TraceEvent> {
    let tales = tales(story);
    let executions = recorded::executions(story, &tales);
    let mut of_run = of_run(story, &tales, &executions);
    let mut of_steps: Vec<_> = tales.iter().flat_map(of_step).collect();
    // Begins are stored to the millisecond and ends more finely, so that what began right after an end
    // would come before it.
    for at in of_run.iter_mut().map(|event| &mut event.at) {
        *at = whole_millis(*at);
    }
    for at in of_steps.iter_mut().map(|event| &mut event.at) {
        *at = whole_millis(*at);
    }
    of_run.sort_by_key(|event| event.at);
    of_steps.sort_by_key(|event| event.at);
    let mut merging = Merging {
        run_id: &story.run.id,
        begun: HashSet::new(),
        execution: None,
        events: Vec::with_capacity(of_run.len() + of_steps.len()),
    };
    let (mut of_run, mut of_steps) = (VecDeque::from(of_run), VecDeque::from(of_steps));
    while let Some(at) = [
        of_run.front().map(|event| event.at),
        of_steps.front().map(|event| event.at),
    ]
    .into_iter()
    .flatten()
    .min()
    {
        let count = of_run.iter().take_while(|event| event.at == at).count();
        let run = of_run.drain(..count).collect();
        let count = of_steps.iter().take_while(|event| event.at == at).count();
        let steps = of_steps.drain(..count).collect();
        merging.at_once(run, steps);
    }
    let mut events = merging.events;
    events.retain(|event| include_internal || !event.kind.is_internal());
    events
}

fn of_run(story: &Story, tales: &[Tale<'_>], executions: &[TraceExecution]) -> Vec<OfRun> {
    let run = &story.run;
    let of = |at, estimated, begins, kind| OfRun {
        at,
        estimated,
        begins,
        is_last: false,
        kind,
    };
    let mut events = vec![of(
        run.created_at,
        false,
        None,
        Kind::RunCreated {
            workflow_name: run.workflow_name.clone(),
            workflow_version: run.version.clone(),
            parent_run_id: story.parent_run_id.clone(),
            deadline_at: run.deadline_at,
        },
    )];
    for (index, execution) in executions.iter().enumerate() {
        let before = index
            .checked_sub(1)
            .and_then(|before| executions.get(before));
        if let Some(at) = execution.began_at {
            let estimated = execution.estimated && Some(at) != run.started_at;
            let number = execution.number.filter(|_| !execution.estimated);
            let kind = Kind::claim(execution, before);
            events.push(of(at, estimated, Some(number), kind));
        }
        let Some(at) = execution.ended_at else {
            continue;
        };
        let next_due_at = match executions.get(index + 1) {
            Some(next) => next.due_at,
            None => run.available_at,
        };
        let kind = match execution.ending {
            Some(ExecutionEnding::Parked) => Kind::RunParked {
                until: run.available_at.filter(|_| index + 1 == executions.len()),
                waits_for: parked_on(tales, execution, at).map(str::to_owned).collect(),
            },
            Some(ExecutionEnding::Retrying) => Kind::RunRetryScheduled {
                due_at: next_due_at,
                error: failure(story, tales, execution, index + 1 == executions.len()),
            },
            _ => continue,
        };
        events.push(of(at, execution.estimated, None, kind));
    }
    let ended_at = run.finished_at.unwrap_or(run.updated_at);
    let kind = match &run.status {
        RunStatus::Completed | RunStatus::Succeeded => match &run.continued_as {
            Some(successor) => Kind::RunContinued {
                successor_run_id: successor.clone(),
            },
            None => Kind::RunCompleted,
        },
        RunStatus::Failed => Kind::RunFailed {
            error: run.error.clone().unwrap_or_else(StoredError::unknown),
        },
        RunStatus::Canceled => Kind::RunCanceled,
        _ => return events,
    };
    let mut last = of(ended_at, run.finished_at.is_none(), None, kind);
    last.is_last = true;
    events.push(last);
    events
}

/// The steps that waited at a time.
pub(super) fn waiting_at<'a>(
    tales: &'a [Tale<'_>],
    at: SystemTime,
) -> impl Iterator<Item = &'a str> {
    let waiting = tales.iter().filter(move |tale| {
        tale.is_wait() && tale.began_at <= at && tale.ended_at.is_none_or(|ended| ended >= at)
    });
    waiting.map(Tale::name)
}

/// The steps for which an execution was parked at a time. A wait that ended in that very millisecond did so
/// in a later execution, if this one set it up and has not given it up.
fn parked_on<'a>(
    tales: &'a [Tale<'_>],
    execution: &TraceExecution,
    at: SystemTime,
) -> impl Iterator<Item = &'a str> {
    let (began_at, at) = (execution.began_at.map(whole_millis), whole_millis(at));
    let waiting = tales.iter().filter(move |tale| {
        let is_new = began_at.is_none_or(|began_at| began_at <= whole_millis(tale.began_at));
        tale.is_wait()
            && whole_millis(tale.began_at) <= at
            && tale.ended_at.is_none_or(|ended_at| {
                let ended_at = whole_millis(ended_at);
                ended_at > at || (ended_at == at && is_new && tale.fate != Fate::Withdrawn)
            })
    });
    waiting.map(Tale::name)
}

/// What failed in an execution, and is to be tried again.
fn failure(
    story: &Story,
    tales: &[Tale<'_>],
    execution: &TraceExecution,
    is_last: bool,
) -> Option<StoredError> {
    let failed = tales.iter().filter(|tale| {
        tale.fate == Fate::Failed
            && tale.ended_at <= execution.ended_at
            && tale.ended_at >= execution.began_at
            && !tale.is_told()
    });
    let failed = failed.max_by_key(|tale| tale.ended_at);
    // A run that is not over has the error of the failure before.
    let of_run = || story.run.error.clone().filter(|_| is_last);
    let of_step = failed.map(|tale| {
        let mut error = tale.error();
        error.step_name = Some(tale.name().to_owned());
        error
    });
    of_step.or_else(of_run)
}

fn of_step<'a>(tale: &'a Tale<'a>) -> Vec<OfStep<'a>> {
    let step = tale.step();
    let of = |at, moment, kind| OfStep {
        at,
        moment,
        tale,
        kind,
    };
    let child = tale.of.child.as_ref();
    let signal = tale.wait.signal.as_deref().map(str::to_owned);
    let mut events = vec![of(
        tale.began_at,
        Moment::Start,
        Kind::StepStarted {
            step: step.clone(),
            resume_at: tale.wait.resume_at,
            timeout_at: tale.wait.timeout_at,
            signal: signal.clone(),
            child_run_id: child.map(|child| child.id.clone()),
        },
    )];
    if let Some(at) = tale.of.received_at {
        events.push(of(
            at,
            Moment::Arrival,
            Kind::SignalReceived {
                step: step.clone(),
                signal,
            },
        ));
    }
    if let Some(child) = child
        && let Some(at) = child.finished_at
        && tale.ended_at.is_none_or(|ended| at <= ended)
    {
        events.push(of(
            at,
            Moment::Arrival,
            Kind::ChildEnded {
                step: step.clone(),
                child_run_id: child.id.clone(),
                status: child.status.clone(),
            },
        ));
    }
    let Some(at) = tale.ended_at else {
        return events;
    };
    let kind = match tale.fate {
        Fate::Open => return events,
        Fate::Completed => Kind::StepCompleted {
            recipients: tale.recipients(),
            step,
        },
        Fate::TimedOut => Kind::StepTimedOut { step },
        Fate::Withdrawn => Kind::StepWithdrawn { step },
        Fate::Failed => Kind::StepFailed {
            error: tale.error(),
            step,
        },
    };
    events.push(of(at, Moment::End, kind));
    events
}

struct Merging<'a> {
    run_id: &'a str,
    /// The attempts that the current execution began.
    begun: HashSet<&'a str>,
    /// The current execution, where it is recorded.
    execution: Option<u32>,
    events: Vec<TraceEvent>,
}

impl<'a> Merging<'a> {
    /// Lays those through each other that happened at one time.
    fn at_once(&mut self, of_run: Vec<OfRun>, mut of_steps: Vec<OfStep<'a>>) {
        let claims = of_run.iter().filter(|event| event.begins.is_some());
        let mut claims_left = claims.count();
        for event in of_run {
            if event.begins.is_some() {
                claims_left -= 1;
                self.flush(&mut of_steps, |this, step| {
                    step.moment == Moment::Arrival && !this.is_to_come(step)
                });
                self.begun.clear();
            } else if event.is_last {
                self.flush(&mut of_steps, |_, _| true);
            } else if !matches!(event.kind, Kind::RunCreated { .. }) {
                let later = match claims_left {
                    0 => None,
                    _ => Later::of(&of_steps, &self.begun),
                };
                self.flush(&mut of_steps, |_, step| {
                    later.as_ref().is_none_or(|later| !later.has(step))
                });
            }
            if let Some(number) = event.begins {
                self.execution = number;
            }
            self.events.push(TraceEvent {
                at: event.at,
                estimated: event.estimated,
                run_id: self.run_id.to_owned(),
                execution: self.execution,
                kind: event.kind,
            });
        }
        self.flush(&mut of_steps, |_, _| true);
    }

    /// Whether the start of the attempt has not been told yet.
    fn is_to_come(&self, step: &OfStep<'_>) -> bool {
        let told = self.events.iter().rev().any(|event| {
            event
                .kind
                .step()
                .is_some_and(|told| told.attempt_id == step.tale.of.attempt.id)
        });
        !told
    }

    fn flush(
        &mut self,
        of_steps: &mut Vec<OfStep<'a>>,
        mut is_now: impl FnMut(&Self, &OfStep<'a>) -> bool,
    ) {
        for event in std::mem::take(of_steps) {
            if !is_now(self, &event) {
                of_steps.push(event);
                continue;
            }
            if event.moment == Moment::Start {
                self.begun.insert(&event.tale.of.attempt.id);
            }
            let execution = self.execution;
            self.events.push(TraceEvent {
                at: event.at,
                estimated: false,
                run_id: self.run_id.to_owned(),
                execution: execution.filter(|_| event.moment != Moment::Arrival),
                kind: event.kind,
            });
        }
    }
}

/// What of the steps belongs to an execution that is yet to begin at the same time.
struct Later<'a> {
    /// The waits that this execution began, and another ends.
    waits: HashSet<&'a str>,
    /// The first of their places in the order of results.
    order: u32,
}

impl<'a> Later<'a> {
    fn of(of_steps: &[OfStep<'a>], begun: &HashSet<&'a str>) -> Option<Self> {
        let begins: HashSet<&str> = of_steps
            .iter()
            .filter(|step| step.moment == Moment::Start)
            .map(|step| &*step.tale.of.attempt.id)
            .collect();
        let ending = of_steps.iter().filter(|step| {
            let id = &*step.tale.of.attempt.id;
            step.moment == Moment::End
                && step.tale.is_wait()
                && (begun.contains(id) || begins.contains(id))
        });
        let mut later = Self {
            waits: HashSet::new(),
            order: u32::MAX,
        };
        for step in ending {
            later.waits.insert(&step.tale.of.attempt.id);
            later.order = later.order.min(step.tale.order.unwrap_or(u32::MAX));
        }
        (!later.waits.is_empty()).then_some(later)
    }

    fn has(&self, step: &OfStep<'_>) -> bool {
        let is_observed_later = step.tale.order.is_some_and(|order| order > self.order);
        match step.moment {
            _ if self.waits.contains(&*step.tale.of.attempt.id) => step.moment != Moment::Start,
            Moment::End => is_observed_later,
            Moment::Start => {
                is_observed_later && step.tale.of.attempt.kind == StepAttemptKind::Function
            }
            Moment::Arrival => false,
        }
    }
}
