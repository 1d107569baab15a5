//! Claiming due runs, and failing those whose deadline passed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::{Connection, params};
use workflow_core::WakeCause;

use super::super::executions::InConfig;
use super::super::orphans::{DueRun, gather};
use super::super::{
    BackendError, Claim, ClaimTimes, ClaimedRun, OrphanSearch, Orphans, OverdueRun, WorkflowKey,
    codec,
};
use super::error::OpResult;
use super::executions::{added_to_config, with_execution};
use super::rows::{self, RUN_COLUMNS, claim_number, run_columns};
use super::runs::{self, Parent};
use super::writer::{Isolation, Job, Ran, Tx};

/// How many due runs of other workers' workflows are passed over before each workflow is searched on
/// its own.
const PASSED_OVER: usize = 32;

/// What runs are that were started before. `sleeping` was written by old versions only.
const STARTED: [&str; 2] = ["running", "sleeping"];

/// How many runs one job of a sweep fails at most: others wait for it.
const SWEEP_LIMIT: usize = 100;

/// Fails the runs of a namespace whose deadline passed, as one job after the other.
pub(super) struct Sweep {
    namespace_id: Arc<str>,
    /// Whether there may be more.
    more: bool,
}

impl Sweep {
    pub(super) fn of(namespace_id: &Arc<str>) -> Box<dyn Job> {
        Box::new(Self {
            namespace_id: Arc::clone(namespace_id),
            more: false,
        })
    }
}

impl Job for Sweep {
    fn isolation(&self) -> Isolation {
        Isolation::Savepoint
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Ran {
        match sweep(tx, &self.namespace_id) {
            Ok(more) => {
                self.more = more;
                Ran::Done
            }
            Err(error) => Ran::Failed(error),
        }
    }

    fn fail(&mut self, error: BackendError) {
        self.more = false;
        if error.is_transient() {
            tracing::debug!(%error, "runs whose deadline passed are left to the next sweep");
        } else {
            tracing::warn!(%error, "cannot fail runs whose deadline passed");
        }
    }

    fn follow_up(&mut self) -> Option<Box<dyn Job>> {
        self.more.then(|| Self::of(&self.namespace_id))
    }

    fn answer(self: Box<Self>) {}
}

/// Fails some runs whose deadline passed. Says whether there may be more.
fn sweep(tx: &mut Tx<'_>, namespace_id: &str) -> OpResult<bool> {
    let expired = find_expired(tx, namespace_id)?;
    let error = codec::encode_run_error(&codec::deadline_error());
    let mut statement = tx.conn.prepare_cached(concat!(
        "UPDATE workflow_runs SET
             config = CASE WHEN worker_id IS NULL THEN config ELSE ",
             added_to_config!(with_execution!(
                 "CASE WHEN available_at <= ?4 THEN 'lost' ELSE 'failed' END",
                 "CASE WHEN available_at <= ?4 THEN updated_at ELSE ?4 END"
             )),
             " END,
         status = 'failed', error = ?3, worker_id = NULL, available_at = NULL,
             finished_at = ?4, updated_at = ?4
         WHERE namespace_id = ?1 AND id = ?2
         RETURNING parent_step_attempt_namespace_id, parent_step_attempt_id, workflow_name, created_at,
             version, context, config, ",
        claim_number!(),
    ))?;
    for id in expired.iter().flatten() {
        let (parent, overdue) = statement
            .query_row(params![namespace_id, id, error, tx.now_text], |row| {
                Ok((Parent::from_row(row)?, overdue(row, id, tx.now)))
            })?;
        runs::ended(tx, namespace_id, id, &parent)?;
        if let Some(overdue) = overdue {
            tx.run_overdue(namespace_id, overdue);
        }
    }
    Ok(expired.len() == SWEEP_LIMIT && expired.iter().any(Option::is_some))
}

/// Reads the columns after the parent's. Of a row that holds something else nothing can be said.
fn overdue(row: &rusqlite::Row<'_>, id: &str, now: SystemTime) -> Option<OverdueRun> {
    let name: String = row.get(2).ok()?;
    let created_at = codec::parse_time(&row.get::<_, String>(3).ok()?)?;
    let age = now.duration_since(created_at).unwrap_or_default();
    let mut run = OverdueRun::new(id, name, age);
    run.created_at = Some(created_at);
    run.version = row.get(4).unwrap_or_default();
    let context: Option<String> = row.get(5).unwrap_or_default();
    let config: Option<String> = row.get(6).unwrap_or_default();
    run.lost_attempt = InConfig::lost(config.as_deref(), row.get(7).ok()?);
    run.carrier = codec::decode_run_context(context.as_deref());
    Some(run)
}

/// The longest overdue runs. `None` stands for an id that is not text: then nobody can name the run.
fn find_expired(tx: &Tx<'_>, namespace_id: &str) -> OpResult<Vec<Option<String>>> {
    let mut statement = tx.conn.prepare_cached(
        "SELECT id FROM workflow_runs
         WHERE namespace_id = ?1 AND status IN ('pending', 'running', 'sleeping')
             AND deadline_at <= ?2
         ORDER BY deadline_at LIMIT ?3",
    )?;
    let mut rows = statement.query(params![namespace_id, tx.now_text, SWEEP_LIMIT as i64])?;
    let mut expired = Vec::new();
    while let Some(row) = rows.next()? {
        expired.push(row.get_ref(0)?.as_str().ok().map(str::to_owned));
    }
    Ok(expired)
}

/// Claims due runs.
pub(super) fn claim(tx: &mut Tx<'_>, claim: &Claim) -> OpResult<Vec<ClaimedRun>> {
    let wanted = claim.worker_ids.len();
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let kept = claim.started_first.min(wanted);
    let mut chosen = choose(tx, claim, &STARTED, kept)?;
    let started = chosen.len();
    chosen.extend(choose(tx, claim, &["pending"], wanted - started)?);
    if chosen.len() < wanted && started == kept {
        let mut more = choose(tx, claim, &STARTED, wanted - chosen.len() + started)?;
        more.retain(|run| chosen[..started].binary_search(run).is_err());
        chosen.extend(more);
    }
    let leased_until = codec::format_time(codec::later(tx.now, claim.lease));
    // `OR FAIL`, or SQLite would keep a journal for this statement alone, since it returns something.
    let mut statement = tx.conn.prepare_cached(concat!(
        "UPDATE OR FAIL workflow_runs
         SET config = CASE WHEN attempts = 0 AND available_at = created_at THEN config ELSE ",
        added_to_config!(
            "json_set(CASE WHEN worker_id IS NULL THEN config ELSE ",
            with_execution!("'lost'", "updated_at"),
            " END, '$.claim', json_object(
                 'attempt', attempts + 1, 'dueAt', available_at, 'beganAt', ?5
             ))",
        ),
        " END,
             status = 'running', attempts = attempts + 1, worker_id = ?3, available_at = ?4,
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
        let held = candidate.held;
        let mut run = ClaimedRun::new(candidate.id, &**worker_id, attempts, held, run);
        run.woken_by = match (held, attempts) {
            (true, _) => Some(WakeCause::TakeOver),
            (false, 1) => Some(WakeCause::Created),
            (false, _) if candidate.is_pending => Some(WakeCause::Retry),
            (false, _) => candidate.is_given_back.then_some(WakeCause::GivenBack),
        };
        if let Some(due_at) = codec::parse_time(&candidate.available_at) {
            run = run.at(ClaimTimes::new(due_at, tx.now));
        }
        claimed.push(run);
    }
    Ok(claimed)
}

/// Looks for due runs of workflows that a worker does not have.
pub(super) fn orphans(
    conn: &Connection,
    search: &OrphanSearch,
    now: SystemTime,
) -> OpResult<Vec<Orphans>> {
    // What is read is limited before anything is left out.
    let mut statement = conn.prepare_cached(
        "SELECT id, available_at, workflow_name, version FROM (
             SELECT * FROM workflow_runs
             WHERE namespace_id = ?1 AND status = ?2 AND available_at <= ?3
             ORDER BY available_at, created_at LIMIT ?4
         ) WHERE deadline_at IS NULL OR deadline_at > ?3",
    )?;
    let now_text = codec::format_time(now);
    let mut due = Vec::new();
    let mut at_least = false;
    for status in ["pending", STARTED[0], STARTED[1]] {
        let mut rows = statement.query(params![
            &*search.namespace_id,
            status,
            now_text,
            search.limit
        ])?;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            read += 1;
            // Of a row that holds something else nothing can be said.
            if let (Ok(id), Ok(since), Ok(name), Ok(version)) = (
                row.get(0),
                row.get::<_, String>(1),
                row.get::<_, String>(2),
                row.get(3),
            ) && let Some(since) = codec::parse_time(&since)
            {
                let workflow = WorkflowKey::new(name, version);
                due.push(DueRun {
                    workflow,
                    id,
                    since,
                });
            }
        }
        at_least |= read >= search.limit;
    }
    Ok(gather(search, now, due, at_least))
}

/// A run that may be claimed. Ordered as the protocol orders claims.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    available_at: String,
    created_at: String,
    id: String,
    /// Whether a worker has it whose lease ran out.
    held: bool,
    is_pending: bool,
    /// Whether it is due since it was last written, as one is that a worker gave back.
    is_given_back: bool,
}

impl Candidate {
    /// Reads the first six columns. `None` where the id is not text: then nobody can name the run.
    fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Self>> {
        let Ok(id) = row.get_ref(0)?.as_str() else {
            return Ok(None);
        };
        Ok(Some(Self {
            available_at: row.get(1).unwrap_or_default(),
            created_at: row.get(2).unwrap_or_default(),
            id: id.to_owned(),
            held: row.get(3)?,
            is_pending: row.get(4)?,
            is_given_back: row.get(5)?,
        }))
    }
}

/// Finds up to `limit` claimable runs with one of `statuses`, the longest due first.
fn choose(tx: &Tx<'_>, claim: &Claim, statuses: &[&str], limit: usize) -> OpResult<Vec<Candidate>> {
    let mut candidates = Vec::new();
    if limit == 0 {
        return Ok(candidates);
    }
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
        "SELECT id, available_at, created_at, worker_id IS NOT NULL, status = 'pending',
             available_at = updated_at, workflow_name, version
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
                let name = row.get_ref(6)?.as_str();
                let version = row.get_ref(7)?.as_str_or_null();
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
    let mut statement = tx.conn.prepare_cached(
        "SELECT id, available_at, created_at, worker_id IS NOT NULL, status = 'pending',
             available_at = updated_at
         FROM workflow_runs
         WHERE namespace_id = ?1 AND workflow_name = ?2 AND status = ?3 AND version IS ?4
             AND available_at <= ?5 AND (deadline_at IS NULL OR deadline_at > ?5)
         ORDER BY available_at, created_at LIMIT ?6",
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
