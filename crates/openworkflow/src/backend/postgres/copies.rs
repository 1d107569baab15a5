//! Runs that are made of others: the statement that copies.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::Inner;
use super::runs::{NewRunParams, no_answer};
use super::session::{Param, Query, WhenLost};
use crate::backend::{BackendResult, CopyOutcome, RunCopy};

/// Makes the run `$3` of `$2`, if that is over, with copies (`$12`) of the step attempts `$11` and of the
/// signals that were delivered to them, and notes in both runs which the other is.
///
/// With step attempts it counts as claimed once: workers read no history at a first claim.
///
/// Nothing is made unless all of the attempts are there. A key stays with the sending of a signal: in a copy
/// it would be found by another one.
const COPY: &str = "
    WITH origin AS (
        SELECT input FROM {runs} r
        WHERE namespace_id = $1 AND id = $2
            AND (status IN ('completed', 'succeeded', 'failed', 'canceled')) IS TRUE
        FOR NO KEY UPDATE
    ),
    pairs AS (SELECT * FROM unnest($11, $12) AS p (from_id, id)),
    found AS (
        SELECT p.id AS copy_id, s.* FROM pairs p
        JOIN {steps} s ON s.namespace_id = $1 AND s.id = p.from_id AND s.workflow_run_id = $2
    ),
    made AS (
        INSERT INTO {runs} (
            namespace_id, id, workflow_name, version, status, config, context, input, attempts,
            available_at, deadline_at, created_at, updated_at
        )
        SELECT
            $1, $3, $4, $5, 'pending',
            jsonb_build_object('madeOf', jsonb_build_object('how', $6::text, 'run', $2::text)),
            $7, origin.input, CASE WHEN $10 > 0 THEN 1 ELSE 0 END, coalesce($8, now()), $9, date_trunc('milliseconds', now()), now()
        FROM origin
        WHERE (SELECT count(*) FROM found) = $10
        ON CONFLICT DO NOTHING
        RETURNING id
    ),
    copied AS (
        INSERT INTO {steps} (
            namespace_id, id, workflow_run_id, step_name, kind, status, config, context, output,
            error, child_workflow_run_namespace_id, child_workflow_run_id, started_at, finished_at,
            created_at, updated_at
        )
        SELECT
            namespace_id, copy_id, made.id, step_name, kind, status, config, context, output,
            error, child_workflow_run_namespace_id, child_workflow_run_id, started_at, finished_at,
            created_at, updated_at
        FROM found CROSS JOIN made
    ),
    delivered AS (
        INSERT INTO {signals} (
            namespace_id, id, signal, data, sender_idempotency_key, workflow_run_id,
            step_attempt_id, created_at
        )
        SELECT g.namespace_id, p.id, g.signal, g.data, NULL, made.id, p.id, g.created_at
        FROM pairs p
        JOIN {signals} g ON g.namespace_id = $1 AND g.step_attempt_id = p.from_id
        CROSS JOIN made
    ),
    noted AS (
        UPDATE {runs} r SET config = CASE jsonb_typeof(r.config) WHEN 'object' THEN r.config ELSE '{}' END
            || jsonb_build_object('madeInto',
                CASE jsonb_typeof(r.config->'madeInto') WHEN 'array' THEN r.config->'madeInto' ELSE '[]' END
                || jsonb_build_array(jsonb_build_object('how', $6::text, 'run', $3::text)))
        FROM made
        WHERE r.namespace_id = $1 AND r.id = $2
    )
    SELECT 1 FROM made";

pub(super) fn query(schema: &str) -> Query {
    const TEXT: Type = Type::TEXT;
    let types = [
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        TEXT,
        Type::JSONB,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
        Type::INT8,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
    ];
    let table = |name: &str| format!("\"{schema}\".\"{name}\"");
    let text = COPY
        .replace("{runs}", &table("workflow_runs"))
        .replace("{steps}", &table("step_attempts"))
        .replace("{signals}", &table("workflow_signals"));
    Query::new(text, &types)
}

impl Inner {
    pub(super) async fn copy_run(self: &Arc<Self>, copy: &RunCopy) -> BackendResult<CopyOutcome> {
        let run = &copy.run;
        let new = NewRunParams::new(run);
        let kind = copy.kind.as_str();
        let count = i64::try_from(copy.attempts.len()).unwrap_or(i64::MAX);
        let from: Vec<&str> = copy.attempts.iter().map(|of| &*of.from_id).collect();
        let to: Vec<&str> = copy.attempts.iter().map(|of| &*of.id).collect();
        let params: [Param<'_>; 12] = [
            &run.namespace_id,
            &copy.origin_id,
            &run.id,
            &run.workflow_name,
            &run.version,
            &kind,
            &new.context,
            &new.available_at,
            &new.deadline_at,
            &count,
            &from,
            &to,
        ];
        let call = self.copy_run.with(&params);
        let rows = self.sessions.one(WhenLost::Again, call).await?;
        // The answer to an earlier sending may have been lost.
        if rows.is_empty() && self.get_run(&run.namespace_id, &run.id).await?.is_none() {
            let origin = self.get_run(&run.namespace_id, &copy.origin_id).await?;
            return match origin {
                None => Ok(CopyOutcome::NotFound),
                Some(origin) if !origin.status.is_terminal() => {
                    Ok(CopyOutcome::NotOver(origin.status))
                }
                Some(_) => Err(no_answer("all of the step attempts to copy")),
            };
        }
        self.due(&run.namespace_id, run.available_at, false);
        Ok(CopyOutcome::Made)
    }
}
