//! The run row while a worker executes it: the lease, and how an execution ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::{OptionalExtension, params};

use super::super::{ExecutionEnd, Owner, RecordedEnding, codec};
use super::error::OpResult;
use super::executions;
use super::rows::owned;
use super::runs::{self, Parent};
use super::writer::Tx;

pub(super) fn extend_lease(tx: &mut Tx<'_>, owner: &Owner, lease: Duration) -> OpResult<()> {
    let leased_until = codec::format_time(codec::later(tx.now, lease));
    let extended = tx
        .conn
        .prepare_cached(concat!(
            "UPDATE workflow_runs SET available_at = ?5, updated_at = ?6
             WHERE status = 'running' AND ",
            owned!(),
        ))?
        .execute(params![
            &*owner.namespace_id,
            &*owner.run_id,
            &*owner.worker_id,
            owner.attempts,
            leased_until,
            tx.now_text,
        ])?;
    if extended == 0 {
        return runs::guard_missed(tx, owner);
    }
    Ok(())
}

pub(super) fn end(tx: &mut Tx<'_>, owner: &Owner, end: &ExecutionEnd) -> OpResult<()> {
    match end {
        ExecutionEnd::Complete { output } => {
            let output = (!output.is_null()).then(|| output.expose());
            // The worker's id stays: it tells who completed the run. `OR FAIL`, here and below, spares a
            // journal for this statement alone, which SQLite keeps of those that return something.
            let sql = concat!(
                "UPDATE OR FAIL workflow_runs
                 SET status = 'completed', output = ?5, error = NULL, available_at = NULL,
                     finished_at = ?6, updated_at = ?6
                 WHERE status = 'running' AND ",
                owned!(),
                " RETURNING parent_step_attempt_namespace_id, parent_step_attempt_id",
            );
            finish(tx, owner, sql, output)
        }
        ExecutionEnd::Fail { error } => {
            let sql = concat!(
                "UPDATE OR FAIL workflow_runs
                 SET status = 'failed', error = ?5, worker_id = NULL, available_at = NULL,
                     started_at = NULL, finished_at = ?6, updated_at = ?6
                 WHERE status = 'running' AND ",
                owned!(),
                " RETURNING parent_step_attempt_namespace_id, parent_step_attempt_id",
            );
            finish(tx, owner, sql, Some(error))?;
            executions::record(tx, owner, RecordedEnding::Failed)
        }
        ExecutionEnd::Continue { successor } => {
            let sql = concat!(
                "UPDATE workflow_runs
                 SET status = 'completed', output = NULL, error = NULL, available_at = NULL,
                     finished_at = ?6, updated_at = ?6, config = json_set(
                         CASE WHEN json_valid(config) THEN
                             CASE json_type(config) WHEN 'object' THEN config ELSE '{}' END
                         ELSE '{}' END,
                         '$.continuedAs', ?5
                     )
                 WHERE status = 'running' AND parent_step_attempt_id IS NULL AND ",
                owned!(),
                " RETURNING parent_step_attempt_namespace_id, parent_step_attempt_id",
            );
            finish(tx, owner, sql, Some(&successor.id))?;
            runs::insert(tx, successor)?;
            Ok(())
        }
        ExecutionEnd::Retry { error, at, waits } => {
            let available_at = if any_arrived(tx, owner, waits)? {
                tx.now.min(*at)
            } else {
                *at
            };
            let written = tx
                .conn
                .prepare_cached(concat!(
                    "UPDATE workflow_runs
                     SET status = 'pending', error = ?5, worker_id = NULL, started_at = NULL,
                         available_at = ?6, updated_at = ?7
                     WHERE status = 'running' AND ",
                    owned!(),
                ))?
                .execute(params![
                    &*owner.namespace_id,
                    &*owner.run_id,
                    &*owner.worker_id,
                    owner.attempts,
                    error,
                    codec::format_time(available_at),
                    tx.now_text,
                ])?;
            put_away(tx, owner, written, available_at, RecordedEnding::Retrying)
        }
        ExecutionEnd::GiveBack => park(tx, owner, tx.now, RecordedEnding::GivenBack),
        ExecutionEnd::Park { until, waits } => {
            let available_at = if any_arrived(tx, owner, waits)? {
                tx.now.min(*until)
            } else {
                *until
            };
            park(tx, owner, available_at, RecordedEnding::Parked)
        }
    }
}

fn park(
    tx: &mut Tx<'_>,
    owner: &Owner,
    available_at: SystemTime,
    ending: RecordedEnding,
) -> OpResult<()> {
    let written = tx
        .conn
        .prepare_cached(concat!(
            "UPDATE workflow_runs
             SET status = 'running', worker_id = NULL, available_at = ?5, updated_at = ?6
             WHERE status NOT IN ('completed', 'succeeded', 'failed', 'canceled') AND ",
            owned!(),
        ))?
        .execute(params![
            &*owner.namespace_id,
            &*owner.run_id,
            &*owner.worker_id,
            owner.attempts,
            codec::format_time(available_at),
            tx.now_text,
        ])?;
    put_away(tx, owner, written, available_at, ending)
}

/// Runs a statement that gives the run a terminal status, then wakes its parent.
fn finish(tx: &mut Tx<'_>, owner: &Owner, sql: &str, result: Option<&str>) -> OpResult<()> {
    let parent = tx
        .conn
        .prepare_cached(sql)?
        .query_row(
            params![
                &*owner.namespace_id,
                &*owner.run_id,
                &*owner.worker_id,
                owner.attempts,
                result,
                tx.now_text,
            ],
            Parent::from_row,
        )
        .optional()?;
    match parent {
        Some(parent) => runs::ended(tx, &owner.namespace_id, &owner.run_id, &parent),
        None => runs::guard_missed(tx, owner),
    }
}

fn put_away(
    tx: &mut Tx<'_>,
    owner: &Owner,
    written: usize,
    available_at: SystemTime,
    ending: RecordedEnding,
) -> OpResult<()> {
    if written == 0 {
        return runs::guard_missed(tx, owner);
    }
    executions::record(tx, owner, ending)?;
    tx.work_due(&owner.namespace_id, available_at);
    Ok(())
}

/// Whether what one of the waiting step attempts waits for is there by now. Nobody wakes a run that
/// is still executing, so it has to look for itself before it is put away.
fn any_arrived(tx: &Tx<'_>, owner: &Owner, waits: &[Arc<str>]) -> OpResult<bool> {
    if waits.is_empty() {
        return Ok(false);
    }
    let mut statement = tx.conn.prepare_cached(
        "SELECT EXISTS (
             SELECT 1 FROM step_attempts a
             WHERE a.namespace_id = ?1 AND a.id = ?3 AND a.workflow_run_id = ?2
                 AND a.status = 'running'
                 AND CASE a.kind
                     WHEN 'workflow' THEN EXISTS (
                         SELECT 1 FROM workflow_runs c
                         WHERE c.namespace_id = a.child_workflow_run_namespace_id
                             AND c.id = a.child_workflow_run_id
                             AND c.status IN ('completed', 'succeeded', 'failed', 'canceled')
                     )
                     WHEN 'signal-wait' THEN EXISTS (
                         SELECT 1 FROM workflow_signals s
                         WHERE s.namespace_id = a.namespace_id AND s.step_attempt_id = a.id
                     )
                     ELSE FALSE
                 END
         )",
    )?;
    for id in waits {
        if statement.query_row([&*owner.namespace_id, &*owner.run_id, &**id], |row| {
            row.get(0)
        })? {
            return Ok(true);
        }
    }
    Ok(false)
}
