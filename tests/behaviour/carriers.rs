//! Carriers: what is stored with a run and read back by each of its executions.

use async_trait::async_trait;
use openworkflow::{
    Carrier, CreateRun, CreatedRun, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result,
    Workflow, WorkflowSpec,
};
use openworkflow_tests::{Database, Log};
use serde_json::{Value, json};

use super::{HOUR, Harness, SECOND};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");

/// Adds to the carrier when a run is created, and writes down what each execution reads.
struct Carry {
    add: Vec<(&'static str, &'static str)>,
    seen: Log,
}

fn render(carrier: &Carrier) -> String {
    let entries: Vec<_> = carrier
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("{} unreadable={}", entries.join(" "), carrier.unreadable())
}

#[async_trait]
impl Interceptor for Carry {
    async fn create_run(
        &self,
        mut call: CreateRun,
        next: Next<'_, CreateRun>,
    ) -> Result<CreatedRun> {
        call.run.carrier.extend(self.add.iter().copied());
        next.run(call).await
    }

    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        self.seen.add(render(&call.execution.run.carrier));
        next.run(call).await
    }
}

fn carry(add: &[(&'static str, &'static str)], seen: &Log) -> Carry {
    Carry {
        add: add.to_vec(),
        seen: seen.clone(),
    }
}

fn sleepy() -> Workflow {
    W.implement(|wf, n: u32| async move {
        wf.sleep("nap", HOUR).await?;
        Ok(n)
    })
}

#[tokio::test]
async fn a_carrier_reaches_every_execution() {
    let seen = Log::new();
    let harness = Harness::with_client(
        |client| {
            client
                .interceptor(carry(&[("traceparent", "00-1"), ("x", "outer")], &seen))
                .interceptor(carry(&[("x", "inner"), ("Ü", "ü\"")], &seen))
        },
        |worker| worker.workflow(sleepy()).interceptor(carry(&[], &seen)),
    )
    .await;
    let run = harness.start(&W, 1).await;
    harness.parked(run.id(), 1).await;
    let carrier = json!({"traceparent": "00-1", "x": "inner", "Ü": "ü\""});
    let stored = json!({"telemetry": carrier.clone(), "traceContext": carrier});
    assert_eq!(harness.run(run.id()).await.context, Some(stored.clone()));
    harness.advance(HOUR).await;
    harness.output(&run).await;
    let read = "traceparent=00-1 x=inner Ü=ü\" unreadable=0";
    assert_eq!(seen.lines(), [read, read]);
    assert_eq!(harness.run(run.id()).await.context, Some(stored));
    let described = run.describe().await.unwrap();
    assert_eq!(described.carrier.get("X"), Some("inner"));
}

#[tokio::test]
async fn without_a_carrier_nothing_is_stored() {
    let seen = Log::new();
    let harness = Harness::with_client(
        |client| client.interceptor(carry(&[], &seen)),
        |worker| worker.workflow(sleepy()).interceptor(carry(&[], &seen)),
    )
    .await;
    let run = harness.start(&W, 1).await;
    harness.parked(run.id(), 1).await;
    assert_eq!(harness.run(run.id()).await.context, None);
    assert_eq!(seen.lines(), [" unreadable=0"]);
}

#[tokio::test]
async fn a_start_that_finds_a_run_keeps_the_first_carrier() {
    let seen = Log::new();
    let harness =
        Harness::idle_with(|client| client.interceptor(carry(&[("n", "1")], &seen))).await;
    let first = harness
        .client
        .start(&W, &1)
        .idempotency_key("k")
        .await
        .unwrap();
    let other = openworkflow::Client::builder(harness.store())
        .interceptor(carry(&[("n", "2")], &seen))
        .build();
    let second = other.start(&W, &1).idempotency_key("k").await.unwrap();
    assert_eq!(second.id(), first.id());
    assert_eq!(
        harness.run(first.id()).await.context,
        Some(json!({"telemetry": {"n": "1"}, "traceContext": {"n": "1"}}))
    );
}

#[tokio::test]
async fn carriers_and_members_of_others_are_read_and_left_alone() {
    let cases: [(Value, &str); 9] = [
        (
            json!({"traceContext": {"traceparent": "theirs"}}),
            "traceparent=theirs unreadable=0",
        ),
        (
            json!({"telemetry": {"a": "ours"}, "traceContext": {"a": "theirs"}, "app": {"k": [1]}}),
            "a=ours unreadable=0",
        ),
        (json!({"app": "x"}), " unreadable=0"),
        (
            json!({"telemetry": null, "traceContext": {"a": "b"}}),
            "a=b unreadable=0",
        ),
        (
            json!({"telemetry": {"a": 1, "b": "c", "d": null}}),
            "b=c unreadable=2",
        ),
        (
            json!({"telemetry": [1], "traceContext": {"a": "b"}}),
            "a=b unreadable=1",
        ),
        (json!({"telemetry": "x"}), " unreadable=1"),
        (json!([1, 2]), " unreadable=1"),
        (json!("text"), " unreadable=1"),
    ];
    let seen = Log::new();
    let mut harness = Harness::idle().await;
    for (context, expected) in cases {
        let run = harness.start(&W, 1).await;
        let text = context.to_string().replace('\'', "''");
        harness
            .execute(&format!(
                "UPDATE workflow_runs SET context = '{text}' WHERE id = '{}'",
                run.id()
            ))
            .await;
        seen.clear();
        harness.start_worker(|worker| {
            worker
                .workflow(W.implement(|wf, n: u32| async move {
                    wf.run("step", || async {
                        match wf.attempt() {
                            1 => Err(openworkflow::Error::new("Once", "not yet")),
                            _ => Ok(()),
                        }
                    })
                    .await?;
                    wf.sleep("nap", HOUR).await?;
                    Ok(n)
                }))
                .interceptor(carry(&[], &seen))
        });
        harness.retrying(run.id(), 1).await;
        harness.advance(SECOND).await;
        harness.parked(run.id(), 2).await;
        harness.advance(HOUR).await;
        harness.output(&run).await;
        harness.stop().await;
        assert_eq!(seen.lines(), [expected; 3], "{context}");
        let after = harness.run(run.id()).await.context;
        assert_eq!(after, Some(context), "it is nobody's to change");
    }
}
