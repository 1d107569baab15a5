//! Rows of the tables as records.

use std::time::SystemTime;

use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;
use workflow_core::Payload;

use super::session::JsonText;
use crate::backend::{
    BackendError, BackendResult, ChildRun, ReceivedSignal, RunStatus, StepAttempt, StepAttemptKind,
    StepStatus, StoredError, WorkflowRun, codec,
};

/// The columns that [`run`] reads, with the alias `r`.
pub(super) const RUN_COLUMNS: &str = "r.namespace_id, r.id, r.workflow_name, r.version, r.status, \
    r.idempotency_key, r.context, r.input, r.output, r.error, r.attempts, \
    r.parent_step_attempt_id, r.worker_id, r.available_at, r.deadline_at, r.started_at, \
    r.finished_at, r.created_at, r.updated_at, r.config->>'continuedAs' AS continued_as";

/// How many those are: what follows them in a row begins here.
pub(super) const RUN_WIDTH: usize = 20;

/// Where among them the time of the last write stands.
pub(super) const UPDATED_AT: usize = 18;

/// The columns that [`step`] reads, with the alias `s`.
pub(super) const STEP_COLUMNS: &str = "s.id, s.workflow_run_id, s.step_name, s.kind, s.status, \
    s.config, s.context, s.output, s.error, s.child_workflow_run_id, s.started_at, s.finished_at, \
    s.created_at, s.updated_at";

/// How many those are.
pub(super) const STEP_WIDTH: usize = 14;

/// Reads the columns of one row in order.
struct Reader<'a> {
    row: &'a Row,
    at: usize,
    table: &'static str,
    id: String,
}

impl Reader<'_> {
    fn next<T: FromSqlOwned>(&mut self, column: &'static str) -> BackendResult<T> {
        let value = self.row.try_get(self.at);
        self.at += 1;
        value.map_err(|error| BackendError::MalformedRow {
            table: self.table,
            id: self.id.clone(),
            column,
            problem: error.to_string(),
        })
    }

    fn json(&mut self, column: &'static str) -> BackendResult<Option<String>> {
        let text: Option<JsonText> = self.next(column)?;
        Ok(text.map(|JsonText(text)| text))
    }

    fn payload(&mut self, column: &'static str) -> BackendResult<Payload> {
        Ok(self.json(column)?.map_or(Payload::NULL, Payload::from_json))
    }

    fn error(&mut self, column: &'static str) -> BackendResult<Option<StoredError>> {
        let json = self.json(column)?.filter(|json| json != "null");
        Ok(json.map(|json| StoredError::from_json(&json)))
    }
}

/// The run whose columns begin the row.
pub(super) fn run(row: &Row) -> BackendResult<WorkflowRun> {
    let mut columns = Reader {
        row,
        at: 0,
        table: "workflow_runs",
        id: row.try_get(1).unwrap_or_default(),
    };
    let namespace_id: String = columns.next("namespace_id")?;
    let id: String = columns.next("id")?;
    let workflow_name: String = columns.next("workflow_name")?;
    // The time of creation is not at hand yet, and replaced below.
    let mut run = WorkflowRun::new(namespace_id, id, workflow_name, SystemTime::UNIX_EPOCH);
    run.version = columns.next("version")?;
    run.status = RunStatus::from_stored(&columns.next::<String>("status")?);
    run.idempotency_key = columns.next("idempotency_key")?;
    run.carrier = codec::decode_run_context(columns.json("context")?.as_deref());
    run.input = columns.payload("input")?;
    run.output = columns.payload("output")?;
    run.error = columns.error("error")?;
    let attempts: i32 = columns.next("attempts")?;
    run.attempts = u32::try_from(attempts).map_err(|_| BackendError::MalformedRow {
        table: "workflow_runs",
        id: run.id.clone(),
        column: "attempts",
        problem: format!("the negative number {attempts}"),
    })?;
    run.parent_step_attempt_id = columns.next("parent_step_attempt_id")?;
    run.worker_id = columns.next("worker_id")?;
    run.available_at = columns.next("available_at")?;
    run.deadline_at = columns.next("deadline_at")?;
    run.started_at = columns.next("started_at")?;
    run.finished_at = columns.next("finished_at")?;
    run.created_at = columns.next("created_at")?;
    run.updated_at = columns.next("updated_at")?;
    run.continued_as = columns.next("config")?;
    Ok(run)
}

/// The step attempt whose columns begin the row.
pub(super) fn step(row: &Row) -> BackendResult<StepAttempt> {
    let mut columns = Reader {
        row,
        at: 0,
        table: "step_attempts",
        id: row.try_get(0).unwrap_or_default(),
    };
    let id: String = columns.next("id")?;
    let run_id: String = columns.next("workflow_run_id")?;
    let name: String = columns.next("step_name")?;
    let kind = StepAttemptKind::from_stored(&columns.next::<String>("kind")?);
    let mut step = StepAttempt::new(id, run_id, name, kind, SystemTime::UNIX_EPOCH);
    step.status = StepStatus::from_stored(&columns.next::<String>("status")?);
    step.config = columns.json("config")?.filter(|json| json != "{}");
    step.context = columns.json("context")?;
    step.output = columns.payload("output")?;
    step.error = columns.error("error")?;
    step.child_workflow_run_id = columns.next("child_workflow_run_id")?;
    step.started_at = columns.next("started_at")?;
    step.finished_at = columns.next("finished_at")?;
    step.created_at = columns.next("created_at")?;
    step.updated_at = columns.next("updated_at")?;
    Ok(step)
}

/// The child run in a row of the history: id, status, output, error and end from column `at`.
pub(super) fn child(row: &Row, at: usize) -> BackendResult<Option<ChildRun>> {
    let mut columns = Reader {
        row,
        at,
        table: "workflow_runs",
        id: String::new(),
    };
    let Some(id) = columns.next::<Option<String>>("id")? else {
        return Ok(None);
    };
    columns.id.clone_from(&id);
    let status: String = columns.next("status")?;
    let output = columns.payload("output")?;
    let error = columns.error("error")?;
    let finished_at = columns.next("finished_at")?;
    Ok(Some(ChildRun::new(
        id,
        RunStatus::from_stored(&status),
        output,
        error,
        finished_at,
    )))
}

/// The delivered signal in a row of the history: when it was delivered, if it was, and its data, from
/// column `at`.
pub(super) fn signal(row: &Row, at: usize) -> BackendResult<Option<ReceivedSignal>> {
    let mut columns = Reader {
        row,
        at,
        table: "workflow_signals",
        id: String::new(),
    };
    let Some(received_at) = columns.next("created_at")? else {
        return Ok(None);
    };
    let data = columns.payload("data")?;
    Ok(Some(ReceivedSignal::new(data, received_at)))
}

/// A value in a column that we computed ourselves.
pub(super) fn value<T: FromSqlOwned>(row: &Row, at: usize) -> BackendResult<T> {
    row.try_get(at).map_err(super::fault::driver)
}

/// A time from this side of the database: in whole milliseconds, and no later than all can read.
pub(super) fn time(time: SystemTime) -> SystemTime {
    codec::whole_millis(time.clamp(SystemTime::UNIX_EPOCH, codec::latest_time()))
}
