//! The run's names on the application's own spans and log lines. A process of its own, because asking
//! for them changes what all interceptors of the process do.

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use opentelemetry::trace::{FutureExt, Tracer, TracerProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use support::*;
use tracing::instrument::WithSubscriber;
use tracing_subscriber::prelude::*;
use workflow_core::{Event, Execution, Payload, SendSignal, SentSignal, StepKind, StepOutcome};
use workflow_otel::logs::JsonRunFields;
use workflow_otel::testing::SpanCollector;
use workflow_otel::{
    OtelInterceptor, RunAttributesProcessor, SignalNames, SpanSelection, attribute, tracing_layer,
};

#[tokio::test]
async fn spans_made_in_a_run_are_stamped() {
    let spans = SpanCollector::new();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(RunAttributesProcessor::new())
        .with_span_processor(spans.clone())
        .build();
    for selection in [SpanSelection::All, SpanSelection::RunsOnly] {
        let otel = OtelInterceptor::builder()
            .tracer_provider(&provider)
            .spans_of("order", selection);
        let engine = &Engine::new(otel.build());
        let tracer = provider.tracer("app");
        let subscriber = tracing_subscriber::registry().with(tracing_layer(&provider));
        let order = engine.create(run("order", "run-A"), None).await;
        let workflow = |e: Arc<Execution>| {
            let tracer = tracer.clone();
            async move {
                tracer.in_span("between", |_| {});
                let body = || async {
                    tracer.in_span("api", |_| tracing::info_span!("tracing").in_scope(|| {}));
                    let tracer = tracer.clone();
                    let task = async move { tracer.in_span("task", |_| {}) };
                    tokio::spawn(task.with_current_context()).await.unwrap();
                    // A run that is started in a step is not part of the run of the step.
                    engine.create(run("other", "run-B"), None).await;
                    done()
                };
                engine.step(step(&e, "pack", StepKind::Run), body).await?;
                Ok(completed())
            }
        };
        let execution = engine.execute(&order, 1, workflow);
        execution.with_subscriber(subscriber).await.unwrap();
        tracer.in_span("outside", |_| {});

        spans.assert_sound();
        let shown = [attribute::WORKFLOW_RUN_ID, attribute::STEP_NAME];
        let tree = spans.tree().attributes(shown);
        let step = "{step.name=pack, workflow_run.id=run-A}";
        let expected = match selection {
            SpanSelection::All => format!(
                "
                workflow.start order {{workflow_run.id=run-A}}
                └── workflow.execute order {{workflow_run.id=run-A}}
                    ├── between {{workflow_run.id=run-A}}
                    └── step.run pack {step}
                        ├── api {step}
                        │   └── tracing {step}
                        ├── task {step}
                        └── workflow.start other {{workflow_run.id=run-B}}
                outside
                "
            ),
            _ => format!(
                "
                workflow.start order {{workflow_run.id=run-A}}
                └── workflow.execute order {{workflow_run.id=run-A}}
                    ├── between {{workflow_run.id=run-A}}
                    ├── api {step}
                    │   └── tracing {step}
                    ├── task {step}
                    └── workflow.start other {{workflow_run.id=run-B}}
                outside
                "
            ),
        };
        tree.assert_eq(&expected);
        let named = |s: &&_| has(s, attribute::WORKFLOW_NAME, "order");
        assert_eq!(
            spans.spans().iter().filter(named).count(),
            expected.matches("run-A").count()
        );
        spans.clear();
    }
}

fn has(span: &opentelemetry_sdk::trace::SpanData, key: &str, value: &str) -> bool {
    let mut attributes = span.attributes.iter();
    attributes.any(|a| a.key.as_str() == key && a.value.as_str() == value)
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged while `work` runs.
async fn lines_of(
    provider: &SdkTracerProvider,
    json: bool,
    work: impl Future<Output = ()>,
) -> Vec<String> {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let logs = tracing_subscriber::fmt::layer().with_ansi(false);
    let logs = logs.with_writer(move || writer.clone());
    let logs = if json {
        logs.json().map_event_format(JsonRunFields::new).boxed()
    } else {
        logs.map_event_format(JsonRunFields::new).boxed()
    };
    let subscriber = tracing_subscriber::registry()
        .with(tracing_layer(provider))
        .with(logs);
    work.with_subscriber(subscriber).await;
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Logs outside a run, in one between steps and in a step; the lines.
async fn logged(provider: &SdkTracerProvider, json: bool) -> Vec<String> {
    let otel = OtelInterceptor::builder().tracer_provider(provider).build();
    let engine = &Engine::new(otel);
    let work = async {
        tracing::info!("outside");
        let order = engine.create(run("order", "run \"A\""), None).await;
        let workflow = |e: Arc<Execution>| async move {
            tracing::info!("between");
            let body = || async {
                tracing::info_span!("packing").in_scope(|| tracing::info!(boxes = 3, "in step"));
                done()
            };
            engine.step(step(&e, "pack", StepKind::Run), body).await?;
            Ok(completed())
        };
        engine.execute(&order, 1, workflow).await.unwrap();
    };
    lines_of(provider, json, work).await
}

#[tokio::test]
async fn json_log_lines_name_the_run_and_the_trace() {
    let spans = SpanCollector::new();
    let lines = logged(&spans.provider(), true).await;
    let lines: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [outside, between, in_step] = &lines[..] else {
        panic!("{lines:?}");
    };
    let id_of = |name: &str| {
        let spans = spans.spans();
        let span = spans
            .iter()
            .find(|span| span.name == name)
            .unwrap()
            .span_context
            .clone();
        (span.trace_id().to_string(), span.span_id().to_string())
    };
    assert_eq!(outside["fields"]["message"], "outside");
    assert!(outside.get("trace_id").is_none());
    assert!(outside.get("workflow_run.id").is_none());

    let (trace, execution) = id_of("workflow.execute order");
    assert_eq!(between["trace_id"], trace.as_str());
    assert_eq!(between["span_id"], execution.as_str());
    assert_eq!(between["workflow_run.id"], "run \"A\"");
    assert_eq!(between["workflow.name"], "order");
    assert!(between.get("step.name").is_none());

    let (trace, packing) = id_of("packing");
    assert_eq!(in_step["trace_id"], trace.as_str());
    assert_eq!(in_step["span_id"], packing.as_str());
    assert_eq!(in_step["workflow_run.id"], "run \"A\"");
    assert_eq!(in_step["step.name"], "pack");
    // What the formatter itself wrote is all there.
    assert_eq!(in_step["level"], "INFO");
    assert_eq!(in_step["fields"]["boxes"], 3);
    assert_eq!(in_step["span"]["name"], "packing");
}

#[tokio::test]
async fn log_lines_of_an_unsampled_run_name_it_too() {
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOff)
        .build();
    let lines = logged(&provider, true).await;
    let in_step: serde_json::Value = serde_json::from_str(&lines[2]).unwrap();
    assert_eq!(in_step["step.name"], "pack");
    assert_eq!(in_step["trace_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn other_log_lines_stay_as_they_are() {
    let lines = logged(&SpanCollector::new().provider(), false).await;
    assert!(lines[0].ends_with("INFO stamping: outside"), "{}", lines[0]);
    assert!(lines[1].ends_with("INFO stamping: between"), "{}", lines[1]);
}

/// What is seen of a signal for one customer, and of steps about it that have names or have none.
async fn of_signals(names: SignalNames) -> (SpanCollector, Vec<String>) {
    const SIGNAL: &str = "confirmed:ada@example.com";
    let spans = SpanCollector::new();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(RunAttributesProcessor::new())
        .with_span_processor(spans.clone())
        .build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .signal_names(names);
    let engine = &Engine::new(otel.build());
    let tracer = &provider.tracer("app");
    let workflow = |e: Arc<Execution>| async move {
        let send = StepKind::send_signal(SIGNAL.into(), Payload::NULL);
        for name in [SIGNAL, "tell ada"] {
            let mut call = step(&e, name, send.clone());
            call.named = name != SIGNAL;
            call.attempt_id = "attempt-1".into();
            let body = || async {
                tracer.in_span("api", |_| {});
                tracing::info!("sending");
                let run_ids = Vec::new();
                Ok(StepOutcome::SignalSent { run_ids })
            };
            engine.step(call, body).await?;
        }
        let mut wait = signal_step(&e, SIGNAL);
        wait.attempt_id = "attempt-2".into();
        engine.step(wait, || async { waiting() }).await?;
        let departed = Event::non_determinism(&e, Some(SIGNAL), Some("tell ada"));
        engine.0.event(&departed);
        Ok(parked())
    };
    let work = async {
        let order = run("order", "run-A");
        engine.execute(&order, 1, workflow).await.unwrap();
        let call = SendSignal::new("default".into(), SIGNAL.into(), Payload::NULL);
        let sent = |_| async { Ok(SentSignal::new(Vec::new())) };
        engine.0.call(call, sent).await.unwrap();
    };
    let lines = lines_of(&provider, true, work).await;
    spans.assert_sound();
    (spans, lines)
}

const NAMES: [&str; 3] = [
    attribute::SIGNAL_NAME,
    attribute::STEP_NAME,
    attribute::STEP_RECORDED_NAME,
];

#[tokio::test]
async fn names_of_signals_are_attributes_and_not_names_of_spans() {
    let (spans, lines) = of_signals(SignalNames::Shown).await;
    spans.tree().events().attributes(NAMES).assert_eq(
        r#"
        workflow.execute order
        │ * workflow.non_determinism {step.name="confirmed:ada@example.com", step.recorded_name="tell ada"}
        ├── step.send_signal {signal.name="confirmed:ada@example.com", step.name="confirmed:ada@example.com"}
        │   └── api {step.name="confirmed:ada@example.com"}
        ├── step.send_signal tell ada {signal.name="confirmed:ada@example.com", step.name="tell ada"}
        │   └── api {step.name="tell ada"}
        └── step.wait_for_signal {signal.name="confirmed:ada@example.com", step.name="confirmed:ada@example.com"}
        signal.send {signal.name="confirmed:ada@example.com"}
        "#,
    );
    assert!(lines[0].contains(r#""step.name":"confirmed:ada@example.com""#));
    assert!(lines[1].contains(r#""step.name":"tell ada""#));
}

#[tokio::test]
async fn names_of_signals_can_be_left_out() {
    let (spans, lines) = of_signals(SignalNames::LeftOut).await;
    assert_eq!(spans.mentions("example.com"), Vec::<String>::new());
    spans.tree().events().attributes(NAMES).assert_eq(
        r#"
        workflow.execute order
        │ * workflow.non_determinism
        ├── step.send_signal
        │   └── api
        ├── step.send_signal tell ada {step.name="tell ada"}
        │   └── api {step.name="tell ada"}
        └── step.wait_for_signal
        signal.send
        "#,
    );
    assert!(!lines.concat().contains("example.com"), "{lines:?}");
    assert!(lines[1].contains(r#""step.name":"tell ada""#));
}
