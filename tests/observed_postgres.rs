//! Health and metrics over HTTP, of workers on PostgreSQL.

mod observed;

use std::time::Duration;

use openworkflow::{Clock, ClockOffset, HealthStatus, Postgres, Worker};
use openworkflow_tests::postgres_server::{self, Server};

use observed::PLAIN;
use observed::health::found;

type Db = openworkflow_tests::PostgresDatabase;

#[tokio::test]
async fn a_server_that_goes_down_and_comes_back() {
    let server = Server::start(&[]);
    let store = Postgres::connect(server.url()).await.unwrap();
    let workflow = PLAIN.implement(|_, ()| async { Ok(()) });
    let worker = Worker::builder(store).workflow(workflow).build().unwrap();
    let worker = worker.start();
    found(&worker, "database", HealthStatus::Healthy).await;
    server.command("stop");
    let (database, report) = found(&worker, "database", HealthStatus::Unhealthy).await;
    assert!(!report.is_ready(), "{database:?}");
    assert!(
        !database.reason.contains("sesame"),
        "no password: {database:?}"
    );
    server.command("start");
    found(&worker, "database", HealthStatus::Healthy).await;
}

#[tokio::test]
async fn a_machine_whose_clock_is_off() {
    let by = Duration::from_secs(7200);
    for (offset, told) in [
        (ClockOffset::Behind(by), "behind"),
        (ClockOffset::Ahead(by), "ahead"),
    ] {
        let schema = postgres_server::schema();
        let store = Postgres::options()
            .url(postgres_server::url())
            .schema(&schema)
            .clock(Clock::off_by(offset));
        let store = store.connect().await.unwrap();
        let workflow = PLAIN.implement(|_, ()| async { Ok(()) });
        let worker = Worker::builder(store).workflow(workflow).build().unwrap();
        let worker = worker.start();
        let (clock, report) = found(&worker, "clock", HealthStatus::Degraded).await;
        assert!(clock.reason.contains(told), "{clock:?}");
        assert!(report.is_ready(), "everything goes by the server's");
    }
}
