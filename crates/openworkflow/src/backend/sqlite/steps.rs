//! Step attempts: beginning and ending them under the owner guard, and reading them back.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{
    ChildRun, EndedStep, History, NewRun, NewStepAttempt, Owner, ReceivedSignal, RunStatus,
    StepAttempt, StepStatus, WorkflowRun, codec,
};
use super::error::OpResult;
use super::rows::{self, Columns, STEP_COLUMNS, step_columns};
use super::runs;
use super::writer::Tx;

/// How the row of an attempt that runs is made, up to what is done where there is one.
macro_rules! insert_running {
    () => {
        "INSERT INTO step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status,
             config, context, started_at, created_at, updated_at)
         VALUES (?1, ?3, ?2, ?4, ?5, 'running', ?9, ?6, ?7, ?7, ?8)
         ON CONFLICT (namespace_id, id)"
    };
}

pub(super) fn begin(tx: &mut Tx<'_>, owner: &Owner, attempt: &NewStepAttempt) -> OpResult<()> {
    runs::check_owner(tx, owner)?;
    let begun_at = begun_at(tx, attempt);
    let sql = match attempt.config {
        None => concat!(insert_running!(), " DO NOTHING"),
        Some(_) => concat!(
            insert_running!(),
            " DO UPDATE
              SET updated_at = excluded.updated_at,
                  config = CASE WHEN json_valid(config) THEN json_patch(config, excluded.config)
                      ELSE excluded.config END
              WHERE step_attempts.workflow_run_id = excluded.workflow_run_id
                  AND step_attempts.status NOT IN ('completed', 'failed', 'succeeded')"
        ),
    };
    let written = tx.conn.prepare_cached(sql)?.execute(params![
        &*owner.namespace_id,
        &*owner.run_id,
        &*attempt.id,
        &*attempt.step_name,
        attempt.kind.as_str(),
        attempt.context,
        begun_at.as_deref().unwrap_or(tx.now_text),
        tx.now_text,
        attempt.config.as_deref().unwrap_or("{}"),
    ])?;
    if written > 0 || attempt.config.is_none() {
        return Ok(());
    }
    // The attempt has ended, of which its execution knows nothing.
    runs::guard_missed(tx, owner)
}

/// The text of when an attempt began; `None` for now.
fn begun_at(tx: &Tx<'_>, attempt: &NewStepAttempt) -> Option<String> {
    if attempt.begun_ago.is_zero() {
        return None;
    }
    tx.now
        .checked_sub(attempt.begun_ago)
        .map(codec::format_time)
}

pub(super) fn begin_child(
    tx: &mut Tx<'_>,
    owner: &Owner,
    attempt: &NewStepAttempt,
    child: &NewRun,
) -> OpResult<WorkflowRun> {
    begin(tx, owner, attempt)?;
    let linked: Option<String> = tx
        .conn
        .prepare_cached(
            "SELECT child_workflow_run_id FROM step_attempts WHERE namespace_id = ?1 AND id = ?2",
        )?
        .query_row([&*owner.namespace_id, &*attempt.id], |row| row.get(0))?;
    if let Some(id) = linked
        && let Some(run) = runs::get(tx.conn, &owner.namespace_id, &id)?
    {
        return Ok(run);
    }
    let run = runs::create_child(tx, child)?;
    // The link goes when the child is deleted; that there was one stays.
    tx.conn
        .prepare_cached(
            "UPDATE step_attempts
             SET child_workflow_run_namespace_id = ?3, child_workflow_run_id = ?4, updated_at = ?5,
                 config = json_patch(
                     CASE WHEN json_valid(config) THEN config ELSE '{}' END,
                     CASE WHEN ?6 THEN json_object('child', ?4, 'cancelWithParent', json('true'))
                         ELSE json_object('child', ?4) END
                 )
             WHERE namespace_id = ?1 AND id = ?2",
        )?
        .execute(params![
            &*owner.namespace_id,
            &*attempt.id,
            run.namespace_id,
            run.id,
            tx.now_text,
            child.cancel_with_parent,
        ])?;
    Ok(run)
}

pub(super) fn end(tx: &mut Tx<'_>, owner: &Owner, ended: &EndedStep) -> OpResult<()> {
    let attempt = &ended.attempt;
    let begun_at = begun_at(tx, attempt);
    let (status, output, error) = match &ended.result {
        Ok(output) => (
            StepStatus::Completed,
            (!output.is_null()).then(|| output.expose()),
            None,
        ),
        Err(error) => (StepStatus::Failed, None, Some(error.as_str())),
    };
    // Asked for beforehand, since a statement that reads a table while it inserts makes SQLite keep a
    // journal for that statement alone. Nobody else writes within the transaction.
    runs::check_owner(tx, owner)?;
    let written = tx
        .conn
        .prepare_cached(
            "INSERT INTO step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status,
                 config, context, output, error, started_at, finished_at, created_at, updated_at)
             VALUES (?1, ?3, ?2, ?4, ?5, ?6, ?12, ?7, ?8, ?9, ?10, ?11, ?10, ?11)
             ON CONFLICT (namespace_id, id) DO UPDATE
             SET status = excluded.status, output = excluded.output, error = excluded.error,
                 finished_at = excluded.finished_at, updated_at = excluded.updated_at,
                 config = CASE WHEN json_valid(config) THEN json_patch(config, excluded.config)
                     ELSE excluded.config END
             WHERE step_attempts.workflow_run_id = excluded.workflow_run_id
                 AND step_attempts.status NOT IN ('completed', 'failed', 'succeeded')",
        )?
        .execute(params![
            &*owner.namespace_id,
            &*owner.run_id,
            &*attempt.id,
            &*attempt.step_name,
            attempt.kind.as_str(),
            status.as_str(),
            attempt.context,
            output,
            error,
            begun_at.as_deref().unwrap_or(tx.now_text),
            tx.now_text,
            attempt.config.as_deref().unwrap_or("{}"),
        ])?;
    if written > 0 || has_ended_so(tx, owner, attempt, &status)? {
        return Ok(());
    }
    // Still the owner, but the attempt ended otherwise: what this execution believes of its history
    // is wrong, and giving it up lets the next one read the truth.
    runs::guard_missed(tx, owner)
}

/// Whether the run is the owner's and the attempt has the wanted status already.
fn has_ended_so(
    tx: &Tx<'_>,
    owner: &Owner,
    attempt: &NewStepAttempt,
    wanted: &StepStatus,
) -> OpResult<bool> {
    runs::check_owner(tx, owner)?;
    let found = tx
        .conn
        .prepare_cached(
            "SELECT status FROM step_attempts
             WHERE namespace_id = ?1 AND id = ?2 AND workflow_run_id = ?3",
        )?
        .query_row(
            [&*owner.namespace_id, &*attempt.id, &*owner.run_id],
            |row| {
                Ok(StepStatus::from_stored(
                    row.get_ref(0)?.as_str().unwrap_or_default(),
                ))
            },
        )
        .optional()?;
    Ok(match found {
        Some(StepStatus::Succeeded) => *wanted == StepStatus::Completed,
        Some(status) => status == *wanted,
        None => false,
    })
}

/// Reads all step attempts of a run, with what those that wait may have been waiting for. One
/// statement, hence one snapshot.
pub(super) fn history(conn: &Connection, namespace_id: &str, run_id: &str) -> OpResult<History> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        step_columns!(),
        ", c.id, c.status, c.output, c.error, c.finished_at, s.id IS NOT NULL, s.data,
             s.created_at
         FROM step_attempts a
         LEFT JOIN workflow_runs c ON a.kind = 'workflow'
             AND a.status NOT IN ('completed', 'failed', 'succeeded')
             AND c.namespace_id = coalesce(a.child_workflow_run_namespace_id, a.namespace_id)
             AND c.id = coalesce(
                 a.child_workflow_run_id,
                 CASE WHEN json_valid(a.config) THEN a.config ->> 'child' END
             )
         LEFT JOIN workflow_signals s ON a.kind = 'signal-wait'
             AND a.status NOT IN ('completed', 'failed', 'succeeded')
             AND s.namespace_id = a.namespace_id AND s.step_attempt_id = a.id
         WHERE a.namespace_id = ?1 AND a.workflow_run_id = ?2
         ORDER BY a.created_at, a.id"
    ))?;
    let mut found = statement.query([namespace_id, run_id])?;
    let mut attempts: Vec<StepAttempt> = Vec::new();
    let mut children = HashMap::new();
    let mut signals = HashMap::new();
    while let Some(row) = found.next()? {
        let attempt = rows::step_attempt(row)?;
        let child = Columns::new(row, "workflow_runs", STEP_COLUMNS);
        if let Some(id) = child.text(STEP_COLUMNS, "id")? {
            let status = RunStatus::from_stored(child.required(STEP_COLUMNS + 1, "status")?);
            let child = ChildRun::new(
                id,
                status,
                child.payload(STEP_COLUMNS + 2, "output")?,
                child.error(STEP_COLUMNS + 3, "error")?,
                child.time(STEP_COLUMNS + 4, "finished_at")?,
            );
            children.insert(attempt.id.clone(), child);
        }
        if row.get(STEP_COLUMNS + 5)? {
            let signal = Columns::new(row, "workflow_signals", 0);
            let data = signal.payload(STEP_COLUMNS + 6, "data")?;
            let at = signal.required_time(STEP_COLUMNS + 7, "created_at")?;
            signals.insert(attempt.id.clone(), ReceivedSignal::new(data, at));
        }
        attempts.push(attempt);
    }
    Ok(History::new(attempts, children, signals))
}
