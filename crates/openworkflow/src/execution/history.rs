//! What a run did before, by step name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use workflow_core::Payload;

use crate::backend::codec::{self, WaitContext};
use crate::backend::{ChildRun, History, StepAttempt, StepAttemptKind, StepStatus, StoredError};

/// What happened under one step name in earlier executions.
#[derive(Debug, Clone, Default)]
pub(crate) enum PriorAttempts {
    /// Nothing.
    #[default]
    None,
    /// It has a result.
    Completed(Payload),
    /// It was tried and has none.
    Open(OpenStep),
}

/// A step without a result.
#[derive(Debug, Clone, Default)]
pub(crate) struct OpenStep {
    pub(crate) failures: u32,
    pub(crate) last_failure: Option<Failure>,
    pub(crate) running: Option<RunningAttempt>,
}

#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: StoredError,
    pub(crate) at: SystemTime,
    pub(crate) had_child: bool,
}

/// An attempt that is neither completed nor failed: a wait, or what a dead worker left.
#[derive(Debug, Clone)]
pub(crate) struct RunningAttempt {
    pub(crate) id: Arc<str>,
    pub(crate) kind: StepAttemptKind,
    pub(crate) created_at: SystemTime,
    pub(crate) context: Arc<WaitContext>,
    pub(crate) child: Option<Box<ChildRun>>,
    pub(crate) linked: bool,
    pub(crate) signal: Option<Payload>,
}

/// A run's history, reduced to what each step name needs.
#[derive(Debug, Default)]
pub(crate) struct StepHistory {
    steps: HashMap<String, PriorAttempts>,
    waiters: HashMap<Arc<str>, Arc<str>>,
    attempts: usize,
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
            if let PriorAttempts::Open(OpenStep {
                running: Some(running),
                ..
            }) = step
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

    fn add(&mut self, attempt: StepAttempt, child: Option<ChildRun>, signal: Option<Payload>) {
        let step = self.steps.entry(attempt.step_name).or_default();
        if matches!(step, PriorAttempts::Completed(_)) {
            return;
        }
        if matches!(
            attempt.status,
            StepStatus::Completed | StepStatus::Succeeded
        ) {
            *step = PriorAttempts::Completed(attempt.output);
            return;
        }
        let mut open = match std::mem::take(step) {
            PriorAttempts::Open(open) => open,
            _ => OpenStep::default(),
        };
        if attempt.status == StepStatus::Failed {
            open.failures += 1;
            open.last_failure = Some(Failure {
                error: attempt
                    .error
                    .unwrap_or_else(|| StoredError::from_json("{}")),
                at: attempt.finished_at.unwrap_or(attempt.created_at),
                had_child: attempt.child_workflow_run_id.is_some(),
            });
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
                    id: attempt.id.into(),
                    kind: attempt.kind,
                    created_at: attempt.created_at,
                    context: Arc::new(context),
                    child: child.map(Box::new),
                    linked: attempt.child_workflow_run_id.is_some(),
                    signal,
                });
            }
        }
        *step = PriorAttempts::Open(open);
    }

    /// The number of attempts, for the limit.
    pub(crate) fn len(&self) -> usize {
        self.attempts
    }

    /// What happened under `name`. A name is asked for once, so the answer is handed over.
    pub(crate) fn of(&mut self, name: &str) -> PriorAttempts {
        self.steps.remove(name).unwrap_or_default()
    }

    /// Turns the running sleeps that are over into completed ones and returns their names and ids.
    /// A sleep whose end cannot be read counts as over.
    pub(crate) fn take_elapsed_sleeps(&mut self, now: SystemTime) -> Vec<(Arc<str>, Arc<str>)> {
        let mut elapsed = Vec::new();
        for (name, step) in &mut self.steps {
            if let PriorAttempts::Open(OpenStep {
                running: Some(running),
                ..
            }) = step
                && running.kind == StepAttemptKind::Sleep
                && running.context.resume_at.is_none_or(|at| at <= now)
            {
                elapsed.push((name.as_str().into(), Arc::clone(&running.id)));
                *step = PriorAttempts::Completed(Payload::NULL);
            }
        }
        elapsed
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
}
