//! Step attempts and completed runs: what is written of them, one by one and as the columns of one statement.

use std::sync::Arc;
use std::time::Instant;

use workflow_core::Payload;

use super::session::{Json, Param, claim_number};
use crate::backend::{EndedStep, NewStepAttempt, Owner};

/// Writes step attempts, each under the guard of its run: the whole row where there is none yet, and
/// where `{or_end}` follows, the result where the attempt runs and what is added to `config`. Completes
/// runs that have no parents. Gives the ids of those written; not of those whose run is not ours, or
/// locked by somebody.
///
/// Two things are for the planner: the arrays are hidden from it, so that its plan for any length is as
/// good to it as one for each, and made once; and runs are looked up one by one, since a plan that
/// reads a small table as a whole stays after the table has grown.
pub(super) const WRITE_STEPS: &str = "
    INSERT INTO {steps} AS s (
        namespace_id, id, workflow_run_id, step_name, kind, status, config, context,
        output, error, started_at, finished_at, created_at, updated_at
    )
    SELECT
        i.namespace_id, i.id, i.run_id, i.step_name, i.kind, i.status,
        coalesce(i.config, '{}'), i.context,
        i.output, i.error, now() - i.ago * interval '1 second',
        CASE WHEN i.status <> 'running' THEN now() END,
        date_trunc('milliseconds', now() - i.ago * interval '1 second'), now()
    FROM unnest(
        (SELECT $1), (SELECT $2), (SELECT $3), (SELECT $4), (SELECT $5), (SELECT $6),
        (SELECT $7), (SELECT $8), (SELECT $9), (SELECT $10), (SELECT $11), (SELECT $12),
        (SELECT $13)
    ) AS i (
        namespace_id, run_id, worker_id, attempts, id, step_name, kind, status, context,
        output, error, ago, config
    )
    CROSS JOIN LATERAL (
        SELECT 1 FROM {runs} r
        WHERE r.namespace_id = i.namespace_id AND r.id = i.run_id
            AND r.worker_id = i.worker_id AND r.attempts = i.attempts
            AND (r.status = 'running') IS TRUE
        FOR NO KEY UPDATE SKIP LOCKED
    ) owned
    {or_end}
    RETURNING s.id";

/// The same beside runs that are completed.
pub(super) const WRITE_ALL: &str = "
    WITH written AS ({write_steps}),
    completed AS (
        UPDATE {runs} r SET
            status = 'completed', output = i.output, error = NULL, available_at = NULL,
            finished_at = now(), updated_at = now()
        FROM unnest(
            (SELECT $14), (SELECT $15), (SELECT $16), (SELECT $17), (SELECT $18)
        ) AS i (namespace_id, run_id, worker_id, attempts, output)
        CROSS JOIN LATERAL (
            SELECT r.ctid AS at FROM {runs} r
            WHERE r.namespace_id = i.namespace_id AND r.id = i.run_id
                AND r.worker_id = i.worker_id AND r.attempts = i.attempts
                AND (r.status = 'running') IS TRUE
                AND r.parent_step_attempt_id IS NULL
            FOR NO KEY UPDATE SKIP LOCKED
        ) owned
        WHERE r.ctid = owned.at
        RETURNING r.id
    )
    SELECT id FROM written UNION ALL SELECT id FROM completed";

/// Writes one attempt as the above does, waiting for whoever has locked its run.
pub(super) const WRITE_STEP: &str = "
    INSERT INTO {steps} AS s (
        namespace_id, id, workflow_run_id, step_name, kind, status, config, context,
        output, error, started_at, finished_at, created_at, updated_at
    )
    SELECT
        $1, $5, $2, $6, $7, $8, coalesce($13, '{}'), $9, $10, $11, now() - $12 * interval '1 second',
        CASE WHEN $8 <> 'running' THEN now() END,
        date_trunc('milliseconds', now() - $12 * interval '1 second'), now()
    FROM {runs} WHERE {owned} FOR NO KEY UPDATE
    {or_end}
    RETURNING s.id";

/// For attempts that may be there already. Rows that are new cost the server an eighth more where it has
/// to be ready for that, so it is left away where nobody has heard of them.
pub(super) const OR_END: &str = "
    ON CONFLICT (namespace_id, id) DO UPDATE SET
        status = excluded.status,
        config = s.config || excluded.config,
        output = excluded.output,
        error = excluded.error,
        finished_at = excluded.finished_at,
        updated_at = now()
    WHERE s.workflow_run_id = excluded.workflow_run_id
        AND (excluded.status <> 'running' OR excluded.config <> '{}')
        AND s.status NOT IN ('completed', 'succeeded', 'failed')";

/// Of an attempt (`$5`) that was not written: whether its run is ours, and its status.
pub(super) const WHY_UNWRITTEN: &str = "
    SELECT
        EXISTS (SELECT 1 FROM {runs} WHERE {owned}),
        (SELECT status FROM {steps} WHERE namespace_id = $1 AND id = $5 AND workflow_run_id = $2)";

/// What shares a commit with others of its kind.
pub(super) enum Write {
    Step(StepWrite),
    Completion(Completion),
}

impl Write {
    /// No two writes of the same row share a statement.
    pub(super) fn row(&self) -> &Arc<str> {
        match self {
            Self::Step(step) => &step.attempt.id,
            Self::Completion(completion) => &completion.owner.run_id,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Step(step) => step.bytes(),
            Self::Completion(completion) => completion.output.size(),
        }
    }
}

/// A run to be completed.
pub(super) struct Completion {
    pub(super) owner: Owner,
    pub(super) output: Payload,
}

impl Completion {
    pub(super) fn output(&self) -> Option<Json<&str>> {
        (!self.output.is_null()).then(|| Json(self.output.expose()))
    }
}

/// A step attempt to be written.
pub(super) struct StepWrite {
    pub(super) owner: Owner,
    pub(super) attempt: NewStepAttempt,
    /// `None` while it runs.
    result: Option<Result<Payload, String>>,
    asked: Instant,
}

impl StepWrite {
    pub(super) fn begun(owner: Owner, attempt: NewStepAttempt) -> Self {
        Self {
            owner,
            attempt,
            result: None,
            asked: Instant::now(),
        }
    }

    pub(super) fn ended(owner: Owner, ended: EndedStep) -> Self {
        Self {
            owner,
            attempt: ended.attempt,
            result: Some(ended.result),
            asked: Instant::now(),
        }
    }

    /// Whether the row is most likely new.
    pub(super) fn is_new(&self) -> bool {
        self.attempt.is_unwritten
    }

    pub(super) fn status(&self) -> &'static str {
        match &self.result {
            None => "running",
            Some(Ok(_)) => "completed",
            Some(Err(_)) => "failed",
        }
    }

    pub(super) fn context(&self) -> Option<Json<&str>> {
        self.attempt.context.as_deref().map(Json)
    }

    pub(super) fn output(&self) -> Option<Json<&str>> {
        match &self.result {
            Some(Ok(output)) if !output.is_null() => Some(Json(output.expose())),
            _ => None,
        }
    }

    pub(super) fn error(&self) -> Option<Json<&str>> {
        match &self.result {
            Some(Err(error)) => Some(Json(error)),
            _ => None,
        }
    }

    pub(super) fn config(&self) -> Option<Json<&str>> {
        self.attempt.config.as_deref().map(Json)
    }

    /// For how many seconds the attempt has run. The time in the queue is not the step's.
    pub(super) fn age(&self) -> f64 {
        (self.attempt.begun_ago + self.asked.elapsed()).as_secs_f64()
    }

    pub(super) fn bytes(&self) -> usize {
        let context = self.attempt.context.as_ref().map_or(0, String::len);
        let config = self.attempt.config.as_ref().map_or(0, String::len);
        let result = match &self.result {
            None => 0,
            Some(Ok(output)) => output.size(),
            Some(Err(error)) => error.len(),
        };
        context + config + result
    }
}

fn column<'a, W, T>(writes: &[&'a W], get: impl Fn(&'a W) -> T) -> Vec<T> {
    writes.iter().map(|write| get(write)).collect()
}

/// The columns of completed runs.
pub(super) struct CompletionColumns<'a> {
    namespace_ids: Vec<&'a str>,
    run_ids: Vec<&'a str>,
    worker_ids: Vec<&'a str>,
    attempts: Vec<i32>,
    outputs: Vec<Option<Json<&'a str>>>,
}

impl<'a> CompletionColumns<'a> {
    pub(super) fn of(writes: &[&'a Completion]) -> Self {
        Self {
            namespace_ids: column(writes, |w| &*w.owner.namespace_id),
            run_ids: column(writes, |w| &*w.owner.run_id),
            worker_ids: column(writes, |w| &*w.owner.worker_id),
            attempts: column(writes, |w| claim_number(&w.owner)),
            outputs: column(writes, Completion::output),
        }
    }

    pub(super) fn params(&self) -> [Param<'_>; 5] {
        [
            &self.namespace_ids,
            &self.run_ids,
            &self.worker_ids,
            &self.attempts,
            &self.outputs,
        ]
    }
}

/// The columns of step attempts.
pub(super) struct StepColumns<'a> {
    namespace_ids: Vec<&'a str>,
    run_ids: Vec<&'a str>,
    worker_ids: Vec<&'a str>,
    attempts: Vec<i32>,
    ids: Vec<&'a str>,
    names: Vec<&'a str>,
    kinds: Vec<&'a str>,
    statuses: Vec<&'a str>,
    contexts: Vec<Option<Json<&'a str>>>,
    outputs: Vec<Option<Json<&'a str>>>,
    errors: Vec<Option<Json<&'a str>>>,
    ages: Vec<f64>,
    configs: Vec<Option<Json<&'a str>>>,
}

impl<'a> StepColumns<'a> {
    pub(super) fn of(writes: &[&'a StepWrite]) -> Self {
        Self {
            namespace_ids: column(writes, |w| &*w.owner.namespace_id),
            run_ids: column(writes, |w| &*w.owner.run_id),
            worker_ids: column(writes, |w| &*w.owner.worker_id),
            attempts: column(writes, |w| claim_number(&w.owner)),
            ids: column(writes, |w| &*w.attempt.id),
            names: column(writes, |w| &*w.attempt.step_name),
            kinds: column(writes, |w| w.attempt.kind.as_str()),
            statuses: column(writes, StepWrite::status),
            contexts: column(writes, StepWrite::context),
            outputs: column(writes, StepWrite::output),
            errors: column(writes, StepWrite::error),
            ages: column(writes, StepWrite::age),
            configs: column(writes, StepWrite::config),
        }
    }

    pub(super) fn params(&self) -> [Param<'_>; 13] {
        [
            &self.namespace_ids,
            &self.run_ids,
            &self.worker_ids,
            &self.attempts,
            &self.ids,
            &self.names,
            &self.kinds,
            &self.statuses,
            &self.contexts,
            &self.outputs,
            &self.errors,
            &self.ages,
            &self.configs,
        ]
    }
}
