//! A run with all that its rows tell, from one snapshot.

use rusqlite::{Connection, OptionalExtension};

use super::super::{AttemptRecord, ChildRecord, RunRecord, RunStatus, codec};
use super::error::OpResult;
use super::executions;
use super::rows::{self, RUN_COLUMNS, STEP_COLUMNS, run_columns, step_columns};

pub(super) fn load(
    conn: &Connection,
    namespace_id: &str,
    run_id: &str,
) -> OpResult<Option<RunRecord>> {
    // In memory there is one connection, which is in a transaction already.
    let snapshot = match conn.is_autocommit() {
        true => Some(conn.unchecked_transaction()?),
        false => None,
    };
    let record = read(conn, namespace_id, run_id)?;
    if let Some(snapshot) = snapshot {
        snapshot.commit()?;
    }
    Ok(record)
}

/// What went in and came out may be large, and nobody looks at it here.
fn without_payloads(columns: &str) -> String {
    columns.replace("input, output", "NULL, NULL").replace(
        "a.output",
        "CASE WHEN a.kind = 'signal-send' THEN a.output END",
    )
}

fn read(conn: &Connection, namespace_id: &str, run_id: &str) -> OpResult<Option<RunRecord>> {
    let sql = format!(
        "SELECT {}, config, (
             SELECT workflow_run_id FROM step_attempts p
             WHERE p.namespace_id = r.parent_step_attempt_namespace_id
                 AND p.id = r.parent_step_attempt_id
         )
         FROM workflow_runs r WHERE namespace_id = ?1 AND id = ?2",
        without_payloads(run_columns!())
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let found = statement.query_row([namespace_id, run_id], |row| {
        Ok(rows::run(row).map(|run| {
            let mut record = RunRecord::new(run);
            // Those who read the run said what is wrong with its columns; what is no text here says nothing.
            let config: Option<String> = row.get(RUN_COLUMNS).unwrap_or_default();
            record.config = config.filter(|json| json != "{}");
            record.parent_run_id = row.get(RUN_COLUMNS + 1).unwrap_or_default();
            record
        }))
    });
    let Some(mut record) = found.optional()?.transpose()? else {
        return Ok(None);
    };
    record.executions = executions::of_run(conn, namespace_id, run_id)?;
    let sql = format!(
        "SELECT {}, c.id, c.workflow_name, c.status, c.finished_at, s.created_at
         FROM step_attempts a
         LEFT JOIN workflow_runs c ON a.kind = 'workflow'
             AND c.namespace_id = coalesce(a.child_workflow_run_namespace_id, a.namespace_id)
             AND c.id = coalesce(
                 a.child_workflow_run_id,
                 CASE WHEN json_valid(a.config) THEN a.config ->> 'child' END
             )
         LEFT JOIN workflow_signals s ON a.kind = 'signal-wait'
             AND s.namespace_id = a.namespace_id AND s.step_attempt_id = a.id
         WHERE a.namespace_id = ?1 AND a.workflow_run_id = ?2
         ORDER BY a.created_at, a.id",
        without_payloads(step_columns!())
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let mut found = statement.query([namespace_id, run_id])?;
    while let Some(row) = found.next()? {
        let attempt = rows::step_attempt(row).map(|attempt| {
            let text = |index| row.get::<_, Option<String>>(index).unwrap_or_default();
            let mut of_attempt = AttemptRecord::new(attempt);
            of_attempt.child = text(STEP_COLUMNS).map(|id| {
                let status = text(STEP_COLUMNS + 2).unwrap_or_default();
                let finished_at = text(STEP_COLUMNS + 3);
                ChildRecord::new(
                    id,
                    text(STEP_COLUMNS + 1),
                    RunStatus::from_stored(&status),
                    finished_at.as_deref().and_then(codec::parse_time),
                )
            });
            of_attempt.received_at = text(STEP_COLUMNS + 4)
                .as_deref()
                .and_then(codec::parse_time);
            of_attempt
        });
        record.attempts.push(attempt);
    }
    Ok(Some(record))
}
