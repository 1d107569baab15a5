//! What is recorded of executions: a row by who ends his own, a member of the run's `config` by who ends
//! another's.

use rusqlite::{Connection, params};

use super::super::executions::executions_table;
use super::super::{ClaimTimes, ExecutionRecord, Owner, RecordedEnding, codec};
use super::error::OpResult;
use super::schema;
use super::writer::Tx;

/// Where a run's `config` is what this library can add to, `$added`, else what it is.
macro_rules! added_to_config {
    ($($added:expr),+ $(,)?) => {
        concat!(
            "CASE WHEN json_valid(config) AND length(config) < ",
            $crate::backend::executions::config_limit!(),
            " THEN CASE json_type(config) WHEN 'object' THEN ",
            $($added,)+
            " ELSE config END ELSE config END"
        )
    };
}
pub(super) use added_to_config;

/// A run's `config` with the execution under way, which somebody else ends: `$outcome` at `$at`. As it is
/// where no claim of this library's is under way.
macro_rules! with_execution {
    ($outcome:expr, $at:expr) => {
        concat!(
            "CASE WHEN json_extract(config, '$.claim.attempt') = attempts THEN ",
            $crate::backend::sqlite::executions::with_execution!(
                "json_extract(config, '$.claim')",
                $outcome,
                $at
            ),
            " WHEN attempts = 1 AND started_at IS NOT NULL AND substr(worker_id, 15, 1) = '7' THEN ",
            $crate::backend::sqlite::executions::with_execution!(
                "json_object('attempt', 1, 'dueAt', created_at, 'beganAt', started_at)",
                $outcome,
                $at
            ),
            " ELSE config END"
        )
    };
    ($claim:expr, $outcome:expr, $at:expr) => {
        concat!(
            "json_insert(
                 CASE json_type(config, '$.executions') WHEN 'array' THEN config
                     ELSE json_set(config, '$.executions', json('[]')) END,
                 '$.executions[#]', json(json_patch(",
            $claim,
            ", json_object('workerId', worker_id, 'endedAt', ",
            $at,
            ", 'outcome', ",
            $outcome,
            "))))"
        )
    };
}
pub(super) use with_execution;

/// Records how an owner ends its own execution, by the same transaction.
pub(super) fn record(tx: &Tx<'_>, owner: &Owner, ending: RecordedEnding) -> OpResult<()> {
    let Some(times) = owner.claimed.filter(|_| tx.is_recording) else {
        return Ok(());
    };
    tx.conn
        .prepare_cached(concat!(
            "INSERT OR IGNORE INTO ",
            executions_table!(),
            " (namespace_id, workflow_run_id, attempt, worker_id, outcome, due_at, began_at, ended_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        ))?
        .execute(params![
            &*owner.namespace_id,
            &*owner.run_id,
            owner.attempts,
            &*owner.worker_id,
            ending.as_str(),
            codec::format_time(times.due_at),
            codec::format_time(times.claimed_at),
            tx.now_text,
        ])?;
    Ok(())
}

/// What is recorded of a run. A row that says something else says nothing.
pub(super) fn of_run(
    conn: &Connection,
    namespace_id: &str,
    run_id: &str,
) -> OpResult<Vec<ExecutionRecord>> {
    if !schema::is_recording(conn)? {
        return Ok(Vec::new());
    }
    let mut statement = conn.prepare_cached(concat!(
        "SELECT attempt, worker_id, outcome, due_at, began_at, ended_at FROM ",
        executions_table!(),
        " WHERE namespace_id = ?1 AND workflow_run_id = ?2 ORDER BY attempt",
    ))?;
    let mut rows = statement.query([namespace_id, run_id])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(read(row));
    }
    Ok(found)
}

fn read(row: &rusqlite::Row<'_>) -> Option<ExecutionRecord> {
    let time = |index| codec::parse_time(row.get_ref(index).ok()?.as_str().ok()?);
    let times = ClaimTimes::new(time(3)?, time(4)?);
    let ending = RecordedEnding::from_stored(row.get_ref(2).ok()?.as_str().ok()?)?;
    let worker_id: String = row.get(1).ok()?;
    Some(ExecutionRecord::new(
        row.get(0).ok()?,
        worker_id,
        times,
        time(5)?,
        ending,
    ))
}
