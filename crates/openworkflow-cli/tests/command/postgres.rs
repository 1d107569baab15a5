//! The same on PostgreSQL.

use std::time::Duration;

use openworkflow::{Client, Clock, Postgres};
use serde_json::json;

use crate::postgres_server;
use crate::program::{Ran, run, run_with, settings};
use crate::site;

struct Server {
    url: String,
    schema: String,
}

impl Server {
    fn run(&self, args: &[&str]) -> Ran {
        let place = ["--database", &self.url, "--schema", &self.schema];
        run(&[&place, args].concat())
    }
}

// Beside the worker, which this thread does not wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_from_its_start_to_its_trace() {
    let server = Server {
        url: postgres_server::url(),
        schema: postgres_server::schema(),
    };
    let missing = server.run(&["runs"]);
    let (url, schema) = (&*server.url, &*server.schema);
    let hidden = |text: String| text.replace(schema, "[schema]");
    let mut settings = settings();
    settings.add_filter(r"127\.0\.0\.1:\d+", "[server]");
    settings.bind(|| insta::assert_snapshot!("postgres_no_schema", hidden(missing.told())));
    let rows = postgres_server::client().await;
    let made = rows
        .query("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&schema])
        .await;
    assert!(
        made.expect("the server answers").is_empty(),
        "a look made the schema"
    );

    let options = Postgres::options().url(url).schema(schema);
    let store = options.connect().await.expect("the schema opens");
    let worker = site::worker(store.clone(), Clock::manual(std::time::SystemTime::now()));
    let mut worker = worker.start();
    let variables = [
        ("OPENWORKFLOW_POSTGRES_URL", url),
        ("OPENWORKFLOW_SCHEMA", schema),
    ];
    let start = [
        "run",
        "start",
        "process-order",
        "--version",
        "2",
        "--input",
        "7",
    ];
    let id = run_with(&start, &variables, "").ok();
    let id = id.trim();
    let sent = server
        .run(&["signal", "confirmed:7", "\"yes\"", "--within", "50s"])
        .ok();
    assert_eq!(sent.trim(), id);
    let client = Client::new(store.clone());
    let asleep = async {
        while !server
            .run(&["run", "show", id])
            .ok()
            .contains("waits for cooldown")
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, asleep)
        .await
        .unwrap_or_else(|_| panic!("awake: {}", server.run(&["trace", id]).told()));
    server.run(&["run", "cancel", id]).ok();
    assert_eq!(server.run(&["run", "await", id]).code, 1);
    let failed = server.run(&["run", "start", "broken", "--json"]).objects();
    let failed = failed[0]["id"].as_str().expect("an id").to_owned();
    let ended = server.run(&["run", "await", &failed, "--timeout", "50s"]);
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("CardError: declined"),
        "{}",
        ended.stderr
    );
    worker.stop().await.expect("it stops");
    assert_eq!(client.count_runs().await.expect("it counts").failed, 1);

    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "[time]");
    let runs = server.run(&["runs", "--json", "--payloads"]);
    let steps = server.run(&["steps", id, "--json", "--payloads"]);
    settings.bind(|| {
        insta::assert_snapshot!("postgres_runs", runs.told());
        insta::assert_snapshot!("postgres_steps", steps.told());
    });
    let stats = server.run(&["stats", "--json"]).objects();
    assert_eq!(stats[0]["canceled"], json!(1));
    let told = server.run(&["trace", id, "--children"]).ok();
    for (name, outcome) in [
        ("validate-order", "ok"),
        ("fulfill-shipment", "ok"),
        ("  reserve-inventory", "ok"),
        ("confirmed:7", "ok"),
        ("cooldown", "abandoned"),
    ] {
        let is_row = |line: &str| line.starts_with(name) && line.ends_with(outcome);
        assert!(told.lines().any(is_row), "{name}: {told}");
    }
    store.drop_schema(schema).await.expect("it is ours");
}

#[test]
fn a_server_that_is_not_there_is_said() {
    // Nobody listens there.
    let ran = run(&[
        "runs",
        "--database",
        "postgresql://me:secret@127.0.0.1:1/db",
    ]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("remedy:") && !ran.stderr.contains("secret"),
        "{}",
        ran.stderr
    );
}
