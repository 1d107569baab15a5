//! Counting what stands in the queue, without reading it as a whole, and the connections of the pool.

use std::time::SystemTime;

use super::session::{Param, WhenLost};
use super::{Inner, rows};
use crate::backend::counts::Counted;
use crate::backend::{BackendResult, Connections, QueueCounts, RunStatus};

/// `$2` runs of each kind at most, along the protocol's index. Of runs that are not due yet, rows are read
/// too, since the index does not know who has a run: leases, which end soon, come first.
pub(super) const COUNT_QUEUE: &str = "
    SELECT s.status, d.count, d.oldest, l.count, l.held, now()
    FROM (VALUES ('pending'), ('running'), ('sleeping')) AS s (status)
    CROSS JOIN LATERAL (
        SELECT count(*), min(available_at) AS oldest FROM (
            SELECT r.available_at FROM {runs} r
            WHERE r.namespace_id = $1 AND r.status = s.status AND r.available_at <= now()
            ORDER BY r.available_at, r.created_at LIMIT $2
        ) due
    ) d
    CROSS JOIN LATERAL (
        SELECT count(*), count(worker_id) AS held FROM (
            SELECT r.worker_id FROM {runs} r
            WHERE r.namespace_id = $1 AND r.status = s.status AND r.available_at > now()
            ORDER BY r.available_at, r.created_at LIMIT $2
        ) later
    ) l
    UNION ALL
    SELECT s.status, 0, NULL, o.count, 0, now()
    FROM (VALUES ('completed'), ('succeeded'), ('failed'), ('canceled')) AS s (status)
    CROSS JOIN LATERAL (
        SELECT count(*) FROM (
            SELECT 1 FROM {runs} r WHERE r.namespace_id = $1 AND r.status = s.status LIMIT $2
        ) runs
    ) o";

impl Inner {
    pub(super) async fn count_queue(
        &self,
        namespace_id: &str,
        limit: u32,
    ) -> BackendResult<QueueCounts> {
        let most = i64::from(limit);
        let params: [Param<'_>; 2] = [&namespace_id, &most];
        let call = self.sql.count_queue.with(&params);
        let found = self.sessions.one(WhenLost::Again, call).await?;
        let mut counts = QueueCounts::default();
        let count = |row, column| -> BackendResult<u64> {
            Ok(u64::try_from(rows::value::<i64>(row, column)?).unwrap_or_default())
        };
        for row in &found {
            let status = RunStatus::from_stored(&rows::value::<String>(row, 0)?);
            let oldest: Option<SystemTime> = rows::value(row, 2)?;
            let now: SystemTime = rows::value(row, 5)?;
            let counted = Counted {
                due: count(row, 1)?,
                oldest_due: oldest.map(|oldest| now.duration_since(oldest).unwrap_or_default()),
                later: count(row, 3)?,
                held: count(row, 4)?,
            };
            if status.is_terminal() {
                counts.add_runs(&status, counted.later, limit.into());
            } else {
                counts.add(&status, &counted, limit.into());
            }
        }
        Ok(counts)
    }

    /// Of all runtimes.
    pub(super) fn connections(&self) -> Connections {
        let mut connections = Connections::default();
        for pool in self.sessions.homes().pools() {
            let status = pool.status();
            let idle = status.available.min(status.size);
            connections.idle += idle as u64;
            connections.used += (status.size - idle) as u64;
        }
        connections
    }
}
