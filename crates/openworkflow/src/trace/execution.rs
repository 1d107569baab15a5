//! The executions of a run: when each began and ended, what woke the run, and what came of it.

use std::time::SystemTime;

use serde::Serialize;
use workflow_core::WakeCause;

use super::json;
use crate::backend::RecordedEnding;

/// One execution of a run: from a claim by a worker to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TraceExecution {
    /// Which claim of the run it is, from 1. `None` where the rows do not tell.
    pub number: Option<u32>,
    /// Since when the run was due. `None` where the rows do not tell.
    #[serde(serialize_with = "json::optional_time")]
    pub due_at: Option<SystemTime>,
    /// When a worker claimed the run. `None` where the rows do not tell.
    #[serde(serialize_with = "json::optional_time")]
    pub began_at: Option<SystemTime>,
    /// When it ended: when its outcome was written, or the last sign of life of a worker that died. `None`
    /// where it is under way, or the rows do not tell.
    #[serde(serialize_with = "json::optional_time")]
    pub ended_at: Option<SystemTime>,
    /// What came of it. `None` where it is under way, or the rows do not tell.
    pub ending: Option<ExecutionEnding>,
    /// The worker, where the rows tell.
    pub worker_id: Option<String>,
    /// What made the run due, where the rows tell.
    #[serde(serialize_with = "json::cause")]
    pub cause: Option<WakeCause>,
    /// Whether this execution is concluded from what the run's steps did rather than recorded. Its times are
    /// then bounds: it began no later and ended no earlier.
    pub estimated: bool,
}

/// What came of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExecutionEnding {
    /// The run was completed, or continued as another.
    Completed,
    /// The run was put away, to wait.
    Parked,
    /// Something failed and is to be tried again.
    Retrying,
    /// The run failed.
    Failed,
    /// The run was canceled meanwhile.
    Canceled,
    /// The worker died, or lost its lease.
    Lost,
    /// The worker stopped in the middle of it, and gave the run back.
    GivenBack,
}

impl From<RecordedEnding> for ExecutionEnding {
    fn from(ending: RecordedEnding) -> Self {
        match ending {
            RecordedEnding::Parked => Self::Parked,
            RecordedEnding::Retrying => Self::Retrying,
            RecordedEnding::Failed => Self::Failed,
            RecordedEnding::Canceled => Self::Canceled,
            RecordedEnding::Lost => Self::Lost,
            RecordedEnding::GivenBack => Self::GivenBack,
        }
    }
}

impl TraceExecution {
    pub(super) fn estimated(number: Option<u32>) -> Self {
        Self {
            number,
            due_at: None,
            began_at: None,
            ended_at: None,
            ending: None,
            worker_id: None,
            cause: None,
            estimated: true,
        }
    }
}
