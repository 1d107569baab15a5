//! What is counted now, rather than what happened: compared with what the database says.

use std::time::Duration;

use openworkflow::observe::Observe;
use openworkflow::otel::Prometheus;
use openworkflow::{WorkerBuilder, WorkerHandle, WorkflowSpec};
use openworkflow_tests::{Database, Gate, wait_until};

use super::{Harness, PLAIN, get, held, measured, value};

static NOBODYS: WorkflowSpec<(), ()> = WorkflowSpec::new("nobodys");
static SLEEPS: WorkflowSpec<(), ()> = WorkflowSpec::new("sleeps");

fn observed(worker: WorkerBuilder, prometheus: &Prometheus) -> WorkerBuilder {
    worker.observe(Observe::on("127.0.0.1:0").metrics(prometheus))
}

async fn scrape(worker: &WorkerHandle) -> String {
    let at = worker.observed_at().expect("it is observed");
    let metrics = get(at, "/metrics").await.expect("it answers");
    assert_eq!(metrics.code, 200, "{metrics:?}");
    metrics.text
}

#[tokio::test]
async fn slots_of_all_workers() {
    let (prometheus, _provider, otel) = measured();
    let gate = Gate::closed();
    let mut harness = Harness::new(|worker| {
        let worker = worker.interceptor(otel.clone()).workflow(held(&gate));
        observed(worker.concurrency(3), &prometheus)
    })
    .await;
    let mut idle = harness.another_worker(|worker| {
        let workflow = SLEEPS.implement(|_, ()| async { Ok(()) });
        let worker = worker.interceptor(otel.clone()).workflow(workflow);
        worker.concurrency(4)
    });
    let slots = async |state| {
        let text = scrape(harness.worker.as_ref().unwrap()).await;
        value(&text, "workflow_worker_slots", &[("state", state)])
    };
    wait_until("both are at work", || async {
        slots("free").await == Some(7.0)
    })
    .await;
    assert_eq!(slots("used").await, Some(0.0));
    for _ in 0..5 {
        harness.start(&PLAIN, ()).await;
    }
    gate.reached_by(3).await;
    assert_eq!(slots("used").await, Some(3.0));
    assert_eq!(slots("free").await, Some(4.0));
    idle.stop().await.unwrap();
    assert_eq!(slots("used").await, Some(3.0));
    assert_eq!(slots("free").await, Some(0.0));
    gate.open();
    wait_until("all are done", || async {
        slots("used").await == Some(0.0)
    })
    .await;
    harness.stop().await;
    let text = prometheus.scrape().unwrap();
    assert_eq!(
        value(&text, "workflow_worker_slots", &[("state", "free")]),
        None
    );
}

#[tokio::test]
async fn the_queue() {
    let (prometheus, _provider, otel) = measured();
    let gate = Gate::closed();
    let mut harness = Harness::new(|worker| {
        let sleeps = SLEEPS.implement(|wf, ()| async move { wf.sleep("long", "1 day").await });
        worker.workflow(held(&gate)).workflow(sleeps)
    })
    .await;
    for _ in 0..3 {
        harness.start(&NOBODYS, ()).await;
    }
    harness.advance(Duration::from_secs(3600)).await;
    harness.start(&NOBODYS, ()).await;
    for _ in 0..2 {
        let delayed = harness.client.start(&NOBODYS, &());
        delayed.delay("2 days").await.unwrap();
    }
    for _ in 0..5 {
        let run = harness.start(&SLEEPS, ()).await;
        harness.parked(run.id(), 1).await;
    }
    harness.start(&PLAIN, ()).await;
    gate.reached_by(1).await;
    let canceled = harness.start(&NOBODYS, ()).await;
    harness.client.cancel(canceled.id()).await.unwrap();

    let observer = |counts| {
        harness.another_worker(|worker| {
            let workflow = WorkflowSpec::<(), ()>::new("other").implement(|_, ()| async { Ok(()) });
            let worker = worker.interceptor(otel.clone()).workflow(workflow);
            observed(worker.count_queue(counts), &prometheus)
        })
    };
    let mut unasked = observer(false);
    let text = scrape(&unasked).await;
    assert!(
        !text.contains("workflow_queue"),
        "one has to ask for it: {text}"
    );
    unasked.stop().await.unwrap();

    // Two that count the same queue are one reader.
    let worker = observer(true);
    let _another = observer(true);
    wait_until("the queue was read", || async {
        scrape(&worker).await.contains("workflow_queue_depth")
    })
    .await;
    let text = scrape(&worker).await;
    let depth = |state| value(&text, "workflow_queue_depth", &[("state", state)]);
    assert_eq!(depth("due"), Some(4.0));
    assert_eq!(depth("scheduled"), Some(2.0));
    assert_eq!(depth("waiting"), Some(5.0));
    assert_eq!(depth("running"), Some(1.0));
    let oldest = value(&text, "workflow_queue_oldest_seconds", &[]).unwrap();
    assert!((3600.0..3700.0).contains(&oldest), "{oldest}");
    for status in ["pending", "running", "completed", "failed", "canceled"] {
        let sql = format!("SELECT count(*) FROM workflow_runs WHERE status = '{status}'");
        let counted = harness.query(&sql).await;
        let counted: f64 = counted[0][0].as_ref().unwrap().parse().unwrap();
        let line = format!("openworkflow_workflow_runs{{status=\"{status}\"}} {counted}");
        assert!(text.lines().any(|told| told == line), "{line}: {text}");
    }
    assert!(text.contains("# TYPE openworkflow_workflow_runs gauge"));
    gate.open();
    harness.stop().await;
}

#[tokio::test]
async fn runs_that_fail_for_their_deadline_while_nobody_executes_them() {
    let (prometheus, _provider, otel) = measured();
    let mut harness = Harness::new(|worker| {
        let workflow = PLAIN.implement(|_, ()| async { Ok(()) });
        worker.interceptor(otel).workflow(workflow)
    })
    .await;
    let start = harness.client.start(&NOBODYS, &());
    let run = start.deadline("10 minutes").await.unwrap();
    harness.advance(Duration::from_secs(3600)).await;
    harness.failure(&run).await;
    let labels = [
        ("error_type", "deadline_exceeded"),
        ("workflow_name", "nobodys"),
        ("workflow_run_status", "failed"),
    ];
    wait_until("its end is measured", || async {
        let text = prometheus.scrape().unwrap();
        value(&text, "workflow_duration_seconds_count", &labels) == Some(1.0)
    })
    .await;
    harness.stop().await;
    let text = prometheus.scrape().unwrap();
    let age = value(&text, "workflow_duration_seconds_sum", &labels).unwrap();
    assert!((3600.0..3700.0).contains(&age), "{age}");
    assert_eq!(
        value(&text, "workflow_duration_seconds_count", &labels),
        Some(1.0)
    );
}

#[tokio::test]
async fn connections_of_the_pool() {
    let (prometheus, _provider, otel) = measured();
    let harness = Harness::new(|worker| {
        let workflow = PLAIN.implement(|_, ()| async { Ok(()) });
        observed(worker.interceptor(otel).workflow(workflow), &prometheus)
    })
    .await;
    harness.complete(&PLAIN, ()).await;
    let text = scrape(harness.worker.as_ref().unwrap()).await;
    let url = harness.url();
    let of = |state: &str| {
        let lines = text.lines().filter(|line| {
            line.starts_with("db_client_connection_count{")
                && line.contains(&format!("db_client_connection_state=\"{state}\""))
        });
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum::<f64>()
    };
    if url.starts_with("sqlite:") {
        assert!(!text.contains("db_client_connection_count"), "{text}");
    } else {
        assert!(of("idle") + of("used") >= 1.0, "{text}");
        assert!(!text.contains("sesame"), "no password");
    }
}
