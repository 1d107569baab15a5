//! A run with all that its rows tell, from one snapshot.
//!
//! It is asked for seldom, so the statements are planned when they are executed, like those of lists.

use tokio_postgres::types::Type;

use super::rows::{RUN_COLUMNS, RUN_WIDTH, STEP_COLUMNS, STEP_WIDTH};
use super::session::{JsonText, Param, Query, WhenLost};
use super::{Inner, executions, rows};
use crate::backend::{AttemptRecord, BackendResult, ChildRecord, RunRecord, RunStatus};

/// What goes before any other statement of a transaction whose statements are to see the same.
const ONE_SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";

const RUN: &str = "
    SELECT {run_columns}, r.config, (
        SELECT p.workflow_run_id FROM {steps} p
        WHERE p.namespace_id = r.parent_step_attempt_namespace_id AND p.id = r.parent_step_attempt_id
    )
    FROM {runs} r WHERE r.namespace_id = $1 AND r.id = $2";

/// A child that was linked is looked for by what `config` says, too.
const ATTEMPTS: &str = "
    SELECT {step_columns}, c.id, c.workflow_name, c.status, c.finished_at, g.created_at
    FROM {steps} s
    LEFT JOIN {runs} c ON s.kind = 'workflow'
        AND c.namespace_id = coalesce(s.child_workflow_run_namespace_id, s.namespace_id)
        AND c.id = coalesce(s.child_workflow_run_id, s.config->>'child')
    LEFT JOIN {signals} g ON s.kind = 'signal-wait'
        AND g.namespace_id = s.namespace_id AND g.step_attempt_id = s.id
    WHERE s.namespace_id = $1 AND s.workflow_run_id = $2
    ORDER BY s.created_at, s.id";

impl Inner {
    pub(super) async fn load_record(
        &self,
        namespace_id: &str,
        run_id: &str,
    ) -> BackendResult<Option<RunRecord>> {
        // What went in and came out may be large, and nobody looks at it here.
        let run_columns = RUN_COLUMNS.replace("r.input, r.output", "NULL::jsonb, NULL::jsonb");
        let sent = "CASE WHEN s.kind = 'signal-send' THEN s.output END";
        let step_columns = STEP_COLUMNS.replace("s.output", sent);
        let table = |name: &str| format!("\"{}\".\"{name}\"", self.schema);
        let query = |text: &str| {
            let text = text
                .replace("{run_columns}", &run_columns)
                .replace("{step_columns}", &step_columns)
                .replace("{runs}", &table("workflow_runs"))
                .replace("{steps}", &table("step_attempts"))
                .replace("{signals}", &table("workflow_signals"));
            Query::once(text, &[Type::TEXT, Type::TEXT])
        };
        let (snapshot, run, attempts) = (
            Query::once(ONE_SNAPSHOT.to_owned(), &[]),
            query(RUN),
            query(ATTEMPTS),
        );
        let params: [Param<'_>; 2] = [&namespace_id, &run_id];
        let executions = executions::of_run(&self.schema);
        let mut calls = vec![
            snapshot.with(&[]),
            self.sql.in_order.with(&[]),
            run.with(&params),
            attempts.with(&params),
        ];
        if self.is_recording {
            calls.push(executions.with(&params));
        }
        let results = self.sessions.all(WhenLost::Again, &calls).await?;
        let [_, _, run, attempts, executions @ ..] = results.as_slice() else {
            return Ok(None);
        };
        let Some(row) = run.first() else {
            return Ok(None);
        };
        let mut record = RunRecord::new(rows::run(row)?);
        let config: Option<JsonText> = rows::value(row, RUN_WIDTH)?;
        record.config = config
            .map(|JsonText(text)| text)
            .filter(|text| text != "{}");
        record.parent_run_id = rows::value(row, RUN_WIDTH + 1)?;
        for row in executions.iter().flatten() {
            record.executions.extend(executions::read(row)?);
        }
        for row in attempts {
            let attempt = match rows::step(row) {
                Ok(attempt) => attempt,
                Err(error) => {
                    record.attempts.push(Err(error));
                    continue;
                }
            };
            let mut of_attempt = AttemptRecord::new(attempt);
            if let Some(id) = rows::value::<Option<String>>(row, STEP_WIDTH)? {
                let status: String = rows::value(row, STEP_WIDTH + 2)?;
                of_attempt.child = Some(ChildRecord::new(
                    id,
                    rows::value(row, STEP_WIDTH + 1)?,
                    RunStatus::from_stored(&status),
                    rows::value(row, STEP_WIDTH + 3)?,
                ));
            }
            of_attempt.received_at = rows::value(row, STEP_WIDTH + 4)?;
            record.attempts.push(Ok(of_attempt));
        }
        Ok(Some(record))
    }
}
