//! One order, one trace: runs the whole of `process-order` on a throw-away SQLite file under the
//! span of a request handler, and prints the trace as a tree.
//!
//! With `OTEL_EXPORTER_OTLP_ENDPOINT` set, to `http://localhost:4318` for one, the spans are also sent
//! there, as the other `OTEL_*` variables say, and have arrived when the program ends.

use std::error::Error;
use std::time::Duration;

use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::export::Telemetry;
use openworkflow::otel::opentelemetry::Context;
use openworkflow::otel::opentelemetry::trace::{
    FutureExt, SpanKind, TraceContextExt, Tracer, TracerProvider,
};
use openworkflow::otel::testing::SpanCollector;
use openworkflow::{Client, Sqlite, Worker};
use openworkflow_examples::{
    Order, PROCESS_ORDER, Receipt, confirm, fulfill_shipment, process_order,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let spans = SpanCollector::new();
    let (provider, telemetry) = if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() {
        let telemetry = Telemetry::builder()
            .service_name("orders")
            .span_processor(spans.clone())
            .init()?;
        (telemetry.tracer_provider().clone(), Some(telemetry))
    } else {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .init();
        (spans.provider(), None)
    };

    // This is all there is to it: one object, given to the client and to the worker.
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();

    let folder = tempfile::tempdir()?;
    let store = Sqlite::open(folder.path().join("orders.db")).await?;
    let client = Client::builder(store.clone())
        .interceptor(otel.clone())
        .build();
    // The customer who confirms is somebody else, and not part of this trace.
    let customer = Client::new(store.clone());
    let mut worker = Worker::builder(store)
        .workflow(process_order(Duration::from_secs(2)))
        .workflow(fulfill_shipment())
        .interceptor(otel)
        .build()?
        .start();

    // What an instrumented web framework would do around its handler.
    let tracer = provider.tracer("app");
    let span = tracer
        .span_builder("app.orders.handler")
        .with_kind(SpanKind::Server);
    let request = Context::new().with_span(span.start_with_context(&tracer, &Context::new()));
    let receipt = handle_request(&client, &customer)
        .with_context(request.clone())
        .await?;
    request.span().end();

    worker.stop().await?;
    println!("{receipt:?}\n\n{}", spans.tree());
    if let Some(telemetry) = telemetry {
        println!("{}", telemetry.shutdown(Duration::from_secs(10)).await);
    }
    Ok(())
}

async fn handle_request(client: &Client, customer: &Client) -> Result<Receipt, Box<dyn Error>> {
    let order = Order::sample();
    let run = client.start(&PROCESS_ORDER, &order).await?;
    confirm(customer, &order).await?;
    Ok(run.result().await?)
}
