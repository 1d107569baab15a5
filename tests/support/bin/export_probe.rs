//! Exports one span to the address it is given, by a destination in code, and checks what `init`
//! leaves alone: a process of its own, because that is where globals and variables are.

use std::time::Duration;

use openworkflow::otel::export::{Destination, InitError, Telemetry};
use openworkflow::otel::opentelemetry::trace::{TraceContextExt, Tracer};
use openworkflow::otel::opentelemetry::{Context, global};
use openworkflow::otel::testing::SpanCollector;

fn main() {
    let endpoint = std::env::args().nth(1).unwrap_or_default();
    if endpoint == "with a provider of its own" {
        return with_a_provider_of_its_own();
    }
    let destination = match std::env::args().nth(2).as_deref() {
        Some("grpc") => Destination::grpc(endpoint).header("authorization", "Bearer key"),
        _ => Destination::axiom("traces", "key").endpoint(endpoint),
    };
    let telemetry = Telemetry::builder()
        .destination(destination.clone())
        .init()
        .unwrap();
    // The application's spans, of both kinds, and by way of the globals.
    let span = tracing::info_span!("by tracing").entered();
    let tracer = global::tracer("test");
    tracer.in_span("by the api", |cx: Context| {
        assert!(cx.span().span_context().is_sampled());
        let mut headers = std::collections::HashMap::new();
        global::get_text_map_propagator(|p| p.inject_context(&cx, &mut headers));
        assert!(headers.contains_key("traceparent"), "{headers:?}");
    });
    drop(span);
    let again = Telemetry::builder().destination(destination).init();
    assert!(matches!(again, Err(InitError::AlreadyInstalled)));
    // What was installed first is still there.
    drop(tracer.start("afterwards"));
    let report = futures::executor::block_on(telemetry.shutdown(Duration::from_secs(10)));
    assert_eq!(report.into_result().unwrap().exported, 3);
}

/// `init` is an error there, and what was set stays.
fn with_a_provider_of_its_own() {
    let spans = SpanCollector::new();
    global::set_tracer_provider(spans.provider());
    let again = openworkflow::otel::init();
    assert!(matches!(again, Err(InitError::AlreadyInstalled)));
    assert!(!tracing::dispatcher::has_been_set());
    drop(global::tracer("test").start("mine"));
    // Nor has it been tried out with a span.
    spans.tree().assert_eq("mine");
}
