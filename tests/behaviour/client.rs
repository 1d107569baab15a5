//! What clients do: start, wait for results, cancel, describe.

use std::time::Duration;

use futures::future::join_all;
use openworkflow::backend::RunStatus;
use openworkflow::{Client, ClientError, Error, Workflow, WorkflowSpec};
use openworkflow_tests::{Database, Gate, Log, wait_until};
use serde_json::json;

use super::{DAY, HOUR, Harness, SECOND};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");
static OTHER: WorkflowSpec<u32, u32> = WorkflowSpec::new("other");

fn double() -> Workflow {
    W.implement(|_, n: u32| async move { Ok(n * 2) })
}

/// Sleeps for an hour, then gives its input back.
fn sleepy() -> Workflow {
    W.implement(|wf, n: u32| async move {
        wf.sleep("nap", HOUR).await?;
        Ok(n)
    })
}

#[tokio::test]
async fn a_key_finds_the_first_run_for_a_day() {
    let harness = Harness::new(|worker| worker.workflow(double())).await;
    let start = |n: u32| harness.client.start(&W, &n).idempotency_key("k");
    let first = start(1).await.unwrap();
    assert_eq!(harness.output(&first).await, 2);
    harness.advance(DAY - SECOND * 30).await;
    let again = start(5).await.unwrap();
    assert_eq!(
        again.id(),
        first.id(),
        "however it ended, whatever the input"
    );
    assert_eq!(harness.output(&again).await, 2);
    assert_eq!(harness.runs().await.len(), 1);
    harness.advance(SECOND * 31).await;
    let late = start(5).await.unwrap();
    assert_ne!(late.id(), first.id());
    assert_eq!(harness.output(&late).await, 10);
}

#[tokio::test]
async fn a_key_is_for_one_workflow_in_one_namespace() {
    let harness = Harness::idle().await;
    let elsewhere = Client::builder(harness.store())
        .namespace("elsewhere")
        .build();
    let runs = [
        harness
            .client
            .start(&W, &1)
            .idempotency_key("k")
            .await
            .unwrap(),
        harness
            .client
            .start(&W, &1)
            .idempotency_key("l")
            .await
            .unwrap(),
        harness
            .client
            .start(&W, &1)
            .idempotency_key("")
            .await
            .unwrap(),
        harness.client.start(&W, &1).await.unwrap(),
        harness.client.start(&W, &1).await.unwrap(),
        harness
            .client
            .start(&OTHER, &1)
            .idempotency_key("k")
            .await
            .unwrap(),
        elsewhere.start(&W, &1).idempotency_key("k").await.unwrap(),
    ];
    let ids: std::collections::HashSet<_> = runs.iter().map(|run| run.id()).collect();
    assert_eq!(ids.len(), runs.len());
    let empty = harness
        .client
        .start(&W, &1)
        .idempotency_key("")
        .await
        .unwrap();
    assert_eq!(empty.id(), runs[2].id(), "the empty key is one too");
}

#[tokio::test]
async fn starts_side_by_side_with_one_key_make_one_run() {
    let harness = Harness::idle().await;
    let other = Client::new(harness.open().await);
    let starts = (0..40).map(|n| {
        let client = if n % 2 == 0 { &harness.client } else { &other };
        client.start(&W, &n).idempotency_key("k")
    });
    let runs: Vec<_> = join_all(starts)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(runs.iter().all(|run| run.id() == runs[0].id()));
    assert_eq!(harness.runs().await.len(), 1);
}

#[tokio::test]
async fn failed_and_canceled_runs_are_found_by_their_key_too() {
    let harness = Harness::new(|worker| {
        worker.workflow(OTHER.implement(|_, _| async { Err(Error::new("Own", "no")) }))
    })
    .await;
    let canceled = harness
        .client
        .start(&W, &1)
        .idempotency_key("k")
        .await
        .unwrap();
    canceled.cancel().await.unwrap();
    let failed = harness
        .client
        .start(&OTHER, &1)
        .idempotency_key("k")
        .await
        .unwrap();
    harness.failure(&failed).await;
    let again = harness
        .client
        .start(&W, &1)
        .idempotency_key("k")
        .await
        .unwrap();
    assert_eq!(again.id(), canceled.id());
    let again = harness
        .client
        .start(&OTHER, &1)
        .idempotency_key("k")
        .await
        .unwrap();
    assert_eq!(again.id(), failed.id());
}

#[tokio::test]
async fn a_delayed_run_begins_when_it_is_due() {
    let harness = Harness::new(|worker| worker.workflow(double())).await;
    let run = harness.client.start(&W, &1).delay(HOUR).await.unwrap();
    let row = harness.run(run.id()).await;
    assert_eq!((row.status.as_str(), row.attempts), ("pending", 0));
    harness.assert_after_now(row.available_at, HOUR);
    // Another comes and goes meanwhile.
    assert_eq!(harness.complete(&W, 4).await, 8);
    assert_eq!(harness.run(run.id()).await.attempts, 0);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, 2);
    let past = harness
        .client
        .start(&W, &3)
        .delay(std::time::SystemTime::UNIX_EPOCH);
    assert_eq!(harness.output(&past.await.unwrap()).await, 6);
}

#[tokio::test]
async fn results() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|_, n: u32| async move {
            if n == 0 {
                return Err(Error::new("Zero", "it is nothing"));
            }
            Ok(n)
        }))
    })
    .await;
    let ok = harness.start(&W, 3).await;
    assert_eq!(ok.result().await.unwrap(), 3);
    assert_eq!(ok.result().await.unwrap(), 3, "as often as one likes");
    assert_eq!(ok.clone().result().await.unwrap(), 3);

    let failed = harness.start(&W, 0).await;
    match failed.result().await {
        Err(ClientError::RunFailed { run_id, error }) => {
            assert_eq!(run_id, failed.id());
            assert_eq!(error.name.as_deref(), Some("Zero"));
            assert_eq!(error.message, "it is nothing");
        }
        other => panic!("{other:?}"),
    }

    let nobody = harness.start(&OTHER, 3).await;
    let waited = nobody.result_within(Duration::from_millis(20)).await;
    let error = waited.expect_err("nobody executes it");
    assert!(matches!(&error, ClientError::TimedOut { run_id, .. } if run_id == nobody.id()));
    let told = "it goes on, pending and not claimed by any worker yet";
    assert!(error.to_string().ends_with(told), "{error}");
    let waiting = tokio::spawn({
        let nobody = nobody.clone();
        async move { nobody.result().await }
    });
    nobody.cancel().await.unwrap();
    let canceled = waiting.await.unwrap();
    assert!(matches!(canceled, Err(ClientError::RunCanceled { run_id }) if run_id == nobody.id()));

    let missing = harness.client.handle::<u32>("missing");
    let error = missing.result().await.expect_err("there is no such run");
    assert_eq!(error.to_string(), "Workflow run missing does not exist");
}

#[tokio::test]
async fn a_result_of_another_type_is_an_error_that_names_the_workflow() {
    let harness = Harness::new(|worker| worker.workflow(double())).await;
    let run = harness.start(&W, 3).await;
    let texts = harness.client.handle::<String>(run.id());
    let error = texts.result().await.expect_err("a number is no text");
    assert!(matches!(error, ClientError::Invalid(_)));
    assert!(
        error.to_string().contains("the output of workflow \"w\""),
        "{error}"
    );
}

#[tokio::test]
async fn many_wait_for_one_result() {
    let gate = Gate::closed();
    let held = gate.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |_, n: u32| {
            let gate = held.clone();
            async move {
                gate.pass().await;
                Ok(n)
            }
        }))
    })
    .await;
    let run = harness.start(&W, 9).await;
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let run = run.clone();
            tokio::spawn(async move { run.result().await })
        })
        .collect();
    gate.reached_by(1).await;
    gate.open();
    for result in join_all(waiting).await {
        assert_eq!(result.unwrap().unwrap(), 9);
    }
}

#[tokio::test]
async fn a_pending_run_can_be_canceled() {
    let harness = Harness::idle().await;
    let run = harness.start(&W, 1).await;
    run.cancel().await.unwrap();
    let row = harness.run(run.id()).await;
    assert_eq!((row.status.as_str(), row.attempts), ("canceled", 0));
    assert_eq!(
        (row.worker_id, row.available_at, row.error),
        (None, None, None)
    );
    harness.assert_after_now(row.finished_at, Duration::ZERO);
    // Again: it stays as it is.
    let finished_at = harness.run(run.id()).await.finished_at;
    harness.client.cancel(run.id()).await.unwrap();
    assert_eq!(harness.run(run.id()).await.finished_at, finished_at);
}

#[tokio::test]
async fn a_parked_run_can_be_canceled() {
    let harness = Harness::new(|worker| {
        worker
            .workflow(sleepy())
            .workflow(OTHER.implement(|_, n: u32| async move { Ok(n) }))
    })
    .await;
    let run = harness.start(&W, 1).await;
    harness.parked(run.id(), 1).await;
    run.cancel().await.unwrap();
    harness.advance(HOUR).await;
    // The worker has looked for work since.
    harness.complete(&OTHER, 1).await;
    let row = harness.run(run.id()).await;
    assert_eq!((row.status.as_str(), row.attempts), ("canceled", 1));
    assert!(row.started_at.is_some(), "kept");
    assert_eq!(harness.step(run.id(), "nap").await[0].status, "running");
}

#[tokio::test]
async fn a_run_that_waits_for_its_retry_can_be_canceled() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf, _| async move {
            wf.run("step", || async { Err(Error::new("Failing", "as ever")) })
                .await
        }))
    })
    .await;
    let run = harness.start(&W, 1).await;
    harness.retrying(run.id(), 1).await;
    run.cancel().await.unwrap();
    let row = harness.run(run.id()).await;
    assert_eq!(
        (row.status.as_str(), row.error_message()),
        ("canceled", Some("as ever"))
    );
}

/// Says when it is dropped.
struct OnDrop(Log);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.add("dropped");
    }
}

/// A step that waits at the gate, with a guard around it.
fn gated(gate: &Gate, log: &Log) -> Workflow {
    let (gate, log) = (gate.clone(), log.clone());
    W.implement(move |wf, n: u32| {
        let (gate, log) = (gate.clone(), log.clone());
        async move {
            let _guard = OnDrop(log.clone());
            wf.run("step", || async {
                gate.pass().await;
                Ok(())
            })
            .await?;
            log.add("went on");
            Ok(n)
        }
    })
}

#[tokio::test]
async fn a_step_under_way_is_dropped_when_its_run_is_canceled_and_it_writes() {
    let (gate, log) = (Gate::closed(), Log::new());
    let harness = Harness::new(|worker| worker.workflow(gated(&gate, &log))).await;
    let run = harness.start(&W, 1).await;
    gate.reached_by(1).await;
    wait_until("the step is recorded", || async {
        !harness.steps(run.id()).await.is_empty()
    })
    .await;
    run.cancel().await.unwrap();
    let canceled = harness.run(run.id()).await;
    let step = harness.steps(run.id()).await.remove(0);
    gate.open();
    log.reached("dropped", 1).await;
    assert_eq!(log.lines(), ["dropped"]);
    // Nothing more is written.
    let row = harness.run(run.id()).await;
    assert_eq!(format!("{row:?}"), format!("{canceled:?}"));
    let now = harness.steps(run.id()).await.remove(0);
    assert_eq!(format!("{now:?}"), format!("{step:?}"));
    assert_eq!((step.status.as_str(), step.output), ("running", None));
}

#[tokio::test]
async fn a_heartbeat_notices_a_cancellation() {
    let (gate, log) = (Gate::closed(), Log::new());
    let harness = Harness::new(|worker| {
        worker
            .workflow(gated(&gate, &log))
            .lease(Duration::from_millis(200))
    })
    .await;
    let run = harness.start(&W, 1).await;
    gate.reached_by(1).await;
    // After that, only the heartbeat looks.
    wait_until("the step is recorded", || async {
        !harness.steps(run.id()).await.is_empty()
    })
    .await;
    run.cancel().await.unwrap();
    // The gate stays closed.
    log.reached("dropped", 1).await;
    assert_eq!(harness.run(run.id()).await.status, "canceled");
}

#[tokio::test]
async fn a_run_that_ended_cannot_be_canceled() {
    let harness = Harness::new(|worker| {
        worker
            .workflow(double())
            .workflow(OTHER.implement(|_, _| async { Err(Error::new("Own", "no")) }))
    })
    .await;
    let completed = harness.start(&W, 1).await;
    harness.output(&completed).await;
    let failed = harness.start(&OTHER, 1).await;
    harness.failure(&failed).await;
    for (run, status) in [
        (completed, RunStatus::Completed),
        (failed, RunStatus::Failed),
    ] {
        let error = run.cancel().await.expect_err("it is over");
        assert_eq!(
            error.to_string(),
            format!(
                "Cannot cancel workflow run {} with status {status}",
                run.id()
            )
        );
        assert!(matches!(error, ClientError::NotCancelable { status: s, .. } if s == status));
        assert_eq!(harness.run(run.id()).await.status, status.as_str());
    }
    let missing = harness
        .client
        .cancel("missing")
        .await
        .expect_err("no such run");
    assert!(matches!(missing, ClientError::RunNotFound { .. }));
    assert_eq!(missing.to_string(), "Workflow run missing does not exist");
}

#[tokio::test]
async fn describe_tells_what_the_row_holds() {
    let harness = Harness::new(|worker| worker.workflow(sleepy())).await;
    let request = harness
        .client
        .start(&W, &7)
        .idempotency_key("k")
        .deadline("1d");
    let run = request.await.unwrap();
    let row = harness.parked(run.id(), 1).await;
    let described = run.describe().await.unwrap();
    assert_eq!(described.id, row.id);
    assert_eq!(described.workflow_name, "w");
    assert_eq!(described.namespace_id, "default");
    assert_eq!(described.version, None);
    assert_eq!(described.status, RunStatus::Running);
    assert_eq!(described.idempotency_key.as_deref(), Some("k"));
    assert_eq!(described.input.expose(), "7");
    assert!(described.output.is_null());
    assert_eq!(described.attempts, 1);
    assert_eq!(described.worker_id, None);
    assert_eq!(described.available_at, row.available_at);
    assert_eq!(described.deadline_at, row.deadline_at);
    assert_eq!(described.started_at, row.started_at);
    assert_eq!(described.finished_at, None);
    assert_eq!(Some(described.created_at), row.created_at);
    assert!(matches!(
        harness.client.describe("missing").await,
        Err(ClientError::RunNotFound { run_id }) if run_id == "missing"
    ));
    harness.advance(HOUR).await;
    harness.output(&run).await;
    let described = harness.client.describe(run.id()).await.unwrap();
    assert_eq!(described.output.expose(), "7");
    assert!(described.worker_id.is_some() && described.finished_at.is_some());
}

#[tokio::test]
async fn namespaces_do_not_see_each_other() {
    let harness = Harness::new(|worker| worker.workflow(double()).namespace("tenant")).await;
    let tenant = Client::builder(harness.store()).namespace("tenant").build();
    let outside = harness.start(&W, 1).await;
    let inside = tenant.start(&W, &1).await.unwrap();
    assert_eq!(inside.result().await.unwrap(), 2);
    assert_eq!(harness.run(outside.id()).await.attempts, 0);
    assert!(matches!(
        tenant.describe(outside.id()).await,
        Err(ClientError::RunNotFound { .. })
    ));
    assert!(matches!(
        tenant.cancel(outside.id()).await,
        Err(ClientError::RunNotFound { .. })
    ));
    assert_eq!(tenant.count_runs().await.unwrap().completed, 1);
    assert_eq!(harness.client.count_runs().await.unwrap().pending, 1);
    assert_eq!(tenant.list_runs().await.unwrap().items.len(), 1);
    assert_eq!(harness.run(outside.id()).await.input, Some(json!(1)));
}

#[tokio::test]
async fn a_time_out_says_what_failed_last() {
    let failing = W.implement(|wf, _| async move {
        wf.run("charge", || async {
            Err::<u32, _>(Error::new("CardDeclined", "the card was declined"))
        })
        .await
    });
    let harness = Harness::new(|worker| worker.workflow(failing)).await;
    let run = harness.start(&W, 1).await;
    harness.retrying(run.id(), 1).await;
    let waited = run.result_within(Duration::from_millis(50)).await;
    let error = waited.expect_err("it is tried again");
    let told = "it goes on, pending (execution 1); what failed last: step \"charge\": CardDeclined: the card was declined";
    assert!(error.to_string().ends_with(told), "{error}");
}
