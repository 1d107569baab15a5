//! The operations of the PostgreSQL backend, row by row of the database protocol.

#[path = "../support/postgres.rs"]
mod support;

mod children;
mod claims;
mod creation;
mod deadlines;
mod dropping;
mod endings;
mod guards;
mod pools;
mod reading;
mod signals;
mod steps;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openworkflow::Postgres;
use openworkflow::backend::{
    Backend, BackendError, Cancellation, Claim, ClaimedRun, Cursor, EndedStep, ExecutionEnd,
    ListRuns, ListSteps, NewRun, NewSignal, NewStepAttempt, Owner, Page, PageEdge, RunStatus,
    StepAttemptKind, WorkflowKey,
};
use serde_json::{Value, json};
use workflow_core::{Interruption, Payload};

const NS: &str = "default";
const LEASE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);
const ERROR: &str = r#"{"name":"Error","message":"boom"}"#;

/// A backend, and a plain connection to look at what it writes.
struct Fixture {
    backend: Postgres,
    client: tokio_postgres::Client,
    schema: String,
}

impl Fixture {
    async fn new() -> Self {
        let schema = support::schema();
        let options = Postgres::options().url(support::url()).schema(&schema);
        Self {
            backend: options.connect().await.unwrap(),
            client: support::client().await,
            schema,
        }
    }

    async fn sql(&self, sql: &str) {
        let sql = sql.replace("{schema}", &self.schema);
        self.client.batch_execute(&sql).await.unwrap();
    }

    /// Whether one of the backend's statements waits for a lock.
    async fn is_blocked(&self) -> bool {
        let waiting = format!(
            "SELECT 1 FROM pg_stat_activity
             WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
            self.schema
        );
        let looking = support::client().await;
        !looking.query(&waiting, &[]).await.unwrap().is_empty()
    }

    /// Waits until it is so.
    async fn blocked(&self) {
        let blocked = async {
            while !self.is_blocked().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let blocked = tokio::time::timeout(Duration::from_secs(30), blocked).await;
        blocked.expect("a statement waits for a lock");
    }

    /// All rows of a table, as JSON.
    async fn rows(&self, table: &str, condition: &str) -> Vec<Value> {
        let sql = format!(
            "SELECT to_jsonb(t)::text FROM {}.{table} t WHERE {condition} ORDER BY created_at, id",
            self.schema
        );
        let rows = self.client.query(&sql, &[]).await.unwrap();
        rows.iter()
            .map(|row| serde_json::from_str(row.get(0)).unwrap())
            .collect()
    }

    async fn run(&self, id: &str) -> Value {
        let mut rows = self.rows("workflow_runs", &format!("id = '{id}'")).await;
        rows.pop().expect("the run exists")
    }

    async fn step(&self, id: &str) -> Value {
        let mut rows = self.rows("step_attempts", &format!("id = '{id}'")).await;
        rows.pop().expect("the step attempt exists")
    }

    /// Everything that is in the schema.
    async fn everything(&self) -> Vec<Vec<Value>> {
        let mut all = Vec::new();
        for table in ["workflow_runs", "step_attempts", "workflow_signals"] {
            all.push(self.rows(table, "true").await);
        }
        all
    }

    /// Whether SQL of a run's columns is true.
    async fn holds(&self, id: &str, condition: &str) -> bool {
        let condition = format!("id = '{id}' AND ({condition})");
        !self.rows("workflow_runs", &condition).await.is_empty()
    }

    async fn create(&self, id: &str) {
        let run = NewRun::new(NS, id, "order", Payload::NULL);
        self.backend.create_run(run).await.unwrap();
    }

    async fn claim(&self, workers: &[&str]) -> Vec<ClaimedRun> {
        self.backend.claim_runs(claim(workers, None)).await.unwrap()
    }

    /// A run that a worker holds.
    async fn claimed(&self, id: &str, worker: &str) -> Owner {
        self.create(id).await;
        let claimed = self.claim(&[worker]).await;
        assert_eq!(claimed.len(), 1);
        assert_eq!(claimed[0].id, id);
        Owner::new(NS, id, worker, 1)
    }

    async fn begin(&self, owner: &Owner, attempt: NewStepAttempt) {
        self.backend.begin_step(owner, attempt).await.unwrap();
    }

    async fn end(&self, owner: &Owner, end: ExecutionEnd) {
        self.backend.end_execution(owner, end).await.unwrap();
    }

    /// A parked parent and its child, which is claimed by `child-worker`.
    async fn family(&self, parent: &str, child: &str) -> (Owner, Owner) {
        let owner = self.claimed(parent, "parent-worker").await;
        let attempt = format!("{parent}-attempt");
        let new = NewRun::new(NS, child, "part", Payload::NULL);
        let wait = step(&attempt, "child", StepAttemptKind::Workflow);
        self.backend.begin_child(&owner, wait, new).await.unwrap();
        let child_owner = Owner::new(NS, child, "child-worker", 1);
        let claimed = self.claim(&["child-worker"]).await;
        assert_eq!(claimed[0].id, child);
        self.end(&owner, park(HOUR, &[&attempt])).await;
        assert!(self.holds(parent, "available_at > now()").await);
        (owner, child_owner)
    }
}

fn claim(workers: &[&str], workflows: Option<&[(&str, Option<&str>)]>) -> Claim {
    let workers = workers.iter().map(|id| Arc::from(*id)).collect();
    let workflows = workflows.map(|keys| {
        keys.iter()
            .map(|(name, version)| WorkflowKey::new(*name, version.map(str::to_owned)))
            .collect()
    });
    Claim::new(NS.into(), workers, workflows, LEASE)
}

fn step(id: &str, name: &str, kind: StepAttemptKind) -> NewStepAttempt {
    NewStepAttempt::new(id.into(), name.into(), kind, None)
}

fn function(id: &str) -> NewStepAttempt {
    step(id, id, StepAttemptKind::Function)
}

fn signal_wait(id: &str, signal: &str) -> NewStepAttempt {
    let context = json!({"kind": "signal-wait", "signal": signal, "timeoutAt": null}).to_string();
    NewStepAttempt::new(
        id.into(),
        id.into(),
        StepAttemptKind::SignalWait,
        Some(context),
    )
}

fn done(id: &str, output: &str) -> EndedStep {
    EndedStep::new(function(id), Ok(Payload::from_json(output)))
}

fn failed(id: &str) -> EndedStep {
    EndedStep::new(function(id), Err(ERROR.to_owned()))
}

fn park(after: Duration, waits: &[&str]) -> ExecutionEnd {
    ExecutionEnd::Park {
        until: SystemTime::now() + after,
        waits: waits.iter().map(|id| Arc::from(*id)).collect(),
    }
}

fn complete(output: &str) -> ExecutionEnd {
    ExecutionEnd::Complete {
        output: Payload::from_json(output),
    }
}

fn fail() -> ExecutionEnd {
    ExecutionEnd::Fail {
        error: ERROR.to_owned(),
    }
}

fn signal(name: &str, data: &str) -> NewSignal {
    NewSignal::new(NS, name, Payload::from_json(data))
}

#[track_caller]
fn assert_lost(result: Result<(), BackendError>, expected: Interruption) {
    match result {
        Err(BackendError::OwnershipLost { reason }) => assert_eq!(reason, expected),
        other => panic!("expected a lost ownership, got {other:?}"),
    }
}

/// Runs futures at the same time, in tasks.
async fn at_once<F>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut outputs = Vec::new();
    for task in tasks {
        outputs.push(task.await.unwrap());
    }
    outputs
}
