//! The application's own telemetry inside a step: spans of the OpenTelemetry API, spans and events of
//! the `tracing` crate, a spawned task, and the headers of an outgoing request. All of it belongs to
//! the step.

use std::collections::HashMap;
use std::error::Error;

use openworkflow::otel::opentelemetry::global;
use openworkflow::otel::opentelemetry::propagation::TextMapPropagator;
use openworkflow::otel::opentelemetry::trace::{FutureExt, Tracer, TracerProvider};
use openworkflow::otel::opentelemetry_sdk::propagation::TraceContextPropagator;
use openworkflow::otel::opentelemetry_sdk::trace::SdkTracerProvider;
use openworkflow::otel::testing::SpanCollector;
use openworkflow::otel::{OtelInterceptor, RunAttributesProcessor, tracing_layer};
use openworkflow::{Client, Sqlite, Worker, WorkflowSpec};
use tracing::Instrument;
use tracing_subscriber::prelude::*;

static ENROLL: WorkflowSpec<String, String> = WorkflowSpec::new("enroll");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let spans = SpanCollector::new();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(RunAttributesProcessor::new()) // workflow and step on every span below
        .with_span_processor(spans.clone())
        .build();
    global::set_tracer_provider(provider.clone());
    tracing_subscriber::registry()
        .with(tracing_layer(&provider))
        .init();

    let otel = OtelInterceptor::default(); // the global provider
    let folder = tempfile::tempdir()?;
    let store = Sqlite::open(folder.path().join("enroll.db")).await?;
    let client = Client::builder(store.clone())
        .interceptor(otel.clone())
        .build();
    let mut worker = Worker::builder(store)
        .workflow(ENROLL.implement(|wf, name: String| async move {
            wf.run("greet", || async {
                let tracer = global::tracer_provider().tracer("app");
                tracer.in_span("choose greeting", |_| {});
                compose(&name).await;
                // A spawned task begins without a context, unless it is handed on.
                let task = async { tracing::info_span!("write letter").in_scope(|| {}) };
                tokio::spawn(task.with_current_context()).await?;
                Ok(headers_of_outgoing_request())
            })
            .await
        }))
        .interceptor(otel)
        .build()?
        .start();

    let request = tracing::info_span!("app.enroll.handler");
    let traceparent = async {
        client
            .start(&ENROLL, &"Ada".to_owned())
            .await?
            .result()
            .await
    }
    .instrument(request)
    .await?;
    worker.stop().await?;

    println!(
        "{}",
        spans.tree().attributes(["workflow.name", "step.name"])
    );
    println!("The outgoing request would carry\ntraceparent: {traceparent}");
    Ok(())
}

#[tracing::instrument]
async fn compose(name: &str) {
    tracing::info!(length = name.len(), "composing");
}

/// What an instrumented HTTP client sends along; made by hand here.
fn headers_of_outgoing_request() -> String {
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject(&mut headers);
    headers.remove("traceparent").unwrap_or_default()
}
