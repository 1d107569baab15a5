//! Delivering signals.

use std::collections::HashSet;

use rusqlite::params;
use uuid::Uuid;

use super::super::{CLOSED_AT_ONCE, NewSignal};
use super::error::OpResult;
use super::runs;
use super::writer::Tx;

/// Gives the signal to every step attempt that waits for it, of runs that are not over. Returns the runs that received it.
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
    let mut run_ids = Recipients::default();
    while let Some(row) = rows.next()? {
        run_ids.add(row.get(0)?);
    }
    Ok(run_ids.in_order)
}

fn deliver(tx: &Tx<'_>, signal: &NewSignal) -> OpResult<Vec<String>> {
    // CROSS JOIN: the waits first, then the run of each.
    let mut select = tx.conn.prepare_cached(
        "SELECT a.id, a.workflow_run_id, r.status IN ('pending', 'running', 'sleeping'),
             r.status IN ('completed', 'succeeded', 'failed', 'canceled')
         FROM step_attempts a
         CROSS JOIN workflow_runs r ON r.namespace_id = a.namespace_id AND r.id = a.workflow_run_id
         WHERE a.namespace_id = ?1 AND a.kind = 'signal-wait' AND a.status = 'running'
             AND json_extract(a.context, '$.signal') = ?2
         ORDER BY a.created_at, a.id",
    )?;
    let mut open = select.query([&signal.namespace_id, &signal.signal])?;
    let (mut waiting, mut over) = (Vec::new(), Vec::new());
    while let Some(row) = open.next()? {
        if row.get(2)? {
            waiting.push((row.get::<_, String>(0)?, row.get::<_, String>(1)?));
        } else if over.len() < CLOSED_AT_ONCE && row.get(3)? {
            over.push(row.get::<_, String>(0)?);
        }
    }
    close(tx, &signal.namespace_id, &over)?;
    let mut insert = tx.conn.prepare_cached(
        "INSERT INTO workflow_signals (namespace_id, id, signal, data, sender_idempotency_key,
             workflow_run_id, step_attempt_id, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (namespace_id, step_attempt_id) DO NOTHING",
    )?;
    let data = (!signal.data.is_null()).then(|| signal.data.expose());
    let mut run_ids = Recipients::default();
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
        if inserted > 0 {
            run_ids.add(run_id);
        }
    }
    Ok(run_ids.in_order)
}

/// Closes waits of runs that are over, as a `race!` closes those that lost: nobody does when a run is
/// canceled or swept, or ends beside them, and each signal of their name would read them again.
fn close(tx: &Tx<'_>, namespace_id: &str, attempt_ids: &[String]) -> OpResult<()> {
    let mut close = tx.conn.prepare_cached(
        "UPDATE step_attempts SET status = 'completed', finished_at = ?3, updated_at = ?3
         WHERE namespace_id = ?1 AND id = ?2",
    )?;
    for attempt_id in attempt_ids {
        close.execute([namespace_id, attempt_id, tx.now_text])?;
    }
    Ok(())
}

/// Runs, each once.
#[derive(Default)]
struct Recipients {
    known: HashSet<String>,
    in_order: Vec<String>,
}

impl Recipients {
    fn add(&mut self, run_id: String) {
        if self.known.insert(run_id.clone()) {
            self.in_order.push(run_id);
        }
    }
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
            tx.work_due(namespace_id, tx.now);
        }
    }
    Ok(())
}
