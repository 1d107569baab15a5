//! Runs: creating, reading and canceling them, who owns them, and waking their parents.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use workflow_core::Interruption;

use super::super::{BackendError, NewRun, Owner, RunStatus, WorkflowRun, codec};
use super::error::OpResult;
use super::rows::{self, claim_number, run_columns};
use super::writer::Tx;

/// For how long after a run's creation its idempotency key finds it.
const IDEMPOTENCY_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);

/// Creates a run, or finds the one its idempotency key created. The flag says whether it was found.
pub(super) fn create(tx: &mut Tx<'_>, new: &NewRun) -> OpResult<(WorkflowRun, bool)> {
    if let Some(key) = &new.idempotency_key {
        let since = codec::format_time(
            tx.now
                .checked_sub(IDEMPOTENCY_PERIOD)
                .unwrap_or(std::time::UNIX_EPOCH),
        );
        if let Some(existing) = find(tx, new, key, &since)? {
            return Ok((existing, true));
        }
    }
    Ok((insert(tx, new)?, false))
}

/// Creates the run of a step attempt, or finds the one it created, however long ago.
pub(super) fn create_child(tx: &mut Tx<'_>, new: &NewRun) -> OpResult<WorkflowRun> {
    if let Some(key) = &new.idempotency_key
        && let Some(existing) = find(tx, new, key, "")?
    {
        return Ok(existing);
    }
    insert(tx, new)
}

fn find(tx: &Tx<'_>, new: &NewRun, key: &str, since: &str) -> OpResult<Option<WorkflowRun>> {
    let mut statement = tx.conn.prepare_cached(concat!(
        "SELECT ",
        run_columns!(),
        " FROM workflow_runs
         WHERE namespace_id = ?1 AND workflow_name = ?2 AND idempotency_key = ?3
             AND created_at >= ?4
         ORDER BY created_at, id LIMIT 1"
    ))?;
    let existing = statement
        .query_row(
            params![new.namespace_id, new.workflow_name, key, since],
            |row| Ok(rows::run(row)),
        )
        .optional()?;
    Ok(existing.transpose()?)
}

pub(super) fn insert(tx: &mut Tx<'_>, new: &NewRun) -> OpResult<WorkflowRun> {
    let available_at = new.available_at.map_or(tx.now, codec::whole_millis);
    let deadline_at = new.deadline_at.map(codec::whole_millis);
    let parent_namespace_id = new
        .parent_step_attempt_id
        .as_ref()
        .map(|_| new.namespace_id.as_str());
    let input = (!new.input.is_null()).then(|| new.input.expose());
    let mut statement = tx.conn.prepare_cached(
        "INSERT INTO workflow_runs (namespace_id, id, workflow_name, version, status,
             idempotency_key, config, context, input, attempts, parent_step_attempt_namespace_id,
             parent_step_attempt_id, available_at, deadline_at, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, 'pending', ?5, '{}', ?6, ?7, 0, ?8, ?9, ?10, ?11, ?12, ?12)",
    )?;
    statement.execute(params![
        new.namespace_id,
        new.id,
        new.workflow_name,
        new.version,
        new.idempotency_key,
        new.context_json(),
        input,
        parent_namespace_id,
        new.parent_step_attempt_id,
        codec::format_time(available_at),
        deadline_at.map(codec::format_time),
        tx.now_text,
    ])?;
    tx.work_due(&new.namespace_id, available_at);
    let mut run = WorkflowRun::new(&*new.namespace_id, &*new.id, &*new.workflow_name, tx.now);
    run.version.clone_from(&new.version);
    run.idempotency_key.clone_from(&new.idempotency_key);
    run.carrier = new.carrier.clone();
    run.input = new.input.clone();
    run.parent_step_attempt_id
        .clone_from(&new.parent_step_attempt_id);
    run.available_at = Some(available_at);
    run.deadline_at = deadline_at;
    Ok(run)
}

pub(super) fn get(
    conn: &Connection,
    namespace_id: &str,
    id: &str,
) -> OpResult<Option<WorkflowRun>> {
    let mut statement = conn.prepare_cached(concat!(
        "SELECT ",
        run_columns!(),
        " FROM workflow_runs WHERE namespace_id = ?1 AND id = ?2"
    ))?;
    let run = statement
        .query_row([namespace_id, id], |row| Ok(rows::run(row)))
        .optional()?;
    Ok(run.transpose()?)
}

/// The columns that link a run to the step attempt it is the child of.
pub(super) struct Parent {
    namespace_id: Option<String>,
    step_attempt_id: Option<String>,
}

impl Parent {
    /// Reads two columns. What is not text is no link, rather than a failure after the write.
    pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            namespace_id: row.get(0).unwrap_or_default(),
            step_attempt_id: row.get(1).unwrap_or_default(),
        })
    }
}

/// A run reached a terminal status: makes its parent due, if that waits for it.
pub(super) fn ended(
    tx: &mut Tx<'_>,
    namespace_id: &str,
    run_id: &str,
    parent: &Parent,
) -> OpResult<()> {
    tx.run_ended(run_id);
    let (Some(parent_namespace_id), Some(step_attempt_id)) =
        (&parent.namespace_id, &parent.step_attempt_id)
    else {
        return Ok(());
    };
    let woken = tx
        .conn
        .prepare_cached(
            "UPDATE workflow_runs SET available_at = ?5, updated_at = ?5
             WHERE namespace_id = ?1
                 AND id = (
                     SELECT workflow_run_id FROM step_attempts
                     WHERE namespace_id = ?1 AND id = ?2 AND kind = 'workflow'
                         AND status = 'running' AND child_workflow_run_namespace_id = ?3
                         AND child_workflow_run_id = ?4
                 )
                 AND status IN ('running', 'sleeping') AND worker_id IS NULL
                 AND (available_at IS NULL OR available_at > ?5)",
        )?
        .execute(params![
            parent_namespace_id,
            step_attempt_id,
            namespace_id,
            run_id,
            tx.now_text,
        ])?;
    if woken > 0 {
        tx.work_due(parent_namespace_id, tx.now);
    }
    Ok(())
}

/// Whether the run is still the owner's, read after a guarded statement changed nothing.
pub(super) fn check_owner(tx: &Tx<'_>, owner: &Owner) -> OpResult<()> {
    match interruption(tx, owner)? {
        None => Ok(()),
        Some(reason) => Err(lost(reason)),
    }
}

/// The error of a guarded statement that changed nothing and does nothing twice.
pub(super) fn guard_missed(tx: &Tx<'_>, owner: &Owner) -> OpResult<()> {
    let reason = interruption(tx, owner)?.unwrap_or(Interruption::LeaseLost);
    Err(lost(reason))
}

fn lost(reason: Interruption) -> super::error::OpError {
    BackendError::OwnershipLost { reason }.into()
}

fn interruption(tx: &Tx<'_>, owner: &Owner) -> OpResult<Option<Interruption>> {
    let run = tx
        .conn
        .prepare_cached(concat!(
            "SELECT status, worker_id IS ?3 AND ",
            claim_number!(),
            " = ?4, deadline_at IS NOT NULL AND deadline_at <= ?5
                 FROM workflow_runs WHERE namespace_id = ?1 AND id = ?2",
        ))?
        .query_row(
            params![
                &*owner.namespace_id,
                &*owner.run_id,
                &*owner.worker_id,
                owner.attempts,
                tx.now_text,
            ],
            |row| {
                let status = RunStatus::from_stored(row.get_ref(0)?.as_str().unwrap_or_default());
                Ok((status, row.get::<_, bool>(1)?, row.get::<_, bool>(2)?))
            },
        )
        .optional()?;
    Ok(match run {
        Some((RunStatus::Running, true, _)) => None,
        Some((RunStatus::Canceled, ..)) => Some(Interruption::Canceled),
        Some((RunStatus::Failed, _, true)) => Some(Interruption::DeadlineExceeded),
        _ => Some(Interruption::LeaseLost),
    })
}
