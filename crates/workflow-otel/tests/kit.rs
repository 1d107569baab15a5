//! The assertion kit shows what it should and finds what is wrong.

use opentelemetry::trace::{
    Link, Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SpanData;
use workflow_otel::testing::{SpanCollector, SpanTree};

/// A checkout of which everything is different in every run of the test, its ids for one.
fn checkout() -> SpanCollector {
    let spans = SpanCollector::new();
    let tracer = spans.provider().tracer("shop");
    let checkout = tracer
        .span_builder("checkout 42")
        .with_kind(SpanKind::Server)
        .with_attributes([KeyValue::new("order", "42"), KeyValue::new("note", "a, b")])
        .start(&tracer);
    let cx = Context::new().with_span(checkout);
    let mut charge = tracer.start_with_context("charge", &cx);
    charge.add_event("declined", vec![KeyValue::new("code", 7)]);
    charge.set_status(Status::error("card declined"));
    charge.end();
    let link = Link::with_context(cx.span().span_context().clone());
    let builder = tracer.span_builder("mail").with_links(vec![link]);
    let mut mail = builder.start_with_context(&tracer, &cx);
    mail.set_status(Status::Ok);
    mail.end();
    cx.span().end();
    spans
}

#[test]
fn shows_as_much_as_asked_for() {
    let spans = checkout();
    spans.assert_sound();
    let plain = "checkout 42\n├── charge ERROR\n└── mail\n";
    assert_eq!(spans.tree().to_string(), plain);
    let full = spans.tree().kinds().statuses().events().links();
    full.attributes(["order", "note"]).assert_eq(
        r#"
        checkout 42 [server] unset {note="a, b", order=42}
        ├── charge [internal] error("card declined")
        │     * declined
        └── mail [internal] ok
              ~> checkout 42
        "#,
    );
    spans.tree().events().attributes_but(["note"]).assert_eq(
        "
        checkout 42 {order=42}
        ├── charge ERROR
        │     * declined {code=7}
        └── mail
        ",
    );
    spans
        .tree()
        .replacing("42", "<order>")
        .attributes(["order"])
        .assert_eq(
            "
        checkout <order> {order=<order>}
        ├── charge ERROR
        └── mail
        ",
        );
}

#[test]
fn says_what_differs() {
    let spans = checkout();
    assert_eq!(
        spans
            .tree()
            .diff("checkout 42\n├── charge ERROR\n└── mail  \n\n"),
        None
    );
    let diff = spans
        .tree()
        .diff("checkout 42\n├── charge\n└── mail")
        .unwrap();
    assert_eq!(
        diff,
        "  checkout 42\n- ├── charge\n+ ├── charge ERROR\n  └── mail\n"
    );
    let failed = std::panic::catch_unwind(|| checkout().tree().assert_eq("checkout 42"));
    let message = failed.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("+ ├── charge ERROR"), "{message}");
}

#[test]
fn spans_of_others_are_ordered_by_time() {
    let mut spans: Vec<SpanData> = checkout().spans();
    spans.reverse();
    SpanTree::new(spans.clone()).assert_eq("checkout 42\n├── charge ERROR\n└── mail");
    // Without the parent, each is at the margin and says why.
    spans.pop();
    SpanTree::new(spans).assert_eq("charge ERROR (parent missing)\nmail (parent missing)");
}

#[test]
fn finds_what_is_not_sound() {
    let spans = SpanCollector::new();
    let provider = spans.provider();
    let tracer = provider.tracer("shop");
    let open = tracer.start("open");
    assert_eq!(spans.violations(), ["`open` never ended"]);
    assert_eq!(spans.open(), ["open"]);
    drop(open);
    assert_eq!(spans.violations(), Vec::<String>::new());

    // A child whose parent was made elsewhere, and dropped on the floor.
    let parent = |remote| {
        let parent = SpanContext::new(
            TraceId::from(1),
            SpanId::from(2),
            TraceFlags::SAMPLED,
            remote,
            TraceState::NONE,
        );
        Context::new().with_remote_span_context(parent)
    };
    drop(tracer.start_with_context("from afar", &parent(true)));
    assert_eq!(spans.violations(), Vec::<String>::new());
    drop(tracer.start_with_context("orphan", &parent(false)));
    assert_eq!(spans.violations(), ["the parent of `orphan` is missing"]);

    spans.clear();
    let builder = tracer.span_builder("twice");
    let twice = [KeyValue::new("k", 1), KeyValue::new("k", 2)];
    let mut span = builder.with_attributes(twice).start(&tracer);
    span.end_with_timestamp(std::time::SystemTime::UNIX_EPOCH);
    assert_eq!(
        spans.violations(),
        ["`twice` ends before it starts", "`twice` has `k` twice"]
    );
    let failed = std::panic::catch_unwind(|| spans.assert_sound());
    assert!(failed.is_err());
}

#[test]
fn finds_text_wherever_it_is() {
    let spans = checkout();
    assert_eq!(
        spans.mentions("42"),
        [
            "the name of `checkout 42`",
            "attribute `order` of `checkout 42`"
        ]
    );
    assert_eq!(
        spans.mentions("declined"),
        ["the status of `charge`", "an event of `charge`"]
    );
    assert_eq!(spans.mentions("not there"), Vec::<String>::new());
}
