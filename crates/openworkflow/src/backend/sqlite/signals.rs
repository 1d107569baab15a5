//! Delivering signals.

use rusqlite::params;
use uuid::Uuid;

use super::super::NewSignal;
use super::error::OpResult;
use super::runs;
use super::writer::Tx;

/// Gives the signal to every step attempt that waits for it. Returns the runs that received it.
pub(super) fn send(tx: &mut Tx<'_>, signal: &NewSignal) -> OpResult<Vec<String>> {
    if let Some(sender) = &signal.sender {
        runs::check_owner(tx, sender)?;
    }
    if let Some(key) = &signal.idempotency_key {
        let before = sent_before(tx, signal, key)?;
        if !before.is_empty() {
            return Ok(before);
        }
    }
    let received = deliver(tx, signal)?;
    wake(tx, &signal.namespace_id, &received)?;
    Ok(received)
}

fn sent_before(tx: &Tx<'_>, signal: &NewSignal, key: &str) -> OpResult<Vec<String>> {
    let mut statement = tx.conn.prepare_cached(
        "SELECT workflow_run_id FROM workflow_signals
         WHERE namespace_id = ?1 AND signal = ?2 AND sender_idempotency_key = ?3
         ORDER BY created_at, id",
    )?;
    let mut rows = statement.query([signal.namespace_id.as_str(), &signal.signal, key])?;
    let mut run_ids = Vec::new();
    while let Some(row) = rows.next()? {
        let run_id = row.get(0)?;
        if !run_ids.contains(&run_id) {
            run_ids.push(run_id);
        }
    }
    Ok(run_ids)
}

fn deliver(tx: &Tx<'_>, signal: &NewSignal) -> OpResult<Vec<String>> {
    let mut waiting = tx.conn.prepare_cached(
        "SELECT id, workflow_run_id FROM step_attempts
         WHERE namespace_id = ?1 AND kind = 'signal-wait' AND status = 'running'
             AND json_extract(context, '$.signal') = ?2
         ORDER BY created_at, id",
    )?;
    let waiting: Vec<(String, String)> = waiting
        .query_map([&signal.namespace_id, &signal.signal], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<Result<_, _>>()?;
    let mut insert = tx.conn.prepare_cached(
        "INSERT INTO workflow_signals (namespace_id, id, signal, data, sender_idempotency_key,
             workflow_run_id, step_attempt_id, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (namespace_id, step_attempt_id) DO NOTHING",
    )?;
    let data = (!signal.data.is_null()).then(|| signal.data.expose());
    let mut run_ids = Vec::new();
    for (attempt_id, run_id) in waiting {
        let inserted = insert.execute(params![
            signal.namespace_id,
            Uuid::new_v4().to_string(),
            signal.signal,
            data,
            signal.idempotency_key,
            run_id,
            attempt_id,
            tx.now_text,
        ])?;
        if inserted > 0 && !run_ids.contains(&run_id) {
            run_ids.push(run_id);
        }
    }
    Ok(run_ids)
}

/// Makes runs due that nobody executes. This cuts the delay of a retry short too.
fn wake(tx: &mut Tx<'_>, namespace_id: &str, run_ids: &[String]) -> OpResult<()> {
    let mut statement = tx.conn.prepare_cached(
        "UPDATE workflow_runs SET available_at = ?3, updated_at = ?3
         WHERE namespace_id = ?1 AND id = ?2 AND status IN ('pending', 'running', 'sleeping')
             AND worker_id IS NULL AND (available_at IS NULL OR available_at > ?3)",
    )?;
    for run_id in run_ids {
        if statement.execute([namespace_id, run_id, tx.now_text])? > 0 {
            tx.work_due(tx.now);
        }
    }
    Ok(())
}
