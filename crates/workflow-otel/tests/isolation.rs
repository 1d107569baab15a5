//! Whatever is wrong with telemetry, workflows get the same results, and what was lost is counted.

mod support;

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use opentelemetry::propagation::text_map_propagator::FieldIter;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{
    Link, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    SamplingResult, SdkTracerProvider, ShouldSample, Span, SpanData, SpanExporter, SpanProcessor,
};
use support::*;
use workflow_core::{Execution, ExecutionOutcome, Result, RunInfo, StepKind};
use workflow_otel::testing::SpanCollector;
use workflow_otel::{Losses, OtelInterceptor, OtelInterceptorBuilder};

/// Not that of the `futures` crate: the SDK's simple processor uses it, and it does not nest.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// Starts and executes a run with a step and a child, and checks what comes out of it.
async fn work(engine: &Engine) -> RunInfo {
    let order = engine.create(run("order", "run-A"), None).await;
    let steps = AtomicUsize::new(0);
    let workflow = |e: Arc<Execution>| async {
        let body = || async {
            steps.fetch_add(1, Ordering::Relaxed);
            done()
        };
        engine.step(step(&e, "pack", StepKind::Run), body).await?;
        let refuse = || async { Err(workflow_core::Error::rejected("no")) };
        let refused = engine.step(step(&e, "tape", StepKind::Run), refuse).await;
        assert_eq!(refused.unwrap_err().message(), "no");
        engine.start_child(&e, run("ship", "run-B")).await;
        drop(e);
        Ok(completed())
    };
    let outcome = engine.execute(&order, 1, workflow).await;
    assert!(matches!(outcome, Ok(ExecutionOutcome::Completed { .. })));
    assert_eq!(steps.into_inner(), 1);
    order
}

fn losses_with(
    set_up: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder,
) -> (Losses, RunInfo) {
    let otel = set_up(OtelInterceptor::builder()).build();
    let order = block_on(work(&Engine::new(otel.clone())));
    (otel.losses(), order)
}

/// Panics where it is told to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Broken {
    Inject,
    Extract,
    Fields,
    Sample,
    Start,
    End,
    Export,
}

impl Broken {
    fn here(self, place: Self) {
        if self == place {
            panic!("broken: {place:?}");
        }
    }
}

impl TextMapPropagator for Broken {
    fn inject_context(&self, _: &Context, injector: &mut dyn Injector) {
        injector.set("half", "written".to_owned());
        self.here(Self::Inject);
    }

    fn extract_with_context(&self, cx: &Context, _: &dyn Extractor) -> Context {
        self.here(Self::Extract);
        cx.clone()
    }

    fn fields(&self) -> FieldIter<'_> {
        self.here(Self::Fields);
        FieldIter::new(&[])
    }
}

impl ShouldSample for Broken {
    fn should_sample(
        &self,
        _: Option<&Context>,
        _: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        self.here(Self::Sample);
        unreachable!()
    }
}

impl SpanProcessor for Broken {
    fn on_start(&self, _: &mut Span, _: &Context) {
        self.here(Self::Start);
    }

    fn on_end(&self, _: SpanData) {
        self.here(Self::End);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl SpanExporter for Broken {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        self.here(Self::Export);
        Err(OTelSdkError::InternalFailure("broken".to_owned()))
    }
}

#[test]
fn propagators_that_panic() {
    // Half of what it wanted to say is not stored.
    let (losses, order) = losses_with(|otel| otel.propagator(Broken::Inject));
    assert!(order.carrier.is_empty());
    assert_eq!((losses.panics, losses.spans), (2, 0));
    // Nothing to extract from an empty carrier, so it is not asked.
    let otel = OtelInterceptor::builder()
        .propagator(Broken::Extract)
        .build();
    let engine = Engine::new(otel.clone());
    let given = run("order", "run-A").with_carrier([("half", "read")].into_iter().collect());
    let execution = engine.execute(&given, 1, |_| async { Ok(completed()) });
    assert!(block_on(execution).is_ok());
    assert_eq!(otel.losses().panics, 1);
    // Asked for its fields when a carrier has something in it already.
    let created = block_on(engine.create(given, None));
    assert_eq!(created.carrier.get("half"), Some("written"));
    let otel = OtelInterceptor::builder()
        .propagator(Broken::Fields)
        .build();
    let given = run("order", "run-A").with_carrier([("half", "read")].into_iter().collect());
    let created = block_on(Engine::new(otel.clone()).create(given, None));
    assert_eq!(created.carrier.get("half"), Some("read"));
    // Once to read what was given, once to write.
    assert_eq!(otel.losses().panics, 2);
}

#[test]
fn samplers_that_panic() {
    let spans = SpanCollector::new();
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler_of(Broken::Sample))
        .with_span_processor(spans.clone())
        .build();
    let (losses, _) = losses_with(|otel| otel.tracer_provider(&provider));
    // Of the start and the execution. Without these there is nothing for steps to belong to.
    assert_eq!((losses.panics, losses.spans), (2, 2));
    assert_eq!(spans.tree().to_string(), "");
}

fn sampler_of(broken: Broken) -> impl ShouldSample + 'static {
    #[derive(Debug, Clone)]
    struct Sampler(Broken);
    impl ShouldSample for Sampler {
        fn should_sample(
            &self,
            parent: Option<&Context>,
            id: TraceId,
            name: &str,
            kind: &SpanKind,
            attributes: &[KeyValue],
            links: &[Link],
        ) -> SamplingResult {
            self.0
                .should_sample(parent, id, name, kind, attributes, links)
        }
    }
    Sampler(broken)
}

#[test]
fn processors_that_panic() {
    for (broken, panics) in [(Broken::Start, 2), (Broken::End, 5)] {
        let provider = SdkTracerProvider::builder()
            .with_span_processor(broken)
            .build();
        let (losses, _) = losses_with(|otel| otel.tracer_provider(&provider));
        assert_eq!(
            (losses.panics, losses.spans),
            (panics, panics),
            "{broken:?}"
        );
    }
}

#[test]
fn exporters_that_panic_or_fail() {
    // The SDK's simple processor gives its exporter up after the first panic.
    for (exporter, panics) in [(Broken::Export, 1), (Broken::Inject, 0)] {
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter)
            .build();
        let (losses, _) = losses_with(|otel| otel.tracer_provider(&provider));
        assert_eq!(losses.panics, panics, "{exporter:?}");
        // In a thread of its own it is not even noticed.
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .build();
        let (losses, _) = losses_with(|otel| otel.tracer_provider(&provider));
        assert_eq!(losses, Losses::default());
    }
}

/// Blocks until the test is over.
struct Blocking {
    reached: Sender<()>,
    release: Mutex<Receiver<()>>,
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blocking")
    }
}

impl SpanExporter for Blocking {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        let _ = self.reached.send(());
        let _ = self.release.lock().map(|release| release.recv());
        Ok(())
    }
}

#[test]
fn exporters_that_block() {
    let (reached, is_reached) = channel();
    let (release, released) = channel();
    let exporter = Blocking {
        reached,
        release: Mutex::new(released),
    };
    let config = opentelemetry_sdk::trace::BatchConfigBuilder::default()
        .with_max_queue_size(2)
        .with_max_export_batch_size(1)
        .build();
    let processor = opentelemetry_sdk::trace::BatchSpanProcessor::builder(exporter)
        .with_batch_config(config)
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let engine = Engine::new(otel.clone());
    block_on(work(&engine));
    // The exporter has the first span and keeps it; the queue overflows.
    is_reached.recv().unwrap();
    for _ in 0..20 {
        block_on(work(&engine));
    }
    assert_eq!(otel.losses(), Losses::default());
    drop(release);
}

#[test]
fn attribute_functions_that_panic() {
    let spans = SpanCollector::new();
    let (losses, _) = losses_with(|otel| {
        let otel = otel.tracer_provider(&spans.provider());
        otel.attributes(|_| panic!("broken"))
    });
    spans.assert_sound();
    assert_eq!((losses.panics, losses.spans), (5, 0));
    assert_eq!(spans.spans().len(), 5);
}

#[test]
fn a_provider_that_is_shut_down_early() {
    let spans = SpanCollector::new();
    let provider = spans.provider();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let engine = Engine::new(otel.clone());
    let order = block_on(engine.create(run("order", "run-A"), None));
    let workflow = |e: Arc<Execution>| async {
        provider.shutdown().unwrap();
        engine
            .step(step(&e, "pack", StepKind::Run), || async { done() })
            .await?;
        let child = engine.start_child(&e, run("ship", "run-B")).await;
        // The trace is passed on: the child may run elsewhere.
        assert!(child.carrier.get("traceparent").is_some());
        drop(e);
        Ok(completed())
    };
    assert!(block_on(engine.execute(&order, 1, workflow)).is_ok());
    assert_eq!((otel.losses().panics, otel.losses().spans), (0, 2));
    // The one that ended in time.
    spans.tree().assert_eq("workflow.start order");
    block_on(work(&engine));
}

/// One thread is enough, for the flush and the shutdown too.
#[test]
fn a_current_thread_runtime() {
    #[derive(Debug, Clone, Default)]
    struct Counting(Arc<AtomicUsize>);
    impl SpanExporter for Counting {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.fetch_add(batch.len(), Ordering::Relaxed);
            Ok(())
        }
    }
    let exported = Counting::default();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exported.clone())
        .build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        work(&Engine::new(otel)).await;
        provider.force_flush().unwrap();
        assert_eq!(exported.0.load(Ordering::Relaxed), 5);
        provider.shutdown().unwrap();
    });
}

/// Leaves an execution and a step to a panic that unwinds through both.
fn unwind_through(provider: &SdkTracerProvider) -> Losses {
    let otel = OtelInterceptor::builder().tracer_provider(provider).build();
    let engine = Engine::new(otel.clone());
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let workflow = |e: Arc<Execution>| async {
            let call = step(&e, "pack", StepKind::Run);
            engine.step(call, std::future::pending).await?;
            drop(e);
            Ok::<_, workflow_core::Error>(completed())
        };
        let order = run("order", "run-A");
        let execution = pin!(engine.execute(&order, 1, workflow));
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        let polled: std::task::Poll<Result<_>> = execution.poll(&mut task);
        assert!(polled.is_ready(), "it is not");
    }));
    assert!(unwound.is_err());
    otel.losses()
}

#[test]
fn spans_end_when_a_panic_unwinds_through_them() {
    let spans = SpanCollector::new();
    assert_eq!(unwind_through(&spans.provider()), Losses::default());
    spans.assert_sound();
    assert_eq!(spans.spans().len(), 2);
    // A second panic while the first unwinds would abort the process, were it not contained.
    let broken = SdkTracerProvider::builder()
        .with_span_processor(Broken::End)
        .build();
    assert_eq!(unwind_through(&broken).panics, 2);
}

/// A tracer of another SDK, whose spans count what is done to them.
#[derive(Clone, Default)]
struct Foreign(Arc<Mutex<Vec<u32>>>);

struct ForeignSpan {
    spans: Foreign,
    index: usize,
    span_context: SpanContext,
}

impl TracerProvider for Foreign {
    type Tracer = Self;

    fn tracer_with_scope(&self, _: InstrumentationScope) -> Self {
        self.clone()
    }
}

impl Tracer for Foreign {
    type Span = ForeignSpan;

    fn build_with_context(&self, _: SpanBuilder, _: &Context) -> ForeignSpan {
        let mut spans = self.0.lock().unwrap();
        spans.push(0);
        let id = SpanId::from(spans.len() as u64);
        let (trace, flags) = (TraceId::from(1), TraceFlags::SAMPLED);
        ForeignSpan {
            spans: self.clone(),
            index: spans.len() - 1,
            span_context: SpanContext::new(trace, id, flags, false, TraceState::NONE),
        }
    }
}

impl opentelemetry::trace::Span for ForeignSpan {
    fn add_event_with_timestamp<T>(&mut self, _: T, _: SystemTime, _: Vec<KeyValue>)
    where
        T: Into<Cow<'static, str>>,
    {
    }

    fn span_context(&self) -> &SpanContext {
        &self.span_context
    }

    fn is_recording(&self) -> bool {
        true
    }

    fn set_attribute(&mut self, _: KeyValue) {}

    fn set_status(&mut self, _: Status) {}

    fn update_name<T>(&mut self, _: T)
    where
        T: Into<Cow<'static, str>>,
    {
    }

    fn add_link(&mut self, _: SpanContext, _: Vec<KeyValue>) {}

    fn end_with_timestamp(&mut self, _: SystemTime) {
        self.spans.0.lock().unwrap()[self.index] += 1;
    }
}

/// The SDK overlooks a second end; others need not.
#[test]
fn spans_end_once_whatever_the_sdk() {
    let spans = Foreign::default();
    let otel = OtelInterceptor::builder().tracer_provider(&spans).build();
    let engine = Engine::new(otel);
    block_on(work(&engine));
    let order = run("order", "run-A");
    let mut dropped = Box::pin(engine.execute(&order, 1, |_| std::future::pending()));
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(dropped.as_mut().poll(&mut task).is_pending());
    drop(dropped);
    assert_eq!(*spans.0.lock().unwrap(), [1; 6]);
}
