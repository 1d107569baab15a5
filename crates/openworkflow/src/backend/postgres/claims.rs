//! Claiming due runs, and failing those whose deadline passed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tokio_postgres::Row;
use workflow_core::WakeCause;

use super::rows::RUN_WIDTH;
use super::session::{Json, JsonText, Param, WhenLost};
use super::{Inner, rows};
use crate::backend::executions::InConfig;
use crate::backend::orphans::{DueRun, gather};
use crate::backend::{
    BackendError, BackendResult, Claim, ClaimTimes, ClaimedRun, OrphanSearch, Orphans, OverdueRun,
    SWEEP_INTERVAL, WorkflowKey, codec,
};

/// No lease is longer, so that no addition overflows in the database.
pub(super) const LONGEST_LEASE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How many runs one transaction of a sweep fails at most.
const SWEEP_LIMIT: i64 = 500;

/// How often one call claims again because others were in the way.
const REPEATS: u32 = 3;

/// Due runs for free workers: `$5` of those that were started before, then pending ones, then the rest
/// of those that were started. `$4` is how many workers are free (`$2`).
///
/// Runs stand in *queues*, each in the order of an index: so many (`$6`) of each are looked at, and no
/// more are read, however long the queues are. What is looked at is locked one by one until all workers
/// have one; what others have locked is passed over. The rest of the conditions is hidden from the
/// planner, so that it neither finds another index for them nor believes that nearly nothing is left:
/// then it would rather read a queue as a whole than in order.
///
/// The chosen rows are updated where they were found. One that somebody moved meanwhile, and put back at
/// once, is not; how many were looked at tells.
pub(super) const CLAIM: &str = "
    WITH queues AS ({queues}),
    due AS (
        SELECT queues.*, d.*, row_number() OVER (
            PARTITION BY queues.started ORDER BY d.available_at, d.created_at
        ) AS place
        FROM queues CROSS JOIN LATERAL (
            SELECT r.ctid AS at, r.available_at, r.created_at FROM {runs} r
            WHERE {queued} AND r.available_at <= now()
                AND CASE WHEN {claimable} THEN 1 END IS NOT NULL
            ORDER BY r.available_at, r.created_at LIMIT $6
        ) d
    ),
    chosen AS (
        SELECT l.* FROM (
            SELECT * FROM due ORDER BY
                CASE WHEN NOT started THEN 1 WHEN place <= $5 THEN 0 ELSE 2 END, place
        ) queues
        CROSS JOIN LATERAL (
            SELECT r.ctid AS at, r.available_at AS since, CASE
                WHEN r.worker_id IS NOT NULL THEN 4 WHEN r.attempts = 0 THEN 0
                WHEN r.status = 'pending' THEN 1 WHEN r.available_at = r.updated_at THEN 3
                ELSE 2
            END AS was
            FROM {runs} r
            WHERE r.ctid = queues.at AND CASE
                WHEN r.status = queues.status AND r.available_at <= now() AND {claimable} THEN 1
            END IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED
        ) l
        LIMIT $4
    ),
    claimed AS (
        UPDATE {runs} r SET
            config = {claimed_config},
            status = 'running',
            attempts = least(r.attempts, 2147483646) + 1,
            worker_id = ($2)[c.n],
            available_at = now() + $3 * interval '1 second',
            started_at = coalesce(r.started_at, now()),
            updated_at = now()
        FROM (
            SELECT * FROM unnest(
                ARRAY(SELECT at FROM chosen), ARRAY(SELECT was FROM chosen),
                ARRAY(SELECT since FROM chosen)
            ) WITH ORDINALITY AS c (at, was, since, n)
            LIMIT $4
        ) c
        WHERE r.ctid = c.at
        RETURNING {run_columns}, c.was, c.since, c.n
    )
    SELECT claimed.*, (SELECT count(*) FROM due), clock_timestamp()
    FROM (SELECT) always LEFT JOIN claimed ON true ORDER BY claimed.n";

/// How a claim finds what is due: its queues, what stands in one, and what of that may be claimed.
pub(super) struct Queues {
    pub(super) queues: &'static str,
    pub(super) queued: &'static str,
    pub(super) claimable: &'static str,
}

/// `sleeping` was written by old versions only.
const BY_STATUS: &str = "
    SELECT * FROM (VALUES ('pending', false), ('running', true), ('sleeping', true))
        AS s (status, started)";

const OF_STATUS: &str = "r.namespace_id = $1 AND r.status = queues.status";

/// Any runs, along the protocol's index.
pub(super) const ANY: Queues = Queues {
    queues: BY_STATUS,
    queued: OF_STATUS,
    claimable: "(r.deadline_at IS NULL OR r.deadline_at > now())",
};

/// Runs of certain workflows: `$7` and `$8` are names and versions side by side. Where there is no index
/// of ours, by reading those of others, too.
pub(super) const OF_WORKFLOWS_UNINDEXED: Queues = Queues {
    queues: BY_STATUS,
    queued: OF_STATUS,
    claimable: "(r.deadline_at IS NULL OR r.deadline_at > now())
        AND r.workflow_name = ANY ($7) AND EXISTS (
            SELECT 1 FROM unnest((SELECT $7), (SELECT $8)) AS k (name, version)
            WHERE k.name = r.workflow_name AND k.version IS NOT DISTINCT FROM r.version
        )",
};

/// The same along our own index: a queue for each workflow and status.
pub(super) const OF_WORKFLOWS: Queues = Queues {
    queues: "
        SELECT s.status, s.started, k.name, k.version, hashtextextended(
            $1, hashtextextended(k.name, hashtextextended(coalesce(k.version, ''), 0))
        ) AS hash
        FROM unnest((SELECT $7), (SELECT $8)) AS k (name, version)
        CROSS JOIN (VALUES ('pending', false), ('running', true), ('sleeping', true))
            AS s (status, started)",
    queued: "
        hashtextextended(
            r.namespace_id, hashtextextended(
                r.workflow_name, hashtextextended(coalesce(r.version, ''), 0)
            )
        ) = queues.hash AND r.status = queues.status",
    claimable: "r.namespace_id = $1 AND r.workflow_name = queues.name
        AND r.version IS NOT DISTINCT FROM queues.version
        AND (r.deadline_at IS NULL OR r.deadline_at > now())",
};

/// The longest overdue runs, and by the way what time it is and how large the tables are.
pub(super) const FIND_EXPIRED: &str = "
    SELECT clock_timestamp(), {sizes}, ARRAY(
        SELECT id FROM {runs}
        WHERE namespace_id = $1 AND status IN ('pending', 'running', 'sleeping')
            AND deadline_at <= now()
        ORDER BY deadline_at LIMIT $2
    )";

/// Runs that somebody writes right now, or whose parents somebody does, are left to the next sweep: who
/// waits for no lock can lock in any order.
pub(super) const SWEEP: &str = "
    WITH due AS (
        SELECT id, parent_step_attempt_namespace_id, parent_step_attempt_id FROM {runs}
        WHERE namespace_id = $1 AND id = ANY ($2)
            AND (status IN ('pending', 'running', 'sleeping')) IS TRUE AND deadline_at <= now()
        FOR NO KEY UPDATE SKIP LOCKED
    ),
    parents AS (
        SELECT due.id AS child FROM due
        JOIN {steps} s ON s.namespace_id = due.parent_step_attempt_namespace_id
            AND s.id = due.parent_step_attempt_id
        JOIN {runs} p ON p.namespace_id = s.namespace_id AND p.id = s.workflow_run_id
        FOR NO KEY UPDATE OF p SKIP LOCKED
    )
    UPDATE {runs} r SET
        config = {ended_config}, status = 'failed', error = $3, worker_id = NULL, available_at = NULL,
        finished_at = now(), updated_at = now()
    FROM (
        SELECT id FROM due
        WHERE parent_step_attempt_id IS NULL OR id IN (SELECT child FROM parents)
        OFFSET 0
    ) alone
    WHERE r.namespace_id = $1 AND r.id = alone.id
    RETURNING r.id, r.workflow_name, r.created_at, r.finished_at, r.version, r.context,
        r.config, r.attempts";

/// The `$2` longest due runs of each status, and by which time they are.
pub(super) const FIND_ORPHANS: &str = "
    SELECT d.id, d.workflow_name, d.version, d.available_at, d.status, d.is_overdue, now()
    FROM (VALUES ('pending'), ('running'), ('sleeping')) AS s (status)
    CROSS JOIN LATERAL (
        SELECT
            r.id, r.workflow_name, r.version, r.available_at, r.status,
            (r.deadline_at <= now()) IS TRUE AS is_overdue
        FROM {runs} r
        WHERE r.namespace_id = $1 AND r.status = s.status AND r.available_at <= now()
        ORDER BY r.available_at, r.created_at LIMIT $2
    ) d";

/// What one statement claimed.
struct Claimed {
    runs: Vec<ClaimedRun>,
    /// How many due runs it looked at.
    due: i64,
}

impl Claimed {
    fn read(rows: &[Row]) -> BackendResult<Self> {
        let mut due = 0;
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            due = rows::value(row, RUN_WIDTH + 3)?;
            // There is a row that tells this even where nothing was claimed.
            let Some(id) = rows::value::<Option<String>>(row, 1)? else {
                continue;
            };
            let attempts: i32 = rows::value(row, 10)?;
            let worker_id: Option<String> = rows::value(row, 12)?;
            let was: i32 = rows::value(row, RUN_WIDTH)?;
            let since: SystemTime = rows::value(row, RUN_WIDTH + 1)?;
            // The row was written at the time by which the run was due.
            let claimed_at: SystemTime = rows::value(row, rows::UPDATED_AT)?;
            let woken_by = woken_by(was);
            let mut run = ClaimedRun::new(
                id,
                worker_id.unwrap_or_default(),
                attempts.cast_unsigned(),
                woken_by == Some(WakeCause::TakeOver),
                rows::run(row),
            );
            run.woken_by = woken_by;
            runs.push(run.at(ClaimTimes::new(since, claimed_at)));
        }
        Ok(Self { runs, due })
    }
}

/// What made a run due, as far as its row tells: what the claim says that it was.
fn woken_by(was: i32) -> Option<WakeCause> {
    match was {
        0 => Some(WakeCause::Created),
        1 => Some(WakeCause::Retry),
        3 => Some(WakeCause::GivenBack),
        4 => Some(WakeCause::TakeOver),
        _ => None,
    }
}

/// How many more due runs a claim looks at than it wants, for those that others have locked. Looking costs,
/// so it is few where nobody else claims, and more as soon as somebody was in the way.
pub(super) struct Margin(AtomicI64);

impl Margin {
    const ALONE: i64 = 2;
    const CROWDED: i64 = 64;

    fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether a claim came upon runs that others had.
    fn hear(&self, passed_over: bool) {
        let margin = self.get();
        let next = match passed_over {
            true => (margin * 4).min(Self::CROWDED),
            false => (margin - 1).max(Self::ALONE),
        };
        if next != margin {
            // What somebody else has heard meanwhile is heard again.
            self.0.store(next, Ordering::Relaxed);
        }
    }
}

impl Default for Margin {
    fn default() -> Self {
        Self(AtomicI64::new(Self::ALONE))
    }
}

/// When the runs of each namespace were last searched for passed deadlines.
#[derive(Default)]
pub(super) struct Sweeps(Mutex<HashMap<Arc<str>, Sweep>>);

struct Sweep {
    last: Instant,
    under_way: bool,
}

impl Sweeps {
    /// Whether to search now: about once per second and process, and one search at a time.
    fn begin(&self, namespace_id: &Arc<str>) -> bool {
        let mut sweeps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let begun = Sweep {
            last: now,
            under_way: true,
        };
        match sweeps.get_mut(namespace_id) {
            Some(sweep) if sweep.under_way => false,
            Some(sweep) if now.duration_since(sweep.last) < SWEEP_INTERVAL => false,
            Some(sweep) => {
                *sweep = begun;
                true
            }
            None => {
                sweeps.insert(Arc::clone(namespace_id), begun);
                true
            }
        }
    }

    fn end(&self, namespace_id: &str) {
        let mut sweeps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sweep) = sweeps.get_mut(namespace_id) {
            sweep.under_way = false;
        }
    }
}

impl Inner {
    pub(super) async fn claim_runs(
        self: &Arc<Self>,
        claim: Claim,
    ) -> BackendResult<Vec<ClaimedRun>> {
        self.listen();
        let sweep = self.sweep_if_due(&claim.namespace_id).await;
        let claimed = self.claim_due(&claim).await?;
        if let Some(sweep) = sweep {
            let begun = sweep.go_on()?;
            if claimed.is_empty() {
                // Whoever claims once only, and has nothing else to do, sweeps, too.
                let _ = begun.await;
            }
        }
        Ok(claimed)
    }

    async fn claim_due(&self, claim: &Claim) -> BackendResult<Vec<ClaimedRun>> {
        let mut free: Vec<&str> = claim.worker_ids.iter().map(|id| &**id).collect();
        let mut claimed = Vec::new();
        let mut looked_at = free.len() as i64 + self.margin.get();
        for repeat in 0..=REPEATS {
            if free.is_empty() {
                break;
            }
            let more = match self.claim_once(claim, &free, looked_at).await {
                Ok(more) => more,
                Err(error) if claimed.is_empty() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "claimed fewer runs than are due");
                    break;
                }
            };
            let wanted = free.len() as i64;
            let got = more.runs.len() as i64;
            free.retain(|id| more.runs.iter().all(|run| run.worker_id != **id));
            claimed.extend(more.runs);
            // Others had some of what was looked at, or have moved it meanwhile. What they put back is
            // due, and there may be more behind it; whoever gets nothing tries once more only.
            let passed_over = more.due.min(wanted) > got;
            self.margin.hear(passed_over);
            if !passed_over || (repeat > 0 && got == 0) {
                break;
            }
            if more.due >= looked_at {
                looked_at = looked_at.saturating_mul(8);
            }
        }
        Ok(claimed)
    }

    async fn claim_once(
        &self,
        claim: &Claim,
        free: &[&str],
        looked_at: i64,
    ) -> BackendResult<Claimed> {
        let lease = claim.lease.min(LONGEST_LEASE).as_secs_f64();
        let namespace_id = &*claim.namespace_id;
        let wanted = free.len() as i64;
        let started_first = claim.started_first.min(free.len()) as i64;
        let mut params: Vec<Param<'_>> = vec![
            &namespace_id,
            &free,
            &lease,
            &wanted,
            &started_first,
            &looked_at,
        ];
        let keys: Option<(Vec<&str>, Vec<Option<&str>>)> = claim.workflows.as_ref().map(|keys| {
            let keys = keys.iter();
            keys.map(|key| (key.name.as_str(), key.version.as_deref()))
                .unzip()
        });
        let call = match &keys {
            None => self.sql.claim.with(&params),
            Some((names, versions)) => {
                params.extend([names as Param<'_>, versions]);
                let statement = if self.indexes.are_there() {
                    &self.sql.claim_of
                } else {
                    &self.sql.claim_of_unindexed
                };
                statement.with(&params)
            }
        };
        let asked = self.sessions.time().asking();
        // If the answer is lost, what was claimed becomes due again when the lease ends.
        let rows = self.sessions.one(WhenLost::Report, call).await?;
        if let Some(row) = rows.first() {
            // From now on nobody here believes that what was due is not yet.
            let now = rows::value(row, RUN_WIDTH + 4)?;
            self.sessions.time().hear(asked, now);
        }
        Claimed::read(&rows)
    }

    pub(super) async fn find_orphans(&self, search: OrphanSearch) -> BackendResult<Vec<Orphans>> {
        let limit = i64::from(search.limit);
        let params: [Param<'_>; 2] = [&&*search.namespace_id, &limit];
        let call = self.sql.find_orphans.with(&params);
        let found = self.sessions.one(WhenLost::Again, call).await?;
        let mut now = SystemTime::UNIX_EPOCH;
        let mut read: HashMap<String, i64> = HashMap::new();
        let mut due = Vec::with_capacity(found.len());
        for row in &found {
            *read.entry(rows::value(row, 4)?).or_default() += 1;
            now = rows::value(row, 6)?;
            if rows::value(row, 5)? {
                continue;
            }
            due.push(DueRun {
                workflow: WorkflowKey::new(rows::value::<String>(row, 1)?, rows::value(row, 2)?),
                id: rows::value(row, 0)?,
                since: rows::value(row, 3)?,
            });
        }
        let at_least = read.values().any(|read| *read >= limit);
        Ok(gather(&search, now, due, at_least))
    }

    /// Looks for runs whose deadline passed, if it is time for that.
    async fn sweep_if_due(self: &Arc<Self>, namespace_id: &Arc<str>) -> Option<UnderWay> {
        if !self.sweeps.begin(namespace_id) {
            return None;
        }
        let mut sweep = UnderWay {
            inner: Arc::clone(self),
            namespace_id: Arc::clone(namespace_id),
            expired: Vec::new(),
        };
        self.index();
        sweep.look().await.then_some(sweep)
    }

    /// The runs of a namespace that are overdue for the longest time.
    async fn find_expired(&self, namespace_id: &str) -> BackendResult<Vec<String>> {
        let params: [Param<'_>; 2] = [&namespace_id, &SWEEP_LIMIT];
        let call = self.sql.find_expired.with(&params);
        let asked = self.sessions.time().asking();
        let found = self.sessions.one(WhenLost::Again, call).await?;
        let Some(found) = found.first() else {
            return Ok(Vec::new());
        };
        self.sessions.time().hear(asked, rows::value(found, 0)?);
        let sizes: Vec<i64> = rows::value(found, 1)?;
        self.sessions.plans().hear(&sizes);
        rows::value(found, 2)
    }

    /// Fails runs whose deadline passed, and wakes their parents. Says whether it failed any.
    async fn sweep(self: &Arc<Self>, namespace_id: &str, ids: &[String]) -> BackendResult<bool> {
        let error = codec::encode_run_error(&codec::deadline_error());
        let error = Json(&error);
        let sweep: [Param<'_>; 3] = [&namespace_id, &ids, &error];
        let wake: [Param<'_>; 2] = [&namespace_id, &ids];
        let calls = [
            self.sql.sweep.with(&sweep),
            self.sql.wake_parents.with(&wake),
        ];
        let results = self.sessions.all(WhenLost::Again, &calls).await?;
        let [swept, woken] = results.as_slice() else {
            return Ok(false);
        };
        for row in swept {
            let id: String = rows::value(row, 0)?;
            self.ended(&id, false);
            let (created_at, ended_at): (SystemTime, SystemTime) =
                (rows::value(row, 2)?, rows::value(row, 3)?);
            let age = ended_at.duration_since(created_at).unwrap_or_default();
            let mut run = OverdueRun::new(id, rows::value::<String>(row, 1)?, age);
            run.created_at = Some(created_at);
            run.version = rows::value(row, 4)?;
            let context: Option<JsonText> = rows::value(row, 5)?;
            let config: Option<JsonText> = rows::value(row, 6)?;
            let attempts: i32 = rows::value(row, 7)?;
            run.lost_attempt = InConfig::lost(
                config.as_ref().map(|text| &*text.0),
                attempts.cast_unsigned(),
            );
            run.carrier = codec::decode_run_context(context.as_ref().map(|text| &*text.0));
            self.wakeups.run_overdue(namespace_id, run);
        }
        if !woken.is_empty() {
            self.due(namespace_id, None, false);
        }
        Ok(!swept.is_empty())
    }
}

/// A sweep, until this is dropped.
struct UnderWay {
    inner: Arc<Inner>,
    namespace_id: Arc<str>,
    expired: Vec<String>,
}

impl UnderWay {
    /// Says whether there are runs to be failed.
    async fn look(&mut self) -> bool {
        let found = self.inner.find_expired(&self.namespace_id).await;
        self.expired = found.unwrap_or_else(|error| {
            report(&error);
            Vec::new()
        });
        !self.expired.is_empty()
    }

    /// Fails what was found, and what is found then, beside whatever the caller does meanwhile. What is
    /// returned resolves once the first runs have failed.
    fn go_on(mut self) -> BackendResult<oneshot::Receiver<()>> {
        let (begun, told) = oneshot::channel();
        let home = self.inner.sessions.here()?;
        home.spawn(async move {
            let mut begun = Some(begun);
            loop {
                let full = self.expired.len() as i64 == SWEEP_LIMIT;
                let swept = self.inner.sweep(&self.namespace_id, &self.expired).await;
                if let Some(begun) = begun.take() {
                    // The claim may be over.
                    let _ = begun.send(());
                }
                let swept = swept.unwrap_or_else(|error| {
                    report(&error);
                    false
                });
                // Where all of them are locked, they are left to the next sweep.
                if !full || !swept || !self.look().await {
                    break;
                }
            }
        });
        Ok(told)
    }
}

fn report(error: &BackendError) {
    if error.is_transient() {
        // Claims fail likewise, and say so.
        tracing::debug!(%error, "runs whose deadline passed are left to the next sweep");
    } else {
        tracing::warn!(%error, "cannot fail runs whose deadline passed");
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.inner.sweeps.end(&self.namespace_id);
    }
}
