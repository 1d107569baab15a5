//! Runs that are made of others.

use rusqlite::{OptionalExtension, params};

use super::super::{BackendError, CopyOutcome, RunCopy, RunStatus, codec};
use super::error::OpResult;
use super::writer::Tx;

/// Makes the run, with copies of step attempts and of the signals that were delivered to them, and notes in
/// both runs which the other is.
pub(super) fn copy(tx: &mut Tx<'_>, copy: &RunCopy) -> OpResult<CopyOutcome> {
    let new = &copy.run;
    let status: Option<Option<String>> = tx
        .conn
        .prepare_cached("SELECT status FROM workflow_runs WHERE namespace_id = ?1 AND id = ?2")?
        .query_row([&new.namespace_id, &copy.origin_id], |row| {
            Ok(row.get(0).unwrap_or_default())
        })
        .optional()?;
    let Some(status) = status else {
        return Ok(CopyOutcome::NotFound);
    };
    let status = RunStatus::from_stored(&status.unwrap_or_default());
    if !status.is_terminal() {
        return Ok(CopyOutcome::NotOver(status));
    }
    let available_at = new.available_at.map_or(tx.now, codec::whole_millis);
    let deadline_at = new.deadline_at.map(codec::whole_millis);
    tx.conn
        .prepare_cached(
            "INSERT INTO workflow_runs (namespace_id, id, workflow_name, version, status, config,
                 context, input, attempts, available_at, deadline_at, created_at, updated_at)
             SELECT ?1, ?3, ?4, ?5, 'pending',
                 json_object('madeOf', json_object('how', ?6, 'run', ?2)),
                 ?7, input, ?11, ?8, ?9, ?10, ?10
             FROM workflow_runs WHERE namespace_id = ?1 AND id = ?2",
        )?
        .execute(params![
            new.namespace_id,
            copy.origin_id,
            new.id,
            new.workflow_name,
            new.version,
            copy.kind.as_str(),
            new.context_json(),
            codec::format_time(available_at),
            deadline_at.map(codec::format_time),
            tx.now_text,
            // Workers read no history at a first claim.
            u8::from(!copy.attempts.is_empty()),
        ])?;
    let mut copy_attempt = tx.conn.prepare_cached(
        "INSERT INTO step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status,
             config, context, output, error, child_workflow_run_namespace_id,
             child_workflow_run_id, started_at, finished_at, created_at, updated_at)
         SELECT namespace_id, ?4, ?5, step_name, kind, status, config, context, output, error,
             child_workflow_run_namespace_id, child_workflow_run_id, started_at, finished_at,
             created_at, updated_at
         FROM step_attempts WHERE namespace_id = ?1 AND workflow_run_id = ?2 AND id = ?3",
    )?;
    // A key stays with the sending: here it would be found by another one.
    let mut copy_signal = tx.conn.prepare_cached(
        "INSERT INTO workflow_signals (namespace_id, id, signal, data, sender_idempotency_key,
             workflow_run_id, step_attempt_id, created_at)
         SELECT namespace_id, ?3, signal, data, NULL, ?4, ?3, created_at
         FROM workflow_signals WHERE namespace_id = ?1 AND step_attempt_id = ?2",
    )?;
    for attempt in &copy.attempts {
        let copied = copy_attempt.execute(params![
            new.namespace_id,
            copy.origin_id,
            attempt.from_id,
            &*attempt.id,
            new.id,
        ])?;
        if copied == 0 {
            return Err(gone(&attempt.from_id).into());
        }
        copy_signal.execute(params![
            new.namespace_id,
            attempt.from_id,
            &*attempt.id,
            new.id,
        ])?;
    }
    tx.conn
        .prepare_cached(
            "UPDATE workflow_runs SET config = json_set(
                 json_insert(
                     CASE WHEN json_valid(config) THEN
                         CASE json_type(config) WHEN 'object' THEN config ELSE '{}' END
                     ELSE '{}' END,
                     '$.madeInto', json('[]')
                 ),
                 '$.madeInto[#]', json_object('how', ?3, 'run', ?4)
             )
             WHERE namespace_id = ?1 AND id = ?2",
        )?
        .execute(params![
            new.namespace_id,
            copy.origin_id,
            copy.kind.as_str(),
            new.id,
        ])?;
    tx.work_due(&new.namespace_id, available_at);
    Ok(CopyOutcome::Made)
}

fn gone(attempt_id: &str) -> BackendError {
    BackendError::MalformedRow {
        table: "step_attempts",
        id: attempt_id.to_owned(),
        column: "workflow_run_id",
        problem: "no row of the run any more".to_owned(),
    }
}
