//! What a worker tells of itself over HTTP: asked by a real client, on a real database.

mod endpoints;
mod gauges;
pub(crate) mod health;
mod text;

use std::net::SocketAddr;
use std::time::Duration;

use openworkflow::otel::opentelemetry_sdk::metrics::SdkMeterProvider;
use openworkflow::otel::{OtelInterceptor, Prometheus};
use openworkflow::{WorkerHandle, Workflow, WorkflowSpec};
use openworkflow_tests::Gate;

pub(crate) type Harness = openworkflow_tests::Harness<crate::Db>;

pub(crate) static PLAIN: WorkflowSpec<(), ()> = WorkflowSpec::new("plain");

/// [`PLAIN`], which comes to its end when `gate` is open.
fn held(gate: &Gate) -> Workflow {
    let gate = gate.clone();
    PLAIN.implement(move |_, ()| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Ok(())
        }
    })
}

/// A provider that Prometheus reads, and an interceptor that writes to it.
fn measured() -> (Prometheus, SdkMeterProvider, OtelInterceptor) {
    let prometheus = Prometheus::new();
    let provider = SdkMeterProvider::builder()
        .with_reader(prometheus.reader())
        .build();
    let otel = OtelInterceptor::builder().meter_provider(&provider).build();
    (prometheus, provider, otel)
}

fn address(worker: &Option<WorkerHandle>) -> SocketAddr {
    worker
        .as_ref()
        .and_then(WorkerHandle::observed_at)
        .expect("the worker is observed")
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    code: u16,
    content_type: String,
    text: String,
}

/// Asks as a client does that accepts whatever comes. `None` where nobody answers.
async fn get(address: SocketAddr, path: &str) -> Option<Answer> {
    get_as(address, path, "*/*").await
}

async fn get_as(address: SocketAddr, path: &str, accept: &str) -> Option<Answer> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(60))
        .build()
        .expect("a client can be made");
    let request = client
        .get(format!("http://{address}{path}"))
        .header("accept", accept);
    let response = request.send().await.ok()?;
    let content_type = response.headers().get("content-type");
    let content_type = content_type.map_or("", |value| value.to_str().expect("it is text"));
    Some(Answer {
        code: response.status().as_u16(),
        content_type: content_type.to_owned(),
        text: response.text().await.expect("the body comes"),
    })
}

/// The value of a series in Prometheus's text: of the one that has exactly these labels.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<_> = labels
        .iter()
        .map(|(label, value)| format!("{label}=\"{value}\""))
        .collect();
    let series = match labels.is_empty() {
        true => format!("{name} "),
        false => format!("{name}{{{}}} ", labels.join(",")),
    };
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.map(|value| value.parse().expect("it is a number"))
}
