//! From rows to records.

use std::time::SystemTime;

use rusqlite::Row;
use rusqlite::types::ValueRef;
use workflow_core::Payload;

use super::super::{
    BackendError, BackendResult, RunStatus, StepAttempt, StepAttemptKind, StepStatus, StoredError,
    WorkflowRun, codec,
};

/// The columns that [`run`] reads, in its order.
macro_rules! run_columns {
    () => {
        "namespace_id, id, workflow_name, version, status, idempotency_key, context, input, output, \
         error, attempts, parent_step_attempt_id, worker_id, available_at, deadline_at, started_at, \
         finished_at, created_at, updated_at, config"
    };
}
pub(super) use run_columns;

/// How many columns [`run_columns`] has.
pub(super) const RUN_COLUMNS: usize = 20;

/// The number of the claim that a run is in. Whatever the column holds, this is a number that fits `u32`.
macro_rules! claim_number {
    () => {
        "(attempts & 4294967295)"
    };
}
pub(super) use claim_number;

/// The owner guard, but for the status: `?1` to `?4` are the namespace, the run, the worker and the
/// number of the claim.
macro_rules! owned {
    () => {
        concat!(
            "namespace_id = ?1 AND id = ?2 AND worker_id = ?3 AND ",
            $crate::backend::sqlite::rows::claim_number!(),
            " = ?4"
        )
    };
}
pub(super) use owned;

/// Reads a row of [`run_columns`].
pub(super) fn run(row: &Row<'_>) -> BackendResult<WorkflowRun> {
    let columns = Columns::new(row, "workflow_runs", 1);
    let mut run = WorkflowRun::new(
        columns.required(0, "namespace_id")?,
        columns.required(1, "id")?,
        columns.required(2, "workflow_name")?,
        columns.required_time(17, "created_at")?,
    );
    run.version = columns.owned(3, "version")?;
    run.status = RunStatus::from_stored(columns.required(4, "status")?);
    run.idempotency_key = columns.owned(5, "idempotency_key")?;
    run.carrier = codec::decode_run_context(columns.text(6, "context")?);
    run.input = columns.payload(7, "input")?;
    run.output = columns.payload(8, "output")?;
    run.error = columns.error(9, "error")?;
    run.attempts = columns.count(10, "attempts")?;
    run.parent_step_attempt_id = columns.owned(11, "parent_step_attempt_id")?;
    run.worker_id = columns.owned(12, "worker_id")?;
    run.available_at = columns.time(13, "available_at")?;
    run.deadline_at = columns.time(14, "deadline_at")?;
    run.started_at = columns.time(15, "started_at")?;
    run.finished_at = columns.time(16, "finished_at")?;
    run.updated_at = columns.required_time(18, "updated_at")?;
    run.continued_as = codec::decode_continued_as(columns.text(19, "config")?);
    Ok(run)
}

/// The columns that [`step_attempt`] reads, in its order, of a table called `a`.
macro_rules! step_columns {
    () => {
        "a.id, a.workflow_run_id, a.step_name, a.kind, a.status, a.context, a.output, a.error, \
         a.child_workflow_run_id, a.started_at, a.finished_at, a.created_at, a.updated_at, a.config"
    };
}
pub(super) use step_columns;

/// How many columns [`step_columns`] has.
pub(super) const STEP_COLUMNS: usize = 14;

/// Reads a row of [`step_columns`].
pub(super) fn step_attempt(row: &Row<'_>) -> BackendResult<StepAttempt> {
    let columns = Columns::new(row, "step_attempts", 0);
    let mut attempt = StepAttempt::new(
        columns.required(0, "id")?,
        columns.required(1, "workflow_run_id")?,
        columns.required(2, "step_name")?,
        StepAttemptKind::from_stored(columns.required(3, "kind")?),
        columns.required_time(11, "created_at")?,
    );
    attempt.status = StepStatus::from_stored(columns.required(4, "status")?);
    attempt.context = columns.owned(5, "context")?;
    attempt.output = columns.payload(6, "output")?;
    attempt.error = columns.error(7, "error")?;
    attempt.child_workflow_run_id = columns.owned(8, "child_workflow_run_id")?;
    attempt.started_at = columns.time(9, "started_at")?;
    attempt.finished_at = columns.time(10, "finished_at")?;
    attempt.updated_at = columns.required_time(12, "updated_at")?;
    let config = columns.text(13, "config")?;
    attempt.config = config.filter(|json| *json != "{}").map(str::to_owned);
    Ok(attempt)
}

/// The columns of a row, read with suspicion.
pub(super) struct Columns<'a> {
    row: &'a Row<'a>,
    table: &'static str,
    id: usize,
}

impl<'a> Columns<'a> {
    /// `id` is the index of the column that holds the row's id.
    pub(super) fn new(row: &'a Row<'a>, table: &'static str, id: usize) -> Self {
        Self { row, table, id }
    }

    fn malformed(&self, column: &'static str, problem: impl Into<String>) -> BackendError {
        let id = match self.row.get_ref(self.id) {
            Ok(ValueRef::Text(id)) => String::from_utf8_lossy(id).into_owned(),
            _ => "(without a text as id)".to_owned(),
        };
        BackendError::MalformedRow {
            table: self.table,
            id,
            column,
            problem: problem.into(),
        }
    }

    pub(super) fn text(
        &self,
        index: usize,
        column: &'static str,
    ) -> BackendResult<Option<&'a str>> {
        let value = self
            .row
            .get_ref(index)
            .map_err(|error| self.malformed(column, error.to_string()))?;
        match value {
            ValueRef::Null => Ok(None),
            ValueRef::Text(bytes) => std::str::from_utf8(bytes)
                .map(Some)
                .map_err(|_| self.malformed(column, "text that is not UTF-8")),
            other => Err(self.malformed(column, format!("a value of type {}", other.data_type()))),
        }
    }

    pub(super) fn required(&self, index: usize, column: &'static str) -> BackendResult<&'a str> {
        self.text(index, column)?
            .ok_or_else(|| self.malformed(column, "NULL"))
    }

    pub(super) fn owned(
        &self,
        index: usize,
        column: &'static str,
    ) -> BackendResult<Option<String>> {
        Ok(self.text(index, column)?.map(str::to_owned))
    }

    pub(super) fn payload(&self, index: usize, column: &'static str) -> BackendResult<Payload> {
        Ok(self
            .text(index, column)?
            .map_or(Payload::NULL, Payload::from_json))
    }

    pub(super) fn error(
        &self,
        index: usize,
        column: &'static str,
    ) -> BackendResult<Option<StoredError>> {
        let json = self.text(index, column)?.filter(|json| *json != "null");
        Ok(json.map(StoredError::from_json))
    }

    pub(super) fn time(
        &self,
        index: usize,
        column: &'static str,
    ) -> BackendResult<Option<SystemTime>> {
        let Some(text) = self.text(index, column)? else {
            return Ok(None);
        };
        match codec::parse_time(text) {
            Some(time) => Ok(Some(time)),
            None => Err(self.malformed(column, format!("{text:?}, which is no timestamp"))),
        }
    }

    pub(super) fn required_time(
        &self,
        index: usize,
        column: &'static str,
    ) -> BackendResult<SystemTime> {
        self.time(index, column)?
            .ok_or_else(|| self.malformed(column, "NULL"))
    }

    fn count(&self, index: usize, column: &'static str) -> BackendResult<u32> {
        match self.row.get_ref(index) {
            Ok(ValueRef::Integer(count)) => u32::try_from(count)
                .map_err(|_| self.malformed(column, format!("{count}, which is no count"))),
            Ok(other) => {
                Err(self.malformed(column, format!("a value of type {}", other.data_type())))
            }
            Err(error) => Err(self.malformed(column, error.to_string())),
        }
    }
}
