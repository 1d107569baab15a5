//! Claiming due runs, and failing those whose deadline passed.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::{Claim, ClaimedRun, codec};
use super::error::OpResult;
use super::rows::{self, RUN_COLUMNS, claim_number, run_columns};
use super::runs::{self, Parent};
use super::writer::Tx;

/// How many due runs of other workers' workflows are passed over before the search goes by name.
const PASSED_OVER: usize = 256;

/// How many runs one sweep fails at most, to keep its transaction short.
pub(super) const SWEEP_LIMIT: usize = 500;

/// Finds runs whose deadline passed. No index helps, so this is a read of its own rather than a
/// part of the write transaction.
pub(super) fn find_expired(
    conn: &Connection,
    namespace_id: &str,
    now_text: &str,
) -> OpResult<Vec<String>> {
    let mut statement = conn.prepare_cached(
        "SELECT id FROM workflow_runs
         WHERE namespace_id = ?1 AND status IN ('pending', 'running', 'sleeping')
             AND deadline_at <= ?2
         LIMIT ?3",
    )?;
    let mut rows = statement.query(params![namespace_id, now_text, SWEEP_LIMIT as i64])?;
    let mut expired = Vec::new();
    while let Some(row) = rows.next()? {
        // An id that is not text is nobody's.
        if let Ok(id) = row.get_ref(0)?.as_str() {
            expired.push(id.to_owned());
        }
    }
    Ok(expired)
}

/// Fails the `expired` runs that still are, then claims.
pub(super) fn claim(
    tx: &mut Tx<'_>,
    claim: &Claim,
    expired: &[String],
) -> OpResult<Vec<ClaimedRun>> {
    sweep(tx, &claim.namespace_id, expired)?;
    let wanted = claim.worker_ids.len();
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let mut chosen = choose(tx, claim, &["pending"], wanted)?;
    if chosen.len() < wanted {
        let rest = wanted - chosen.len();
        chosen.extend(choose(tx, claim, &["running", "sleeping"], rest)?);
    }
    let leased_until = codec::format_time(codec::later(tx.now, claim.lease));
    let mut statement = tx.conn.prepare_cached(concat!(
        "UPDATE workflow_runs
         SET status = 'running', attempts = attempts + 1, worker_id = ?3, available_at = ?4,
             started_at = coalesce(started_at, ?5), updated_at = ?5
         WHERE namespace_id = ?1 AND id = ?2 RETURNING ",
        run_columns!(),
        ", ",
        claim_number!(),
    ))?;
    let mut claimed = Vec::with_capacity(chosen.len());
    for (candidate, worker_id) in chosen.into_iter().zip(&claim.worker_ids) {
        let (attempts, run) = statement.query_row(
            params![
                &*claim.namespace_id,
                candidate.id,
                &**worker_id,
                leased_until,
                tx.now_text,
            ],
            |row| Ok((row.get(RUN_COLUMNS)?, rows::run(row))),
        )?;
        claimed.push(ClaimedRun::new(
            candidate.id,
            &**worker_id,
            attempts,
            candidate.held,
            run,
        ));
    }
    Ok(claimed)
}

fn sweep(tx: &mut Tx<'_>, namespace_id: &str, expired: &[String]) -> OpResult<()> {
    if expired.is_empty() {
        return Ok(());
    }
    let error = codec::encode_error(&codec::deadline_error());
    let mut statement = tx.conn.prepare_cached(
        "UPDATE workflow_runs
         SET status = 'failed', error = ?3, worker_id = NULL, available_at = NULL,
             finished_at = ?4, updated_at = ?4
         WHERE namespace_id = ?1 AND id = ?2 AND status IN ('pending', 'running', 'sleeping')
             AND deadline_at <= ?4
         RETURNING parent_step_attempt_namespace_id, parent_step_attempt_id",
    )?;
    for id in expired {
        let parent = statement
            .query_row(
                params![namespace_id, id, error, tx.now_text],
                Parent::from_row,
            )
            .optional()?;
        if let Some(parent) = parent {
            runs::ended(tx, namespace_id, id, &parent)?;
        }
    }
    Ok(())
}

/// A run that may be claimed. Ordered as the protocol orders claims.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    available_at: String,
    created_at: String,
    id: String,
    /// Whether a worker has it whose lease ran out.
    held: bool,
}

impl Candidate {
    /// Reads the first four columns. `None` where the id is not text: then nobody can name the run.
    fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Ok(id) = row.get_ref(0)?.as_str() else {
            return Ok(None);
        };
        Ok(Some(Self {
            available_at: row.get(1).unwrap_or_default(),
            created_at: row.get(2).unwrap_or_default(),
            id: id.to_owned(),
            held: row.get(3)?,
        }))
    }
}

/// Finds up to `limit` claimable runs with one of `statuses`, the longest due first.
fn choose(tx: &Tx<'_>, claim: &Claim, statuses: &[&str], limit: usize) -> OpResult<Vec<Candidate>> {
    let mut candidates = Vec::new();
    for status in statuses {
        match in_due_order(tx, claim, status, limit)? {
            Some(found) => candidates.extend(found),
            None => candidates.extend(by_workflow(tx, claim, status, limit)?),
        }
    }
    candidates.sort();
    candidates.truncate(limit);
    Ok(candidates)
}

/// Walks the index of due runs. `None` if too many of them are runs of other workers' workflows.
fn in_due_order(
    tx: &Tx<'_>,
    claim: &Claim,
    status: &str,
    limit: usize,
) -> OpResult<Option<Vec<Candidate>>> {
    let workflows: Option<HashSet<(&str, Option<&str>)>> = claim.workflows.as_ref().map(|keys| {
        keys.iter()
            .map(|key| (key.name.as_str(), key.version.as_deref()))
            .collect()
    });
    if workflows.as_ref().is_some_and(HashSet::is_empty) {
        return Ok(Some(Vec::new()));
    }
    let mut statement = tx.conn.prepare_cached(
        "SELECT id, available_at, created_at, worker_id IS NOT NULL, workflow_name, version
         FROM workflow_runs
         WHERE namespace_id = ?1 AND status = ?2 AND available_at <= ?3
             AND (deadline_at IS NULL OR deadline_at > ?3)
         ORDER BY available_at, created_at",
    )?;
    let mut rows = statement.query(params![&*claim.namespace_id, status, tx.now_text])?;
    let mut found = Vec::new();
    let mut passed_over = 0;
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        let ours = match &workflows {
            None => true,
            Some(workflows) => {
                let name = row.get_ref(4)?.as_str();
                let version = row.get_ref(5)?.as_str_or_null();
                matches!((name, version), (Ok(name), Ok(version)) if workflows.contains(&(name, version)))
            }
        };
        if ours {
            found.extend(Candidate::from_row(row)?);
        } else if passed_over == PASSED_OVER {
            return Ok(None);
        } else {
            passed_over += 1;
        }
    }
    Ok(Some(found))
}

/// Looks for each workflow's due runs on their own.
fn by_workflow(tx: &Tx<'_>, claim: &Claim, status: &str, limit: usize) -> OpResult<Vec<Candidate>> {
    // The plus signs keep SQLite from walking the index of due runs once more.
    let mut statement = tx.conn.prepare_cached(
        "SELECT id, available_at, created_at, worker_id IS NOT NULL
         FROM workflow_runs
         WHERE namespace_id = ?1 AND workflow_name = ?2 AND status = ?3 AND +version IS ?4
             AND +available_at <= ?5 AND (deadline_at IS NULL OR deadline_at > ?5)
         ORDER BY +available_at, +created_at LIMIT ?6",
    )?;
    let mut found = Vec::new();
    for key in claim.workflows.iter().flat_map(|keys| keys.iter()) {
        let mut rows = statement.query(params![
            &*claim.namespace_id,
            key.name,
            status,
            key.version,
            tx.now_text,
            i64::try_from(limit).unwrap_or(i64::MAX),
        ])?;
        while let Some(row) = rows.next()? {
            found.extend(Candidate::from_row(row)?);
        }
    }
    found.sort();
    found.dedup_by(|a, b| a.id == b.id);
    Ok(found)
}

/// How often deadlines are looked for, by the clock.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
