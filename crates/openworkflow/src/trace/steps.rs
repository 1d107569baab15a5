//! What became of each attempt at a step, as far as its row tells.

use std::collections::HashMap;
use std::time::SystemTime;

use super::Story;
use super::event::TraceStep;
use crate::backend::codec::{self, WaitContext};
use crate::backend::{AttemptRecord, StepAttemptKind, StepStatus, StoredError};

/// An attempt at a step, read.
pub(super) struct Tale<'a> {
    pub(super) of: &'a AttemptRecord,
    /// Which attempt at its step it is, from 1.
    pub(super) nth: u32,
    /// Whether there is a later attempt at the step.
    pub(super) is_last: bool,
    pub(super) wait: WaitContext,
    pub(super) began_at: SystemTime,
    /// `None` where it has not ended.
    pub(super) ended_at: Option<SystemTime>,
    pub(super) fate: Fate,
    /// Where its result stands among those that the workflow's code observed.
    pub(super) order: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// As far as its row tells.
    Open,
    Completed,
    TimedOut,
    Withdrawn,
    Failed,
}

impl Tale<'_> {
    pub(super) fn name(&self) -> &str {
        &self.of.attempt.step_name
    }

    pub(super) fn step(&self) -> TraceStep {
        TraceStep {
            name: self.of.attempt.step_name.clone(),
            kind: self.of.attempt.kind.clone(),
            attempt_id: self.of.attempt.id.clone(),
            attempt: self.nth,
        }
    }

    /// Whether the run can be parked while it is open.
    pub(super) fn is_wait(&self) -> bool {
        use StepAttemptKind as K;
        matches!(self.of.attempt.kind, K::Sleep | K::Workflow | K::SignalWait)
    }

    pub(super) fn error(&self) -> StoredError {
        let error = self.of.attempt.error.clone();
        error.unwrap_or_else(StoredError::unknown)
    }

    /// Whether the failure is one that the workflow's code was told of, and no more tried again.
    pub(super) fn is_told(&self) -> bool {
        self.order.is_some()
    }

    pub(super) fn recipients(&self) -> Option<usize> {
        if self.of.attempt.kind != StepAttemptKind::SignalSend || self.fate != Fate::Completed {
            return None;
        }
        let sent = codec::decode_recipients(&self.of.attempt.output, "a signal");
        sent.ok().map(|run_ids| run_ids.len())
    }
}

/// Reads the attempts, in the order of the record.
pub(super) fn tales(story: &Story) -> Vec<Tale<'_>> {
    let mut counts: HashMap<&str, u32> = HashMap::new();
    let mut tales: Vec<_> = story.attempts.iter().map(|of| tale(story, of)).collect();
    for tale in &mut tales {
        let count = counts.entry(&tale.of.attempt.step_name).or_default();
        *count += 1;
        tale.nth = *count;
    }
    for tale in &mut tales {
        tale.is_last = counts.get(&*tale.of.attempt.step_name) == Some(&tale.nth);
    }
    tales
}

fn tale<'a>(story: &Story, of: &'a AttemptRecord) -> Tale<'a> {
    let attempt = &of.attempt;
    let config = codec::decode_step_config(attempt.config.as_deref());
    let mut tale = Tale {
        of,
        nth: 1,
        is_last: true,
        wait: codec::decode_wait_context(attempt.context.as_deref()),
        began_at: attempt.started_at.unwrap_or(attempt.created_at),
        ended_at: None,
        fate: Fate::Open,
        order: config.order,
    };
    let is_signal_wait = attempt.kind == StepAttemptKind::SignalWait;
    tale.fate = match attempt.status {
        StepStatus::Completed | StepStatus::Succeeded if config.withdrawn => Fate::Withdrawn,
        StepStatus::Completed | StepStatus::Succeeded
            if is_signal_wait && of.received_at.is_none() =>
        {
            Fate::TimedOut
        }
        StepStatus::Completed | StepStatus::Succeeded => Fate::Completed,
        StepStatus::Failed => Fate::Failed,
        _ => Fate::Open,
    };
    if tale.fate != Fate::Open {
        tale.ended_at = Some(attempt.finished_at.unwrap_or(attempt.updated_at));
    }
    // A later signal closes the waits of runs that are over. It is no end that the run has seen.
    let is_over = story.run.status.is_terminal();
    if is_over && tale.fate == Fate::TimedOut && tale.ended_at > Some(story.horizon()) {
        tale.fate = Fate::Open;
        tale.ended_at = None;
    }
    tale
}
