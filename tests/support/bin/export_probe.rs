//! Exports a little of each signal to the address it is given, by a destination in code, and checks what
//! `init` installs and leaves alone: a process of its own, because that is where globals and variables are.

use std::time::Duration;

use openworkflow::otel::export::{Destination, InitError, Signal, Telemetry};
use openworkflow::otel::opentelemetry::trace::{TraceContextExt, Tracer};
use openworkflow::otel::opentelemetry::{Context, global};
use openworkflow::otel::testing::SpanCollector;

fn main() {
    let endpoint = std::env::args().nth(1).unwrap_or_default();
    if endpoint == "with a provider of its own" {
        return with_a_provider_of_its_own();
    }
    if endpoint == "axiom by its variables" {
        let axiom = Destination::axiom_from_env().unwrap();
        let telemetry = Telemetry::builder().destination(axiom).init().unwrap();
        // Nothing is sent: what is told of it goes nowhere else.
        std::process::exit(i32::from(telemetry.is_enabled(Signal::Traces)));
    }
    if endpoint == "count while it is away" {
        return count_while_it_is_away(std::env::args().nth(2).unwrap());
    }
    let destination = match std::env::args().nth(2).as_deref() {
        Some("grpc") => Destination::grpc(endpoint).header("authorization", "Bearer key"),
        _ => {
            let signals = [Signal::Traces, Signal::Metrics, Signal::Logs];
            let datasets = signals.map(|signal| (signal, signal.to_string()));
            Destination::axiom("key", datasets).endpoint(endpoint)
        }
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
    tracing::info!("told in it");
    drop(span);
    global::meter("test")
        .u64_counter("counted")
        .build()
        .add(1, &[]);
    let again = Telemetry::builder().destination(destination).init();
    assert!(matches!(again, Err(InitError::AlreadyInstalled)));
    // What was installed first is still there.
    drop(tracer.start("afterwards"));
    let report = futures::executor::block_on(telemetry.shutdown(Duration::from_secs(10)));
    let report = report.into_result().unwrap();
    for (signal, count) in [(Signal::Traces, 3), (Signal::Logs, 1)] {
        assert_eq!(report.of(signal).stats.exported, count, "{signal}");
    }
    // The counter's, and what the export says of itself.
    assert!(report.of(Signal::Metrics).stats.exported > 1);
}

/// Counts to ten while the receiver is away, once more when a collection has waited for it, and to ten
/// again when it is said to be there.
fn count_while_it_is_away(endpoint: String) {
    let telemetry = Telemetry::builder().endpoint(endpoint).init().unwrap();
    let counter = global::meter("test").u64_counter("counted").build();
    counter.add(10, &[]);
    while telemetry.stats(Signal::Metrics).queued == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    counter.add(10, &[]);
    let _ = std::io::stdin().read_line(&mut String::new());
    counter.add(10, &[]);
    let report = futures::executor::block_on(telemetry.shutdown(Duration::from_secs(30)));
    report.into_result().unwrap();
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
