//! No SDK is installed, then one is: the global provider and propagator as applications use them. A
//! process of its own, because both are the process's.

mod support;

use futures::executor::block_on;
use opentelemetry::Context;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use support::*;
use workflow_core::StepKind;
use workflow_otel::testing::SpanCollector;
use workflow_otel::{Losses, OtelInterceptor};

fn caller() -> Context {
    let trace = SpanContext::new(
        TraceId::from(1),
        SpanId::from(2),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    Context::new()
        .with_remote_span_context(trace)
        .with_baggage([opentelemetry::KeyValue::new("tenant", "acme")])
}

#[test]
fn the_global_provider_may_come_late() {
    let otel = OtelInterceptor::default();
    let engine = &Engine::new(otel.clone());
    let work = || async {
        let order = engine.create(run("order", "run-A"), None).await;
        let workflow = |e| async move {
            let call = step(&e, "pack", StepKind::Run);
            engine.step(call, || async { done() }).await?;
            let child = engine.start_child(&e, run("ship", "run-B")).await;
            let parent = child.carrier.get("traceparent").map(str::to_owned);
            Ok::<_, workflow_core::Error>((completed(), parent).0)
        };
        engine.execute(&order, 1, workflow).await.unwrap();
        order
    };

    // Nothing installed: nothing happens, and the caller's trace and baggage are passed on.
    let order = block_on(work());
    assert!(order.carrier.is_empty());
    let order = block_on(work().with_context(caller()));
    assert_eq!(
        order.carrier.get("traceparent"),
        Some("00-00000000000000000000000000000001-0000000000000002-01")
    );
    assert_eq!(order.carrier.get("baggage"), Some("tenant=acme"));

    // The provider is used from the moment it is set, by the interceptor that was made before.
    let spans = SpanCollector::new();
    opentelemetry::global::set_tracer_provider(spans.provider());
    block_on(work());
    spans.assert_sound();
    spans.tree().assert_eq(
        "
        workflow.start order
        └── workflow.execute order
            ├── step.run pack
            └── step.run_workflow ship
        ",
    );

    // So is the propagator: this one knows no baggage.
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let order = block_on(work().with_context(caller()));
    assert!(order.carrier.get("traceparent").is_some());
    assert_eq!(order.carrier.get("baggage"), None);
    assert_eq!(otel.losses(), Losses::default());
}
