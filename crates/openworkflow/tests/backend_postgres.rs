//! The operations of the PostgreSQL backend, row by row of the database protocol.

#[path = "support/postgres.rs"]
mod support;

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
        Owner::new(NS, id, worker)
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
        let child_owner = Owner::new(NS, child, "child-worker");
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

// ===== create =====

#[tokio::test]
async fn a_created_run_is_pending_and_due() {
    let f = Fixture::new().await;
    let mut run = NewRun::new(
        NS,
        "r",
        "order",
        Payload::from_json(r#"{"b":1,"aKey":null}"#),
    );
    run.version = Some("v2".into());
    let (created, found) = f.backend.create_run(run).await.unwrap();
    assert!(!found);
    assert_eq!(created.status, RunStatus::Pending);
    assert_eq!(created.version.as_deref(), Some("v2"));

    let row = f.run("r").await;
    for (column, expected) in [
        ("namespace_id", json!(NS)),
        ("workflow_name", json!("order")),
        ("version", json!("v2")),
        ("status", json!("pending")),
        ("idempotency_key", Value::Null),
        ("config", json!({})),
        ("context", Value::Null),
        ("input", json!({"b": 1, "aKey": null})),
        ("output", Value::Null),
        ("attempts", json!(0)),
        ("parent_step_attempt_id", Value::Null),
        ("parent_step_attempt_namespace_id", Value::Null),
        ("worker_id", Value::Null),
        ("deadline_at", Value::Null),
        ("started_at", Value::Null),
        ("finished_at", Value::Null),
    ] {
        assert_eq!(row[column], expected, "{column}");
    }
    assert!(
        f.holds(
            "r",
            "available_at BETWEEN now() - interval '1 min' AND now()
             AND created_at = date_trunc('milliseconds', created_at) AND input IS NOT NULL"
        )
        .await
    );
}

#[tokio::test]
async fn absent_values_are_null_in_sql() {
    let f = Fixture::new().await;
    f.create("r").await;
    assert!(f.holds("r", "input IS NULL AND context IS NULL").await);
    let owner = Owner::new(NS, "r", "w");
    f.claim(&["w"]).await;
    f.backend.end_step(&owner, done("s", "null")).await.unwrap();
    f.end(&owner, complete("null")).await;
    assert!(f.holds("r", "output IS NULL AND error IS NULL").await);
    let steps = f
        .rows("step_attempts", "output IS NULL AND error IS NULL")
        .await;
    assert_eq!(steps.len(), 1);
}

#[tokio::test]
async fn the_requested_times_and_the_carrier_are_kept() {
    let f = Fixture::new().await;
    let mut run = NewRun::new(NS, "r", "order", Payload::NULL);
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(4_000_000_000_123);
    run.available_at = Some(at);
    run.deadline_at = Some(at + HOUR);
    run.carrier.insert("traceparent", "00-aa-bb-01");
    let (created, _) = f.backend.create_run(run).await.unwrap();
    assert_eq!(created.available_at, Some(at));
    assert_eq!(created.deadline_at, Some(at + HOUR));
    assert_eq!(created.carrier.get("traceparent"), Some("00-aa-bb-01"));
    let context = &f.run("r").await["context"];
    assert_eq!(context["traceContext"]["traceparent"], "00-aa-bb-01");
    assert!(f.claim(&["w"]).await.is_empty());
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_can_be_repeated() {
    let f = Fixture::new().await;
    f.create("r").await;
    let run = NewRun::new(NS, "r", "order", Payload::NULL);
    let (again, found) = f.backend.create_run(run).await.unwrap();
    assert_eq!((again.id.as_str(), found), ("r", false));
    assert_eq!(f.rows("workflow_runs", "true").await.len(), 1);
}

#[tokio::test]
async fn an_idempotency_key_finds_the_run_it_created() {
    let f = Fixture::new().await;
    let keyed = |id: &str, name: &str, key: &str| {
        let mut run = NewRun::new(NS, id, name, Payload::NULL);
        run.idempotency_key = Some(key.to_owned());
        run
    };
    let create = async |run| {
        let (run, found) = f.backend.create_run(run).await.unwrap();
        (run.id, found)
    };
    assert_eq!(create(keyed("a", "order", "k")).await, ("a".into(), false));
    // Whatever has become of it.
    f.backend.cancel_run(NS, "a").await.unwrap();
    assert_eq!(create(keyed("b", "order", "k")).await, ("a".into(), true));
    // The name is part of it, and the empty key is one.
    assert_eq!(create(keyed("c", "other", "k")).await, ("c".into(), false));
    assert_eq!(create(keyed("d", "order", "")).await, ("d".into(), false));
    assert_eq!(create(keyed("e", "order", "")).await, ("d".into(), true));
    // For 24 hours.
    f.sql("UPDATE {schema}.workflow_runs SET created_at = now() - interval '23 h 59 min' WHERE id = 'a'").await;
    assert_eq!(create(keyed("g", "order", "k")).await, ("a".into(), true));
    f.sql("UPDATE {schema}.workflow_runs SET created_at = now() - interval '24 h 1 min' WHERE id = 'a'").await;
    assert_eq!(create(keyed("h", "order", "k")).await, ("h".into(), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_creations_with_one_key_make_one_run() {
    let f = Fixture::new().await;
    let results = at_once((0..40).map(|n| {
        let backend = f.backend.clone();
        async move {
            let mut run = NewRun::new(NS, format!("r{n}"), "order", Payload::NULL);
            run.idempotency_key = Some("k".into());
            backend.create_run(run).await.unwrap()
        }
    }))
    .await;
    let ids: HashSet<_> = results.iter().map(|(run, _)| run.id.clone()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(results.iter().filter(|(_, found)| !found).count(), 1);
    assert_eq!(f.rows("workflow_runs", "true").await.len(), 1);
}

#[tokio::test]
async fn creations_lock_what_typescript_locks() {
    let f = Fixture::new().await;
    let text = r#"{"namespaceId":"default","workflowName":"größe","idempotencyKey":"a\"b"}"#;
    f.client.batch_execute("BEGIN").await.unwrap();
    f.client
        .query(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
            &[&text],
        )
        .await
        .unwrap();
    let backend = f.backend.clone();
    let creation = tokio::spawn(async move {
        let mut run = NewRun::new(NS, "r", "größe", Payload::NULL);
        run.idempotency_key = Some("a\"b".into());
        backend.create_run(run).await.unwrap()
    });
    // It shows up among those who wait for a lock: nothing else here takes advisory locks.
    let other = support::client().await;
    loop {
        let waiting = "SELECT 1 FROM pg_stat_activity
            WHERE wait_event = 'advisory' AND query LIKE '%' || 'hashtextextended' || '%'";
        if !other.query(waiting, &[]).await.unwrap().is_empty() {
            break;
        }
        assert!(!creation.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    f.client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(creation.await.unwrap().0.id, "r");
}

// ===== claim =====

#[tokio::test]
async fn a_claimed_run_has_an_owner_and_a_lease() {
    let f = Fixture::new().await;
    f.create("r").await;
    let claimed = f.claim(&["w"]).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].worker_id, "w");
    assert_eq!(claimed[0].attempts, 1);
    assert!(!claimed[0].taken_over);
    let run = claimed[0].run.as_ref().unwrap();
    assert_eq!(run.status, RunStatus::Running);
    assert!(
        f.holds(
            "r",
            "status = 'running' AND attempts = 1 AND worker_id = 'w' AND started_at <= now()
             AND available_at BETWEEN now() + interval '20 s' AND now() + interval '30 s'"
        )
        .await
    );
    assert!(f.claim(&["w2"]).await.is_empty());
}

#[tokio::test]
async fn pending_runs_are_claimed_before_others_and_then_by_age() {
    let f = Fixture::new().await;
    for id in ["parked", "late", "early", "asleep", "twin-b", "twin-a"] {
        f.create(id).await;
    }
    f.sql(
        "UPDATE {schema}.workflow_runs SET status = 'running', available_at = now() - interval '9 min' WHERE id = 'parked';
         UPDATE {schema}.workflow_runs SET status = 'sleeping', available_at = now() - interval '8 min' WHERE id = 'asleep';
         UPDATE {schema}.workflow_runs SET available_at = now() - interval '1 min' WHERE id = 'late';
         UPDATE {schema}.workflow_runs SET available_at = now() - interval '5 min' WHERE id = 'early';
         UPDATE {schema}.workflow_runs SET available_at = '2020-01-01', created_at = '2020-01-02' WHERE id = 'twin-b';
         UPDATE {schema}.workflow_runs SET available_at = '2020-01-01', created_at = '2020-01-01' WHERE id = 'twin-a';",
    )
    .await;
    let first: Vec<_> = f.claim(&["1", "2", "3"]).await;
    let second = f.claim(&["4", "5", "6", "7"]).await;
    let ids: Vec<_> = first.iter().chain(&second).map(|c| c.id.as_str()).collect();
    assert_eq!(
        ids,
        ["twin-a", "twin-b", "early", "late", "parked", "asleep"]
    );
    let workers: Vec<_> = first.iter().map(|c| c.worker_id.as_str()).collect();
    assert_eq!(workers, ["1", "2", "3"]);
    // A parked run has no owner that could lose it.
    assert!(second.iter().all(|c| !c.taken_over));
}

#[tokio::test]
async fn only_registered_names_and_versions_are_claimed() {
    let f = Fixture::new().await;
    for (id, name, version) in [
        ("a", "order", None),
        ("b", "order", Some("v1")),
        ("c", "order", Some("v2")),
        ("d", "typescript-only", None),
    ] {
        let mut run = NewRun::new(NS, id, name, Payload::NULL);
        run.version = version.map(str::to_owned);
        f.backend.create_run(run).await.unwrap();
    }
    let mut other = NewRun::new("elsewhere", "e", "order", Payload::NULL);
    other.version = None;
    f.backend.create_run(other).await.unwrap();
    let workers = ["1", "2", "3", "4", "5"];
    let known: &[(&str, Option<&str>)] = &[("order", None), ("order", Some("v2"))];
    let claimed = f
        .backend
        .claim_runs(claim(&workers, Some(known)))
        .await
        .unwrap();
    let ids: Vec<_> = claimed.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, ["a", "c"]);
    let none = f
        .backend
        .claim_runs(claim(&workers, Some(&[])))
        .await
        .unwrap();
    assert!(none.is_empty());
    assert_eq!(f.run("d").await["attempts"], 0);
}

#[tokio::test]
async fn a_run_whose_lease_ended_is_taken_over() {
    let f = Fixture::new().await;
    f.claimed("r", "dead").await;
    f.sql("UPDATE {schema}.workflow_runs SET available_at = now()")
        .await;
    let claimed = f.claim(&["alive"]).await;
    assert!(claimed[0].taken_over);
    assert_eq!(claimed[0].attempts, 2);
    assert_eq!(f.run("r").await["worker_id"], "alive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_workers_never_claim_the_same_run() {
    let f = Fixture::new().await;
    f.sql(
        "INSERT INTO {schema}.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, created_at, updated_at)
         SELECT 'default', n::text, 'order', 'pending', '{}', 0, now(), now(), now() FROM generate_series(1, 300) n",
    )
    .await;
    let backends = [f.backend.clone(), {
        let options = Postgres::options().url(support::url()).schema(&f.schema);
        options.connect().await.unwrap()
    }];
    let claimed = at_once((0..12).map(|worker| {
        let backend = backends[worker % 2].clone();
        async move {
            let slots: Vec<String> = (0..5).map(|slot| format!("{worker}-{slot}")).collect();
            let slots: Vec<&str> = slots.iter().map(String::as_str).collect();
            let mut all = Vec::new();
            loop {
                let claimed = backend.claim_runs(claim(&slots, None)).await.unwrap();
                if claimed.is_empty() {
                    return all;
                }
                all.extend(claimed.into_iter().map(|c| c.id));
            }
        }
    }))
    .await;
    let claimed: Vec<_> = claimed.into_iter().flatten().collect();
    assert_eq!(claimed.len(), 300);
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), 300);
    assert_eq!(f.rows("workflow_runs", "attempts <> 1").await.len(), 0);
}

// ===== deadlines =====

#[tokio::test]
async fn runs_past_their_deadline_fail_and_wake_their_parents() {
    let f = Fixture::new().await;
    let (_, child) = f.family("parent", "child").await;
    f.create("pending").await;
    f.create("done").await;
    f.sql("UPDATE {schema}.workflow_runs SET status = 'completed' WHERE id = 'done'")
        .await;
    f.sql("UPDATE {schema}.workflow_runs SET deadline_at = now() WHERE id <> 'parent'")
        .await;
    // Each process looks about once per second.
    tokio::time::timeout(HOUR, async {
        while f.run("child").await["status"] != "failed" {
            let claimed = f.claim(&["w"]).await;
            assert!(claimed.iter().all(|c| c.id == "parent"), "{claimed:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    for id in ["child", "pending"] {
        let row = f.run(id).await;
        assert_eq!(row["status"], "failed", "{id}");
        assert_eq!(
            row["error"],
            json!({"message": "Workflow run deadline exceeded"})
        );
        assert_eq!(
            (&row["worker_id"], &row["available_at"]),
            (&Value::Null, &Value::Null)
        );
        assert_ne!(row["finished_at"], Value::Null);
    }
    assert_ne!(f.run("child").await["started_at"], Value::Null);
    assert_eq!(f.run("done").await["status"], "completed");
    let parent_is_due_or_claimed = "available_at <= now() OR worker_id = 'w'";
    assert!(f.holds("parent", parent_is_due_or_claimed).await);
    let result = f.backend.extend_lease(&child, LEASE).await;
    assert_lost(result, Interruption::DeadlineExceeded);
}

// ===== guards =====

#[tokio::test]
async fn a_former_owner_writes_nothing() {
    let f = Fixture::new().await;
    let former = f.claimed("r", "former").await;
    f.begin(&former, function("s")).await;
    f.sql("UPDATE {schema}.workflow_runs SET available_at = now()")
        .await;
    f.claim(&["owner"]).await;
    refuses_every_write(&f, &former, Interruption::LeaseLost).await;
    // The new owner may finish what the former one began.
    let owner = Owner::new(NS, "r", "owner");
    f.backend.end_step(&owner, done("s", "1")).await.unwrap();
    assert_eq!(f.step("s").await["status"], "completed");
}

#[tokio::test]
async fn nobody_writes_to_a_canceled_run() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.backend.cancel_run(NS, "r").await.unwrap();
    refuses_every_write(&f, &owner, Interruption::Canceled).await;
}

#[tokio::test]
async fn nobody_writes_to_a_finished_or_parked_run() {
    let f = Fixture::new().await;
    let owner = f.claimed("done", "w").await;
    f.end(&owner, complete("1")).await;
    refuses_every_write(&f, &owner, Interruption::LeaseLost).await;
    let owner = f.claimed("parked", "w").await;
    f.end(&owner, park(HOUR, &[])).await;
    refuses_every_write(&f, &owner, Interruption::LeaseLost).await;
    let nowhere = Owner::new(NS, "missing", "w");
    refuses_every_write(&f, &nowhere, Interruption::LeaseLost).await;
}

async fn refuses_every_write(f: &Fixture, owner: &Owner, reason: Interruption) {
    let before = f.everything().await;
    let b = &f.backend;
    assert_lost(b.extend_lease(owner, LEASE).await, reason);
    assert_lost(b.begin_step(owner, function("new")).await, reason);
    assert_lost(b.end_step(owner, done("new", "1")).await, reason);
    assert_lost(b.end_step(owner, failed("s")).await, reason);
    let wait = step("new", "child", StepAttemptKind::Workflow);
    let child = NewRun::new(NS, "new-child", "part", Payload::NULL);
    let begun = b.begin_child(owner, wait, child).await;
    assert_lost(begun.map(|_| ()), reason);
    let retry = |waits: &[&str]| ExecutionEnd::Retry {
        error: ERROR.to_owned(),
        at: SystemTime::now(),
        waits: waits.iter().map(|id| Arc::from(*id)).collect(),
    };
    for end in [
        complete("1"),
        fail(),
        retry(&[]),
        retry(&["s"]),
        park(HOUR, &[]),
        park(HOUR, &["s"]),
    ] {
        assert_lost(b.end_execution(owner, end).await, reason);
    }
    let mut sent = signal("anything", "1");
    sent.sender = Some(owner.clone());
    assert_lost(b.send_signal(sent).await.map(|_| ()), reason);
    assert_eq!(f.everything().await, before);
}

#[tokio::test]
async fn a_heartbeat_extends_the_lease() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.backend.extend_lease(&owner, HOUR).await.unwrap();
    let extended = "available_at BETWEEN now() + interval '59 min' AND now() + interval '1 h'";
    assert!(f.holds("r", extended).await);
    // Absurd leases do not overflow anything.
    f.backend.extend_lease(&owner, Duration::MAX).await.unwrap();
}

// ===== steps =====

#[tokio::test]
async fn a_step_is_written_when_it_begins_and_when_it_ends() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let mut attempt = function("s");
    attempt.begun_ago = Duration::from_secs(60);
    f.begin(&owner, attempt.clone()).await;
    f.begin(&owner, attempt.clone()).await;
    let row = f.step("s").await;
    for (column, expected) in [
        ("namespace_id", json!(NS)),
        ("workflow_run_id", json!("r")),
        ("step_name", json!("s")),
        ("kind", json!("function")),
        ("status", json!("running")),
        ("config", json!({})),
        ("context", Value::Null),
        ("output", Value::Null),
        ("error", Value::Null),
        ("child_workflow_run_id", Value::Null),
        ("child_workflow_run_namespace_id", Value::Null),
        ("finished_at", Value::Null),
    ] {
        assert_eq!(row[column], expected, "{column}");
    }
    let begun = f
        .rows(
            "step_attempts",
            "started_at BETWEEN now() - interval '70 s' AND now() - interval '60 s'
             AND created_at = date_trunc('milliseconds', started_at)",
        )
        .await;
    assert_eq!(begun.len(), 1);

    f.backend
        .end_step(&owner, done("s", r#"{"a":[1]}"#))
        .await
        .unwrap();
    let ended = f.step("s").await;
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["output"], json!({"a": [1]}));
    assert_eq!(ended["created_at"], row["created_at"]);
    assert_ne!(ended["finished_at"], Value::Null);

    // The first result stays, to the last column.
    f.backend.end_step(&owner, done("s", "2")).await.unwrap();
    assert_eq!(f.step("s").await, ended);
    // The other end is refused.
    assert_lost(
        f.backend.end_step(&owner, failed("s")).await,
        Interruption::LeaseLost,
    );
    assert_eq!(f.step("s").await, ended);
    // A late beginning changes nothing.
    f.begin(&owner, attempt).await;
    assert_eq!(f.step("s").await, ended);
}

#[tokio::test]
async fn a_step_can_be_written_once_when_it_has_ended() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let mut ended = failed("s");
    ended.attempt.begun_ago = Duration::from_millis(1500);
    f.backend.end_step(&owner, ended).await.unwrap();
    let row = f.step("s").await;
    assert_eq!(row["status"], "failed");
    assert_eq!(row["error"], json!({"name": "Error", "message": "boom"}));
    assert_eq!(row["output"], Value::Null);
    let took = "finished_at - started_at BETWEEN interval '1.5 s' AND interval '20 s'";
    assert_eq!(f.rows("step_attempts", took).await.len(), 1);
    f.backend.end_step(&owner, failed("s")).await.unwrap();
    assert_eq!(f.step("s").await, row);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_written_together_do_not_share_their_troubles() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let stranger = Owner::new(NS, "r", "not-the-owner");
    let results = at_once((0..200).map(|n| {
        let backend = f.backend.clone();
        let owner = match n % 10 {
            3 => stranger.clone(),
            _ => owner.clone(),
        };
        // What jsonb cannot hold, and what text cannot.
        let mut ended = match n % 10 {
            5 => done(&format!("s{n}"), r#""\u0000""#),
            _ => done(&format!("s{n}"), &format!("{n}")),
        };
        if n % 10 == 7 {
            ended.attempt.step_name = "a\0b".into();
        }
        async move { (n, backend.end_step(&owner, ended).await) }
    }))
    .await;
    for (n, result) in results {
        match n % 10 {
            3 => assert_lost(result, Interruption::LeaseLost),
            5 | 7 => {
                let error = result.unwrap_err();
                assert!(matches!(error, BackendError::Driver { .. }), "{error:?}");
                assert!(!error.is_transient(), "{error:?}");
            }
            _ => {
                result.unwrap();
                assert_eq!(f.step(&format!("s{n}")).await["output"], n);
            }
        }
    }
    assert_eq!(f.rows("step_attempts", "true").await.len(), 140);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beginnings_and_ends_in_any_order_leave_the_end() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    at_once((0..100).map(|n| {
        let (backend, owner) = (f.backend.clone(), owner.clone());
        async move {
            let id = format!("s{}", n / 2);
            if n % 2 == 0 {
                backend.begin_step(&owner, function(&id)).await.unwrap();
            } else {
                backend.end_step(&owner, done(&id, "1")).await.unwrap();
            }
        }
    }))
    .await;
    assert_eq!(
        f.rows("step_attempts", "status = 'completed'").await.len(),
        50
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_go_away_do_not_take_others_writes_with_them() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let tasks: Vec<_> = (0..120)
        .map(|n| {
            let (backend, owner) = (f.backend.clone(), owner.clone());
            let id = format!("s{n}");
            tokio::spawn(async move { backend.end_step(&owner, done(&id, "1")).await })
        })
        .collect();
    let mut stay = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        if n % 3 == 0 {
            task.abort();
        } else {
            stay.push(task);
        }
    }
    for task in stay {
        task.await.unwrap().unwrap();
    }
    // And the writer is still at work.
    f.backend
        .end_step(&owner, done("after", "1"))
        .await
        .unwrap();
}

#[tokio::test]
async fn attempts_of_other_runs_and_of_old_versions_are_treated_as_such() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let other = f.claimed("other", "w2").await;
    f.begin(&other, function("theirs")).await;
    let before = f.step("theirs").await;
    let result = f.backend.end_step(&owner, done("theirs", "1")).await;
    assert_lost(result, Interruption::LeaseLost);
    assert_eq!(f.step("theirs").await, before);
    // Completed, as old versions wrote it; and a status that nobody knows, which counts as running.
    for id in ["old", "odd"] {
        f.begin(&owner, function(id)).await;
    }
    f.sql(
        "UPDATE {schema}.step_attempts SET status = 'succeeded', output = '7' WHERE id = 'old';
         UPDATE {schema}.step_attempts SET status = 'odd' WHERE id = 'odd'",
    )
    .await;
    f.backend.end_step(&owner, done("old", "8")).await.unwrap();
    assert_eq!(f.step("old").await["output"], 7);
    assert_lost(
        f.backend.end_step(&owner, failed("old")).await,
        Interruption::LeaseLost,
    );
    f.backend.end_step(&owner, done("odd", "9")).await.unwrap();
    assert_eq!(f.step("odd").await["status"], "completed");
}

// ===== the end of an execution =====

#[tokio::test]
async fn completion_keeps_the_worker_and_clears_the_error() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.sql(r#"UPDATE {schema}.workflow_runs SET error = '{"message":"earlier"}'"#)
        .await;
    f.end(&owner, complete(r#"{"ok":true}"#)).await;
    let row = f.run("r").await;
    assert_eq!(row["status"], "completed");
    assert_eq!(row["output"], json!({"ok": true}));
    assert_eq!(
        (&row["error"], &row["available_at"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(row["worker_id"], "w");
    assert_ne!(row["started_at"], Value::Null);
    assert_ne!(row["finished_at"], Value::Null);
}

#[tokio::test]
async fn failure_clears_the_worker_and_the_start() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.end(&owner, fail()).await;
    let row = f.run("r").await;
    assert_eq!(row["status"], "failed");
    assert_eq!(row["error"], json!({"name": "Error", "message": "boom"}));
    for column in ["worker_id", "available_at", "started_at", "output"] {
        assert_eq!(row[column], Value::Null, "{column}");
    }
    assert_ne!(row["finished_at"], Value::Null);
}

#[tokio::test]
async fn a_retry_makes_the_run_pending_again() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(4_000_000_000_123);
    let retry = ExecutionEnd::Retry {
        error: ERROR.to_owned(),
        at,
        waits: Vec::new(),
    };
    f.end(&owner, retry).await;
    let row = f.run("r").await;
    assert_eq!(row["status"], "pending");
    assert_eq!(row["error"], json!({"name": "Error", "message": "boom"}));
    assert_eq!(row["attempts"], 1);
    for column in ["worker_id", "started_at", "finished_at"] {
        assert_eq!(row[column], Value::Null, "{column}");
    }
    let run = f.backend.get_run(NS, "r").await.unwrap().unwrap();
    assert_eq!(run.available_at, Some(at));
    assert_eq!(run.error.unwrap().message, "boom");
}

#[tokio::test]
async fn a_parked_run_runs_without_a_worker_until_its_time() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.end(&owner, park(HOUR, &[])).await;
    let row = f.run("r").await;
    assert_eq!(
        (&row["status"], &row["worker_id"]),
        (&json!("running"), &Value::Null)
    );
    assert_ne!(row["started_at"], Value::Null);
    assert!(
        f.holds("r", "available_at > now() + interval '59 min'")
            .await
    );
    // As far away as anybody may ask.
    let owner = f.claimed("far", "w").await;
    f.end(&owner, park(Duration::from_secs(1 << 40), &[])).await;
    assert!(f.holds("far", "available_at > '9999-01-01'").await);
}

#[tokio::test]
async fn a_run_can_be_canceled_until_it_has_ended() {
    let f = Fixture::new().await;
    let cancel = async |id| f.backend.cancel_run(NS, id).await.unwrap();
    f.create("pending").await;
    assert!(matches!(cancel("pending").await, Cancellation::Canceled));
    f.claimed("running", "w").await;
    f.sql(r#"UPDATE {schema}.workflow_runs SET error = '{"message":"x"}' WHERE id = 'running'"#)
        .await;
    assert!(matches!(cancel("running").await, Cancellation::Canceled));
    assert!(matches!(cancel("running").await, Cancellation::Canceled));
    let row = f.run("running").await;
    assert_eq!(row["status"], "canceled");
    assert_eq!(row["error"], json!({"message": "x"}));
    assert_eq!(
        (&row["worker_id"], &row["available_at"]),
        (&Value::Null, &Value::Null)
    );
    assert_ne!(
        (&row["started_at"], &row["finished_at"]),
        (&Value::Null, &Value::Null)
    );
    let owner = f.claimed("done", "w").await;
    f.end(&owner, complete("1")).await;
    assert!(matches!(
        cancel("done").await,
        Cancellation::AlreadyEnded(RunStatus::Completed)
    ));
    assert!(matches!(cancel("missing").await, Cancellation::NotFound));
    f.create("old").await;
    f.sql("UPDATE {schema}.workflow_runs SET status = 'sleeping' WHERE id = 'old'")
        .await;
    assert!(matches!(cancel("old").await, Cancellation::Canceled));
}

// ===== children =====

#[tokio::test]
async fn a_child_is_created_once_and_linked() {
    let f = Fixture::new().await;
    let owner = f.claimed("parent", "w").await;
    let begin = async |id: &str| {
        let wait = step("attempt", "child", StepAttemptKind::Workflow);
        let mut child = NewRun::new(NS, id, "part", Payload::from_json("[1]"));
        child.idempotency_key = Some("__workflow:default:attempt".into());
        f.backend.begin_child(&owner, wait, child).await.unwrap()
    };
    let child = begin("child").await;
    assert_eq!(child.parent_step_attempt_id.as_deref(), Some("attempt"));
    let row = f.run("child").await;
    assert_eq!(row["idempotency_key"], "__workflow:default:attempt");
    assert_eq!(row["parent_step_attempt_namespace_id"], NS);
    assert_eq!(row["input"], json!([1]));
    let attempt = f.step("attempt").await;
    assert_eq!(attempt["kind"], "workflow");
    assert_eq!(attempt["child_workflow_run_id"], "child");
    assert_eq!(attempt["child_workflow_run_namespace_id"], NS);
    assert_eq!(begin("other").await.id, "child");

    // A crash between the creation and the link is repaired.
    f.sql(
        "UPDATE {schema}.step_attempts
         SET child_workflow_run_id = NULL, child_workflow_run_namespace_id = NULL",
    )
    .await;
    // However long ago that was.
    f.sql("UPDATE {schema}.workflow_runs SET created_at = '2020-01-01' WHERE id = 'child'")
        .await;
    assert_eq!(begin("another").await.id, "child");
    assert_eq!(f.step("attempt").await["child_workflow_run_id"], "child");
    // What the attempt is linked to is its child, whatever the key.
    f.sql("UPDATE {schema}.workflow_runs SET idempotency_key = NULL WHERE id = 'child'")
        .await;
    assert_eq!(begin("yet-another").await.id, "child");
    assert_eq!(f.rows("workflow_runs", "true").await.len(), 2);
}

#[tokio::test]
async fn every_end_of_a_child_wakes_its_parked_parent() {
    let f = Fixture::new().await;
    let due = "available_at <= now() AND worker_id IS NULL AND status = 'running'";
    for (n, end) in [complete("1"), fail()].into_iter().enumerate() {
        let (parent, child) = (format!("parent{n}"), format!("child{n}"));
        let (_, owner) = f.family(&parent, &child).await;
        f.end(&owner, end).await;
        assert!(f.holds(&parent, due).await, "{n}");
        f.claim(&["sink"]).await;
    }
    f.family("parent", "child").await;
    f.backend.cancel_run(NS, "child").await.unwrap();
    assert!(f.holds("parent", due).await);
}

#[tokio::test]
async fn a_parent_that_does_not_wait_for_this_child_is_left_alone() {
    let f = Fixture::new().await;
    // A retry of the child.
    let (_, child) = f.family("p1", "c1").await;
    let retry = ExecutionEnd::Retry {
        error: ERROR.to_owned(),
        at: SystemTime::now() + HOUR,
        waits: Vec::new(),
    };
    f.end(&child, retry).await;
    assert!(f.holds("p1", "available_at > now()").await);
    // A parent that executes, or waits to be retried.
    for (n, state) in ["worker_id = 'x'", "status = 'pending'"]
        .into_iter()
        .enumerate()
    {
        let (parent, child) = (format!("q{n}"), format!("d{n}"));
        let (_, owner) = f.family(&parent, &child).await;
        f.sql(&format!(
            "UPDATE {{schema}}.workflow_runs SET {state} WHERE id = '{parent}'"
        ))
        .await;
        let before = f.run(&parent).await;
        f.end(&owner, complete("1")).await;
        assert_eq!(f.run(&parent).await, before, "{state}");
    }
    // An attempt that is over, or linked to another child.
    for (n, change) in ["status = 'failed'", "child_workflow_run_id = 'c1'"]
        .into_iter()
        .enumerate()
    {
        let (parent, child) = (format!("s{n}"), format!("e{n}"));
        let (_, owner) = f.family(&parent, &child).await;
        f.sql(&format!(
            "UPDATE {{schema}}.step_attempts SET {change} WHERE workflow_run_id = '{parent}'"
        ))
        .await;
        let before = f.run(&parent).await;
        f.end(&owner, complete("1")).await;
        assert_eq!(f.run(&parent).await, before, "{change}");
    }
}

#[tokio::test]
async fn a_run_that_parks_after_its_child_ended_is_due_at_once() {
    let f = Fixture::new().await;
    for (id, waits, due) in [("p1", vec!["p1-a"], true), ("p2", vec!["other"], false)] {
        let owner = f.claimed(id, "w").await;
        let wait = step(&format!("{id}-a"), "child", StepAttemptKind::Workflow);
        let child = NewRun::new(NS, format!("{id}-c"), "part", Payload::NULL);
        f.backend.begin_child(&owner, wait, child).await.unwrap();
        f.backend.cancel_run(NS, &format!("{id}-c")).await.unwrap();
        f.end(&owner, park(HOUR, &waits)).await;
        assert_eq!(f.holds(id, "available_at <= now()").await, due, "{id}");
        f.backend.cancel_run(NS, id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parking_and_the_childs_end_never_miss_each_other() {
    let f = Fixture::new().await;
    for n in 0..60 {
        let (parent, child) = (format!("p{n}"), format!("c{n}"));
        let owner = f.claimed(&parent, "w").await;
        let attempt = format!("a{n}");
        let wait = step(&attempt, "child", StepAttemptKind::Workflow);
        let new = NewRun::new(NS, child.as_str(), "part", Payload::NULL);
        f.backend.begin_child(&owner, wait, new).await.unwrap();
        f.claim(&["cw"]).await;
        let (b1, b2) = (f.backend.clone(), f.backend.clone());
        let parks = tokio::spawn(async move {
            b1.end_execution(&owner, park(HOUR, &[&attempt]))
                .await
                .unwrap();
        });
        let ends = tokio::spawn(async move {
            let id = child;
            match n % 3 {
                0 => drop(b2.cancel_run(NS, &id).await.unwrap()),
                1 => {
                    let owner = Owner::new(NS, id.as_str(), "cw");
                    b2.end_execution(&owner, complete("1")).await.unwrap();
                }
                _ => {
                    let owner = Owner::new(NS, id.as_str(), "cw");
                    b2.end_execution(&owner, fail()).await.unwrap();
                }
            }
        });
        parks.await.unwrap();
        ends.await.unwrap();
        assert!(f.holds(&parent, "available_at <= now()").await, "round {n}");
        f.backend.cancel_run(NS, &parent).await.unwrap();
    }
}

// ===== signals =====

#[tokio::test]
async fn a_signal_reaches_every_waiting_attempt_and_wakes_its_run() {
    let f = Fixture::new().await;
    for id in ["r1", "r2", "r3"] {
        let owner = f.claimed(id, "w").await;
        let name = if id == "r3" { "other" } else { "go" };
        let attempt = format!("{id}-a");
        f.begin(&owner, signal_wait(&attempt, name)).await;
        if id == "r2" {
            // Twice in one run: told once.
            f.begin(&owner, signal_wait("r2-b", name)).await;
        }
        f.end(&owner, park(HOUR, &[&attempt])).await;
    }
    let mut received = f
        .backend
        .send_signal(signal("go", r#"{"n":1}"#))
        .await
        .unwrap();
    received.sort();
    assert_eq!(received, ["r1", "r2"]);
    for (id, due) in [("r1", true), ("r2", true), ("r3", false)] {
        assert_eq!(f.holds(id, "available_at <= now()").await, due, "{id}");
    }
    let rows = f.rows("workflow_signals", "true").await;
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert_eq!(row["signal"], "go");
        assert_eq!(row["data"], json!({"n": 1}));
        assert_eq!(row["sender_idempotency_key"], Value::Null);
    }
    // One delivery per attempt.
    let again = f.backend.send_signal(signal("go", "2")).await.unwrap();
    assert!(again.is_empty());
    let history = f.backend.load_history(NS, "r1").await.unwrap();
    assert_eq!(history.signals["r1-a"].expose(), r#"{"n": 1}"#);
}

#[tokio::test]
async fn a_signal_without_receivers_is_dropped() {
    let f = Fixture::new().await;
    let mut sent = signal("go", "1");
    sent.idempotency_key = Some("k".into());
    assert!(
        f.backend
            .send_signal(sent.clone())
            .await
            .unwrap()
            .is_empty()
    );
    assert!(f.rows("workflow_signals", "true").await.is_empty());
    // The same key can deliver later, once, and is answered alike from then on.
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    assert_eq!(f.backend.send_signal(sent.clone()).await.unwrap(), ["r"]);
    f.begin(&owner, signal_wait("b", "go")).await;
    assert_eq!(f.backend.send_signal(sent.clone()).await.unwrap(), ["r"]);
    assert_eq!(f.rows("workflow_signals", "true").await.len(), 1);
    sent.idempotency_key = Some("k2".into());
    assert_eq!(f.backend.send_signal(sent).await.unwrap(), ["r"]);
}

#[tokio::test]
async fn delivered_null_is_a_delivery() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    f.backend.send_signal(signal("go", "null")).await.unwrap();
    assert_eq!(f.rows("workflow_signals", "data IS NULL").await.len(), 1);
    let history = f.backend.load_history(NS, "r").await.unwrap();
    assert!(history.signals["a"].is_null());
    // It came before the run was put away.
    f.end(&owner, park(HOUR, &["a"])).await;
    assert!(f.holds("r", "available_at <= now()").await);
}

#[tokio::test]
async fn a_signal_cuts_a_retry_delay_short() {
    let f = Fixture::new().await;
    let retry = |waits: &[&str]| ExecutionEnd::Retry {
        error: ERROR.to_owned(),
        at: SystemTime::now() + HOUR,
        waits: waits.iter().map(|id| Arc::from(*id)).collect(),
    };
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    f.end(&owner, retry(&["a"])).await;
    assert!(f.holds("r", "available_at > now()").await);
    f.backend.send_signal(signal("go", "1")).await.unwrap();
    assert!(
        f.holds("r", "available_at <= now() AND status = 'pending'")
            .await
    );
    // Also where it came first.
    f.claim(&["w"]).await;
    f.end(&owner, retry(&["a"])).await;
    assert!(
        f.holds("r", "available_at <= now() AND status = 'pending'")
            .await
    );
}

#[tokio::test]
async fn a_waiter_of_a_run_that_is_over_counts_as_receiver() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    f.backend.cancel_run(NS, "r").await.unwrap();
    let before = f.run("r").await;
    assert_eq!(
        f.backend.send_signal(signal("go", "1")).await.unwrap(),
        ["r"]
    );
    assert_eq!(f.run("r").await, before);
}

#[tokio::test]
async fn a_run_sends_a_signal_only_while_it_has_an_owner() {
    let f = Fixture::new().await;
    let receiver = f.claimed("receiver", "w1").await;
    f.begin(&receiver, signal_wait("a", "go")).await;
    let mut sent = signal("go", "1");
    sent.idempotency_key = Some("__signal:sender:notify".into());
    sent.sender = Some(f.claimed("sender", "w2").await);
    assert_eq!(f.backend.send_signal(sent).await.unwrap(), ["receiver"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_signals_with_one_key_are_answered_alike() {
    let f = Fixture::new().await;
    for n in 0..5 {
        let owner = f.claimed(&format!("r{n}"), "w").await;
        f.begin(&owner, signal_wait(&format!("a{n}"), "go")).await;
    }
    let answers = at_once((0..20).map(|_| {
        let backend = f.backend.clone();
        async move {
            let mut sent = signal("go", "1");
            sent.idempotency_key = Some("k".into());
            let mut received = backend.send_signal(sent).await.unwrap();
            received.sort();
            received
        }
    }))
    .await;
    for answer in answers {
        assert_eq!(answer, ["r0", "r1", "r2", "r3", "r4"]);
    }
    assert_eq!(f.rows("workflow_signals", "true").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parking_and_a_signal_never_miss_each_other() {
    let f = Fixture::new().await;
    for n in 0..60 {
        let id = format!("r{n}");
        let attempt = format!("a{n}");
        let owner = f.claimed(&id, "w").await;
        f.begin(&owner, signal_wait(&attempt, "go")).await;
        let (b1, b2) = (f.backend.clone(), f.backend.clone());
        let parks = tokio::spawn(async move {
            b1.end_execution(&owner, park(HOUR, &[&attempt]))
                .await
                .unwrap();
        });
        let sends = tokio::spawn(async move { b2.send_signal(signal("go", "1")).await.unwrap() });
        parks.await.unwrap();
        assert_eq!(sends.await.unwrap(), [id.as_str()]);
        assert!(f.holds(&id, "available_at <= now()").await, "round {n}");
        f.backend.cancel_run(NS, &id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_and_steps_in_opposite_directions_do_not_block_each_other() {
    let f = Fixture::new().await;
    let mut owners = Vec::new();
    for n in 0..10 {
        let owner = f.claimed(&format!("r{n}"), &format!("w{n}")).await;
        f.begin(&owner, signal_wait(&format!("a{n}"), "go")).await;
        owners.push(owner);
    }
    let steps = owners.into_iter().enumerate().map(|(n, owner)| {
        let backend = f.backend.clone();
        tokio::spawn(async move {
            for round in 0..20 {
                let wait = signal_wait(&format!("a{n}"), "go");
                let ended = EndedStep::new(wait, Ok(Payload::from_json("1")));
                backend.end_step(&owner, ended).await.unwrap();
                let wait = signal_wait(&format!("a{n}-{round}"), "go");
                backend.begin_step(&owner, wait).await.unwrap();
            }
        })
    });
    let sends = (0..4).map(|_| {
        let backend = f.backend.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                backend.send_signal(signal("go", "1")).await.unwrap();
            }
        })
    });
    for task in steps.chain(sends).collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

// ===== reading =====

#[tokio::test]
async fn the_history_has_attempts_children_and_signals() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    for id in ["b", "a", "c"] {
        f.backend.end_step(&owner, done(id, "1")).await.unwrap();
    }
    f.sql("UPDATE {schema}.step_attempts SET created_at = '2020-01-01' WHERE id IN ('a', 'b')")
        .await;
    let wait = step("d", "child", StepAttemptKind::Workflow);
    let child = NewRun::new(NS, "child", "part", Payload::NULL);
    f.backend.begin_child(&owner, wait, child).await.unwrap();
    f.sql(
        r#"UPDATE {schema}.workflow_runs SET status = 'failed', error = '{"message":"no"}',
           finished_at = '2020-01-01' WHERE id = 'child'"#,
    )
    .await;
    f.begin(&owner, signal_wait("e", "go")).await;
    let history = f.backend.load_history(NS, "r").await.unwrap();
    let ids: Vec<_> = history.attempts.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c", "d", "e"]);
    assert_eq!(history.children.len(), 1);
    let child = &history.children["d"];
    assert_eq!(
        (child.id.as_str(), &child.status),
        ("child", &RunStatus::Failed)
    );
    assert_eq!(child.error.as_ref().unwrap().message, "no");
    assert!(child.finished_at.is_some());
    assert!(history.signals.is_empty());
    let none = f.backend.load_history(NS, "missing").await.unwrap();
    assert!(none.attempts.is_empty());
}

#[tokio::test]
async fn foreign_rows_are_read_as_they_are() {
    let f = Fixture::new().await;
    f.create("r").await;
    f.sql(
        r#"UPDATE {schema}.workflow_runs SET status = 'odd', context = '7', input = 'null',
           output = '"x"', error = '"text"', available_at = 'infinity', deadline_at = '-infinity'"#,
    )
    .await;
    let run = f.backend.get_run(NS, "r").await.unwrap().unwrap();
    assert_eq!(run.status, RunStatus::Other("odd".into()));
    assert_eq!(run.carrier.unreadable(), 1);
    assert!(run.input.is_null());
    assert_eq!(run.error.unwrap().message, "text");
    f.sql("UPDATE {schema}.workflow_runs SET attempts = -1, status = 'pending', available_at = now(), deadline_at = NULL").await;
    let error = f.backend.get_run(NS, "r").await.unwrap_err();
    assert!(
        matches!(error, BackendError::MalformedRow { .. }),
        "{error:?}"
    );
    // A malformed row spoils neither the claim nor the server.
    f.sql("UPDATE {schema}.workflow_runs SET attempts = 2147483647")
        .await;
    assert_eq!(f.claim(&["w"]).await[0].attempts, 2_147_483_647);
    assert!(f.backend.get_run(NS, "missing").await.unwrap().is_none());
}

#[tokio::test]
async fn runs_are_listed_newest_first_in_pages() {
    let f = Fixture::new().await;
    // Two of them share each millisecond.
    f.sql(
        "INSERT INTO {schema}.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
         SELECT 'default', 'r' || n, CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END,
                CASE WHEN n < 3 THEN 'failed' ELSE 'pending' END, '{}', 0,
                timestamptz '2026-01-01' + (n / 2) * interval '1 ms', now()
         FROM generate_series(0, 6) n",
    )
    .await;
    let list = async |from: Option<PageEdge>| {
        let mut query = ListRuns::new(NS);
        query.window.limit = 3;
        query.window.from = from;
        f.backend.list_runs(query).await.unwrap()
    };
    fn ids<T>(page: &Page<T>, id: impl Fn(&T) -> &str) -> Vec<String> {
        page.items.iter().map(|item| id(item).to_owned()).collect()
    }
    let after = |cursor: &Option<String>| {
        Some(PageEdge::After(
            Cursor::decode(cursor.as_ref().unwrap()).unwrap(),
        ))
    };
    let before = |cursor: &Option<String>| {
        Some(PageEdge::Before(
            Cursor::decode(cursor.as_ref().unwrap()).unwrap(),
        ))
    };
    let first = list(None).await;
    assert_eq!(ids(&first, |r| &r.id), ["r6", "r5", "r4"]);
    assert!(first.prev.is_none());
    let second = list(after(&first.next)).await;
    assert_eq!(ids(&second, |r| &r.id), ["r3", "r2", "r1"]);
    let third = list(after(&second.next)).await;
    assert_eq!(ids(&third, |r| &r.id), ["r0"]);
    assert!(third.next.is_none());
    let back = list(before(&third.prev)).await;
    assert_eq!(ids(&back, |r| &r.id), ["r3", "r2", "r1"]);
    let back = list(before(&back.prev)).await;
    assert_eq!(ids(&back, |r| &r.id), ["r6", "r5", "r4"]);
    assert!(back.prev.is_none() && back.next.is_some());

    let mut query = ListRuns::new(NS);
    query.status = Some(RunStatus::Failed);
    let page = f.backend.list_runs(query.clone()).await.unwrap();
    assert_eq!(ids(&page, |r| &r.id), ["r2", "r1", "r0"]);
    query.workflow_name = Some("odd".into());
    let page = f.backend.list_runs(query.clone()).await.unwrap();
    assert_eq!(ids(&page, |r| &r.id), ["r1"]);
    query.status = None;
    query.window.from = Some(PageEdge::After(page.items[0].cursor()));
    assert!(
        f.backend
            .list_runs(query.clone())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    query.window.from = Some(PageEdge::Before(page.items[0].cursor()));
    let page = f.backend.list_runs(query).await.unwrap();
    assert_eq!(ids(&page, |r| &r.id), ["r5", "r3"]);

    let owner = f.claimed("with-steps", "w").await;
    for n in 0..5 {
        f.backend
            .end_step(&owner, done(&format!("s{n}"), "1"))
            .await
            .unwrap();
    }
    f.sql("UPDATE {schema}.step_attempts SET created_at = '2026-01-01'")
        .await;
    let mut query = ListSteps::new(NS, "with-steps");
    query.window.limit = 3;
    let first = f.backend.list_step_attempts(query.clone()).await.unwrap();
    assert_eq!(ids(&first, |s| &s.id), ["s0", "s1", "s2"]);
    query.window.from = after(&first.next);
    let second = f.backend.list_step_attempts(query.clone()).await.unwrap();
    assert_eq!(ids(&second, |s| &s.id), ["s3", "s4"]);
    query.window.from = before(&second.prev);
    let back = f.backend.list_step_attempts(query).await.unwrap();
    assert_eq!(ids(&back, |s| &s.id), ["s0", "s1", "s2"]);
}

#[tokio::test]
async fn counts_include_legacy_statuses() {
    let f = Fixture::new().await;
    f.sql(
        "INSERT INTO {schema}.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
         SELECT 'default', s || n, 'order', s, '{}', 0, now(), now()
         FROM unnest(ARRAY['pending','running','sleeping','completed','succeeded','failed','canceled','odd']) s,
              generate_series(1, 2) n",
    )
    .await;
    let counts = f.backend.count_runs(NS).await.unwrap();
    assert_eq!(
        (counts.pending, counts.running, counts.completed),
        (2, 4, 4)
    );
    assert_eq!((counts.failed, counts.canceled), (2, 2));
    assert_eq!(
        f.backend.count_runs("empty").await.unwrap(),
        Default::default()
    );
}
