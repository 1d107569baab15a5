//! The `process-order` run, row by row, beside the protocol's walk-through.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use openworkflow::{ExecuteRun, ExecutionOutcome, Interceptor, Next, Result};
use openworkflow_examples::{Order, PROCESS_ORDER, fulfill_shipment, process_order};
use openworkflow_tests::{Database, Gate, RunRow};
use serde_json::json;

use super::{HOUR, Harness, LEASE};

/// Holds up each execution between the claim and the workflow's code.
struct HoldUp(Gate);

#[async_trait]
impl Interceptor for HoldUp {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        if &*call.execution.run.workflow_name == "process-order" {
            self.0.pass().await;
        }
        next.run(call).await
    }
}

/// A row of the walk-through: status, attempts, whether a worker has it, `available_at` and
/// `started_at` from now.
#[track_caller]
fn assert_row(
    harness: &Harness,
    row: &RunRow,
    (status, attempts, held): (&str, u32, bool),
    available_at: SystemTime,
    started_ago: Option<Duration>,
) {
    assert_eq!(
        (row.status.as_str(), row.attempts, row.worker_id.is_some()),
        (status, attempts, held),
        "{row:#?}"
    );
    harness.assert_time(row.available_at, available_at);
    match started_ago {
        None => assert_eq!(row.started_at, None),
        Some(ago) => harness.assert_time(row.started_at, harness.now() - ago),
    }
}

fn a_year_from(now: SystemTime) -> SystemTime {
    let now = jiff::Timestamp::try_from(now)
        .unwrap()
        .to_zoned(jiff::tz::TimeZone::UTC);
    let year = now.checked_add(jiff::Span::new().years(1)).unwrap();
    year.timestamp().into()
}

#[tokio::test]
async fn process_order_leaves_the_rows_of_the_walk_through() {
    let gate = Gate::closed();
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(process_order(Duration::from_secs(90)))
            .interceptor(HoldUp(gate.clone()))
    })
    .await;
    let order = Order::sample();

    // Created, and claimed at once.
    let run = harness.start(&PROCESS_ORDER, order.clone()).await;
    let id = run.id();
    gate.reached_by(1).await;
    let row = harness.run(id).await;
    let lease_end = harness.now() + LEASE;
    assert_row(
        &harness,
        &row,
        ("running", 1, true),
        lease_end,
        Some(Duration::ZERO),
    );
    assert_eq!(row.workflow_name, "process-order");
    assert_eq!(row.input, Some(serde_json::to_value(&order).unwrap()));
    assert_eq!(
        (&row.context, &row.output, &row.error),
        (&None, &None, &None)
    );
    assert_eq!(row.config, Some(json!({})));
    assert_eq!(harness.step_summary(id).await, [""; 0]);

    // Waits for its child, which nobody can execute yet.
    gate.let_one_through();
    let row = harness.parked(id, 1).await;
    let in_a_year = a_year_from(harness.now());
    assert_row(
        &harness,
        &row,
        ("running", 1, false),
        in_a_year,
        Some(Duration::ZERO),
    );
    assert_eq!(
        harness.step_summary(id).await,
        [
            "fulfill-shipment workflow running",
            "validate-order function completed",
        ]
    );
    let wait = harness.step(id, "fulfill-shipment").await.remove(0);
    assert_eq!(wait.context.as_ref().unwrap()["kind"], "workflow");
    harness.assert_time(wait.context_time("timeoutAt"), in_a_year);
    assert_eq!(wait.context.as_ref().unwrap().as_object().unwrap().len(), 2);
    let child_id = wait.child_workflow_run_id.clone().unwrap();
    assert_eq!(
        wait.child_workflow_run_namespace_id.as_deref(),
        Some("default")
    );
    let child = harness.run(&child_id).await;
    assert_row(&harness, &child, ("pending", 0, false), harness.now(), None);
    assert_eq!(child.workflow_name, "fulfill-shipment");
    assert_eq!(child.input, Some(json!("4711")));
    assert_eq!(child.deadline_at, None);
    assert_eq!(child.parent_step_attempt_id.as_deref(), Some(&*wait.id));
    assert_eq!(
        child.parent_step_attempt_namespace_id.as_deref(),
        Some("default")
    );
    assert_eq!(
        child.idempotency_key,
        Some(format!("__workflow:default:{}", wait.id))
    );

    // The child is done, which makes the parent due; it is claimed.
    harness.advance(Duration::from_secs(60)).await;
    let mut shipping = harness.another_worker(|worker| worker.workflow(fulfill_shipment()));
    gate.reached_by(2).await;
    let minute = Some(Duration::from_secs(60));
    let row = harness.run(id).await;
    assert_row(
        &harness,
        &row,
        ("running", 2, true),
        harness.now() + LEASE,
        minute,
    );
    let child = harness.run(&child_id).await;
    assert_eq!((child.status.as_str(), child.attempts), ("completed", 1));
    assert!(
        child.worker_id.is_some(),
        "a completed run keeps its worker"
    );
    assert_eq!(child.available_at, None);
    assert_eq!(child.output, Some(json!({"tracking": "4711-B7"})));
    harness.assert_after_now(child.finished_at, Duration::ZERO);
    shipping.stop().await.unwrap();

    // Waits for the signal.
    gate.let_one_through();
    let row = harness.parked(id, 2).await;
    assert_row(
        &harness,
        &row,
        ("running", 2, false),
        harness.now() + HOUR,
        minute,
    );
    let wait = harness.step(id, "fulfill-shipment").await.remove(0);
    assert_eq!(wait.status, "completed");
    assert_eq!(wait.output, child.output);
    let wait = harness.step(id, "confirmed:4711").await.remove(0);
    assert_eq!(wait.summary(), "confirmed:4711 signal-wait running");
    let context = wait.context.clone().unwrap();
    assert_eq!(context["kind"], "signal-wait");
    assert_eq!(context["signal"], "confirmed:4711");
    harness.assert_time(wait.context_time("timeoutAt"), harness.now() + HOUR);
    assert_eq!(context.as_object().unwrap().len(), 3);

    // The signal comes; the run is claimed, and sleeps.
    let received = harness
        .client
        .send_signal("confirmed:4711", "ada")
        .await
        .unwrap();
    assert_eq!(received, [id]);
    gate.reached_by(3).await;
    let row = harness.run(id).await;
    assert_row(
        &harness,
        &row,
        ("running", 3, true),
        harness.now() + LEASE,
        minute,
    );
    let signals = harness.signals().await;
    assert_eq!(signals.len(), 1);
    assert_eq!(signals[0].data, Some(json!("ada")));
    assert_eq!(signals[0].step_attempt_id, wait.id);
    assert_eq!(signals[0].sender_idempotency_key, None);
    gate.let_one_through();
    let row = harness.parked(id, 3).await;
    let resume_at = harness.now() + Duration::from_secs(90);
    assert_row(&harness, &row, ("running", 3, false), resume_at, minute);
    let wait = harness.step(id, "confirmed:4711").await.remove(0);
    assert_eq!(wait.output, Some(json!({"data": "ada"})));
    let sleep = harness.step(id, "cooldown").await.remove(0);
    assert_eq!(sleep.summary(), "cooldown sleep running");
    assert_eq!(sleep.context.as_ref().unwrap()["kind"], "sleep");
    harness.assert_time(sleep.context_time("resumeAt"), resume_at);
    assert_eq!(
        sleep.context.as_ref().unwrap().as_object().unwrap().len(),
        2
    );

    // Claimed when the sleep is over; the step fails.
    harness.advance(Duration::from_secs(90)).await;
    gate.reached_by(4).await;
    gate.let_one_through();
    let row = harness.retrying(id, 4).await;
    let retry_at = harness.now() + Duration::from_secs(1);
    assert_row(&harness, &row, ("pending", 4, false), retry_at, None);
    let error = json!({"name": "MailServerDown", "message": "the mail server does not answer"});
    let mut of_run = error.clone();
    of_run["step"] = json!("notify-customer");
    assert_eq!(row.error, Some(of_run.clone()));
    let sleep = harness.step(id, "cooldown").await.remove(0);
    assert_eq!((sleep.status.as_str(), &sleep.output), ("completed", &None));
    harness.assert_after_now(sleep.finished_at, Duration::ZERO);
    let failed = harness.step(id, "notify-customer").await.remove(0);
    assert_eq!(failed.summary(), "notify-customer function failed");
    assert_eq!(failed.error, Some(error));

    // Claimed again: the error stays, and the run counts as started anew.
    harness.advance(Duration::from_secs(1)).await;
    gate.reached_by(5).await;
    let row = harness.run(id).await;
    let lease_end = harness.now() + LEASE;
    assert_row(
        &harness,
        &row,
        ("running", 5, true),
        lease_end,
        Some(Duration::ZERO),
    );
    assert_eq!(row.error, Some(of_run));
    let worker_id = row.worker_id;

    // Done.
    gate.open();
    let receipt = harness.output(&run).await;
    assert_eq!(receipt.tracking, "4711-B7");
    assert_eq!(receipt.confirmed_by.as_deref(), Some("ada"));
    let row = harness.run(id).await;
    assert_eq!((row.status.as_str(), row.attempts), ("completed", 5));
    assert_eq!((&row.error, &row.available_at), (&None, &None));
    assert_eq!(row.worker_id, worker_id);
    assert_eq!(row.output, Some(serde_json::to_value(&receipt).unwrap()));
    harness.assert_after_now(row.started_at, Duration::ZERO);
    harness.assert_after_now(row.finished_at, Duration::ZERO);
    assert_eq!(
        harness.step_summary(id).await,
        [
            "confirmed:4711 signal-wait completed",
            "cooldown sleep completed",
            "fulfill-shipment workflow completed",
            "notify-customer function failed",
            "notify-customer function completed",
            "validate-order function completed",
        ]
    );
    let mut observed = Vec::new();
    for step in harness.steps(id).await {
        let config = step.config.unwrap_or_default();
        if step.status == "completed" {
            observed.push((config["order"].as_u64().unwrap(), step.name.clone()));
        } else {
            assert_eq!(config, json!({}), "what is tried again is not observed");
        }
        assert!(
            step.started_at.is_some() && step.finished_at.is_some(),
            "{}",
            step.name
        );
    }
    observed.sort();
    let observed: Vec<_> = observed.iter().map(|(_, name)| &**name).collect();
    assert_eq!(
        observed,
        [
            "validate-order",
            "fulfill-shipment",
            "confirmed:4711",
            "cooldown",
            "notify-customer",
        ]
    );
    harness.stop().await;
}
