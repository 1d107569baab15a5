//! What clients and workers ask of a backend.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use workflow_core::{Carrier, CreateRun, Payload, RunInfo};

use super::{ClaimTimes, Cursor, RunStatus, StepAttemptKind, codec};

/// A run to be created.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewRun {
    /// The namespace.
    pub namespace_id: String,
    /// The id.
    pub id: String,
    /// The workflow's name.
    pub workflow_name: String,
    /// The workflow's version.
    pub version: Option<String>,
    /// The key that makes the creation idempotent for 24 hours.
    pub idempotency_key: Option<String>,
    /// What is kept with the run.
    pub carrier: Carrier,
    /// The input.
    pub input: Payload,
    /// When it may first be claimed; now where `None`.
    pub available_at: Option<SystemTime>,
    /// When it fails if it has not ended.
    pub deadline_at: Option<SystemTime>,
    /// The step attempt (of the same namespace) that creates it.
    pub parent_step_attempt_id: Option<String>,
    /// Whether it is canceled when that run is. For [`begin_child`](super::Backend::begin_child).
    pub cancel_with_parent: bool,
}

impl NewRun {
    /// A run with nothing optional.
    pub fn new(
        namespace_id: impl Into<String>,
        id: impl Into<String>,
        workflow_name: impl Into<String>,
        input: Payload,
    ) -> Self {
        Self {
            namespace_id: namespace_id.into(),
            id: id.into(),
            workflow_name: workflow_name.into(),
            version: None,
            idempotency_key: None,
            carrier: Carrier::new(),
            input,
            available_at: None,
            deadline_at: None,
            parent_step_attempt_id: None,
            cancel_with_parent: false,
        }
    }

    /// A run as a chain of interceptors leaves it.
    pub(crate) fn from_call(call: CreateRun) -> Self {
        Self {
            namespace_id: call.run.namespace_id.to_string(),
            id: call.run.id.to_string(),
            workflow_name: call.run.workflow_name.to_string(),
            version: call.run.workflow_version.as_deref().map(str::to_owned),
            idempotency_key: call.idempotency_key,
            carrier: call.run.carrier,
            input: call.input,
            available_at: call.available_at,
            deadline_at: call.deadline_at,
            parent_step_attempt_id: call.parent.map(|parent| parent.attempt_id.to_string()),
            cancel_with_parent: false,
        }
    }

    /// The JSON text for the column `context`; `None` for SQL NULL.
    #[must_use]
    pub fn context_json(&self) -> Option<String> {
        codec::encode_run_context(&self.carrier)
    }
}

/// A signal to be delivered.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewSignal {
    /// The namespace whose runs can receive it.
    pub namespace_id: String,
    /// The name.
    pub signal: String,
    /// The data.
    pub data: Payload,
    /// The key under which a second sending delivers nothing.
    pub idempotency_key: Option<String>,
    /// The run that sends it, where a run does: the sending is then guarded.
    pub sender: Option<Owner>,
}

impl NewSignal {
    /// A signal without key and sender.
    pub fn new(namespace_id: impl Into<String>, signal: impl Into<String>, data: Payload) -> Self {
        Self {
            namespace_id: namespace_id.into(),
            signal: signal.into(),
            data,
            idempotency_key: None,
            sender: None,
        }
    }
}

/// Who a worker claims to be when it writes: who holds which claim of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Owner {
    /// The run's namespace.
    pub namespace_id: Arc<str>,
    /// The run.
    pub run_id: Arc<str>,
    /// The worker id that holds the claim.
    pub worker_id: Arc<str>,
    /// Which claim of the run it is: [`ClaimedRun::attempts`](super::ClaimedRun::attempts). It tells two
    /// claims under one worker id apart.
    pub attempts: u32,
    /// The times of that claim. Where they are given, the end of the execution is recorded with them.
    pub claimed: Option<ClaimTimes>,
}

impl Owner {
    /// `worker_id` as the owner of a run, since the claim with the number `attempts`.
    pub fn new(
        namespace_id: impl Into<Arc<str>>,
        run_id: impl Into<Arc<str>>,
        worker_id: impl Into<Arc<str>>,
        attempts: u32,
    ) -> Self {
        Self {
            namespace_id: namespace_id.into(),
            run_id: run_id.into(),
            worker_id: worker_id.into(),
            attempts,
            claimed: None,
        }
    }

    /// This owner, with the times of its claim.
    #[must_use]
    pub fn claimed(mut self, times: ClaimTimes) -> Self {
        self.claimed = Some(times);
        self
    }
}

/// A workflow's name and version, as a registry knows it. No version matches no version only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct WorkflowKey {
    /// The name.
    pub name: String,
    /// The version.
    pub version: Option<String>,
}

impl WorkflowKey {
    /// A key.
    pub fn new(name: impl Into<String>, version: Option<String>) -> Self {
        Self {
            name: name.into(),
            version,
        }
    }
}

/// A request for due runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Claim {
    /// The namespace.
    pub namespace_id: Arc<str>,
    /// An id for each slot that is free.
    pub worker_ids: Vec<Arc<str>>,
    /// The workflows to claim runs of; any where `None`.
    pub workflows: Option<Arc<[WorkflowKey]>>,
    /// How long the claim holds without being extended.
    pub lease: Duration,
    /// How many of the slots are for runs that were started before (`running` and due again) as long as
    /// there are any. The others are for `pending` runs first, and so are all of them where this is 0.
    pub started_first: usize,
}

impl Claim {
    /// A claim with no slot for runs that were started before.
    #[must_use]
    pub fn new(
        namespace_id: Arc<str>,
        worker_ids: Vec<Arc<str>>,
        workflows: Option<Arc<[WorkflowKey]>>,
        lease: Duration,
    ) -> Self {
        Self {
            namespace_id,
            worker_ids,
            workflows,
            lease,
            started_first: 0,
        }
    }
}

/// A step attempt that begins.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewStepAttempt {
    /// The id.
    pub id: Arc<str>,
    /// The step's name.
    pub step_name: Arc<str>,
    /// The kind.
    pub kind: StepAttemptKind,
    /// The JSON text for the column `context`.
    pub context: Option<String>,
    /// The JSON text of an object whose members are added to the column `config`.
    pub config: Option<String>,
    /// How long ago it began. `created_at` and `started_at` are now less this.
    pub begun_ago: Duration,
    /// Whether nothing was written of it before, as far as its owner knows. A hint, and no promise: the
    /// answer to a write may have been lost.
    pub is_unwritten: bool,
}

impl NewStepAttempt {
    /// An attempt that begins now.
    #[must_use]
    pub fn new(
        id: Arc<str>,
        step_name: Arc<str>,
        kind: StepAttemptKind,
        context: Option<String>,
    ) -> Self {
        Self {
            id,
            step_name,
            kind,
            context,
            config: None,
            begun_ago: Duration::ZERO,
            is_unwritten: false,
        }
    }

    /// This attempt, with the JSON text of an object whose members are added to the column `config`.
    #[must_use]
    pub fn with_config(mut self, config: impl Into<String>) -> Self {
        self.config = Some(config.into());
        self
    }
}

/// A step attempt that ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndedStep {
    /// The attempt; only its result and its `config` are written where the row exists.
    pub attempt: NewStepAttempt,
    /// The output, or the JSON text of the error.
    pub result: Result<Payload, String>,
}

impl EndedStep {
    /// An end.
    #[must_use]
    pub fn new(attempt: NewStepAttempt, result: Result<Payload, String>) -> Self {
        Self { attempt, result }
    }
}

/// How an execution ends.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ExecutionEnd {
    /// The run is completed; its parent wakes.
    Complete {
        /// The output.
        output: Payload,
    },
    /// The run failed for good; its parent wakes.
    Fail {
        /// The JSON text of the error.
        error: String,
    },
    /// The run is completed without an output and goes on as another, which is created in the same
    /// transaction. The run has no parent.
    Continue {
        /// The other run, in the same namespace and without an idempotency key.
        successor: Box<NewRun>,
    },
    /// The run goes back to `pending`.
    Retry {
        /// The JSON text of the error.
        error: String,
        /// When it may be claimed again.
        at: SystemTime,
        /// The ids of the step attempts that wait beside the failure.
        waits: Vec<Arc<str>>,
    },
    /// The run is put away. If the child or the signal of one of `waits` is there by now, it is due
    /// at once.
    Park {
        /// When it is due.
        until: SystemTime,
        /// The ids of the step attempts that it waits for.
        waits: Vec<Arc<str>>,
    },
    /// The worker stops in the middle of it: the run is put away, and due at once.
    GiveBack,
}

/// What became of a cancellation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Cancellation {
    /// The run is canceled, now or already before.
    Canceled {
        /// Those that were canceled now: the run, unless it was already, and those of its children, and of
        /// theirs, that were canceled because their parent was.
        runs: Vec<CanceledRun>,
    },
    /// The run had ended with this status.
    AlreadyEnded(RunStatus),
    /// There is no such run.
    NotFound,
}

/// A run that was canceled.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CanceledRun {
    /// Its id.
    pub run_id: String,
    /// The name of its workflow.
    pub workflow_name: String,
    /// The version of its workflow.
    pub version: Option<String>,
    /// What is kept with it.
    pub carrier: Carrier,
    /// When it was created; `None` where the row does not tell.
    pub created_at: Option<SystemTime>,
    /// How old it was when it was canceled; `None` where the row does not tell.
    pub age: Option<Duration>,
    /// Which execution was under way, if its worker is gone and it was recorded.
    pub lost_attempt: Option<u32>,
}

impl CanceledRun {
    /// For backends, which then fill in what there is.
    pub fn new(run_id: impl Into<String>, workflow_name: impl Into<String>) -> Self {
        Self {
            run_id: run_id.into(),
            workflow_name: workflow_name.into(),
            version: None,
            carrier: Carrier::new(),
            created_at: None,
            age: None,
            lost_attempt: None,
        }
    }

    /// This run, as interceptors are told of it.
    pub(crate) fn info(&self, namespace_id: &Arc<str>) -> RunInfo {
        let run = RunInfo::new(
            Arc::clone(namespace_id),
            &*self.run_id,
            &*self.workflow_name,
        )
        .with_carrier(self.carrier.clone());
        match &self.version {
            Some(version) => run.with_workflow_version(version.as_str()),
            None => run,
        }
    }
}

/// A page of runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListRuns {
    /// The namespace.
    pub namespace_id: String,
    /// Only runs with this status.
    pub status: Option<RunStatus>,
    /// Only runs of this workflow.
    pub workflow_name: Option<String>,
    /// Which part of the list.
    pub window: Window,
}

impl ListRuns {
    /// The newest runs of a namespace.
    pub fn new(namespace_id: impl Into<String>) -> Self {
        Self {
            namespace_id: namespace_id.into(),
            status: None,
            workflow_name: None,
            window: Window::default(),
        }
    }
}

/// A page of step attempts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListSteps {
    /// The namespace.
    pub namespace_id: String,
    /// The run.
    pub run_id: String,
    /// Which part of the list.
    pub window: Window,
}

impl ListSteps {
    /// The oldest step attempts of a run.
    pub fn new(namespace_id: impl Into<String>, run_id: impl Into<String>) -> Self {
        Self {
            namespace_id: namespace_id.into(),
            run_id: run_id.into(),
            window: Window::default(),
        }
    }
}

/// Which part of a list a page shows.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Window {
    /// How many items, at most.
    pub limit: u32,
    /// From where, and in which direction.
    pub from: Option<PageEdge>,
}

/// The edge that a page begins at.
#[derive(Debug, Clone)]
pub enum PageEdge {
    /// The items after this one, in the order of the list.
    After(Cursor),
    /// The items before this one; the page ends right before it.
    Before(Cursor),
}

impl Default for Window {
    fn default() -> Self {
        Self {
            limit: 100,
            from: None,
        }
    }
}
