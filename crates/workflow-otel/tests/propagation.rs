//! Where the parent of each span comes from: carriers, baggage, unsampled callers, workflows without
//! spans, linked mode.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::executor::block_on;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::text_map_propagator::FieldIter;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::noop::NoopTracerProvider;
use opentelemetry::trace::{
    FutureExt, Link, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample,
};
use support::*;
use workflow_core::{Carrier, Execution, RunInfo, StepKind};
use workflow_otel::testing::SpanCollector;
use workflow_otel::{
    BaggagePolicy, OtelInterceptor, OtelInterceptorBuilder, SpanCall, SpanSelection, TraceMode,
};

struct Traced {
    spans: SpanCollector,
    provider: SdkTracerProvider,
    otel: OtelInterceptor,
    engine: Engine,
}

fn traced_with(set_up: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder) -> Traced {
    let spans = SpanCollector::new();
    let provider = spans.provider();
    let otel = set_up(OtelInterceptor::builder().tracer_provider(&provider)).build();
    let engine = Engine::new(otel.clone());
    Traced {
        spans,
        provider,
        otel,
        engine,
    }
}

fn traced() -> Traced {
    traced_with(|otel| otel)
}

impl Traced {
    fn in_span<T>(&self, name: &'static str, future: impl Future<Output = T>) -> T {
        let span = self.provider.tracer("app").start(name);
        let cx = Context::current_with_span(span);
        let result = block_on(future.with_context(cx.clone()));
        cx.span().end();
        result
    }

    /// Runs `order`, with a step, a span of the application's in it, a child and a grandchild. Every
    /// run executes once more.
    async fn family(&self) -> RunInfo {
        let order = self.engine.create(run("order", "run-A"), None).await;
        let ship = self.execute(&order, Some(run("ship", "run-B"))).await;
        let print = self
            .execute(&ship.unwrap(), Some(run("print", "run-C")))
            .await;
        self.execute(&print.unwrap(), None).await;
        order
    }

    async fn execute(&self, of: &RunInfo, child: Option<RunInfo>) -> Option<RunInfo> {
        self.attempt(of, 1, child).await
    }

    async fn attempt(&self, of: &RunInfo, attempt: u32, child: Option<RunInfo>) -> Option<RunInfo> {
        let mut stored = None;
        let workflow = |e: Arc<Execution>| async {
            let call = step(&e, "pack", StepKind::Run);
            let body = || async {
                self.provider.tracer("app").in_span("tape", |_| {});
                done()
            };
            self.engine.step(call, body).await?;
            if let Some(child) = child {
                stored = Some(self.engine.start_child(&e, child).await);
            }
            drop(e);
            Ok(parked())
        };
        self.engine.execute(of, attempt, workflow).await.unwrap();
        stored
    }
}

#[test]
fn without_a_caller_the_start_is_the_root() {
    let traced = traced();
    block_on(traced.family());
    traced.spans.assert_sound();
    traced.spans.tree().links().assert_eq(
        "
        workflow.start order
        └── workflow.execute order
            ├── step.run pack
            │   └── tape
            └── step.run_workflow ship
                └── workflow.execute ship
                    ├── step.run pack
                    │   └── tape
                    └── step.run_workflow print
                        └── workflow.execute print
                            └── step.run pack
                                └── tape
        ",
    );
}

#[test]
fn a_caller_s_span_that_is_none_is_no_caller() {
    // What a provider that was shut down leaves in the context.
    let none = Context::new().with_remote_span_context(SpanContext::NONE);
    let caller = none.with_baggage([KeyValue::new("tenant", "acme")]);
    let traced = traced();
    let create = traced.engine.create(run("order", "run-A"), None);
    let order = block_on(create.with_context(caller));
    traced.spans.tree().assert_eq("workflow.start order");
    assert_eq!(order.carrier.get("baggage"), Some("tenant=acme"));
}

#[test]
fn nothing_is_built_for_steps_that_nobody_records() {
    let steps = Arc::new(AtomicUsize::new(0));
    let counting = |otel: OtelInterceptorBuilder| {
        let steps = Arc::clone(&steps);
        otel.attributes(move |call| {
            if matches!(call, SpanCall::Step(_)) {
                steps.fetch_add(1, Ordering::Relaxed);
            }
            Vec::new()
        })
    };
    let sampled = carried(&[("traceparent", PARENT)]);
    let unsampled = carried(&[("traceparent", &*PARENT.replace("-01", "-00"))]);
    let traced = traced_with(counting);
    block_on(traced.execute(&unsampled, None));
    assert_eq!(steps.load(Ordering::Relaxed), 0);
    block_on(traced.execute(&sampled, None));
    assert_eq!(steps.load(Ordering::Relaxed), 1);
    let no_op = traced_with(|otel| counting(otel).tracer_provider(&NoopTracerProvider::new()));
    block_on(no_op.execute(&sampled, None));
    assert_eq!(steps.load(Ordering::Relaxed), 1);
}

#[test]
fn executions_are_siblings_whatever_is_current() {
    let traced = traced();
    let order = traced.in_span("caller", traced.engine.create(run("order", "run-A"), None));
    // The carrier is read under spans that have nothing to do with the run.
    traced.in_span("worker", traced.execute(&order, None));
    block_on(traced.attempt(&order, 2, None));
    traced.spans.assert_sound();
    traced.spans.tree().assert_eq(
        "
        caller
        └── workflow.start order
            ├── workflow.execute order
            │   └── step.run pack
            │       └── tape
            └── workflow.execute order
                └── step.run pack
                    └── tape
        worker
        ",
    );
}

#[test]
fn linked_executions_are_roots_with_a_link() {
    let traced = traced_with(|otel| otel.trace_mode(TraceMode::Linked));
    traced.in_span("caller", traced.family());
    traced.spans.assert_sound();
    traced.spans.tree().links().assert_eq(
        "
        caller
        └── workflow.start order
        workflow.execute order
        │ ~> workflow.start order
        ├── step.run pack
        │   └── tape
        └── step.run_workflow ship
        workflow.execute ship
        │ ~> step.run_workflow ship
        ├── step.run pack
        │   └── tape
        └── step.run_workflow print
        workflow.execute print
        │ ~> step.run_workflow print
        └── step.run pack
            └── tape
        ",
    );
    let traces = traced.spans.spans();
    let traces: std::collections::HashSet<_> =
        traces.iter().map(|s| s.span_context.trace_id()).collect();
    assert_eq!(traces.len(), 4);
}

/// A caller's context that names a trace nobody records.
fn unsampled() -> Context {
    let trace = SpanContext::new(
        TraceId::from(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
        SpanId::from(0xb7ad_6b71_6920_3331),
        TraceFlags::NOT_SAMPLED,
        true,
        TraceState::NONE,
    );
    Context::new().with_remote_span_context(trace)
}

#[test]
fn an_unsampled_caller_means_no_span_and_no_new_root() {
    for mode in [TraceMode::CallerAsParent, TraceMode::Linked] {
        let traced = traced_with(|otel| otel.trace_mode(mode));
        let order = block_on(traced.family().with_context(unsampled()));
        assert_eq!(traced.spans.tree().to_string(), "");
        assert_eq!(traced.spans.open(), Vec::<String>::new());
        // The flag is kept through children.
        let child = block_on(traced.execute(&order, Some(run("ship", "run-B")))).unwrap();
        let grandchild = block_on(traced.execute(&child, Some(run("print", "run-C")))).unwrap();
        for carrier in [order.carrier, child.carrier, grandchild.carrier] {
            let parent = carrier.get("traceparent").unwrap();
            assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
            assert!(parent.ends_with("-00"), "{parent}");
        }
        assert_eq!(traced.spans.tree().to_string(), "");
        assert_eq!(traced.otel.losses(), Default::default());
    }
}

#[test]
fn a_sampler_that_is_not_parent_based_sees_the_attributes_of_executions() {
    #[derive(Debug, Clone)]
    struct OnlyOrders;
    impl ShouldSample for OnlyOrders {
        fn should_sample(
            &self,
            parent: Option<&Context>,
            _: TraceId,
            _: &str,
            _: &SpanKind,
            attributes: &[KeyValue],
            _: &[Link],
        ) -> SamplingResult {
            let is =
                |a: &KeyValue| a.key.as_str() == "workflow.name" && a.value.as_str() == "order";
            let decision = if attributes.iter().any(is) {
                SamplingDecision::RecordAndSample
            } else {
                SamplingDecision::Drop
            };
            let parent = parent.map(|cx| cx.span().span_context().trace_state().clone());
            SamplingResult {
                decision,
                attributes: Vec::new(),
                trace_state: parent.unwrap_or_default(),
            }
        }
    }
    let spans = SpanCollector::new();
    let provider = SdkTracerProvider::builder()
        .with_sampler(OnlyOrders)
        .with_span_processor(spans.clone())
        .build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let traced = Traced {
        engine: Engine::new(otel.clone()),
        otel,
        spans,
        provider,
    };
    block_on(traced.family().with_context(unsampled()));
    // `tape` has no such attribute, and in `ship` it has another value.
    traced.spans.tree().assert_eq(
        "
        workflow.start order (remote parent)
        └── workflow.execute order
            ├── step.run pack
            └── step.run_workflow ship
        ",
    );
}

#[test]
fn a_sampler_that_is_off_records_nothing() {
    let spans = SpanCollector::new();
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOff)
        .with_span_processor(spans.clone())
        .build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let engine = Engine::new(otel);
    let order = block_on(engine.create(run("order", "run-A"), None));
    assert!(order.carrier.get("traceparent").unwrap().ends_with("-00"));
    assert_eq!(spans.open(), Vec::<String>::new());
}

#[test]
fn workflows_without_spans_pass_the_trace_on() {
    let traced = traced_with(|otel| otel.spans_of("ship", SpanSelection::None));
    traced.in_span("caller", traced.family());
    traced.spans.assert_sound();
    // What is made in `ship` belongs to the step that started it.
    traced.spans.tree().assert_eq(
        "
        caller
        └── workflow.start order
            └── workflow.execute order
                ├── step.run pack
                │   └── tape
                └── step.run_workflow ship
                    ├── tape
                    └── workflow.execute print
                        └── step.run pack
                            └── tape
        ",
    );

    let traced = traced_with(|otel| otel.spans(SpanSelection::None));
    traced.in_span("caller", traced.family());
    traced.spans.tree().assert_eq(
        "
        caller
        ├── tape
        ├── tape
        └── tape
        ",
    );
}

#[test]
fn runs_without_steps() {
    let traced = traced_with(|otel| {
        otel.spans(SpanSelection::RunsOnly)
            .spans_of("print", SpanSelection::All)
    });
    traced.in_span("caller", traced.family());
    traced.spans.assert_sound();
    traced.spans.tree().assert_eq(
        "
        caller
        └── workflow.start order
            └── workflow.execute order
                ├── tape
                └── workflow.execute ship
                    ├── tape
                    └── workflow.execute print
                        └── step.run pack
                            └── tape
        ",
    );
}

fn carried(carrier: &[(&str, &str)]) -> RunInfo {
    run("order", "run-A").with_carrier(carrier.iter().copied().collect())
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn carriers_of_others_are_read() {
    for carrier in [
        carried(&[("traceparent", PARENT)]),
        carried(&[("TraceParent", PARENT), ("TRACESTATE", "a=b")]),
        carried(&[("traceparent", PARENT), ("baggage", ""), ("unknown", "x")]),
    ] {
        let traced = traced();
        block_on(traced.execute(&carrier, None));
        let execution = &traced.spans.spans()[0];
        assert_eq!(execution.parent_span_id.to_string(), "b7ad6b7169203331");
        assert!(execution.parent_span_is_remote);
        assert_eq!(traced.otel.losses(), Default::default());
    }
}

#[test]
fn carriers_that_cannot_be_read_start_a_trace() {
    let megabyte = "k=v,".repeat(1 << 18);
    let cases: [(Carrier, u64); 7] = [
        (Carrier::new(), 0),
        // What an engine makes of `42`, of an array, of members that are no strings.
        (Carrier::new().with_unreadable(1), 1),
        ([("traceparent", "garbage")].into_iter().collect(), 1),
        ([("traceparent", "")].into_iter().collect(), 1),
        (
            [("traceparent", &*PARENT.replace("0af7", "zzzz"))]
                .into_iter()
                .collect(),
            1,
        ),
        ([("traceparent", &*megabyte)].into_iter().collect(), 1),
        ([("baggage", &*megabyte)].into_iter().collect(), 1),
    ];
    for (carrier, lost) in cases {
        let traced = traced();
        let run = run("order", "run-A").with_carrier(carrier);
        // The worker's own span is no way out.
        traced.in_span("worker", traced.execute(&run, None));
        traced.spans.assert_sound();
        traced.spans.tree().assert_eq(
            "
            worker
            workflow.execute order
            └── step.run pack
                └── tape
            ",
        );
        assert_eq!(traced.otel.losses().carriers, lost);
    }
}

fn baggage_of(run: &RunInfo, traced: &Traced) -> Vec<String> {
    let seen = std::sync::Mutex::new(Vec::new());
    let workflow = |e: Arc<Execution>| {
        let (traced, seen) = (traced, &seen);
        async move {
            let call = step(&e, "look", StepKind::Run);
            let body = || async {
                let cx = Context::current();
                let entries = cx.baggage().iter();
                let entries = entries.map(|(key, (value, _))| format!("{key}={value}"));
                seen.lock().unwrap().extend(entries);
                done()
            };
            traced.engine.step(call, body).await?;
            Ok(completed())
        }
    };
    block_on(traced.engine.execute(run, 1, workflow)).unwrap();
    let mut seen = seen.into_inner().unwrap();
    seen.sort();
    seen
}

fn with_baggage(entries: &[(&'static str, &str)]) -> Context {
    let entries = entries.iter();
    let entries = entries.map(|(key, value)| KeyValue::new(*key, (*value).to_owned()));
    Context::new().with_baggage(entries.collect::<Vec<_>>())
}

#[test]
fn baggage_is_readable_in_every_step_and_in_children() {
    for mode in [TraceMode::CallerAsParent, TraceMode::Linked] {
        let traced = traced_with(|otel| otel.trace_mode(mode));
        let caller = with_baggage(&[("tenant", "acme"), ("user", "Zoë, the 1st")]);
        let create = traced.engine.create(run("order", "run-A"), None);
        let order = block_on(create.with_context(caller));
        let child = block_on(traced.execute(&order, Some(run("ship", "run-B")))).unwrap();
        for run in [order, child] {
            let baggage = baggage_of(&run, &traced);
            assert_eq!(baggage, ["tenant=acme", "user=Zoë, the 1st"]);
        }
    }
}

#[test]
fn the_baggage_policy_decides_what_is_stored() {
    let stored = |policy: BaggagePolicy, entries: &[(&'static str, &str)]| {
        let traced = traced_with(|otel| otel.baggage(policy));
        let create = traced.engine.create(run("order", "run-A"), None);
        let order = block_on(create.with_context(with_baggage(entries)));
        let lost = traced.otel.losses().baggage_entries;
        let bytes = order.carrier.get("baggage").map_or(0, str::len);
        (baggage_of(&order, &traced), lost, bytes)
    };
    let entries = [("a", "1"), ("b", "2"), ("c", "3")];
    assert_eq!(
        stored(BaggagePolicy::all(), &entries).0,
        ["a=1", "b=2", "c=3"]
    );
    let (kept, lost, _) = stored(BaggagePolicy::only(["b"]), &entries);
    assert_eq!((kept, lost), (vec!["b=2".to_owned()], 2));
    let (kept, lost, bytes) = stored(BaggagePolicy::none(), &entries);
    assert_eq!((kept.len(), lost, bytes), (0, 3, 0));
    // Escaped, each letter takes six bytes.
    let (kept, lost, bytes) = stored(
        BaggagePolicy::all().max_bytes(100),
        &[("a", &"é".repeat(10)), ("b", &"é".repeat(10)), ("c", "3")],
    );
    assert_eq!((kept.len(), lost), (2, 1));
    assert!(kept[1] == "c=3" && bytes <= 100, "{kept:?} {bytes}");
}

#[test]
fn only_what_was_injected_is_stored() {
    let traced = traced();
    let order = block_on(traced.engine.create(run("order", "run-A"), None));
    let keys: Vec<_> = order.carrier.iter().map(|(key, _)| key).collect();
    // No empty `tracestate`, which the SDK would write.
    assert_eq!(keys, ["traceparent"]);
    let start = &traced.spans.spans()[0].span_context;
    let expected = format!("00-{}-{}-01", start.trace_id(), start.span_id());
    assert_eq!(order.carrier.get("traceparent"), Some(&*expected));
}

#[test]
fn a_carrier_given_with_the_call_names_the_caller() {
    let traced = traced();
    let given = carried(&[
        ("traceparent", PARENT),
        ("tracestate", "a=b"),
        ("mine", "kept"),
    ]);
    let order = traced.in_span("ambient", traced.engine.create(given, None));
    traced.spans.tree().assert_eq(
        "
        ambient
        workflow.start order (remote parent)
        ",
    );
    let start = &traced.spans.spans()[1];
    assert_eq!(start.parent_span_id.to_string(), "b7ad6b7169203331");
    let stored = order.carrier.get("traceparent").unwrap();
    assert!(stored.contains(&start.span_context.span_id().to_string()));
    assert_eq!(order.carrier.get("tracestate"), Some("a=b"));
    assert_eq!(order.carrier.get("mine"), Some("kept"));
}

#[test]
fn what_a_given_carrier_said_is_not_mixed_with_what_is_stored() {
    let traced = traced_with(|otel| otel.baggage(BaggagePolicy::none()));
    let given = carried(&[("traceparent", PARENT), ("baggage", "tenant=acme")]);
    let order = block_on(traced.engine.create(given, None));
    assert_eq!(order.carrier.get("baggage"), None);
    let given = carried(&[("traceparent", "garbage"), ("tracestate", "a=b")]);
    let order = block_on(traced.engine.create(given, None));
    assert_ne!(order.carrier.get("traceparent"), Some("garbage"));
    assert_eq!(order.carrier.get("tracestate"), None);
}

#[test]
fn a_given_carrier_without_a_trace_leaves_the_caller_as_it_is() {
    let traced = traced();
    let given = carried(&[("mine", "kept")]);
    let order = traced.in_span("caller", traced.engine.create(given, None));
    traced
        .spans
        .tree()
        .assert_eq("caller\n└── workflow.start order");
    assert_eq!(order.carrier.get("mine"), Some("kept"));
}

#[test]
fn huge_values_are_not_even_parsed() {
    #[derive(Debug)]
    struct Patient;
    impl TextMapPropagator for Patient {
        fn inject_context(&self, _: &Context, _: &mut dyn Injector) {}

        fn extract_with_context(&self, cx: &Context, carrier: &dyn Extractor) -> Context {
            assert_eq!(carrier.get("fits").map(str::len), Some(16_384));
            assert_eq!(carrier.get("huge"), None);
            cx.clone()
        }

        fn fields(&self) -> FieldIter<'_> {
            FieldIter::new(&[])
        }
    }
    let traced = traced_with(|otel| otel.propagator(Patient));
    let (fits, huge) = ("x".repeat(16_384), "x".repeat(16_385));
    block_on(traced.execute(&carried(&[("fits", &fits), ("huge", &huge)]), None));
    let losses = traced.otel.losses();
    assert_eq!((losses.panics, losses.carriers), (0, 1));
}

#[test]
fn a_propagator_that_prefers_the_current_context_does_not_get_it() {
    #[derive(Debug)]
    struct Ambient;
    impl TextMapPropagator for Ambient {
        fn inject_context(&self, _: &Context, _: &mut dyn Injector) {}

        fn extract_with_context(&self, _: &Context, _: &dyn Extractor) -> Context {
            Context::current()
        }

        fn fields(&self) -> FieldIter<'_> {
            FieldIter::new(&[])
        }
    }
    let traced = traced_with(|otel| otel.propagator(Ambient));
    let order = carried(&[("traceparent", PARENT)]);
    traced.in_span("worker", traced.execute(&order, None));
    traced.spans.tree().assert_eq(
        "
        worker
        workflow.execute order
        └── step.run pack
            └── tape
        ",
    );
}

#[test]
fn several_interceptors_keep_to_themselves() {
    let (one, two) = (SpanCollector::new(), SpanCollector::new());
    let of = |spans: &SpanCollector| {
        let otel = OtelInterceptor::builder().tracer_provider(&spans.provider());
        Arc::new(otel.build()) as Arc<dyn workflow_core::Interceptor>
    };
    let engine = Engine(workflow_core::Chain::new([of(&one), of(&two)]));
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            let call = step(&e, "pack", StepKind::Run);
            engine.step(call, || async { done() }).await?;
            Ok(completed())
        }
    };
    block_on(engine.execute(&run("order", "run-A"), 1, workflow)).unwrap();
    for spans in [one, two] {
        spans.assert_sound();
        spans
            .tree()
            .assert_eq("workflow.execute order\n└── step.run pack");
    }
}
