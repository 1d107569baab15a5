//! What can be told of a run.

use std::time::SystemTime;

use serde::Serialize;
use workflow_core::WakeCause;

use super::execution::TraceExecution;
use super::json;
use crate::backend::{RunStatus, StepAttemptKind, StoredError};

/// Something that happened to a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TraceEvent {
    /// When it happened, by the database's clock, to the millisecond.
    #[serde(serialize_with = "json::time")]
    pub at: SystemTime,
    /// Whether it is concluded from what else the rows hold rather than recorded. The time is then as near
    /// as the rows tell.
    pub estimated: bool,
    /// The run.
    pub run_id: String,
    /// In which of the run's executions, from 1, where that is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution: Option<u32>,
    /// What happened.
    #[serde(flatten)]
    pub kind: TraceEventKind,
}

/// What happened. In JSON the member `event` has [its name](Self::name).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TraceEventKind {
    /// The run was created.
    RunCreated {
        /// Its workflow.
        workflow_name: String,
        /// The workflow's version.
        workflow_version: Option<String>,
        /// The run whose step created it, where it is a child.
        parent_run_id: Option<String>,
        /// When it fails if it has not ended.
        #[serde(serialize_with = "json::optional_time")]
        deadline_at: Option<SystemTime>,
    },
    /// A worker claimed the run: for the first time, or to try again. Internal.
    RunClaimed {
        /// The worker.
        worker_id: Option<String>,
        /// Since when it was due.
        #[serde(serialize_with = "json::optional_time")]
        due_at: Option<SystemTime>,
        /// What made it due.
        #[serde(serialize_with = "json::cause")]
        cause: Option<WakeCause>,
    },
    /// A worker claimed the run, which had been parked. Internal.
    RunResumed {
        /// The worker.
        worker_id: Option<String>,
        /// Since when it was due.
        #[serde(serialize_with = "json::optional_time")]
        due_at: Option<SystemTime>,
        /// What made it due.
        #[serde(serialize_with = "json::cause")]
        cause: Option<WakeCause>,
    },
    /// A worker claimed the run because the one that had it died, or lost its lease.
    RunTakenOver {
        /// The worker.
        worker_id: Option<String>,
        /// The one that had it.
        lost_worker_id: Option<String>,
        /// The last sign of life of that one.
        #[serde(serialize_with = "json::optional_time")]
        last_seen_at: Option<SystemTime>,
    },
    /// The run was put away, to wait. Internal.
    RunParked {
        /// When it is due, unless something wakes it. `None` where that is not recorded any more.
        #[serde(serialize_with = "json::optional_time")]
        until: Option<SystemTime>,
        /// The steps that waited.
        waits_for: Vec<String>,
    },
    /// Something failed, and is to be tried again.
    RunRetryScheduled {
        /// When. `None` where that is not recorded any more.
        #[serde(serialize_with = "json::optional_time")]
        due_at: Option<SystemTime>,
        /// What failed. `None` where that is not recorded any more.
        error: Option<StoredError>,
    },
    /// The run is completed.
    RunCompleted,
    /// The run is completed, and goes on as another.
    RunContinued {
        /// The other run.
        successor_run_id: String,
    },
    /// The run failed for good.
    RunFailed {
        /// With what.
        error: StoredError,
    },
    /// The run was canceled.
    RunCanceled,
    /// An attempt at a step began: a function, or a wait.
    StepStarted {
        /// The step.
        step: TraceStep,
        /// When a sleep is over.
        #[serde(
            serialize_with = "json::optional_time",
            skip_serializing_if = "Option::is_none"
        )]
        resume_at: Option<SystemTime>,
        /// When a wait for a signal or a child ends for lack of it.
        #[serde(
            serialize_with = "json::optional_time",
            skip_serializing_if = "Option::is_none"
        )]
        timeout_at: Option<SystemTime>,
        /// The signal that it waits for.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// The child that it created.
        #[serde(skip_serializing_if = "Option::is_none")]
        child_run_id: Option<String>,
    },
    /// An attempt at a step has a result.
    StepCompleted {
        /// The step.
        step: TraceStep,
        /// How many runs received the signal, where the step sent one.
        #[serde(skip_serializing_if = "Option::is_none")]
        recipients: Option<usize>,
    },
    /// The signal that a step waited for did not come in time.
    StepTimedOut {
        /// The step.
        step: TraceStep,
    },
    /// The workflow's code gave a wait up for good: it lost a `race!`.
    StepWithdrawn {
        /// The step.
        step: TraceStep,
    },
    /// An attempt at a step failed.
    StepFailed {
        /// The step.
        step: TraceStep,
        /// With what.
        error: StoredError,
    },
    /// The signal was delivered that a step waited for.
    SignalReceived {
        /// The step.
        step: TraceStep,
        /// The signal, where its name can be read.
        signal: Option<String>,
    },
    /// The child ended that a step waited for.
    ChildEnded {
        /// The step.
        step: TraceStep,
        /// The child.
        child_run_id: String,
        /// How.
        status: RunStatus,
    },
}

/// An attempt at a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TraceStep {
    /// The step's name within the run.
    pub name: String,
    /// Its kind.
    pub kind: StepAttemptKind,
    /// The attempt's id.
    pub attempt_id: String,
    /// Which attempt at this step it is, from 1.
    pub attempt: u32,
}

impl TraceEventKind {
    /// The name, as the member `event` of the JSON has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RunCreated { .. } => "run_created",
            Self::RunClaimed { .. } => "run_claimed",
            Self::RunResumed { .. } => "run_resumed",
            Self::RunTakenOver { .. } => "run_taken_over",
            Self::RunParked { .. } => "run_parked",
            Self::RunRetryScheduled { .. } => "run_retry_scheduled",
            Self::RunCompleted => "run_completed",
            Self::RunContinued { .. } => "run_continued",
            Self::RunFailed { .. } => "run_failed",
            Self::RunCanceled => "run_canceled",
            Self::StepStarted { .. } => "step_started",
            Self::StepCompleted { .. } => "step_completed",
            Self::StepTimedOut { .. } => "step_timed_out",
            Self::StepWithdrawn { .. } => "step_withdrawn",
            Self::StepFailed { .. } => "step_failed",
            Self::SignalReceived { .. } => "signal_received",
            Self::ChildEnded { .. } => "child_ended",
        }
    }

    /// Whether it is about how the engine carries a run out, and says nothing of the workflow: claims, parks
    /// and resumptions. Left out unless
    /// [asked for](crate::TraceEventsRequest::include_internal).
    #[must_use]
    pub fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::RunClaimed { .. } | Self::RunResumed { .. } | Self::RunParked { .. }
        )
    }

    /// The step that it is about, if it is about one.
    #[must_use]
    pub fn step(&self) -> Option<&TraceStep> {
        match self {
            Self::StepStarted { step, .. }
            | Self::StepCompleted { step, .. }
            | Self::StepTimedOut { step }
            | Self::StepWithdrawn { step }
            | Self::StepFailed { step, .. }
            | Self::SignalReceived { step, .. }
            | Self::ChildEnded { step, .. } => Some(step),
            _ => None,
        }
    }

    /// The claim with which an execution began, after one that ended as `before`.
    pub(super) fn claim(execution: &TraceExecution, before: Option<&TraceExecution>) -> Self {
        let worker_id = execution.worker_id.clone();
        let (due_at, cause) = (execution.due_at, execution.cause);
        match cause {
            Some(WakeCause::TakeOver) => Self::RunTakenOver {
                worker_id,
                lost_worker_id: before.and_then(|before| before.worker_id.clone()),
                last_seen_at: before.and_then(|before| before.ended_at),
            },
            Some(WakeCause::Created | WakeCause::Retry) => Self::RunClaimed {
                worker_id,
                due_at,
                cause,
            },
            _ => Self::RunResumed {
                worker_id,
                due_at,
                cause,
            },
        }
    }
}
