//! What is logged of runs on a real database, through the layers that applications use: whole logs, event by
//! event with the ids of each. `docs/logs.md` is what they promise.

mod init;
mod order;
mod payloads;
mod replay;
mod selection;

use std::time::Duration;

use openworkflow::otel::{OtelInterceptor, OtelInterceptorBuilder};
use openworkflow::{WorkerBuilder, Workflow};
use openworkflow_tests::{Logbook, SqliteDatabase};
use serde_json::Value;

type Harness = openworkflow_tests::Harness<SqliteDatabase>;

const HOUR: Duration = Duration::from_secs(3600);

/// A client and a worker with an interceptor whose spans are in the book.
async fn harness(
    otel: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder,
    worker: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
) -> (Harness, &'static Logbook) {
    let book = Logbook::open();
    let otel = otel(OtelInterceptor::builder().tracer_provider(&book.spans.provider())).build();
    let harness = Harness::with_client(
        |client| client.interceptor(otel.clone()),
        |builder| worker(builder.interceptor(otel.clone())),
    );
    (harness.await, book)
}

async fn with(workflow: Workflow) -> (Harness, &'static Logbook) {
    harness(|otel| otel, |worker| worker.workflow(workflow)).await
}

/// What an event is called: its name, or else its message.
fn title(line: &Value) -> String {
    let title = line.get("event.name").unwrap_or(&line["fields"]["message"]);
    title.as_str().unwrap_or_default().to_owned()
}

/// The titles of the events that the test's own code logs, with the step that they are in.
fn own(lines: &[Value]) -> Vec<String> {
    let own = lines.iter().filter(|line| line["target"] != "openworkflow");
    own.map(|line| match line.get("step.name") {
        Some(step) => format!("{} [{}]", title(line), step.as_str().unwrap_or_default()),
        None => title(line),
    })
    .collect()
}
