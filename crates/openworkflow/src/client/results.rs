//! Which results of a run another one begins with.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::ClientResult;
use crate::backend::codec;
use crate::backend::{
    AttemptRecord, BackendError, RunStatus, StepAttemptKind, StepStatus, StoredError,
};

/// The steps of a run, by name.
pub(super) struct Results(BTreeMap<String, Step>);

#[derive(Default)]
struct Step {
    attempts: Vec<AttemptRecord>,
    began_at: Option<SystemTime>,
    result: Option<StepResult>,
    is_completed: bool,
}

/// When the code could observe it.
#[derive(Clone, Copy)]
struct StepResult {
    number: Option<u32>,
    at: SystemTime,
}

impl StepResult {
    fn is_before(self, other: Self) -> bool {
        match (self.number, other.number) {
            (Some(one), Some(other)) => one < other,
            _ => self.at < other.at,
        }
    }
}

impl Results {
    /// Fails on an attempt that cannot be read: nobody knows what else would be left out.
    pub(super) fn new(attempts: Vec<Result<AttemptRecord, BackendError>>) -> ClientResult<Self> {
        let mut steps = BTreeMap::<String, Step>::new();
        for record in attempts {
            let record = record?;
            let step = steps.entry(record.attempt.step_name.clone()).or_default();
            step.add(record);
        }
        Ok(Self(steps))
    }

    /// The ids of the attempts with the results that came before that of `name`, in order; `None` where
    /// there is no such step.
    pub(super) fn before_step(&self, name: &str) -> Option<Vec<String>> {
        let from = self.0.get(name)?.result;
        Some(self.ids(|of, step| {
            let is_earlier = match (step.result, from) {
                (Some(one), Some(from)) => one.is_before(from),
                // What is not over came after nothing.
                (_, None) | (None, _) => step.result.is_some(),
            };
            of != name && is_earlier
        }))
    }

    /// The ids of the attempts with the results that the run had when the step failed with which the run
    /// failed, and of those beside it, in order. All but unhandled failures where it failed with
    /// something else.
    pub(super) fn before_failure(&self, error: Option<&StoredError>) -> Vec<String> {
        let failed = |step: &&Step| !step.is_completed && step.result.is_some();
        let culprit = self
            .0
            .iter()
            .filter(|(_, step)| failed(step))
            .filter(|(name, step)| {
                let Some(error) = error else { return false };
                // Other SDKs do not say which step it was.
                if let Some(said) = &error.step_name {
                    return said == *name;
                }
                let mut attempts = step.attempts.iter().rev();
                let own = attempts.find_map(|of| of.attempt.error.as_ref());
                own.is_some_and(|own| own.message == error.message)
            })
            .max_by_key(|(_, step)| step.result.map(|result| result.at));
        let until = culprit
            .and_then(|(_, step)| step.result)
            .map(|result| result.at);
        let in_time = |step: &Step| {
            // A step that begins in the millisecond of the failure runs beside it or on its account; the
            // order of the results does not tell, and to do it anew is what can be done in either case.
            let earlier = match (step.result, culprit.and_then(|(_, step)| step.result)) {
                (Some(one), Some(of_culprit)) => one.is_before(of_culprit),
                _ => false,
            };
            earlier || until.is_none_or(|until| step.began_at.is_none_or(|began| began < until))
        };
        let last_begin = self
            .0
            .values()
            .filter(|step| step.is_completed && in_time(step))
            .filter_map(|step| step.began_at)
            .max();
        self.ids(|name, step| {
            if culprit.is_some_and(|(culprit, _)| culprit == name) || !in_time(step) {
                return false;
            }
            match step.result {
                Some(result) if !step.is_completed => {
                    last_begin.is_some_and(|began| began >= result.at)
                }
                _ => true,
            }
        })
    }

    fn ids(&self, wanted: impl Fn(&str, &Step) -> bool) -> Vec<String> {
        let mut attempts: Vec<&AttemptRecord> = self
            .0
            .iter()
            .filter(|(name, step)| wanted(name, step))
            .flat_map(|(_, step)| step.to_copy())
            .collect();
        // Histories without numbers are put in the order of times and ids, and the new ids ascend.
        attempts.sort_by(|one, other| {
            let key = |of: &AttemptRecord| of.attempt.finished_at.unwrap_or(of.attempt.created_at);
            (key(one), &one.attempt.id).cmp(&(key(other), &other.attempt.id))
        });
        attempts.iter().map(|of| of.attempt.id.clone()).collect()
    }
}

impl Step {
    fn add(&mut self, record: AttemptRecord) {
        let attempt = &record.attempt;
        if self.began_at.is_none() {
            self.began_at = Some(attempt.created_at);
        }
        let completed = is_completed(&record);
        if completed || (attempt.status == StepStatus::Failed && !self.is_completed) {
            self.result = Some(StepResult {
                number: codec::decode_step_config(attempt.config.as_deref()).order,
                at: attempt.finished_at.unwrap_or(attempt.created_at),
            });
            self.is_completed = completed;
        } else if let Some(at) = arrived_at(&record).filter(|_| !self.is_completed) {
            self.result = Some(StepResult { number: None, at });
            self.is_completed = true;
        }
        self.attempts.push(record);
    }

    /// The completed attempt or the wait that is over; all of them where the step failed.
    fn to_copy(&self) -> impl Iterator<Item = &AttemptRecord> {
        let any_completed = self.attempts.iter().any(is_completed);
        self.attempts.iter().filter(move |record| {
            if any_completed {
                return is_completed(record);
            }
            record.attempt.status == StepStatus::Failed && !self.is_completed
                || arrived_at(record).is_some()
        })
    }
}

fn is_completed(record: &AttemptRecord) -> bool {
    matches!(
        record.attempt.status,
        StepStatus::Completed | StepStatus::Succeeded
    )
}

/// When the signal came, or the child was completed, that an attempt waits for which nobody has settled.
fn arrived_at(record: &AttemptRecord) -> Option<SystemTime> {
    if record.attempt.status != StepStatus::Running {
        return None;
    }
    match record.attempt.kind {
        StepAttemptKind::SignalWait => record.received_at,
        StepAttemptKind::Workflow => record
            .child
            .as_ref()
            .filter(|child| {
                matches!(child.status, RunStatus::Completed | RunStatus::Succeeded)
                    && record.attempt.child_workflow_run_id.is_some()
            })
            .and_then(|child| child.finished_at),
        _ => None,
    }
}
