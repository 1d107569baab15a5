//! The routes, as a listener of the worker's own and inside of an application's.

use std::time::Duration;

use axum::Router;
use openworkflow::observe::{Endpoints, Observe};
use openworkflow::{HealthStatus, Worker};
use openworkflow_tests::{Database, Gate, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Harness, PLAIN, address, get, held, measured};

#[tokio::test]
async fn a_worker_tells_its_health_and_metrics() {
    let (prometheus, _provider, otel) = measured();
    let mut harness = Harness::new(|worker| {
        worker
            .interceptor(otel)
            .workflow(PLAIN.implement(|_, ()| async { Ok(()) }))
            .observe(Observe::on("127.0.0.1:0").metrics(&prometheus))
    })
    .await;
    let at = address(&harness.worker);
    harness.complete(&PLAIN, ()).await;

    let live = get(at, "/health/live").await.unwrap();
    assert_eq!((live.code, &*live.text), (200, "live\n"));
    let ready = get(at, "/health/ready").await.unwrap();
    assert_eq!((ready.code, &*ready.text), (200, "healthy\n"));
    let health = get(at, "/health").await.unwrap();
    assert_eq!(health.code, 200);
    assert_eq!(health.content_type, "application/json");
    let report: serde_json::Value = serde_json::from_str(&health.text).unwrap();
    assert_eq!(report["status"], "healthy");
    assert_eq!(report["stopping"], false);
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| &check["name"]).collect();
    assert_eq!(names, ["database", "claiming", "leases", "errors", "clock"]);

    wait_until("the execution is counted", || async {
        let metrics = get(at, "/metrics").await.unwrap();
        assert_eq!(metrics.code, 200);
        assert_eq!(
            metrics.content_type,
            "text/plain; version=0.0.4; charset=utf-8"
        );
        metrics.text.lines().any(|line| {
            line == r#"workflow_executions_total{workflow_name="plain",workflow_outcome="completed"} 1"#
        })
    })
    .await;
    assert_eq!(get(at, "/nothing").await.unwrap().code, 404);

    harness.stop().await;
    assert!(get(at, "/health/live").await.is_none(), "it has stopped");
}

#[tokio::test]
async fn a_worker_that_stops_is_live_and_not_ready() {
    let gate = Gate::closed();
    let mut harness = Harness::new(|worker| {
        let workflow = held(&gate);
        worker.workflow(workflow).observe("127.0.0.1:0")
    })
    .await;
    let at = address(&harness.worker);
    harness.start(&PLAIN, ()).await;
    gate.reached_by(1).await;
    assert_eq!(get(at, "/health/ready").await.unwrap().code, 200);

    let health = harness.worker.as_ref().unwrap().health();
    let stopped = async {
        wait_until("it is stopping", || async { health.is_stopping() }).await;
        let ready = get(at, "/health/ready").await.unwrap();
        assert_eq!((ready.code, &*ready.text), (503, "stopping\n"));
        assert_eq!(get(at, "/health/live").await.unwrap().code, 200);
        let report = health.report().await;
        assert!(report.stopping && !report.is_ready());
        assert_eq!(report.status, HealthStatus::Healthy);
        gate.open();
    };
    let mut worker = harness.worker.take().unwrap();
    let (ended, ()) = tokio::join!(worker.stop(), stopped);
    ended.unwrap();
    assert!(health.is_stopping(), "for good");
}

/// Who keeps a connection keeps nothing of a worker that is gone.
#[tokio::test]
async fn connections_end_with_the_worker() {
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(PLAIN.implement(|_, ()| async { Ok(()) }))
            .observe("127.0.0.1:0")
    })
    .await;
    let at = address(&harness.worker);
    let mut kept = TcpStream::connect(at).await.unwrap();
    let request = "GET /health/live HTTP/1.1\r\nhost: worker\r\n\r\n";
    kept.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    kept.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    harness.stop().await;
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(60), kept.read_to_end(&mut rest));
    closed.await.expect("it is closed").unwrap();
    assert!(rest.ends_with(b"live\n"), "{rest:?}");
    // So the port is free for the next.
    std::net::TcpListener::bind(at).unwrap();
}

#[tokio::test]
async fn metrics_that_nobody_takes() {
    let harness = Harness::new(|worker| {
        worker
            .workflow(PLAIN.implement(|_, ()| async { Ok(()) }))
            .observe("127.0.0.1:0")
    })
    .await;
    let none = get(address(&harness.worker), "/metrics").await.unwrap();
    assert_eq!(none.code, 404);
    assert!(none.text.contains("no metrics"), "{none:?}");

    // With a reader that no provider has.
    let unused = openworkflow::otel::Prometheus::new();
    let other = harness.another_worker(|worker| {
        worker
            .workflow(PLAIN.implement(|_, ()| async { Ok(()) }))
            .observe(Observe::on("127.0.0.1:0").metrics(&unused))
    });
    let failed = get(other.observed_at().unwrap(), "/metrics").await.unwrap();
    assert_eq!(failed.code, 500);
    assert!(failed.text.contains("with_reader"), "{failed:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_when_the_worker_is_built() {
    let harness = Harness::idle().await;
    let build = |address: String| {
        Worker::builder(harness.db.store())
            .workflow(PLAIN.implement(|_, ()| async { Ok(()) }))
            .observe(address)
            .build()
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = build(address.clone()).unwrap_err().to_string();
    assert!(error.contains(&address), "{error}");
    assert!(error.contains("take another"), "{error}");
    drop(taken);
    build(address).unwrap();
    let error = build("nonsense".to_owned()).unwrap_err().to_string();
    assert!(error.contains("0.0.0.0:9464"), "{error}");
}

#[tokio::test]
async fn routes_in_an_application_of_its_own() {
    let (prometheus, _provider, otel) = measured();
    let harness = Harness::new(|worker| {
        worker
            .interceptor(otel)
            .workflow(PLAIN.implement(|_, ()| async { Ok(()) }))
    })
    .await;
    let worker = harness.worker.as_ref().unwrap();
    assert_eq!(worker.observed_at(), None);
    let endpoints = Endpoints::new(worker.health()).metrics(&prometheus);
    let app = Router::new().nest("/ops", endpoints.router());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let serving = tokio::spawn(axum::serve(listener, app).into_future());
    assert_eq!(get(at, "/ops/health/ready").await.unwrap().code, 200);
    let metrics = get(at, "/ops/metrics").await.unwrap();
    assert!(metrics.text.contains("target_info"), "{metrics:?}");
    serving.abort();
}
