//! What can be said of a run at a glance.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::event::TraceStep;
use super::{TraceExecution, Unreadable, json};
use crate::backend::{RunStatus, StepAttemptKind, StoredError};

/// What happened to a run, at a glance. Made by
/// [`Client::trace_summary`](crate::Client::trace_summary).
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TraceSummary {
    /// The run.
    pub run_id: String,
    /// Its workflow.
    pub workflow_name: String,
    /// The workflow's version.
    pub workflow_version: Option<String>,
    /// The run whose step created it, where it is a child.
    pub parent_run_id: Option<String>,
    /// Its status.
    pub status: RunStatus,
    /// Where it stands right now.
    pub standing: Standing,
    /// When it was created.
    #[serde(serialize_with = "json::time")]
    pub created_at: SystemTime,
    /// When it ended.
    #[serde(serialize_with = "json::optional_time")]
    pub finished_at: Option<SystemTime>,
    /// When it fails if it has not ended.
    #[serde(serialize_with = "json::optional_time")]
    pub deadline_at: Option<SystemTime>,
    /// The run as which it continued.
    pub continued_as: Option<String>,
    /// From its creation to its end, or until now.
    #[serde(serialize_with = "json::seconds")]
    pub total: Duration,
    /// What it spent that time with.
    pub time: TimeSpent,
    /// How often it was claimed, so how many executions it had.
    pub attempts: u32,
    /// Its executions, as far as they are known: recorded, or concluded where nobody recorded them.
    pub executions: Vec<TraceExecution>,
    /// The workers that are known to have executed it.
    pub worker_ids: Vec<String>,
    /// Its steps, in the order in which they began, each with all of its attempts.
    pub steps: Vec<TraceStepSummary>,
    /// How many steps there are of each kind in each state.
    pub step_counts: Vec<StepCount>,
    /// How many attempts there were after one that failed.
    pub retries: u32,
    /// What failed, in order: attempts at steps, and the run itself where it failed with an error of its own.
    pub errors: Vec<TraceFailure>,
    /// The names of the steps that took longest, five at most, the longest first. Sleeps and waits for
    /// signals, which take long on purpose, are not among them.
    pub slowest: Vec<String>,
    /// The runs that its steps created.
    pub children: Vec<TraceChild>,
    /// What could not be read, and is therefore left out.
    pub unreadable: Vec<Unreadable>,
    /// The summaries of the children and theirs in turn, where they were
    /// [asked for](crate::TraceSummaryRequest::children): those of a run's children before those of theirs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub descendants: Vec<TraceSummary>,
    /// How many of them were left out because there are too many.
    pub children_left_out: usize,
}

/// A duration, and whether it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Measured {
    /// The duration.
    #[serde(rename = "seconds", serialize_with = "json::seconds")]
    pub duration: Duration,
    /// Whether it is concluded from what the steps did, or a part of what it is made of is not recorded.
    pub estimated: bool,
}

/// What a run spent its time with. `None` is what the rows do not tell.
///
/// Where everything is recorded the parts add up to the whole. Where executions are concluded from what the
/// steps did, the time in which the run was due again and waited for a worker is in what came before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TimeSpent {
    /// Not yet due: it was to start later.
    pub delayed: Option<Measured>,
    /// Due, and no worker had claimed it yet.
    pub queued: Option<Measured>,
    /// Claimed by a worker.
    pub executing: Option<Measured>,
    /// Put away, to wait for a sleep, a signal or a child.
    pub parked: Option<Measured>,
    /// Waiting for the time of a retry.
    pub backing_off: Option<Measured>,
    /// Claimed by a worker that had died, from its last sign of life to the end of its lease.
    pub lost: Option<Measured>,
    /// The rest of the whole, which nothing is known of.
    #[serde(serialize_with = "json::seconds")]
    pub unaccounted: Duration,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Standing {
    /// It is to start later.
    Delayed {
        /// When.
        #[serde(serialize_with = "json::time")]
        until: SystemTime,
    },
    /// It is due, and waits for a worker.
    Queued {
        /// Since when.
        #[serde(serialize_with = "json::optional_time")]
        since: Option<SystemTime>,
    },
    /// A worker has it.
    Executing {
        /// The worker.
        worker_id: String,
        /// Since when, where it is recorded.
        #[serde(serialize_with = "json::optional_time")]
        since: Option<SystemTime>,
    },
    /// A worker had it, whose lease has run out: it died, or is cut off. Another takes the run over.
    Lost {
        /// The worker.
        worker_id: String,
        /// Since when.
        #[serde(serialize_with = "json::optional_time")]
        since: Option<SystemTime>,
    },
    /// It is put away, to wait.
    Parked {
        /// Until when, unless something wakes it.
        #[serde(serialize_with = "json::optional_time")]
        until: Option<SystemTime>,
        /// The steps that wait.
        waits_for: Vec<String>,
    },
    /// It waits for the time of a retry.
    BackingOff {
        /// Until when.
        #[serde(serialize_with = "json::optional_time")]
        until: Option<SystemTime>,
        /// What failed.
        error: Option<StoredError>,
    },
    /// It is over; the status tells how.
    Over,
    /// It has a status that this library does not know.
    Unknown,
}

/// A step with all of its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TraceStepSummary {
    /// Its name within the run.
    pub name: String,
    /// Its kind.
    pub kind: StepAttemptKind,
    /// What became of it.
    pub state: StepState,
    /// How many attempts there were.
    pub attempts: u32,
    /// When the first attempt began.
    #[serde(serialize_with = "json::time")]
    pub began_at: SystemTime,
    /// When the last one ended.
    #[serde(serialize_with = "json::optional_time")]
    pub ended_at: Option<SystemTime>,
    /// From the one to the other, the time between attempts included. `None` where it has not ended.
    #[serde(serialize_with = "json::optional_seconds")]
    pub duration: Option<Duration>,
    /// When a sleep is over.
    #[serde(
        serialize_with = "json::optional_time",
        skip_serializing_if = "Option::is_none"
    )]
    pub resume_at: Option<SystemTime>,
    /// When a wait for a signal or a child ends for lack of it.
    #[serde(
        serialize_with = "json::optional_time",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeout_at: Option<SystemTime>,
    /// The signal that it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// The child that it created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child_run_id: Option<String>,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepState {
    /// It has a result.
    Completed,
    /// It failed for good.
    Failed,
    /// The signal that it waited for did not come in time.
    TimedOut,
    /// The workflow's code gave it up for good: it lost a `race!`.
    Withdrawn,
    /// It failed, and is to be tried again.
    Retrying,
    /// It waits.
    Waiting,
    /// A worker that has the run began it, and nothing says that it ended.
    Running,
    /// It was begun and never ended: its worker died or stopped, its branch was given up, or the run ended
    /// beside it.
    Abandoned,
}

/// How many steps there are of one kind in one state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StepCount {
    /// The kind.
    pub kind: StepAttemptKind,
    /// The state.
    pub state: StepState,
    /// How many.
    pub count: usize,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TraceFailure {
    /// When.
    #[serde(serialize_with = "json::time")]
    pub at: SystemTime,
    /// The attempt at a step that failed. `None` where it was the workflow's own code, or the engine.
    pub step: Option<TraceStep>,
    /// What it failed with.
    pub error: StoredError,
    /// When it was tried again, or is to be. `None` where it is not: it failed the run, or the workflow's code
    /// was told of it.
    #[serde(serialize_with = "json::optional_time")]
    pub next_try_at: Option<SystemTime>,
}

/// A run that a step created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TraceChild {
    /// The run.
    pub run_id: String,
    /// The step that created it.
    pub step_name: String,
    /// Its workflow, where the name can be read.
    pub workflow_name: Option<String>,
    /// Its status.
    pub status: RunStatus,
}

impl TimeSpent {
    /// All parts that there are, with their names as in the JSON.
    ///
    /// ```
    /// # fn example(summary: openworkflow::trace::TraceSummary) {
    /// for (what, spent) in summary.time.parts() {
    ///     let about = if spent.estimated { "about " } else { "" };
    ///     println!("{what}: {about}{:?}", spent.duration);
    /// }
    /// # }
    /// ```
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, Measured)> {
        let parts = [
            ("delayed", self.delayed),
            ("queued", self.queued),
            ("executing", self.executing),
            ("parked", self.parked),
            ("backing_off", self.backing_off),
            ("lost", self.lost),
        ];
        parts
            .into_iter()
            .filter_map(|(name, part)| Some((name, part?)))
    }
}
