//! Runs that continue as new ones: the statement that completes the one and creates the other.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::Inner;
use super::runs::NewRunParams;
use super::session::{Guard, Param, Query, WhenLost};
use crate::backend::{BackendResult, NewRun, Owner};

/// Completes a run that has no parent, and creates the one as which it goes on (`$5`). `$1` to `$4` are the
/// namespace, the run, the worker and the number of the claim; the guard is hidden from indexes by status.
const CONTINUE: &str = "
    WITH ended AS (
        UPDATE {runs} SET
            status = 'completed', output = NULL, error = NULL, available_at = NULL,
            finished_at = now(), updated_at = now(),
            config = CASE jsonb_typeof(config) WHEN 'object' THEN config ELSE '{}' END
                || jsonb_build_object('continuedAs', $5::text)
        WHERE namespace_id = $1 AND id = $2 AND worker_id = $3 AND attempts = $4
            AND (status = 'running') IS TRUE AND parent_step_attempt_id IS NULL
        RETURNING 1
    )
    INSERT INTO {runs} (
        namespace_id, id, workflow_name, version, status, config, context, input, attempts,
        available_at, deadline_at, created_at, updated_at
    )
    SELECT
        $1, $5, $6, $7, 'pending', '{}', $8, $9, 0,
        coalesce($10, now()), $11, date_trunc('milliseconds', now()), now()
    FROM ended
    RETURNING 1";

pub(super) fn query(schema: &str) -> Query {
    const TEXT: Type = Type::TEXT;
    let types = [
        TEXT,
        TEXT,
        TEXT,
        Type::INT4,
        TEXT,
        TEXT,
        TEXT,
        Type::JSONB,
        Type::JSONB,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
    ];
    let runs = format!("\"{schema}\".\"workflow_runs\"");
    Query::new(CONTINUE.replace("{runs}", &runs), &types)
}

impl Inner {
    pub(super) async fn continue_as(
        self: &Arc<Self>,
        owner: &Owner,
        successor: &NewRun,
    ) -> BackendResult<()> {
        let new = NewRunParams::new(successor);
        let guard = Guard::new(owner);
        let mut params = guard.params().to_vec();
        params.extend([
            &successor.id as Param<'_>,
            &successor.workflow_name,
            &successor.version,
            &new.context,
            &new.input,
            &new.available_at,
            &new.deadline_at,
        ]);
        let call = self.continue_as.with(&params);
        let rows = self.sessions.one(WhenLost::Again, call).await?;
        if rows.is_empty() {
            self.left(owner, "completed").await?;
        }
        self.due(&owner.namespace_id, successor.available_at, false);
        self.ended(&owner.run_id, false);
        Ok(())
    }
}
