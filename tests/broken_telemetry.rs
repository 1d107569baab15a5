//! Whatever is wrong with telemetry, the database holds what it would hold without any, and nobody
//! waits for it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use openworkflow::backend::RunStatus;
use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::opentelemetry::Context;
use openworkflow::otel::opentelemetry::propagation::text_map_propagator::FieldIter;
use openworkflow::otel::opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use openworkflow::otel::opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use openworkflow::otel::opentelemetry_sdk::trace::{
    SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use openworkflow::otel::testing::SpanCollector;
use openworkflow::{Client, Clock, Sqlite, Worker};
use openworkflow_examples::{Order, PROCESS_ORDER, confirm, fulfill_shipment, process_order};

/// What is left of a run when ids and times are taken away.
#[derive(Debug, PartialEq, Eq)]
struct Rows {
    runs: Vec<(String, String, u32, String)>,
    steps: Vec<(String, String, String, String, String)>,
}

/// Runs process-order to its end and returns what the database then holds.
async fn rows(otel: Option<OtelInterceptor>) -> Rows {
    let folder = tempfile::tempdir().unwrap();
    // Time flies, so that nobody waits for the pauses of the workflow; the lease is as long.
    let clock = Clock::manual(SystemTime::now());
    let ticking = clock.clone();
    let ticker = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ticking.advance(Duration::from_millis(50));
        }
    });
    let options = Sqlite::options().clock(clock);
    let store = options.open(folder.path().join("orders.db")).await.unwrap();
    let stranger = Client::new(store.clone());
    let mut client = Client::builder(store.clone());
    let mut worker = Worker::builder(store)
        .workflow(process_order(Duration::from_millis(20)))
        .workflow(fulfill_shipment())
        .lease(Duration::from_secs(86_400));
    if let Some(otel) = otel {
        client = client.interceptor(otel.clone());
        worker = worker.interceptor(otel);
    }
    let mut worker = worker.build().unwrap().start();
    let order = Order::sample();
    let work = async {
        let run = client.build().start(&PROCESS_ORDER, &order).await.unwrap();
        confirm(&stranger, &order).await.unwrap();
        run.result().await.unwrap();
    };
    // Far more than it takes, far less than a blocked exporter's for ever.
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .expect("nobody waits for telemetry");
    worker.stop().await.unwrap();
    ticker.abort();
    kept(&stranger).await
}

async fn kept(client: &Client) -> Rows {
    let mut rows = Rows {
        runs: Vec::new(),
        steps: Vec::new(),
    };
    for run in client.list_runs().await.unwrap().items {
        rows.runs.push((
            run.workflow_name.clone(),
            run.status.to_string(),
            run.attempts,
            run.output.expose().to_owned(),
        ));
        for step in client.list_steps(run.id).await.unwrap().items {
            let error = step
                .error
                .map(|error| error.to_string())
                .unwrap_or_default();
            rows.steps.push((
                step.step_name,
                step.kind.to_string(),
                step.status.to_string(),
                step.output.expose().to_owned(),
                error,
            ));
        }
    }
    rows.runs.sort();
    rows.steps.sort();
    rows
}

async fn assert_harmless(otel: OtelInterceptor) {
    let without = rows(None).await;
    assert_eq!(without.steps.len(), 8, "there is something to compare");
    assert_eq!(rows(Some(otel)).await, without);
}

fn with(provider: &SdkTracerProvider) -> OtelInterceptor {
    OtelInterceptor::builder().tracer_provider(provider).build()
}

/// An exporter that does anything but export.
#[derive(Debug)]
enum BadExporter {
    Panics,
    Fails,
    BlocksForever(Arc<AtomicBool>),
}

impl SpanExporter for BadExporter {
    async fn export(&self, _batch: Vec<SpanData>) -> OTelSdkResult {
        match self {
            Self::Panics => panic!("the exporter panics"),
            Self::Fails => Err(OTelSdkError::InternalFailure(
                "the exporter fails".to_owned(),
            )),
            Self::BlocksForever(blocked) => {
                blocked.store(true, Ordering::Relaxed);
                loop {
                    std::thread::park();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_panics() {
    let batch = SdkTracerProvider::builder()
        .with_batch_exporter(BadExporter::Panics)
        .build();
    assert_harmless(with(&batch)).await;
    // The simple processor exports on the thread that ends the span.
    let simple = SdkTracerProvider::builder()
        .with_simple_exporter(BadExporter::Panics)
        .build();
    let otel = with(&simple);
    assert_harmless(otel.clone()).await;
    assert!(otel.losses().panics > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_fails() {
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(BadExporter::Fails)
        .build();
    assert_harmless(with(&provider)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_blocks_for_ever() {
    let blocked = Arc::new(AtomicBool::new(false));
    let exporter = BadExporter::BlocksForever(Arc::clone(&blocked));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .build();
    // Blocks the exporter's thread before the first span of ours.
    use openworkflow::otel::opentelemetry::trace::{Tracer, TracerProvider};
    provider.tracer("app").in_span("first", |_| {});
    let flushing = provider.clone();
    std::thread::spawn(move || flushing.force_flush());
    while !blocked.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
    assert_harmless(with(&provider)).await;
    // Dropping it would wait for the thread that never comes back.
    std::mem::forget(provider);
}

#[derive(Debug)]
struct PanickingPropagator;

impl TextMapPropagator for PanickingPropagator {
    fn inject_context(&self, _: &Context, _: &mut dyn Injector) {
        panic!("the propagator panics");
    }

    fn extract_with_context(&self, _: &Context, _: &dyn Extractor) -> Context {
        panic!("the propagator panics");
    }

    fn fields(&self) -> FieldIter<'_> {
        panic!("the propagator panics");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_propagator_that_panics() {
    let provider = SpanCollector::new().provider();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .propagator(PanickingPropagator)
        .build();
    assert_harmless(otel.clone()).await;
    assert!(otel.losses().panics > 0);
}

/// Panics at the start or at the end of a span. One that does both aborts the process inside the SDK,
/// which ends a span while it unwinds from its start; nobody outside can prevent that.
#[derive(Debug, PartialEq)]
enum PanickingProcessor {
    AtStart,
    AtEnd,
}

impl SpanProcessor for PanickingProcessor {
    fn on_start(&self, _: &mut Span, _: &Context) {
        assert_ne!(*self, Self::AtStart, "the processor panics");
    }

    fn on_end(&self, _: SpanData) {
        assert_ne!(*self, Self::AtEnd, "the processor panics");
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_panics() {
    for processor in [PanickingProcessor::AtStart, PanickingProcessor::AtEnd] {
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .build();
        let otel = with(&provider);
        assert_harmless(otel.clone()).await;
        assert!(otel.losses().spans > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_was_shut_down() {
    let provider = SpanCollector::new().provider();
    provider.shutdown().unwrap();
    assert_harmless(with(&provider)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_sdk_at_all() {
    assert_harmless(OtelInterceptor::default()).await;
}

#[tokio::test]
async fn a_current_thread_runtime_with_flush_and_shutdown() {
    let spans = SpanCollector::new();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(spans.clone())
        .build();
    let without = rows(None).await;
    assert_eq!(rows(Some(with(&provider))).await, without);
    provider.force_flush().unwrap();
    provider.shutdown().unwrap();
    spans.assert_sound();
    assert_eq!(spans.spans().len(), 17, "all but the caller's");
}

/// Executes a run whose column `context` holds `context`.
async fn with_context(context: &str) -> (SpanCollector, OtelInterceptor) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.db");
    let store = Sqlite::open(&path).await.unwrap();
    let client = Client::new(store.clone());
    let run = client
        .start(&openworkflow_examples::FULFILL_SHIPMENT, &"1".to_owned())
        .await
        .unwrap();
    overwrite(&path, context);

    let spans = SpanCollector::new();
    let otel = with(&spans.provider());
    let worker = Worker::builder(store)
        .workflow(fulfill_shipment())
        .interceptor(otel.clone());
    let mut worker = worker.build().unwrap().start();
    assert_eq!(run.result().await.unwrap().tracking, "1-B7");
    worker.stop().await.unwrap();
    assert_eq!(run.describe().await.unwrap().status, RunStatus::Completed);
    assert_eq!(
        read(&path),
        context,
        "what somebody else wrote is preserved"
    );
    spans.assert_sound();
    (spans, otel)
}

fn overwrite(path: &Path, context: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    let changed = connection
        .execute("UPDATE workflow_runs SET context = ?1", [context])
        .unwrap();
    assert_eq!(changed, 1);
}

fn read(path: &Path) -> String {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .query_row("SELECT context FROM workflow_runs", [], |row| row.get(0))
        .unwrap()
}

const TREE: &str = "
    workflow.execute fulfill-shipment
    ├── step.run reserve-inventory
    └── step.run dispatch-courier
";

#[tokio::test(flavor = "multi_thread")]
async fn carriers_that_cannot_be_read() {
    let garbage = "00-zz-zz-zz";
    let megabyte = format!("k={}", "v".repeat(1 << 20));
    for (context, lost) in [
        ("42".to_owned(), true),
        ("[1,2]".to_owned(), true),
        ("{\"telemetry\":".to_owned(), true),
        (r#"{"telemetry":42}"#.to_owned(), true),
        (r#"{"telemetry":[]}"#.to_owned(), true),
        (r#"{"telemetry":{"traceparent":7}}"#.to_owned(), true),
        (
            format!(r#"{{"telemetry":{{"traceparent":"{garbage}"}}}}"#),
            true,
        ),
        (
            format!(r#"{{"telemetry":{{"baggage":"{megabyte}"}}}}"#),
            true,
        ),
        (
            r#"{"somebody":"else","traceContext":null}"#.to_owned(),
            false,
        ),
    ] {
        let shown = context.chars().take(60).collect::<String>();
        let (spans, otel) = with_context(&context).await;
        // A trace of its own, with nothing missing.
        spans.tree().assert_eq(TREE);
        assert_eq!(
            otel.losses().carriers > 0,
            lost,
            "{shown}: {:?}",
            otel.losses()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carriers_that_can_be_read_nevertheless() {
    let id = "0af7651916cd43dd8448eb211c80319c";
    let header = format!("00-{id}-b7ad6b7169203331-01");
    for context in [
        format!(r#"{{"traceContext":{{"traceparent":"{header}"}}}}"#),
        format!(r#"{{"telemetry":{{"TraceParent":"{header}"}},"other":1}}"#),
        format!(r#"{{"telemetry":{{"traceparent":"x","traceparent":"{header}"}}}}"#),
        format!(r#"{{"telemetry":{{"traceparent":"{header}","number":1}}}}"#),
        format!(r#"{{"telemetry":42,"traceContext":{{"traceparent":"{header}"}}}}"#),
    ] {
        let (spans, _) = with_context(&context).await;
        for span in spans.spans() {
            assert_eq!(span.span_context.trace_id().to_string(), id, "{context}");
        }
        assert_eq!(spans.spans().len(), 3, "{context}");
    }
}
