//! Each check, made to fail for real and to be well again.

use std::sync::Arc;
use std::time::Duration;

use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::export::{Signal, Telemetry};
use openworkflow::otel::opentelemetry_sdk::trace::SdkTracerProvider;
use openworkflow::{
    Error, HealthCheck, HealthLimits, HealthReport, HealthStatus, WorkerHandle, WorkflowSpec,
};
use openworkflow_tests::{Database, Gate, wait_for, wait_until};

use super::{Harness, PLAIN, address, get, held};

static FAILS: WorkflowSpec<bool, ()> = WorkflowSpec::new("fails");

pub(crate) fn limits(change: impl FnOnce(&mut HealthLimits)) -> HealthLimits {
    let mut limits = HealthLimits::default();
    change(&mut limits);
    limits
}

/// Waits until a check is found as wanted.
pub(crate) async fn found(
    worker: &WorkerHandle,
    name: &str,
    wanted: HealthStatus,
) -> (HealthCheck, HealthReport) {
    let health = worker.health();
    wait_for(&format!("{name} is {wanted}"), || async {
        let report = health.report().await;
        let check = report.check(name).cloned()?;
        (check.status == wanted).then_some((check, report))
    })
    .await
}

#[tokio::test]
async fn executions_that_fail() {
    let mut harness = Harness::new(|worker| {
        worker.workflow(FAILS.implement(|_, fails: bool| async move {
            match fails {
                true => Err(Error::new("Declined", "no money left").non_retryable()),
                false => Ok(()),
            }
        }))
    })
    .await;
    for _ in 0..17 {
        harness.complete(&FAILS, false).await;
    }
    for _ in 0..2 {
        let run = harness.start(&FAILS, true).await;
        harness.failure(&run).await;
    }
    let worker = harness.worker.as_ref().unwrap();
    let errors = || async { worker.health().report().await.check("errors").cloned() };
    wait_until("19 have ended", || async {
        errors().await.unwrap().reason.starts_with("2 of 19 ")
    })
    .await;
    let few = errors().await.unwrap();
    assert_eq!(
        few.status,
        HealthStatus::Healthy,
        "they are too few: {few:?}"
    );
    harness.complete(&FAILS, false).await;
    let (errors, report) = found(worker, "errors", HealthStatus::Degraded).await;
    assert!(
        errors.reason.starts_with("2 of 20 executions"),
        "{errors:?}"
    );
    assert_eq!(report.status, HealthStatus::Degraded);
    assert!(report.is_ready(), "somebody should look, and that is all");
    for _ in 0..20 {
        harness.complete(&FAILS, false).await;
    }
    found(worker, "errors", HealthStatus::Healthy).await;
    harness.stop().await;
}

#[tokio::test]
async fn a_lease_that_was_lost() {
    let gate = Gate::closed();
    let mut harness = Harness::new(|worker| {
        let workflow = held(&gate);
        let limits = limits(|limits| limits.lease_lost = Duration::from_secs(5));
        worker.workflow(workflow).health_limits(limits)
    })
    .await;
    let run = harness.start(&PLAIN, ()).await;
    gate.reached_by(1).await;
    let worker = harness.worker.as_ref().unwrap();
    found(worker, "leases", HealthStatus::Healthy).await;
    let steal = format!(
        "UPDATE workflow_runs SET worker_id = 'another' WHERE id = '{}'",
        run.id()
    );
    harness.execute(&steal).await;
    gate.open();
    let (leases, report) = found(worker, "leases", HealthStatus::Degraded).await;
    assert!(leases.reason.contains("lease was lost"), "{leases:?}");
    assert_eq!(report.status, HealthStatus::Degraded);
    found(worker, "leases", HealthStatus::Healthy).await;
    harness.stop().await;
}

#[tokio::test]
async fn a_run_that_was_canceled_is_no_lost_lease() {
    let gate = Gate::closed();
    let passed = gate.clone();
    let mut harness = Harness::new(|worker| {
        worker.workflow(PLAIN.implement(move |wf, ()| {
            let gate = passed.clone();
            async move {
                let body = || async {
                    gate.pass().await;
                    Ok(())
                };
                wf.run("held", body).await
            }
        }))
    })
    .await;
    let run = harness.start(&PLAIN, ()).await;
    gate.reached_by(1).await;
    harness.client.cancel(run.id()).await.unwrap();
    gate.open();
    let worker = harness.worker.as_ref().unwrap();
    let health = worker.health();
    wait_until("the execution ended", || async {
        let report = health.report().await;
        report
            .check("errors")
            .unwrap()
            .reason
            .starts_with("0 of 1 ")
    })
    .await;
    found(worker, "leases", HealthStatus::Healthy).await;
    harness.stop().await;
}

#[tokio::test]
async fn claims_that_fail() {
    let limits = limits(|limits| limits.claiming = Duration::from_millis(1500));
    let mut harness = Harness::new(|worker| {
        let workflow = PLAIN.implement(|_, ()| async { Ok(()) });
        let worker = worker.workflow(workflow).health_limits(limits);
        worker.observe("127.0.0.1:0")
    })
    .await;
    let at = address(&harness.worker);
    let worker = harness.worker.as_ref().unwrap();
    harness.complete(&PLAIN, ()).await;
    found(worker, "claiming", HealthStatus::Healthy).await;
    harness
        .execute("ALTER TABLE workflow_runs RENAME TO mislaid_runs")
        .await;
    let (claiming, report) = found(worker, "claiming", HealthStatus::Unhealthy).await;
    assert!(
        claiming.reason.contains("no claim succeeded") && claiming.reason.contains("workflow_runs"),
        "{claiming:?}"
    );
    let database = report.check("database").unwrap();
    assert_eq!(database.status, HealthStatus::Healthy, "it answers");
    assert!(!report.is_ready());
    let ready = get(at, "/health/ready").await.unwrap();
    assert_eq!((ready.code, &*ready.text), (503, "unhealthy\n"));
    assert_eq!(get(at, "/health/live").await.unwrap().code, 200);
    assert_eq!(get(at, "/health").await.unwrap().code, 200);
    harness
        .execute("ALTER TABLE mislaid_runs RENAME TO workflow_runs")
        .await;
    found(worker, "claiming", HealthStatus::Healthy).await;
    assert_eq!(get(at, "/health/ready").await.unwrap().code, 200);
    harness.complete(&PLAIN, ()).await;
    harness.stop().await;
}

#[tokio::test]
async fn a_worker_whose_slots_are_taken_need_not_claim() {
    let gate = Gate::closed();
    let mut harness = Harness::new(|worker| {
        let workflow = held(&gate);
        let limits = limits(|limits| limits.claiming = Duration::ZERO);
        let worker = worker.concurrency(1).workflow(workflow);
        worker.health_limits(limits)
    })
    .await;
    let worker = harness.worker.as_ref().unwrap();
    // Nothing is that quick.
    found(worker, "claiming", HealthStatus::Unhealthy).await;
    harness.start(&PLAIN, ()).await;
    gate.reached_by(1).await;
    let (claiming, _) = found(worker, "claiming", HealthStatus::Healthy).await;
    assert!(claiming.reason.contains("slots are taken"), "{claiming:?}");
    gate.open();
    found(worker, "claiming", HealthStatus::Unhealthy).await;
    harness.stop().await;
}

#[tokio::test]
async fn a_database_that_is_slow() {
    let harness = Harness::new(|worker| {
        let workflow = PLAIN.implement(|_, ()| async { Ok(()) });
        let limits = limits(|limits| limits.database_slow = Duration::ZERO);
        worker.workflow(workflow).health_limits(limits)
    })
    .await;
    let worker = harness.worker.as_ref().unwrap();
    let (database, report) = found(worker, "database", HealthStatus::Degraded).await;
    assert!(database.reason.contains("round trip took"), "{database:?}");
    assert!(report.is_ready());
}

#[tokio::test]
async fn telemetry_that_is_lost() {
    let provider = SdkTracerProvider::builder().build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let losses = Arc::new(otel.clone());
    let mut harness = Harness::new(|worker| {
        let workflow = PLAIN
            .implement(|wf, ()| async move { wf.run("it", || async { Ok::<_, Error>(()) }).await });
        let limits = limits(|limits| limits.telemetry_lost = Duration::from_secs(3));
        let worker = worker.interceptor(otel).workflow(workflow);
        worker
            .health_limits(limits)
            .telemetry_losses(move || losses.losses().spans)
    })
    .await;
    let worker = harness.worker.as_ref().unwrap();
    harness.complete(&PLAIN, ()).await;
    found(worker, "telemetry", HealthStatus::Healthy).await;
    provider.shutdown().unwrap();
    // What the provider does not take is noticed where there is a parent.
    let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let run = harness.client.start(&PLAIN, &()).traceparent(caller);
    harness.output(&run.await.unwrap()).await;
    let (telemetry, report) = found(worker, "telemetry", HealthStatus::Degraded).await;
    assert!(telemetry.reason.contains("was lost"), "{telemetry:?}");
    assert!(report.is_ready(), "workflows go on");
    found(worker, "telemetry", HealthStatus::Healthy).await;
    harness.stop().await;
}

/// A receiver that is away: the queue is soon full, and the worker's health tells. The count outlives the
/// export.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_loses_spans() {
    let telemetry = Telemetry::builder()
        // Nobody listens on that port.
        .endpoint("http://127.0.0.1:9")
        .max_queue_size(8)
        .max_batch_size(8)
        .build()
        .unwrap();
    let lost = telemetry.losses();
    let mut harness = Harness::new(|worker| {
        let workflow = PLAIN
            .implement(|wf, ()| async move { wf.run("it", || async { Ok::<_, Error>(()) }).await });
        let limits = limits(|limits| limits.telemetry_lost = Duration::from_secs(3));
        let worker = worker.interceptor(telemetry.interceptor());
        worker
            .workflow(workflow)
            .health_limits(limits)
            .telemetry_losses(telemetry.losses())
    })
    .await;
    let worker = harness.worker.as_ref().unwrap();
    found(worker, "telemetry", HealthStatus::Healthy).await;
    assert_eq!(lost(), 0);
    for _ in 0..20 {
        harness.complete(&PLAIN, ()).await;
    }
    let (check, report) = found(worker, "telemetry", HealthStatus::Degraded).await;
    assert!(check.reason.contains("was lost"), "{check:?}");
    assert!(report.is_ready(), "workflows go on");
    found(worker, "telemetry", HealthStatus::Healthy).await;
    harness.stop().await;
    let dropped = lost();
    let report = telemetry.shutdown(Duration::from_secs(2)).await;
    let signals = [Signal::Traces, Signal::Metrics, Signal::Logs];
    let reported = signals.map(|signal| report.of(signal).stats.lost());
    assert_eq!(lost(), reported.iter().sum::<u64>());
    assert!(lost() > dropped, "what was in the queue is lost, too");
}

#[tokio::test]
async fn many_who_ask_at_once() {
    let harness =
        Harness::new(|worker| worker.workflow(PLAIN.implement(|_, ()| async { Ok(()) }))).await;
    let health = harness.worker.as_ref().unwrap().health();
    let reports = futures::future::join_all((0..100).map(|_| health.report())).await;
    assert!(reports.iter().all(HealthReport::is_ready), "{reports:?}");
}
