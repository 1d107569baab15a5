//! Signals.

use std::sync::Arc;

use serde::Serialize;

use super::news::News;
use super::runs::no_answer;
use super::session::{Json, Param, WhenLost, claim_number};
use super::{Inner, rows};
use crate::backend::{BackendResult, CLOSED_AT_ONCE, NewSignal};

/// Delivers a signal. `$5`, `$6` and `$7` are the sending run, its worker and the number of its claim,
/// where a run sends.
///
/// One statement, because it must have one snapshot: a wait that is recorded after it began gets nothing,
/// and so no wait gets something whose run was not looked at. Runs are locked in the order of their ids,
/// the sender among them, and before their waits, which is the order of everybody who locks several. What
/// is read of a run when it is locked, is of that moment: who parked before it is woken, who parks after
/// it sees the delivery.
///
/// A wait that is locked although its run is ours is being served by OpenWorkflow for TypeScript, which
/// then wants the run: waiting for each other would be a deadlock.
///
/// For the planner: each run, wait and delivery is looked up by itself, and what is compared with a set
/// is compared with a hashed one. The subquery with `OFFSET` is computed once even where a run was
/// updated meanwhile, and PostgreSQL looks at it again.
///
/// Of the waits that it met and that nothing was delivered to, those of runs that are over come along, `$9`
/// at most: see [`CLOSE_WAITS`].
pub(super) const SEND_SIGNAL: &str = "
    WITH existing AS (
        SELECT DISTINCT workflow_run_id FROM {signals}
        WHERE namespace_id = $1 AND signal = $2 AND sender_idempotency_key = $4
    ),
    open AS (
        SELECT s.workflow_run_id AS run_id, s.id, EXISTS (
            SELECT 1 FROM {signals} g
            WHERE g.namespace_id = $1 AND g.step_attempt_id = s.id OFFSET 0
        ) AS is_served
        FROM {steps} s
        WHERE s.namespace_id = $1 AND s.kind = 'signal-wait' AND s.status = 'running'
            AND s.context->>'signal' = $2
            AND NOT EXISTS (SELECT 1 FROM existing)
    ),
    asked AS (
        SELECT i.run_id, array_agg(i.id) AS waits
        FROM (
            SELECT run_id, id FROM open WHERE NOT is_served
            UNION ALL
            SELECT $5, NULL WHERE $5::text IS NOT NULL
        ) i (run_id, id)
        GROUP BY i.run_id ORDER BY i.run_id
    ),
    locked AS (
        SELECT asked.run_id, asked.waits, r.is_sender, r.is_away FROM asked
        CROSS JOIN LATERAL (
            SELECT
                (r.id = $5 AND r.worker_id = $6 AND r.attempts = $7 AND r.status = 'running') IS TRUE
                    AS is_sender,
                r.worker_id IS NULL AND (r.available_at IS NULL OR r.available_at > now()) AS is_away
            FROM {runs} r
            WHERE r.namespace_id = $1 AND r.id = asked.run_id
                AND (r.status IN ('pending', 'running', 'sleeping')) IS TRUE
            FOR NO KEY UPDATE
        ) r
    ),
    allowed AS (
        SELECT $5::text IS NULL OR EXISTS (SELECT 1 FROM locked WHERE is_sender) AS yes
    ),
    waiting AS (
        SELECT locked.run_id, s.id FROM locked
        CROSS JOIN LATERAL unnest(locked.waits) AS w (id)
        CROSS JOIN LATERAL (
            SELECT s.id FROM {steps} s
            WHERE s.namespace_id = $1 AND s.id = w.id AND (s.status = 'running') IS TRUE
            FOR NO KEY UPDATE SKIP LOCKED
        ) s
        WHERE (SELECT yes FROM allowed)
    ),
    delivered AS (
        INSERT INTO {signals} (
            namespace_id, id, signal, data, sender_idempotency_key, workflow_run_id,
            step_attempt_id, created_at
        )
        SELECT $1, gen_random_uuid()::text, $2, $3, $4, run_id, id, now() FROM waiting
        ON CONFLICT (namespace_id, step_attempt_id) DO NOTHING
        RETURNING workflow_run_id
    ),
    woken AS (
        UPDATE {runs} r SET available_at = now(), updated_at = now()
        FROM (
            SELECT run_id FROM locked
            WHERE is_away AND (run_id IN (SELECT workflow_run_id FROM delivered)) IS TRUE
            OFFSET 0
        ) away
        WHERE r.namespace_id = $1 AND r.id = away.run_id
        RETURNING r.id
    ),
    over AS (
        SELECT open.id FROM open
        WHERE (is_served OR run_id NOT IN (SELECT run_id FROM locked)) AND EXISTS (
            SELECT 1 FROM {runs} r
            WHERE r.namespace_id = $1 AND r.id = open.run_id
                AND (r.status IN ('completed', 'succeeded', 'failed', 'canceled')) IS TRUE OFFSET 0
        )
        LIMIT $9
    )
    SELECT
        (SELECT yes FROM allowed),
        ARRAY(SELECT workflow_run_id FROM existing UNION SELECT workflow_run_id FROM delivered),
        EXISTS (SELECT 1 FROM woken),
        (SELECT {notify} FROM woken LIMIT 1),
        ARRAY(SELECT id FROM over)";

/// Closes the waits `$2`, of runs that are over, as a `race!` closes those that lost: nobody does when a run
/// is canceled or swept, or ends beside them, and each signal of their name would read them again.
///
/// Only after the sending, and without waiting for anybody: OpenWorkflow for TypeScript locks waits before
/// runs.
pub(super) const CLOSE_WAITS: &str = "
    WITH chosen AS (
        SELECT s.at FROM unnest((SELECT $2)) AS w (id)
        CROSS JOIN LATERAL (
            SELECT s.ctid AS at FROM {steps} s
            WHERE s.namespace_id = $1 AND s.id = w.id
                AND (s.kind = 'signal-wait' AND s.status = 'running') IS TRUE
            FOR NO KEY UPDATE SKIP LOCKED
        ) s
    )
    UPDATE {steps} s SET status = 'completed', finished_at = now(), updated_at = now()
    FROM (SELECT * FROM unnest(ARRAY(SELECT at FROM chosen)) AS c (at)) c
    WHERE s.ctid = c.at";

/// What two sendings with the same key have in common.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SendingKey<'a> {
    namespace_id: &'a str,
    signal: &'a str,
    idempotency_key: &'a str,
}

impl Inner {
    pub(super) async fn send_signal(
        self: &Arc<Self>,
        signal: NewSignal,
    ) -> BackendResult<Vec<String>> {
        let data = (!signal.data.is_null()).then(|| Json(signal.data.expose()));
        let key = signal.idempotency_key.as_deref();
        // Without this, the second of two concurrent sendings would find no receivers left and
        // return nothing, instead of what the first one returns.
        let lock = key.map(|idempotency_key| {
            let key = SendingKey {
                namespace_id: &signal.namespace_id,
                signal: &signal.signal,
                idempotency_key,
            };
            serde_json::to_string(&key).unwrap_or_default()
        });
        let sender = signal.sender.as_ref();
        let run_id = sender.map(|owner| &*owner.run_id);
        let worker_id = sender.map(|owner| &*owner.worker_id);
        let attempts = sender.map(claim_number);
        let notice = self.announcer.now(News::Due(&signal.namespace_id, None));

        let lock_params: [Param<'_>; 1] = [&lock];
        let params: [Param<'_>; 9] = [
            &signal.namespace_id,
            &signal.signal,
            &data,
            &key,
            &run_id,
            &worker_id,
            &attempts,
            &notice,
            &(CLOSED_AT_ONCE as i64),
        ];
        // The key is locked before any run is: who waits for it holds nothing.
        let mut calls = Vec::with_capacity(2);
        if lock.is_some() {
            calls.push(self.sql.lock_key.with(&lock_params));
        }
        calls.push(self.sql.send_signal.with(&params));
        // Without a key, a second sending could reach those who began to wait meanwhile.
        let when_lost = match key {
            Some(_) => WhenLost::Again,
            None => WhenLost::Report,
        };
        let results = self.sessions.all(when_lost, &calls).await?;
        let row = results.last().and_then(|rows| rows.first());
        let row = row.ok_or_else(|| no_answer("the runs that received the signal"))?;
        let allowed: bool = rows::value(row, 0)?;
        if let (Some(owner), false) = (sender, allowed) {
            return Err(self.ownership_lost(owner).await);
        }
        if rows::value(row, 2)? {
            self.due(&signal.namespace_id, None, notice.is_some());
        }
        let over: Vec<String> = rows::value(row, 4)?;
        if !over.is_empty() {
            self.close_waits(&signal, &over).await;
        }
        rows::value(row, 1)
    }

    async fn close_waits(&self, signal: &NewSignal, waits: &[String]) {
        let params: [Param<'_>; 2] = [&signal.namespace_id, &waits];
        let call = self.sql.close_waits.with(&params);
        if let Err(error) = self.sessions.one(WhenLost::Report, call).await {
            tracing::debug!(
                %error,
                signal = signal.signal,
                "waits of runs that are over stay open: the next signal of this name reads them again"
            );
        }
    }
}
