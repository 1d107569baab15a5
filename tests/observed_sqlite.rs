//! Health and metrics over HTTP, of workers on SQLite.

mod observed;

use std::time::Duration;

use openworkflow::HealthStatus;
use openworkflow_tests::RawSqlite;

use observed::health::{found, limits};
use observed::{Harness, PLAIN};

type Db = openworkflow_tests::SqliteDatabase;

/// Somebody else's transaction, for as long as it likes.
#[tokio::test]
async fn a_file_that_somebody_keeps_locked() {
    let mut harness = Harness::new(|worker| {
        let workflow = PLAIN.implement(|_, ()| async { Ok(()) });
        let limits = limits(|limits| limits.database_timeout = Duration::from_millis(1500));
        worker.workflow(workflow).health_limits(limits)
    })
    .await;
    harness.complete(&PLAIN, ()).await;
    let worker = harness.worker.as_ref().unwrap();
    found(worker, "database", HealthStatus::Healthy).await;
    let other = RawSqlite(harness.db.path()).connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (database, report) = found(worker, "database", HealthStatus::Unhealthy).await;
    assert!(!report.is_ready(), "{database:?}");
    other.execute_batch("ROLLBACK").unwrap();
    found(worker, "database", HealthStatus::Healthy).await;
    harness.stop().await;
}
