//! A database in a folder of its own, a clock that stands still, and a look at the raw rows.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openworkflow::backend::{
    Backend, BackendError, Claim, ClaimedRun, EndedStep, NewRun, NewStepAttempt, Owner,
    StepAttemptKind, WorkflowKey, WorkflowRun,
};
use openworkflow::{Clock, Sqlite};
use rusqlite::types::Value;
use tempfile::TempDir;
use workflow_core::{Interruption, Payload};

pub(crate) const NS: &str = "default";
pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// When every test begins: 2026-01-31T12:00:00.123Z, and a bit that is finer than a millisecond.
pub(crate) const START: &str = "2026-01-31T12:00:00.123Z";

pub(crate) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(1_769_860_800_123_456_789)
}

/// `START` and then some, as the database writes it.
pub(crate) fn text_at(after: Duration) -> String {
    let millis = 123 + after.as_millis() as u64;
    let (seconds, millis) = (millis / 1000, millis % 1000);
    assert!(
        seconds < 12 * 3600,
        "the test kit counts within one afternoon"
    );
    format!(
        "2026-01-31T{:02}:{:02}:{:02}.{millis:03}Z",
        12 + seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
    )
}

pub(crate) struct Db {
    pub(crate) store: Sqlite,
    pub(crate) clock: Clock,
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

impl std::ops::Deref for Db {
    type Target = Sqlite;

    fn deref(&self) -> &Sqlite {
        &self.store
    }
}

impl Db {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let clock = Clock::manual(start());
        let store = Sqlite::options()
            .clock(clock.clone())
            .open(&path)
            .await
            .unwrap();
        Self {
            store,
            clock,
            path,
            _folder: folder,
        }
    }

    /// A connection of another process, as it were.
    pub(crate) fn raw(&self) -> rusqlite::Connection {
        let conn = rusqlite::Connection::open(&self.path).unwrap();
        conn.busy_timeout(Duration::from_secs(5)).unwrap();
        conn.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        conn
    }

    pub(crate) fn execute(&self, sql: &str) {
        self.raw().execute_batch(sql).unwrap();
    }

    /// The columns of the rows that a query finds, as `a|b|c`, NULL as `-`.
    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        let conn = self.raw();
        let mut statement = conn.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut found = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> = (0..columns)
                .map(|index| match row.get(index).unwrap() {
                    Value::Null => "-".to_owned(),
                    Value::Integer(number) => number.to_string(),
                    Value::Real(number) => number.to_string(),
                    Value::Text(text) => text,
                    Value::Blob(_) => "blob".to_owned(),
                })
                .collect();
            found.push(values.join("|"));
        }
        found
    }

    /// `status|attempts|worker_id|available_at|started_at|finished_at|error` of a run.
    pub(crate) fn run_row(&self, id: &str) -> String {
        self.query(&format!(
            "SELECT status, attempts, worker_id, available_at, started_at, finished_at, error
             FROM workflow_runs WHERE id = '{id}'"
        ))
        .remove(0)
    }

    pub(crate) async fn create(&self, id: &str) -> WorkflowRun {
        let (run, found) = self.create_run(new_run(id)).await.unwrap();
        assert!(!found);
        run
    }

    pub(crate) async fn claim(&self, workers: &[&str]) -> Vec<ClaimedRun> {
        self.claim_runs(claim_of(workers)).await.unwrap()
    }

    /// Claims the one run that is due.
    pub(crate) async fn claim_one(&self, worker: &str) -> Owner {
        let mut claimed = self.claim(&[worker]).await;
        assert_eq!(claimed.len(), 1, "one run is due");
        let claimed = claimed.remove(0);
        Owner::new(NS, claimed.id, worker, claimed.attempts)
    }

    /// Creates a run and claims it.
    pub(crate) async fn running(&self, id: &str, worker: &str) -> Owner {
        self.create(id).await;
        let owner = self.claim_one(worker).await;
        assert_eq!(&*owner.run_id, id);
        owner
    }
}

pub(crate) fn new_run(id: &str) -> NewRun {
    NewRun::new(NS, id, "order", Payload::from_json(r#"{"b":1,"a":2}"#))
}

/// The owner of a run that was claimed once.
pub(crate) fn owner(run: &str, worker: &str) -> Owner {
    Owner::new(NS, run, worker, 1)
}

pub(crate) fn claim_of(workers: &[&str]) -> Claim {
    let workers = workers.iter().map(|id| Arc::from(*id)).collect();
    Claim::new(NS.into(), workers, None, LEASE)
}

pub(crate) fn claim_only(workers: &[&str], keys: &[(&str, Option<&str>)]) -> Claim {
    let keys: Vec<WorkflowKey> = keys
        .iter()
        .map(|(name, version)| WorkflowKey::new(*name, version.map(str::to_owned)))
        .collect();
    let mut claim = claim_of(workers);
    claim.workflows = Some(keys.into());
    claim
}

pub(crate) fn ids(claimed: &[ClaimedRun]) -> Vec<&str> {
    claimed.iter().map(|run| &*run.id).collect()
}

pub(crate) fn attempt(id: &str, name: &str, kind: StepAttemptKind) -> NewStepAttempt {
    NewStepAttempt::new(id.into(), name.into(), kind, None)
}

pub(crate) fn wait_for(id: &str, name: &str, signal: &str) -> NewStepAttempt {
    let mut wait = attempt(id, name, StepAttemptKind::SignalWait);
    wait.context = Some(format!(
        r#"{{"kind":"signal-wait","signal":"{signal}","timeoutAt":"2027-01-31T12:00:00.123Z"}}"#
    ));
    wait
}

pub(crate) fn completed(id: &str, output: &str) -> EndedStep {
    EndedStep::new(
        attempt(id, id, StepAttemptKind::Function),
        Ok(Payload::from_json(output)),
    )
}

pub(crate) fn failed(id: &str, error: &str) -> EndedStep {
    EndedStep::new(
        attempt(id, id, StepAttemptKind::Function),
        Err(error.to_owned()),
    )
}

#[track_caller]
pub(crate) fn assert_lost<T: std::fmt::Debug>(
    result: Result<T, BackendError>,
    expected: Interruption,
) {
    match result {
        Err(BackendError::OwnershipLost { reason }) => assert_eq!(reason, expected),
        other => panic!("expected a lost ownership ({expected:?}), got {other:?}"),
    }
}
