//! Canceling a run, and the children that are canceled with it.

use std::sync::Arc;
use std::time::SystemTime;

use super::news::News;
use super::session::{JsonText, Param, WhenLost};
use super::{Inner, rows};
use crate::backend::executions::InConfig;
use crate::backend::{BackendResult, CanceledRun, Cancellation, RunStatus, codec};

/// The run `$2`, unless it came to another end, the children that are to be canceled with it, and theirs.
/// Also goes through what is canceled already: somebody may have canceled that run alone.
pub(super) const TREE: &str = "
    tree AS (
        SELECT r.namespace_id, r.id, r.status <> 'canceled' AS is_under_way FROM {runs} r
        WHERE r.namespace_id = $1 AND r.id = $2
            AND (r.status IN ('pending', 'running', 'sleeping', 'canceled')) IS TRUE
        UNION
        SELECT c.namespace_id, c.id, c.is_under_way FROM tree
        CROSS JOIN LATERAL (
            SELECT s.child_workflow_run_namespace_id AS namespace_id, s.child_workflow_run_id AS id
            FROM {steps} s
            WHERE s.namespace_id = tree.namespace_id AND s.workflow_run_id = tree.id
                AND (s.kind = 'workflow' AND s.config->'cancelWithParent' = 'true') IS TRUE
            OFFSET 0
        ) s
        CROSS JOIN LATERAL (
            SELECT r.namespace_id, r.id, r.status <> 'canceled' AS is_under_way FROM {runs} r
            WHERE r.namespace_id = s.namespace_id AND r.id = s.id
                AND (r.status IN ('pending', 'running', 'sleeping', 'canceled')) IS TRUE
            OFFSET 0
        ) c
    )";

/// Locks all of them, and the run that waits for the first, in one order.
pub(super) const LOCK_TREE: &str = "
    WITH RECURSIVE {tree}
    {lock_family}";

/// What is locked beside a run and the one that waits for it.
pub(super) const WITH_TREE: &str = "UNION SELECT namespace_id, id FROM tree";

/// Cancels those that are locked. A child that was created before its parent was locked, and seen by this
/// statement only, is locked without waiting, since the order is gone by; whether one is left is told. Its
/// parent is canceled then, and creates no more.
pub(super) const CANCEL_TREE: &str = "
    WITH RECURSIVE {tree},
    chosen AS (
        SELECT r.at FROM tree
        CROSS JOIN LATERAL (
            SELECT r.ctid AS at FROM {runs} r
            WHERE r.namespace_id = tree.namespace_id AND r.id = tree.id
                AND (r.status IN ('pending', 'running', 'sleeping')) IS TRUE
            FOR NO KEY UPDATE SKIP LOCKED
        ) r
        WHERE tree.is_under_way
    ),
    canceled AS (
        UPDATE {runs} r SET
            config = {ended_config}, status = 'canceled', worker_id = NULL, available_at = NULL,
            finished_at = now(), updated_at = now()
        FROM (SELECT * FROM unnest(ARRAY(SELECT at FROM chosen)) AS c (at)) c
        WHERE r.ctid = c.at
        RETURNING r.namespace_id, r.id, r.workflow_name, r.version,
            r.parent_step_attempt_namespace_id, r.parent_step_attempt_id,
            r.finished_at, r.created_at, r.context, r.config, r.attempts
    ),
    ended AS (SELECT * FROM canceled WHERE id = $2),
    woken AS ({wake_parents} RETURNING p.id)
    SELECT
        canceled.id, canceled.workflow_name, canceled.version, EXISTS (SELECT 1 FROM woken),
        (SELECT count(*) FROM tree WHERE is_under_way) > (SELECT count(*) FROM canceled),
        CASE WHEN canceled.id = $2 THEN {notify} END, canceled.finished_at,
        canceled.created_at, canceled.context, canceled.config, canceled.attempts
    FROM (SELECT) always LEFT JOIN canceled ON true";

impl Inner {
    pub(super) async fn cancel_run(
        self: &Arc<Self>,
        namespace_id: &str,
        id: &str,
    ) -> BackendResult<Cancellation> {
        let mut is_canceled = false;
        let mut runs = Vec::new();
        loop {
            let notice = self.announcer.now(News::Ended(id));
            let tree: [Param<'_>; 2] = [&namespace_id, &id];
            let params: [Param<'_>; 3] = [&namespace_id, &id, &notice];
            let calls = [
                self.sql.lock_tree.with(&tree),
                self.sql.cancel_tree.with(&params),
            ];
            let results = self.sessions.all(WhenLost::Again, &calls).await?;
            let mut is_one_left = false;
            for row in results.last().into_iter().flatten() {
                is_one_left = rows::value(row, 4)?;
                let Some(run_id) = rows::value::<Option<String>>(row, 0)? else {
                    continue;
                };
                if run_id == id {
                    is_canceled = true;
                    self.ended(id, notice.is_some());
                    // Whether a parent wakes is not known beforehand; the news of it go separately.
                    if rows::value(row, 3)? {
                        self.due(namespace_id, None, false);
                    }
                } else {
                    self.ended(&run_id, false);
                }
                let mut canceled = CanceledRun::new(run_id, rows::value::<String>(row, 1)?);
                canceled.version = rows::value(row, 2)?;
                let ended_at: SystemTime = rows::value(row, 6)?;
                let created_at: SystemTime = rows::value(row, 7)?;
                canceled.created_at = Some(created_at);
                // Of a row that is from the future there is none.
                canceled.age = ended_at.duration_since(created_at).ok();
                let context: Option<JsonText> = rows::value(row, 8)?;
                let config: Option<JsonText> = rows::value(row, 9)?;
                let attempts: i32 = rows::value(row, 10)?;
                canceled.lost_attempt = InConfig::lost(
                    config.as_ref().map(|text| &*text.0),
                    attempts.cast_unsigned(),
                );
                canceled.carrier = codec::decode_run_context(context.as_ref().map(|text| &*text.0));
                runs.push(canceled);
            }
            if !is_one_left {
                break;
            }
        }
        if is_canceled {
            return Ok(Cancellation::Canceled { runs });
        }
        Ok(match self.get_run(namespace_id, id).await? {
            None => Cancellation::NotFound,
            Some(run) if run.status == RunStatus::Canceled => Cancellation::Canceled { runs },
            Some(run) => Cancellation::AlreadyEnded(run.status),
        })
    }
}
