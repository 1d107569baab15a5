//! Canceling a run, and the children that are canceled with it.

use std::collections::HashSet;

use rusqlite::{OptionalExtension as _, params};

use super::super::executions::InConfig;
use super::super::{CanceledRun, Cancellation, RunStatus, codec};
use super::error::OpResult;
use super::executions::{added_to_config, with_execution};
use super::rows::claim_number;
use super::runs::{self, Parent};
use super::writer::Tx;

/// Also goes through what is canceled already: somebody may have canceled that run alone.
pub(super) fn cancel(tx: &mut Tx<'_>, namespace_id: &str, id: &str) -> OpResult<Cancellation> {
    let mut runs = Vec::new();
    if let Some(canceled) = cancel_one(tx, namespace_id, id)? {
        runs.push(canceled);
    } else {
        match status(tx, namespace_id, id)? {
            None => return Ok(Cancellation::NotFound),
            Some(RunStatus::Canceled) => {}
            Some(status) => return Ok(Cancellation::AlreadyEnded(status)),
        }
    }
    let mut known = HashSet::from([id.to_owned()]);
    let mut parents = vec![id.to_owned()];
    while let Some(parent) = parents.pop() {
        for child in marked_children(tx, namespace_id, &parent)? {
            if !known.insert(child.clone()) {
                continue;
            }
            if let Some(canceled) = cancel_one(tx, namespace_id, &child)? {
                runs.push(canceled);
            } else if status(tx, namespace_id, &child)? != Some(RunStatus::Canceled) {
                continue;
            }
            parents.push(child);
        }
    }
    Ok(Cancellation::Canceled { runs })
}

/// `None` where the run is over, or there is none.
fn cancel_one(tx: &mut Tx<'_>, namespace_id: &str, id: &str) -> OpResult<Option<CanceledRun>> {
    let canceled = tx
        .conn
        .prepare_cached(concat!(
            "UPDATE workflow_runs SET
             config = CASE WHEN worker_id IS NULL THEN config ELSE ",
            added_to_config!(with_execution!(
                "CASE WHEN available_at <= ?3 THEN 'lost' ELSE 'canceled' END",
                "CASE WHEN available_at <= ?3 THEN updated_at ELSE ?3 END"
            )),
            " END,
             status = 'canceled', worker_id = NULL, available_at = NULL, finished_at = ?3,
                 updated_at = ?3
             WHERE namespace_id = ?1 AND id = ?2 AND status IN ('pending', 'running', 'sleeping')
             RETURNING parent_step_attempt_namespace_id, parent_step_attempt_id, workflow_name,
                 version, created_at, context, config, ",
            claim_number!(),
        ))?
        .query_row(params![namespace_id, id, tx.now_text], |row| {
            let created_at: Option<String> = row.get(4).unwrap_or_default();
            let created_at = created_at.as_deref().and_then(codec::parse_time);
            // For interceptors: what is not text is no reason to fail after the write.
            let mut canceled = CanceledRun::new(id, row.get::<_, String>(2).unwrap_or_default());
            canceled.version = row.get(3).unwrap_or_default();
            canceled.created_at = created_at;
            canceled.age = created_at.and_then(|at| tx.now.duration_since(at).ok());
            let context: Option<String> = row.get(5).unwrap_or_default();
            let config: Option<String> = row.get(6).unwrap_or_default();
            canceled.lost_attempt = InConfig::lost(config.as_deref(), row.get(7)?);
            canceled.carrier = codec::decode_run_context(context.as_deref());
            Ok((Parent::from_row(row)?, canceled))
        })
        .optional()?;
    let Some((parent, canceled)) = canceled else {
        return Ok(None);
    };
    runs::ended(tx, namespace_id, id, &parent)?;
    Ok(Some(canceled))
}

fn status(tx: &Tx<'_>, namespace_id: &str, id: &str) -> OpResult<Option<RunStatus>> {
    let status = tx
        .conn
        .prepare_cached("SELECT status FROM workflow_runs WHERE namespace_id = ?1 AND id = ?2")?
        .query_row([namespace_id, id], |row| {
            Ok(RunStatus::from_stored(
                row.get_ref(0)?.as_str().unwrap_or_default(),
            ))
        })
        .optional()?;
    Ok(status)
}

/// The children of a run that are to be canceled with it.
fn marked_children(tx: &Tx<'_>, namespace_id: &str, id: &str) -> OpResult<Vec<String>> {
    let mut statement = tx.conn.prepare_cached(
        "SELECT child_workflow_run_id FROM step_attempts
         WHERE namespace_id = ?1 AND workflow_run_id = ?2 AND kind = 'workflow'
             AND child_workflow_run_namespace_id = ?1 AND child_workflow_run_id IS NOT NULL
             AND CASE WHEN json_valid(config) THEN json_extract(config, '$.cancelWithParent') END IS 1
         ORDER BY created_at, id",
    )?;
    let children = statement.query_map([namespace_id, id], |row| row.get(0))?;
    Ok(children.collect::<Result<_, _>>()?)
}
