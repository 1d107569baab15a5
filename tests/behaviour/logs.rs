//! What a worker and a client say in the log by themselves, without any telemetry set up.

use std::time::Duration;

use openworkflow::{WorkflowContext, WorkflowSpec};
use openworkflow_examples::{Order, PROCESS_ORDER, fulfill_shipment, process_order};
use openworkflow_tests::{Database, Gate, Log, logged, wait_until};

use super::{HOUR, Harness, LEASE, SECOND};

static HELD: WorkflowSpec<(), ()> = WorkflowSpec::new("held");

/// Runs until the gate opens.
async fn hold(wf: WorkflowContext, gate: Gate) -> openworkflow::Result<()> {
    wf.run("hold", || async {
        gate.pass().await;
        Ok(())
    })
    .await
}

/// The engine's own lines, with what differs from run to run put in words.
fn told(log: &Log) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    let lines = log.lines();
    let ours = lines.iter().filter(|line| line.contains(" openworkflow: "));
    ours.map(|line| {
        let words = line
            .split_whitespace()
            .map(|word| match word.split_once('=') {
                Some((key @ "workflow_run.id", id)) => {
                    let known = ids.iter().position(|known| known == id);
                    let nth = known.unwrap_or_else(|| {
                        ids.push(id.to_owned());
                        ids.len() - 1
                    });
                    format!("{key}={}", nth + 1)
                }
                Some((
                    key @ ("duration_ms" | "queue_ms" | "executions" | "until" | "retry_at"
                    | "database"),
                    _,
                )) => {
                    format!("{key}=…")
                }
                _ => word.to_owned(),
            });
        words.collect::<Vec<_>>().join(" ")
    })
    .collect()
}

/// Those of one message.
fn of<'a>(lines: &'a [String], message: &str) -> Vec<&'a String> {
    lines.iter().filter(|line| line.contains(message)).collect()
}

/// Waits until the message is there: what is told of a write comes after it.
async fn told_of(log: &Log, message: &str) {
    wait_until(message, async || !of(&told(log), message).is_empty()).await;
}

#[tokio::test]
async fn an_order_that_fails_is_told_line_by_line() {
    let (log, _collecting) = logged::collect();
    let mut harness = Harness::idle().await;
    let order = Order {
        items: Vec::new(),
        ..Order::sample()
    };
    // Before there is a worker: one could begin before the client has heard that the run is there.
    let run = harness.start(&PROCESS_ORDER, order).await;
    harness.start_worker(|worker| {
        worker
            .workflow(process_order(Duration::from_secs(90)))
            .workflow(fulfill_shipment())
    });
    harness.failure(&run).await;
    told_of(&log, "run failed").await;
    harness.stop().await;
    let of_run = r#"workflow.name="process-order" workflow_run.id=1"#;
    let of_step = r#"step.name="validate-order" step.kind="function""#;
    let expected = [
        format!("INFO openworkflow: run created {of_run} workflow_run.deduplicated=false"),
        "INFO openworkflow: worker started namespace_id=\"default\" \
         workflows=fulfill-shipment, process-order slots=10 database=…"
            .to_owned(),
        format!(
            "INFO openworkflow: execution started {of_run} workflow_run.attempt=1 \
             workflow_run.replay=false queue_ms=…"
        ),
        format!("DEBUG openworkflow: step started {of_run} workflow_run.attempt=1 {of_step}"),
        format!(
            "ERROR openworkflow: step failed for good {of_run} workflow_run.attempt=1 {of_step} \
             step.outcome=\"failed\" error.type=\"EmptyOrder\" error=nothing was ordered attempt=1 \
             max_attempts=10"
        ),
        format!(
            "ERROR openworkflow: run failed {of_run} workflow_run.attempt=1 \
             workflow.outcome=\"failed\" duration_ms=… error.type=\"EmptyOrder\" \
             error=nothing was ordered failed_step=\"validate-order\""
        ),
        "INFO openworkflow: worker stops: it claims nothing more, and waits for what is under way \
         namespace_id=\"default\" executions=…"
            .to_owned(),
        "INFO openworkflow: worker stopped namespace_id=\"default\"".to_owned(),
    ];
    assert_eq!(told(&log), expected);
}

#[tokio::test]
async fn a_failure_that_is_tried_again_says_when_and_how_often_and_no_payload_is_told() {
    let (log, _collecting) = logged::collect();
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(process_order(HOUR))
            .workflow(fulfill_shipment())
    })
    .await;
    let order = Order::sample();
    let run = harness.start(&PROCESS_ORDER, order.clone()).await;
    harness.parked(run.id(), 2).await;
    openworkflow_examples::confirm(&harness.client, &order)
        .await
        .unwrap();
    harness.parked(run.id(), 3).await;
    harness.advance(HOUR).await;
    harness.retrying(run.id(), 4).await;
    harness.advance(HOUR).await;
    harness.output(&run).await;
    harness.stop().await;
    let lines = told(&log);

    let failed = of(&lines, "step failed");
    assert_eq!(failed.len(), 1, "{lines:#?}");
    assert!(failed[0].starts_with("WARN openworkflow: step failed, to be tried again"));
    assert!(failed[0].ends_with(
        "error.type=\"MailServerDown\" error=the mail server does not answer attempt=1 \
         max_attempts=10 retry_at=…"
    ));
    assert_eq!(
        of(&lines, "WARN openworkflow: run put back, to be tried again").len(),
        1
    );
    assert_eq!(of(&lines, "run created").len(), 2, "the child as well");
    assert_eq!(of(&lines, "INFO openworkflow: signal received").len(), 1);
    assert_eq!(of(&lines, "INFO openworkflow: run completed").len(), 2);
    assert_eq!(of(&lines, "INFO openworkflow: execution started").len(), 6);
    let cooldown = log
        .lines()
        .into_iter()
        .find(|line| line.contains("step completed") && line.contains("step.name=\"cooldown\""));
    let cooldown = cooldown.expect("the sleep is told");
    let millis = cooldown
        .rsplit_once("duration_ms=")
        .map(|(_, ms)| ms.parse::<u64>());
    assert!(matches!(millis, Some(Ok(3_600_000..))), "{cooldown}");
    // Seven steps, each once, however often its execution was repeated.
    assert_eq!(
        of(&lines, "INFO openworkflow: step completed").len(),
        7,
        "{lines:#?}"
    );
    let leaks = log
        .lines()
        .into_iter()
        .filter(|line| line.contains(&order.email));
    assert_eq!(leaks.collect::<Vec<_>>(), [""; 0]);
}

#[tokio::test]
async fn an_execution_says_how_long_its_run_was_due() {
    let (log, _collecting) = logged::collect();
    let mut harness = Harness::idle().await;
    let run = harness.start(&HELD, ()).await;
    harness.advance(HOUR).await;
    harness.start_worker(|worker| worker.workflow(HELD.implement(|_, ()| async { Ok(()) })));
    harness.output(&run).await;
    harness.stop().await;
    let lines = log.lines().into_iter();
    let started: Vec<_> = lines
        .filter(|line| line.contains("execution started"))
        .collect();
    let millis = started[0]
        .rsplit_once("queue_ms=")
        .and_then(|(_, millis)| millis.parse::<u64>().ok());
    assert!(matches!(millis, Some(3_600_000..3_700_000)), "{started:#?}");
}

#[tokio::test]
async fn a_lost_lease_a_take_over_and_a_cancellation_are_told() {
    let (log, _collecting) = logged::collect();
    let gate = Gate::closed();
    let held = || {
        let gate = gate.clone();
        HELD.implement(move |wf, ()| hold(wf, gate.clone()))
    };
    // With a short lease an extension could still be on its way when the worker dies, and with a free slot
    // a claim, which would have the run when the lease is over.
    let mut harness = Harness::new(|worker| worker.workflow(held()).concurrency(1)).await;
    let run = harness.start(&HELD, ()).await;
    gate.reached_by(1).await;
    harness.worker.take().unwrap().abort().await;
    harness.advance(LEASE).await;
    harness.start_worker(|worker| worker.workflow(held()).lease(2 * SECOND));
    gate.reached_by(2).await;
    let lines = told(&log);
    assert_eq!(
        of(&lines, "WARN openworkflow: run taken over").len(),
        1,
        "{lines:#?}"
    );
    harness.client.cancel(run.id()).await.unwrap();
    told_of(&log, "run canceled; the execution is dropped").await;
    assert_eq!(
        of(&told(&log), "INFO openworkflow: run canceled workflow").len(),
        1
    );
}

#[tokio::test]
async fn a_worker_that_is_dropped_with_runs_at_work_is_warned_of() {
    let (log, _collecting) = logged::collect();
    let gate = Gate::closed();
    let harness = Harness::idle().await;
    let held = {
        let gate = gate.clone();
        HELD.implement(move |wf, ()| hold(wf, gate.clone()))
    };
    let worker = harness.another_worker(|worker| worker.workflow(held));
    harness.start(&HELD, ()).await;
    gate.reached_by(1).await;
    drop(worker);
    let lines = told(&log);
    assert_eq!(
        of(&lines, "WARN openworkflow: a worker was dropped while runs").len(),
        1
    );
}
