//! The ids that spans have: those that are derived, where the provider's generator lets them, and each
//! only once.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::executor::block_on;
use opentelemetry::Context;
use opentelemetry::trace::{FutureExt, SpanId, TraceContextExt, TraceId, Tracer, TracerProvider};
use opentelemetry_sdk::trace::{IdGenerator, SdkTracerProvider, SpanData};
use support::*;
use workflow_core::{Chain, CreateRun, CreatedRun, Interceptor, Payload, StepKind};
use workflow_otel::ids::{self, DerivedIds};
use workflow_otel::testing::SpanCollector;
use workflow_otel::{OtelInterceptor, TraceMode};

/// Counts, so that what it made is known.
#[derive(Debug, Clone, Default)]
struct Counting(Arc<AtomicU64>);

impl IdGenerator for Counting {
    fn new_trace_id(&self) -> TraceId {
        TraceId::from(u128::from(self.0.fetch_add(1, Ordering::Relaxed) + 1))
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn counting(spans: &SpanCollector) -> SdkTracerProvider {
    SdkTracerProvider::builder()
        .with_id_generator(DerivedIds::new(Counting::default()))
        .with_span_processor(spans.clone())
        .build()
}

/// A run is created under a caller's span; two executions, with a span of the application in a step.
async fn work(engine: &Engine, provider: &SdkTracerProvider) {
    let tracer = provider.tracer("app");
    let caller = Context::current_with_span(tracer.start("caller"));
    let order = async { engine.create(run("order", "run-A"), None).await };
    let order = order.with_context(caller.clone()).await;
    caller.span().end();
    let tracer = &tracer;
    for attempt in [1, 2] {
        let workflow = |e| async move {
            let call = step(&e, "pack", StepKind::Run);
            let body = || async {
                tracer.start("tape");
                done()
            };
            engine.step(call, body).await?;
            Ok(completed())
        };
        engine.execute(&order, attempt, workflow).await.unwrap();
    }
}

fn ids_of(spans: &SpanCollector, name: &str) -> Vec<SpanId> {
    let spans = spans.spans();
    let named = spans.iter().filter(|span| span.name == name);
    named.map(|span| span.span_context.span_id()).collect()
}

#[test]
fn spans_of_runs_have_derived_ids_and_all_others_the_generators() {
    let spans = SpanCollector::new();
    let provider = counting(&spans);
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    block_on(work(&Engine::new(otel), &provider));
    spans.assert_sound();
    let start = ids::start("default", "run-A");
    assert_eq!(ids_of(&spans, "workflow.start order"), [start]);
    let executions = [1, 2].map(|attempt| ids::execution("default", "run-A", attempt));
    assert_eq!(ids_of(&spans, "workflow.execute order"), executions);
    let steps = [1, 2].map(|attempt| ids::step("default", "run-A", attempt, "attempt-of-pack"));
    assert_eq!(ids_of(&spans, "step.run pack"), steps);
    // The generator was asked for these alone: the caller's span, its trace, and the two in the steps.
    let app = [ids_of(&spans, "caller"), ids_of(&spans, "tape")].concat();
    assert_eq!(app, [1, 3, 4].map(SpanId::from));
}

#[test]
fn without_the_generator_ids_are_the_providers() {
    let spans = SpanCollector::new();
    let counting = Counting::default();
    let provider = SdkTracerProvider::builder()
        .with_id_generator(counting.clone())
        .with_span_processor(spans.clone())
        .build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    block_on(work(&Engine::new(otel.clone()), &provider));
    spans.assert_sound();
    // Eight spans and a trace.
    assert_eq!(counting.0.load(Ordering::Relaxed), 9);
    assert_eq!(otel.losses(), Default::default());
    // What was wanted is not left for who comes next.
    let derived = DerivedIds::new(counting.clone());
    assert_eq!(derived.new_span_id(), SpanId::from(10));
    assert_eq!(derived.new_trace_id(), TraceId::from(11));
}

#[test]
fn roots_have_derived_traces() {
    for (mode, carried) in [
        (TraceMode::CallerAsParent, false),
        (TraceMode::Linked, true),
    ] {
        let spans = SpanCollector::new();
        let provider = counting(&spans);
        let otel = OtelInterceptor::builder()
            .tracer_provider(&provider)
            .trace_mode(mode)
            .build();
        let engine = &Engine::new(otel);
        block_on(async {
            let mut order = engine.create(run("order", "run-A"), None).await;
            if !carried {
                order = run("order", "run-A");
            }
            let workflow = |_| async { Ok(completed()) };
            engine.execute(&order, 3, workflow).await.unwrap();
        });
        let spans = spans.spans();
        let execution = spans.last().expect("it was executed");
        assert_eq!(execution.parent_span_id, SpanId::INVALID);
        let trace = execution.span_context.trace_id();
        assert_eq!(trace, ids::trace("default", "run-A", 3));
    }
}

/// Registered twice, or beside another, by mistake or for a second backend.
#[test]
fn no_two_spans_have_the_same_id() {
    let spans = SpanCollector::new();
    let provider = counting(&spans);
    let one = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let other = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    for pair in [[one.clone(), one.clone()], [one, other]] {
        spans.clear();
        let chain = pair.map(|otel| Arc::new(otel) as Arc<dyn Interceptor>);
        block_on(work(&Engine(Chain::new(chain)), &provider));
        let all = spans.spans();
        let id = |span: &SpanData| span.span_context.span_id();
        let ids: HashSet<_> = all.iter().map(id).collect();
        assert_eq!(ids.len(), all.len(), "{}", spans.tree());
        assert_eq!(spans.open(), Vec::<String>::new());
        assert!(ids.contains(&ids::execution("default", "run-A", 2)));
    }
}

#[test]
fn a_run_that_is_found_does_not_get_a_second_span_of_its_start() {
    let spans = SpanCollector::new();
    let provider = counting(&spans);
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let engine = Engine::new(otel);
    for id in ["run-A", "run-B"] {
        let mut call = CreateRun::new(run("order", id), Payload::from_json("1"));
        call.idempotency_key = Some("order-7".to_owned());
        let find = |_| async { Ok(CreatedRun::new("run-A", id != "run-A")) };
        block_on(engine.0.call(call, find)).unwrap();
    }
    let started = ["run-A", "run-B"].map(|id| ids::start("default", id));
    assert_eq!(ids_of(&spans, "workflow.start order"), started);
}
