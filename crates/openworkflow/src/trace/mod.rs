//! What happened to a run, from the database that holds it: as events in order, and as a summary.
//!
//! [`Client::trace_events`](crate::Client::trace_events) and
//! [`Client::trace_summary`](crate::Client::trace_summary) answer for every run, however long ago it was,
//! whoever executed it and whether or not anybody traced it: they read the run's rows and no other source.
//! `docs/history.md` tells what the rows know. What they do not know is left out or said to be estimated, and
//! never made up.
//!
//! The answers are plain data, with [`serde::Serialize`] for JSON: times are RFC 3339 in UTC, durations
//! seconds. Inputs, outputs and data of signals are not in them; the messages of errors are.
//!
//! ```
//! use openworkflow::{Client, Sqlite, Worker, WorkflowSpec};
//!
//! static GREET: WorkflowSpec<String, String> = WorkflowSpec::new("greet");
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Sqlite::open_in_memory().await?;
//! let greet = GREET.implement(|wf, name: String| async move {
//!     wf.run("compose", || async { Ok(format!("Hello, {name}!")) }).await
//! });
//! let client = Client::new(store.clone());
//! let run = client.start(&GREET, &"Ada".to_owned()).await?;
//! Worker::builder(store).workflow(greet).build()?.tick().await?;
//!
//! let trace = client.trace_events(run.id()).await?;
//! let names: Vec<_> = trace.events.iter().map(|event| event.kind.name()).collect();
//! assert_eq!(names, ["run_created", "step_started", "step_completed", "run_completed"]);
//! println!("{}", serde_json::to_string_pretty(&trace)?);
//!
//! let summary = client.trace_summary(run.id()).await?;
//! assert_eq!((summary.executions.len(), summary.steps.len(), summary.errors.len()), (1, 1, 0));
//! println!("{:?} in all, {:?} of it at work", summary.total, summary.time.executing);
//! # Ok(()) }
//! ```

mod event;
mod events;
mod execution;
mod inference;
mod json;
pub mod picture;
mod recorded;
mod steps;
mod summarize;
mod summary;

use std::time::SystemTime;

use serde::Serialize;

use crate::backend::executions::InConfig;
use crate::backend::{
    AttemptRecord, BackendError, ClaimTimes, ExecutionRecord, RunRecord, WorkflowRun,
};

pub use event::{TraceEvent, TraceEventKind, TraceStep};
pub use execution::{ExecutionEnding, TraceExecution};
pub use summary::{
    Measured, Standing, StepCount, StepState, TimeSpent, TraceChild, TraceFailure,
    TraceStepSummary, TraceSummary,
};

pub(crate) use events::events;
pub(crate) use recorded::lost;
pub(crate) use summarize::summarize;

/// What happened to a run, and to its children where they were asked for, in the order in which it happened.
///
/// Made by [`Client::trace_events`](crate::Client::trace_events).
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TraceEvents {
    /// The run that was asked about.
    pub run_id: String,
    /// The events. Of those at the same time, what must have come first does.
    pub events: Vec<TraceEvent>,
    /// What could not be read, and is therefore not among the events.
    pub unreadable: Vec<Unreadable>,
    /// How many children, and children's children, were left out because there are too many.
    pub children_left_out: usize,
}

/// A row that holds what nobody who follows the protocol writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Unreadable {
    /// The run that it belongs to.
    pub run_id: String,
    /// What is wrong with it: names the table, the row and the column.
    pub problem: String,
}

impl Unreadable {
    pub(crate) fn new(run_id: &str, error: &BackendError) -> Self {
        Self {
            run_id: run_id.to_owned(),
            problem: error.to_string(),
        }
    }
}

impl TraceEvents {
    pub(crate) fn new(run_id: &str) -> Self {
        Self {
            run_id: run_id.to_owned(),
            events: Vec::new(),
            unreadable: Vec::new(),
            children_left_out: 0,
        }
    }
}

/// A record with what could be read of it, and when it was read.
pub(crate) struct Story {
    run: WorkflowRun,
    parent_run_id: Option<String>,
    attempts: Vec<AttemptRecord>,
    /// The executions that were recorded as they ended, in their order.
    executions: Vec<ExecutionRecord>,
    /// The claim that this library made last.
    claim: Option<(u32, ClaimTimes)>,
    pub(crate) unreadable: Vec<Unreadable>,
    /// The database's time, as far as it is known.
    now: SystemTime,
}

impl Story {
    pub(crate) fn new(record: RunRecord, now: SystemTime) -> Self {
        let run_id = &record.run.id;
        let mut attempts = Vec::with_capacity(record.attempts.len());
        let mut unreadable = Vec::new();
        for attempt in record.attempts {
            match attempt {
                Ok(attempt) => attempts.push(attempt),
                Err(error) => unreadable.push(Unreadable::new(run_id, &error)),
            }
        }
        let InConfig { claim, ended } = InConfig::read(record.config.as_deref());
        let mut executions = record.executions;
        executions.extend(ended);
        executions.sort_by_key(|execution| execution.attempt);
        executions.dedup_by_key(|execution| execution.attempt);
        Self {
            executions,
            claim,
            parent_run_id: record.parent_run_id,
            attempts,
            unreadable,
            now,
            run: record.run,
        }
    }

    /// The ids of the runs that its steps created.
    pub(crate) fn children(&self) -> impl Iterator<Item = &str> {
        let children = self.attempts.iter().filter_map(|of| of.child.as_ref());
        children.map(|child| &*child.id)
    }

    /// Until when there is something to tell: the end of the run, or now.
    fn horizon(&self) -> SystemTime {
        match (self.run.status.is_terminal(), self.run.finished_at) {
            (true, Some(finished_at)) => finished_at,
            (true, None) => self.run.updated_at,
            (false, _) => self.now,
        }
    }
}
