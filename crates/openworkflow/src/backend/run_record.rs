//! All that the rows tell about one run, for whoever asks what happened to it.

use std::time::SystemTime;

use super::{BackendError, ExecutionRecord, RunStatus, StepAttempt, WorkflowRun};

/// A run with its step attempts, from one snapshot. Inputs and outputs are left out, but for the outputs of
/// steps that send a signal, which name who received it.
#[derive(Debug)]
#[non_exhaustive]
pub struct RunRecord {
    /// The run, without its input and output.
    pub run: WorkflowRun,
    /// The JSON text of the run's column `config`, where it holds anything.
    pub config: Option<String>,
    /// Its executions that were recorded as they ended, in their order. What others ended of them, and what is
    /// under way, stands in `config`.
    pub executions: Vec<ExecutionRecord>,
    /// The run whose step created this one, where it is a child and its parent is there.
    pub parent_run_id: Option<String>,
    /// Its step attempts in order of (`created_at`, `id`). A row that cannot be read is the error that says
    /// why, in its place.
    pub attempts: Vec<Result<AttemptRecord, BackendError>>,
}

impl RunRecord {
    /// For backends, which then fill in what there is.
    #[must_use]
    pub fn new(run: WorkflowRun) -> Self {
        Self {
            run,
            config: None,
            executions: Vec::new(),
            parent_run_id: None,
            attempts: Vec::new(),
        }
    }
}

/// A step attempt, with what was delivered to it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// The attempt.
    pub attempt: StepAttempt,
    /// The child run that it created, where it did and the child is there.
    pub child: Option<ChildRecord>,
    /// When the signal was delivered that it waited for.
    pub received_at: Option<SystemTime>,
}

impl AttemptRecord {
    /// For backends, which then fill in what there is.
    #[must_use]
    pub fn new(attempt: StepAttempt) -> Self {
        Self {
            attempt,
            child: None,
            received_at: None,
        }
    }
}

/// What the record of a parent says of a child.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChildRecord {
    /// The child's id.
    pub id: String,
    /// The name of its workflow, where it can be read.
    pub workflow_name: Option<String>,
    /// Its status.
    pub status: RunStatus,
    /// When it ended.
    pub finished_at: Option<SystemTime>,
}

impl ChildRecord {
    /// For backends.
    pub fn new(
        id: impl Into<String>,
        workflow_name: Option<String>,
        status: RunStatus,
        finished_at: Option<SystemTime>,
    ) -> Self {
        Self {
            id: id.into(),
            workflow_name,
            status,
            finished_at,
        }
    }
}
