//! What is added to an event that is logged in a run, where the event itself says some of it. A process of
//! its own, because asking for ids changes what all interceptors of the process do.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use opentelemetry::logs::AnyValue;
use opentelemetry_sdk::logs::{InMemoryLogExporter, SdkLogRecord, SdkLoggerProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde_json::{Value, json};
use support::*;
use tracing::instrument::WithSubscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, LevelFilter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use workflow_core::{ExecuteRun, Execution, Payload, StepKind, replay};
use workflow_otel::OtelInterceptor;
use workflow_otel::logs::{
    JsonRunFields, ReplayedEvents, RunFilter, RunIdsProcessor, appender_layer, json_layer,
};
use workflow_otel::testing::SpanCollector;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn values(&self) -> Vec<Value> {
        let lines = self.lines().into_iter();
        lines
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn records() -> (InMemoryLogExporter, SdkLoggerProvider) {
    let exporter = InMemoryLogExporter::default();
    let provider = SdkLoggerProvider::builder()
        .with_log_processor(RunIdsProcessor::new())
        .with_simple_exporter(exporter.clone())
        .build();
    (exporter, provider)
}

fn emitted(exporter: &InMemoryLogExporter) -> Vec<SdkLogRecord> {
    let emitted = exporter.get_emitted_logs().unwrap();
    emitted.into_iter().map(|emitted| emitted.record).collect()
}

/// The attributes of a record, in order.
fn attributes(record: &SdkLogRecord) -> Vec<(String, String)> {
    let value = |value: &AnyValue| match value {
        AnyValue::String(text) => text.to_string(),
        AnyValue::Int(number) => number.to_string(),
        AnyValue::Boolean(flag) => flag.to_string(),
        other => format!("{other:?}"),
    };
    let all = record.attributes_iter();
    all.map(|(key, v)| (key.to_string(), value(v))).collect()
}

/// Executes a run whose step does `body`.
async fn in_a_step(otel: OtelInterceptor, body: impl Fn() + Send + Sync) {
    let engine = &Engine::new(otel);
    let body = &body;
    let workflow = |e: Arc<Execution>| async move {
        let step = step(&e, "pack", StepKind::Run);
        engine
            .step(step, || async {
                body();
                done()
            })
            .await?;
        Ok(completed())
    };
    let order = run("order", "run-A");
    engine.execute(&order, 3, workflow).await.unwrap();
}

fn otel() -> OtelInterceptor {
    let spans = SpanCollector::new();
    OtelInterceptor::builder()
        .tracer_provider(&spans.provider())
        .build()
}

/// Events that say themselves what would be added, or what would collide with it.
fn self_willed() {
    tracing::info!(workflow_run.id = "run-A", "its own run");
    tracing::info!(
        name: "child.created",
        { "workflow_run.id" = %"run-B", "workflow.name" = "child" },
        "another"
    );
    tracing::info!(
        workflow_run.attempt = 9,
        step.name = "unpack",
        "as it pleases"
    );
    tracing::info!(
        trace_id = "mine",
        span_id = 7,
        event.name = "custom",
        "ids of its own"
    );
    tracing::info!(workflow_run.id = 5, "a number");
}

#[tokio::test]
async fn nothing_is_twice_in_a_line_however_it_is_formatted() {
    for flat in [false, true] {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(flat)
            .with_writer(move || writer.clone())
            .map_event_format(JsonRunFields::new);
        let subscriber = tracing_subscriber::registry().with(lines);
        in_a_step(otel(), self_willed)
            .with_subscriber(subscriber)
            .await;
        for line in buffer.lines() {
            let keys: Vec<_> = ["trace_id", "span_id", "event.name", "workflow_run.id"]
                .into_iter()
                .filter(|key| {
                    let key = format!("\"{key}\":");
                    // With the fields in an object of their own, one of these may be in there, too.
                    line.matches(&key).count() > if flat { 1 } else { 2 }
                })
                .collect();
            assert_eq!(keys, [""; 0], "{line}");
        }
        let lines = buffer.values();
        let ids = |line: &Value| {
            let keys = [
                "workflow_run.id",
                "workflow.name",
                "workflow_run.attempt",
                "step.name",
                "event.name",
            ];
            keys.map(|key| line.get(key).cloned().unwrap_or_default())
        };
        let null = Value::Null;
        let order = |id: Value| [id, json!("order"), json!(3), json!("pack"), null.clone()];
        assert_eq!(ids(&lines[0]), order(json!("run-A")));
        // Nothing of the run that is executed.
        let another = [
            json!("run-B"),
            json!("child"),
            null.clone(),
            null.clone(),
            json!("child.created"),
        ];
        assert_eq!(ids(&lines[1]), another);
        assert_eq!(lines[1]["trace_id"], lines[0]["trace_id"]);
        let pleased = [
            json!("run-A"),
            json!("order"),
            json!(9),
            json!("unpack"),
            null.clone(),
        ];
        assert_eq!(ids(&lines[2]), pleased);
        let [trace, name] = if flat {
            [json!("mine"), json!("custom")]
        } else {
            [lines[0]["trace_id"].clone(), null.clone()]
        };
        assert_eq!(lines[3]["trace_id"], trace);
        assert_eq!(
            lines[3].get("event.name").cloned().unwrap_or_default(),
            name
        );
        let number = [
            json!(5),
            null.clone(),
            null.clone(),
            null.clone(),
            null.clone(),
        ];
        assert_eq!(ids(&lines[4]), number);
    }
}

#[tokio::test]
async fn nothing_is_twice_in_a_record() {
    let (exporter, provider) = records();
    let layer = appender_layer(&provider, RunFilter::new());
    let subscriber = tracing_subscriber::registry().with(layer);
    in_a_step(otel(), self_willed)
        .with_subscriber(subscriber)
        .await;
    let records = emitted(&exporter);
    let of = |n: usize| attributes(&records[n]);
    let pairs = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        pairs.collect::<Vec<_>>()
    };
    let ids = [
        ("workflow_run.id", "run-A"),
        ("workflow.name", "order"),
        ("workflow_run.attempt", "3"),
        ("step.name", "pack"),
    ];
    assert_eq!(of(0), pairs(&ids));
    let another = [("workflow_run.id", "run-B"), ("workflow.name", "child")];
    assert_eq!(of(1), pairs(&another));
    let pleased = [
        ("workflow_run.attempt", "9"),
        ("step.name", "unpack"),
        ("workflow_run.id", "run-A"),
        ("workflow.name", "order"),
    ];
    assert_eq!(of(2), pairs(&pleased));
    assert_eq!(of(4), pairs(&[("workflow_run.id", "5")]));
    assert_eq!(records[1].event_name(), Some("child.created"));
    assert!(
        records
            .iter()
            .all(|record| record.trace_context().is_some())
    );
}

#[tokio::test]
async fn runs_have_ids_without_an_sdk_and_unsampled() {
    let off = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff);
    let unsampled = OtelInterceptor::builder()
        .tracer_provider(&off.build())
        .build();
    let none = OtelInterceptor::builder()
        .tracer_provider(&opentelemetry::trace::noop::NoopTracerProvider::new())
        .build();
    for (otel, traced) in [(unsampled, true), (none, false)] {
        let (exporter, provider) = records();
        let layer = appender_layer(&provider, RunFilter::new());
        let subscriber = tracing_subscriber::registry().with(layer);
        let work = in_a_step(otel, || tracing::info!("in step"));
        work.with_subscriber(subscriber).await;
        let record = &emitted(&exporter)[0];
        assert_eq!(attributes(record).len(), 4);
        assert_eq!(record.trace_context().is_some(), traced);
    }
}

#[tokio::test]
async fn what_is_logged_about_an_execution_that_is_over_is_in_its_context() {
    let off = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff);
    let spans = SpanCollector::new();
    for provider in [spans.provider(), off.build()] {
        let otel = OtelInterceptor::builder().tracer_provider(&provider);
        let engine = &Engine::new(otel.build());
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = json_layer(move || writer.clone(), RunFilter::new());
        let subscriber = tracing_subscriber::registry().with(lines);
        let work = async {
            let execution = Execution::new(run("order", "run-A"), 1, false, "worker-1", instant());
            let execution = Arc::new(execution);
            let end = engine.0.promise_end(&execution);
            let call = ExecuteRun::new(Arc::clone(&execution), Payload::NULL);
            let code = |_| async {
                tracing::info!("inside");
                Ok(completed())
            };
            let outcome = engine.0.call(call, code).await.unwrap();
            tracing::info!("outside");
            let mut times = 0;
            engine.0.within(&execution, || {
                times += 1;
                tracing::info!("about it");
            });
            assert_eq!(times, 1);
            end.tell(Ok(&outcome));
            // Nothing is kept of it.
            engine.0.within(&execution, || tracing::info!("long after"));
        };
        work.with_subscriber(subscriber).await;
        let lines = buffer.values();
        assert_eq!(lines.len(), 4);
        for key in ["trace_id", "span_id", "workflow_run.id"] {
            assert!(lines[0].get(key).is_some(), "{key}");
            assert_eq!(lines[2][key], lines[0][key], "{key}");
            assert!(lines[1].get(key).is_none(), "{key}");
            assert!(lines[3].get(key).is_none(), "{key}");
        }
    }
}

fn layer<S>(buffer: &Buffer) -> impl Layer<S> + Send + Sync + use<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let writer = buffer.clone();
    tracing_subscriber::fmt::layer()
        .json()
        .with_writer(move || writer.clone())
}

#[test]
fn the_filter_holds_for_one_layer_or_for_all() {
    let log = || {
        tracing::info!("live");
        let _code = replay::code(true);
        tracing::info!("again");
        tracing::info_span!("span").in_scope(|| {
            let _aside = replay::aside();
            tracing::info!("in a step");
            tracing::debug!("quiet");
        });
    };
    let messages = |buffer: &Buffer| {
        let lines = buffer.values();
        let messages = lines
            .iter()
            .map(|line| line["fields"]["message"].as_str().unwrap().to_owned());
        messages.collect::<Vec<_>>()
    };
    let [all, filtered, combined] = [(); 3].map(|()| Buffer::default());
    let subscriber = tracing_subscriber::registry()
        .with(layer(&all))
        .with(layer(&filtered).with_filter(RunFilter::new()))
        .with(layer(&combined).with_filter(LevelFilter::INFO.and(RunFilter::new())));
    tracing::subscriber::with_default(subscriber, log);
    assert_eq!(messages(&all), ["live", "again", "in a step", "quiet"]);
    assert_eq!(messages(&filtered), ["live", "in a step", "quiet"]);
    assert_eq!(messages(&combined), ["live", "in a step"]);

    for (replayed, expected) in [
        (ReplayedEvents::LeftOut, &["live", "in a step", "quiet"][..]),
        (
            ReplayedEvents::Shown,
            &["live", "again", "in a step", "quiet"],
        ),
    ] {
        let everybodys = Buffer::default();
        let subscriber = tracing_subscriber::registry()
            .with(layer(&everybodys))
            .with(RunFilter::new().replayed(replayed));
        tracing::subscriber::with_default(subscriber, log);
        assert_eq!(messages(&everybodys), expected);
        // A span is there for what is logged in it.
        let lines = everybodys.values();
        let in_span = lines
            .iter()
            .find(|line| line["fields"]["message"] == "in a step");
        assert_eq!(in_span.unwrap()["span"]["name"], "span");
    }
}
