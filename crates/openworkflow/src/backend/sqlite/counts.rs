//! Counting what stands in the queue, without reading it as a whole.

use std::time::SystemTime;

use rusqlite::{Connection, Row, params};

use super::super::counts::Counted;
use super::super::{QueueCounts, RunStatus, codec};
use super::error::OpResult;

/// The statuses of runs that are not over.
const OPEN: [&str; 3] = ["pending", "running", "sleeping"];
/// The statuses of those that are.
const OVER: [&str; 4] = ["completed", "succeeded", "failed", "canceled"];

/// Counts `limit` runs of each kind at most, along the protocol's index. Of runs that are not due yet, rows
/// are read too, since the index does not know who has a run: leases, which end soon, come first.
pub(super) fn queue(
    conn: &Connection,
    namespace_id: &str,
    limit: u32,
    now: SystemTime,
) -> OpResult<QueueCounts> {
    let now_text = codec::format_time(now);
    let mut due = conn.prepare_cached(
        "SELECT count(*), min(available_at) FROM (
             SELECT available_at FROM workflow_runs
             WHERE namespace_id = ?1 AND status = ?2 AND available_at <= ?3
             ORDER BY available_at, created_at LIMIT ?4
         )",
    )?;
    let mut later = conn.prepare_cached(
        "SELECT count(*), 0 FROM (
             SELECT 1 FROM workflow_runs
             WHERE namespace_id = ?1 AND status = ?2 AND available_at > ?3
             ORDER BY available_at, created_at LIMIT ?4
         )",
    )?;
    let mut held = conn.prepare_cached(
        "SELECT count(*), count(worker_id) FROM (
             SELECT worker_id FROM workflow_runs
             WHERE namespace_id = ?1 AND status = ?2 AND available_at > ?3
             ORDER BY available_at, created_at LIMIT ?4
         )",
    )?;
    let mut over = conn.prepare_cached(
        "SELECT count(*) FROM (
             SELECT 1 FROM workflow_runs WHERE namespace_id = ?1 AND status = ?2 LIMIT ?3
         )",
    )?;
    let mut counts = QueueCounts::default();
    for status in OPEN {
        let key = params![namespace_id, status, now_text, limit];
        let (due, oldest) = due.query_row(key, |row| {
            let oldest: Option<String> = row.get(1).unwrap_or_default();
            Ok((count(row, 0)?, oldest))
        })?;
        let oldest = oldest.and_then(|oldest| codec::parse_time(&oldest));
        let later = if status == "pending" {
            &mut later
        } else {
            &mut held
        };
        let (later, held) = later.query_row(key, |row| Ok((count(row, 0)?, count(row, 1)?)))?;
        let counted = Counted {
            due,
            oldest_due: oldest.map(|oldest| now.duration_since(oldest).unwrap_or_default()),
            later,
            held,
        };
        counts.add(&RunStatus::from_stored(status), &counted, limit.into());
    }
    for status in OVER {
        let runs = over.query_row(params![namespace_id, status, limit], |row| count(row, 0))?;
        counts.add_runs(&RunStatus::from_stored(status), runs, limit.into());
    }
    Ok(counts)
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let count: i64 = row.get(column)?;
    Ok(u64::try_from(count).unwrap_or_default())
}
