//! What a run did before, by step name, and the order in which its code observed it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use workflow_core::Payload;

use crate::backend::codec::{self, WaitContext};
use crate::backend::{
    ChildRun, History, ReceivedSignal, StepAttempt, StepAttemptKind, StepStatus, StoredError,
};

/// What happened under one step name in earlier executions.
#[derive(Debug, Default)]
pub(crate) enum PriorAttempts {
    /// Nothing.
    #[default]
    None,
    /// It has a result.
    Completed(Payload),
    /// It was a wait, and the code gave it up for good.
    Withdrawn,
    /// It was tried and has none.
    Open(Box<OpenStep>),
}

/// A step without a result.
#[derive(Debug, Default)]
pub(crate) struct OpenStep {
    pub(crate) failures: u32,
    pub(crate) last_failure: Option<Failure>,
    pub(crate) running: Option<RunningAttempt>,
    /// What its last attempt that saved something saved last.
    pub(crate) progress: Option<Payload>,
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: StoredError,
    pub(crate) at: SystemTime,
    pub(crate) had_child: bool,
    /// Whether it was the last one, which the code was told of. Older rows do not say so.
    pub(crate) is_final: bool,
}

/// An attempt that is neither completed nor failed: a wait, or what a dead worker left.
#[derive(Debug)]
pub(crate) struct RunningAttempt {
    pub(crate) id: Arc<str>,
    pub(crate) kind: StepAttemptKind,
    pub(crate) created_at: SystemTime,
    pub(crate) context: Arc<WaitContext>,
    pub(crate) child: Option<Box<ChildRun>>,
    /// The child that it is linked to, or was before somebody deleted the child.
    pub(crate) child_id: Option<String>,
    pub(crate) linked: bool,
    pub(crate) signal: Option<ReceivedSignal>,
}

/// All that is known of one step name.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) kind: StepAttemptKind,
    pub(crate) prior: PriorAttempts,
    /// Where its result stands among the results of the run.
    pub(crate) place: Option<u32>,
}

/// A recorded result that the code has not asked for in this execution.
#[derive(Debug)]
pub(crate) struct Unasked {
    pub(crate) step_name: Arc<str>,
    /// Whether its place is certain.
    pub(crate) numbered: bool,
}

/// A run's history, reduced to what each step name needs.
#[derive(Debug, Default)]
pub(crate) struct StepHistory {
    steps: HashMap<String, Step>,
    waiters: HashMap<Arc<str>, Arc<str>>,
    attempts: usize,
}

#[derive(Debug)]
struct Step {
    kind: StepAttemptKind,
    prior: PriorAttempts,
    result: Option<RecordedResult>,
    place: Option<u32>,
}

/// When a result came about.
#[derive(Debug, Clone)]
struct RecordedResult {
    /// The number it was given, where it was written by a version that gives numbers.
    number: Option<u32>,
    finished_at: SystemTime,
    id: String,
}

impl StepHistory {
    pub(crate) fn new(mut history: History) -> Self {
        let mut reduced = Self {
            attempts: history.attempts.len(),
            ..Self::default()
        };
        for attempt in history.attempts {
            let child = history.children.remove(&attempt.id);
            let signal = history.signals.remove(&attempt.id);
            reduced.add(attempt, child, signal);
        }
        for (name, step) in &reduced.steps {
            if let PriorAttempts::Open(open) = &step.prior
                && let Some(running) = &open.running
                && running.kind == StepAttemptKind::SignalWait
                && let Some(signal) = &running.context.signal
            {
                reduced
                    .waiters
                    .insert(Arc::clone(signal), name.as_str().into());
            }
        }
        reduced
    }

    fn add(
        &mut self,
        attempt: StepAttempt,
        child: Option<ChildRun>,
        signal: Option<ReceivedSignal>,
    ) {
        let step = self.steps.entry(attempt.step_name).or_insert_with(|| Step {
            kind: attempt.kind.clone(),
            prior: PriorAttempts::None,
            result: None,
            place: None,
        });
        if matches!(
            step.prior,
            PriorAttempts::Completed(_) | PriorAttempts::Withdrawn
        ) {
            return;
        }
        step.kind = attempt.kind.clone();
        let config = codec::decode_step_config(attempt.config.as_deref());
        let result = RecordedResult {
            number: config.order,
            finished_at: attempt.finished_at.unwrap_or(attempt.created_at),
            id: attempt.id,
        };
        if matches!(
            attempt.status,
            StepStatus::Completed | StepStatus::Succeeded
        ) {
            if config.withdrawn {
                step.prior = PriorAttempts::Withdrawn;
                step.result = None;
            } else {
                step.prior = PriorAttempts::Completed(attempt.output);
                step.result = Some(result);
            }
            return;
        }
        let mut open = match std::mem::take(&mut step.prior) {
            PriorAttempts::Open(open) => open,
            _ => Box::default(),
        };
        if let Some(progress) = config.progress() {
            open.progress = Some(progress);
        }
        if attempt.status == StepStatus::Failed {
            open.failures += 1;
            open.last_failure = Some(Failure {
                error: attempt.error.unwrap_or_else(StoredError::unknown),
                at: result.finished_at,
                had_child: attempt.child_workflow_run_id.is_some(),
                is_final: result.number.is_some(),
            });
            step.result = Some(result);
        } else {
            let context = codec::decode_wait_context(attempt.context.as_deref());
            // Other SDKs can leave several sleeps of one name behind; the first to end is the one
            // that was asked for.
            let earlier_sleep = open.running.as_ref().is_some_and(|earlier| {
                attempt.kind == StepAttemptKind::Sleep
                    && earlier.context.resume_at <= context.resume_at
            });
            if !earlier_sleep {
                open.running = Some(RunningAttempt {
                    id: result.id.into(),
                    kind: attempt.kind,
                    created_at: attempt.created_at,
                    context: Arc::new(context),
                    child: child.map(Box::new),
                    linked: attempt.child_workflow_run_id.is_some(),
                    child_id: attempt.child_workflow_run_id.or(config.child),
                    signal,
                });
            }
        }
        step.prior = PriorAttempts::Open(open);
    }

    /// Gives each result its place in the order in which the code observed them, from 1. Returns them by
    /// place, and the last place or number that is taken.
    ///
    /// Among results with numbers the numbers decide. Those without, of older versions and of other
    /// SDKs, stand where their time says, which is as well as can be known.
    pub(crate) fn arrange(&mut self) -> (BTreeMap<u32, Unasked>, u32) {
        let mut numbered = Vec::new();
        let mut unnumbered = Vec::new();
        for (name, step) in &self.steps {
            if let Some(result) = &step.result {
                match result.number {
                    Some(number) => numbered.push((number, result, name)),
                    None => unnumbered.push((result, name)),
                }
            }
        }
        numbered.sort_unstable_by_key(|(number, ..)| *number);
        unnumbered.sort_unstable_by_key(|(result, _)| (result.finished_at, &result.id));
        let mut last = numbered.last().map_or(0, |(number, ..)| *number);
        let mut names = Vec::with_capacity(numbered.len() + unnumbered.len());
        let mut numbered = numbered.into_iter().peekable();
        let mut unnumbered = unnumbered.into_iter().peekable();
        loop {
            let numbered_first = match (numbered.peek(), unnumbered.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((number, one, _)), Some((other, _))) => {
                    let places_before = usize::try_from(*number).unwrap_or(usize::MAX);
                    // At the same time: a number that leaves room before it says that there was one.
                    one.finished_at < other.finished_at
                        || (one.finished_at == other.finished_at
                            && places_before <= names.len() + 1)
                }
            };
            names.extend(if numbered_first {
                numbered.next().map(|(_, _, name)| (name, true))
            } else {
                unnumbered.next().map(|(_, name)| (name, false))
            });
        }
        let places: BTreeMap<u32, Unasked> = (1..)
            .zip(names)
            .map(|(place, (name, numbered))| {
                let step_name = name.as_str().into();
                (
                    place,
                    Unasked {
                        step_name,
                        numbered,
                    },
                )
            })
            .collect();
        last = last.max(u32::try_from(places.len()).unwrap_or(u32::MAX));
        for (place, result) in &places {
            if let Some(step) = self.steps.get_mut(&*result.step_name) {
                step.place = Some(*place);
            }
        }
        (places, last)
    }

    /// The number of attempts, for the limit.
    pub(crate) fn len(&self) -> usize {
        self.attempts
    }

    /// What happened under `name`. A name is asked for once, so the answer is handed over.
    pub(crate) fn of(&mut self, name: &str) -> Option<Recorded> {
        self.steps.remove(name).map(|step| Recorded {
            kind: step.kind,
            prior: step.prior,
            place: step.place,
        })
    }

    pub(crate) fn waiter_on(&self, signal: &str) -> Option<Arc<str>> {
        self.waiters.get(signal).cloned()
    }

    pub(crate) fn set_waiter(&mut self, signal: Arc<str>, step_name: Arc<str>) {
        self.waiters.insert(signal, step_name);
    }

    pub(crate) fn clear_waiter(&mut self, signal: &str) {
        self.waiters.remove(signal);
    }

    /// The same for those that the steps of these names wait for.
    pub(crate) fn clear_waiters(&mut self, step_names: &HashSet<Arc<str>>) {
        self.waiters
            .retain(|_, waiter| !step_names.contains(waiter));
    }
}
