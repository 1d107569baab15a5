//! The application's own telemetry, made with the real libraries, belongs to the step it is made in;
//! and a run belongs to the application's span that it is started in.

mod support;

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{FutureExt, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use support::*;
use tracing::Instrument;
use tracing::instrument::WithSubscriber;
use tracing_subscriber::prelude::*;
use workflow_core::{
    BoxFuture, Chain, Error, Execution, Interceptor, Next, ParentStep, Result, RunInfo, StepCall,
    StepKind, StepOutcome,
};
use workflow_otel::testing::SpanCollector;
use workflow_otel::{OtelInterceptor, tracing_layer};

struct App {
    spans: SpanCollector,
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    engine: Engine,
}

fn app() -> App {
    let spans = SpanCollector::new();
    let provider = spans.provider();
    let otel = OtelInterceptor::builder().tracer_provider(&provider);
    App {
        engine: Engine::new(otel.build()),
        tracer: provider.tracer("app"),
        provider,
        spans,
    }
}

impl App {
    /// A subscriber for the `tracing` crate, set up by the one function there is for it.
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        tracing_subscriber::registry().with(tracing_layer(&self.provider))
    }

    /// Starts a run and executes it; its one step has this body.
    async fn run<F: Future<Output = Result<StepOutcome>> + Send>(
        &self,
        body: impl FnOnce() -> F + Send,
    ) {
        let run = self.engine.create(run("order", "run-A"), None).await;
        self.execute(&run, body).await;
    }

    async fn execute<F: Future<Output = Result<StepOutcome>> + Send>(
        &self,
        run: &RunInfo,
        body: impl FnOnce() -> F + Send,
    ) {
        let workflow = |e| async move {
            let call = step(&e, "charge", StepKind::Run);
            self.engine.step(call, body).await?;
            Ok(completed())
        };
        self.engine.execute(run, 1, workflow).await.unwrap();
    }
}

/// Gives the thread to others once, so that what follows is another poll.
async fn other_poll() {
    let mut first = true;
    poll_fn(|cx| {
        if std::mem::take(&mut first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn opentelemetry_spans_nest_in_every_poll() {
    let app = app();
    let tracer = &app.tracer;
    app.run(|| async move {
        tracer.in_span("first poll", |_| {});
        other_poll().await;
        tracer.in_span("second poll", |_| tracer.in_span("inner", |_| {}));
        done()
    })
    .await;
    app.spans.assert_sound();
    app.spans.tree().assert_eq(
        "
        workflow.start order
        └── workflow.execute order
            └── step.run charge
                ├── first poll
                └── second poll
                    └── inner
        ",
    );
}

#[tokio::test]
async fn spans_of_the_workflow_between_steps_nest_under_the_execution() {
    let app = &app();
    let run = app.engine.create(run("order", "run-A"), None).await;
    let workflow = |e: Arc<Execution>| async move {
        app.tracer.in_span("before", |_| {});
        let call = step(&e, "charge", StepKind::Run);
        let phase = app.tracer.start("phase");
        let phase = Context::current_with_span(phase);
        let step = app.engine.step(call, || async { done() });
        step.with_context(phase).await?;
        other_poll().await;
        app.tracer.in_span("after", |_| {});
        Ok(completed())
    };
    app.engine.execute(&run, 1, workflow).await.unwrap();
    app.spans.tree().assert_eq(
        "
        workflow.start order
        └── workflow.execute order
            ├── before
            ├── phase
            │   └── step.run charge
            └── after
        ",
    );
}

#[tokio::test]
async fn tracing_spans_nest_both_ways() {
    let app = app();
    let app = &app;
    async {
        let handler = tracing::info_span!("app.orders.handler");
        app.run(|| async move {
            tracing::info_span!("in tracing").in_scope(|| {
                tracing::info!("an event, on the span around it");
                app.tracer.in_span("opentelemetry in tracing", |_| {
                    tracing::info_span!("tracing in opentelemetry").in_scope(|| {});
                });
            });
            other_poll().await;
            instrumented().await;
            done()
        })
        .instrument(handler)
        .await;
    }
    .with_subscriber(app.subscriber())
    .await;
    app.spans.assert_sound();
    app.spans.tree().events().attributes(["level"]).assert_eq(
        "
        app.orders.handler
        └── workflow.start order
            └── workflow.execute order
                └── step.run charge
                    ├── in tracing
                    │   │ * an event, on the span around it {level=INFO}
                    │   └── opentelemetry in tracing
                    │       └── tracing in opentelemetry
                    └── instrumented
                        └── deeper
        ",
    );
}

#[tracing::instrument]
async fn instrumented() {
    other_poll().await;
    tracing::info_span!("deeper").in_scope(|| {});
}

#[tokio::test]
async fn the_worker_s_own_tracing_span_is_no_parent() {
    let app = app();
    let app = &app;
    async {
        let worker = tracing::info_span!("worker.loop");
        let stored = app.engine.create(run("order", "run-A"), None).await;
        app.execute(&stored, || async {
            instrumented().await;
            // Inside, because the innermost wins: the current `tracing` span is the worker's.
            let task = async { instrumented().await }.with_current_context();
            let task = task.in_current_span().with_current_subscriber();
            tokio::spawn(task).await.unwrap();
            done()
        })
        .instrument(worker)
        .await;
    }
    .with_subscriber(app.subscriber())
    .await;
    app.spans.tree().assert_eq(
        "
        workflow.start order
        └── workflow.execute order
            └── step.run charge
                ├── instrumented
                │   └── deeper
                └── instrumented
                    └── deeper
        worker.loop
        ",
    );
}

#[tokio::test]
async fn spawned_tasks_belong_to_the_step_with_its_context() {
    let app = app();
    let app = &app;
    async {
        app.run(|| async {
            let tracer = app.tracer.clone();
            let with_api = async move { tracer.in_span("with the api", |_| {}) };
            tokio::spawn(with_api.with_current_context()).await.unwrap();
            let with_tracing = async { instrumented().await }
                .with_current_context()
                .with_current_subscriber();
            tokio::spawn(with_tracing).await.unwrap();
            done()
        })
        .await;
    }
    .with_subscriber(app.subscriber())
    .await;
    app.spans.tree().assert_eq(
        "
        workflow.start order
        └── workflow.execute order
            └── step.run charge
                ├── with the api
                └── instrumented
                    └── deeper
        ",
    );
}

/// What a workflow does in a task that it spawned without the context.
#[tokio::test]
async fn steps_and_children_of_a_bare_task_belong_to_the_execution() {
    let app = Arc::new(app());
    let stored = app.engine.create(run("order", "run-A"), None).await;
    let (in_task, spans) = (Arc::clone(&app), app.spans.clone());
    let workflow = |e: Arc<Execution>| async move {
        let task = tokio::spawn(async move {
            let call = step(&e, "charge", StepKind::Run);
            let body = || async {
                in_task.tracer.in_span("in the step", |_| {});
                done()
            };
            in_task.engine.step(call, body).await?;
            // The child is created in another task than its step is.
            let parent = ParentStep::new(e, "ship".into(), "attempt".into());
            let child = run("ship", "run-B");
            Ok::<_, Error>(in_task.engine.create(child, Some(parent)).await)
        });
        let child = task.await.unwrap()?;
        let execution = Context::current().span().span_context().span_id();
        let parent = child.carrier.get("traceparent").unwrap();
        assert!(parent.contains(&execution.to_string()), "{parent}");
        Ok(completed())
    };
    app.engine.execute(&stored, 1, workflow).await.unwrap();
    spans.assert_sound();
    spans.tree().assert_eq(
        "
        workflow.start order
        └── workflow.execute order
            └── step.run charge
                └── in the step
        ",
    );
}

/// A hook written by hand works before it returns its future; that is in the step too.
#[tokio::test]
async fn inner_interceptors_nest() {
    struct Auditing(SdkTracer);
    impl Interceptor for Auditing {
        fn step<'life0, 'life1, 'async_trait>(
            &'life0 self,
            call: StepCall,
            next: Next<'life1, StepCall>,
        ) -> BoxFuture<'async_trait, Result<StepOutcome>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            self.0.in_span("audit", |_| {});
            next.run(call).boxed()
        }
    }
    let mut app = app();
    let otel = OtelInterceptor::builder().tracer_provider(&app.provider);
    let auditing = Auditing(app.tracer.clone());
    app.engine = Engine(Chain::new([
        Arc::new(otel.build()) as Arc<dyn Interceptor>,
        Arc::new(auditing),
    ]));
    app.run(|| async { done() }).await;
    app.spans.tree().assert_eq(
        "
        workflow.start order
        └── workflow.execute order
            └── step.run charge
                └── audit
        ",
    );
}

#[tokio::test]
async fn outgoing_requests_carry_the_step() {
    let app = app();
    let mut headers = HashMap::new();
    app.run(|| async {
        // What the client libraries do with an outgoing request.
        TraceContextPropagator::new().inject(&mut headers);
        done()
    })
    .await;
    let step = app.spans.spans().pop().unwrap();
    assert_eq!(step.name, "step.run charge");
    let expected = format!(
        "00-{}-{}-01",
        step.span_context.trace_id(),
        step.span_context.span_id()
    );
    assert_eq!(headers["traceparent"], expected);
}

/// What a destructor does when a step is dropped is part of the step.
#[tokio::test]
async fn destructors_of_a_dropped_step_nest() {
    struct Rollback(SdkTracer);
    impl Drop for Rollback {
        fn drop(&mut self) {
            self.0.in_span("rollback", |_| {});
        }
    }
    let app = app();
    let rollback = Rollback(app.tracer.clone());
    let run = app.run(|| async move {
        let _rollback = rollback;
        std::future::pending().await
    });
    tokio::select! {
        biased;
        () = run => unreachable!(),
        () = other_poll() => {}
    }
    app.spans.assert_sound();
    app.spans.tree().assert_eq(
        "
        workflow.start order
        └── workflow.execute order ERROR
            └── step.run charge ERROR
                └── rollback
        ",
    );
}

#[tokio::test]
async fn concurrent_runs_do_not_swap_parents() {
    let app = app();
    let one = |id: &'static str| {
        let app = &app;
        async move {
            let stored = app.engine.create(run(id, id), None).await;
            let workflow = |e: Arc<Execution>| async move {
                for name in ["a", "b", "c"] {
                    let call = step(&e, name, StepKind::Run);
                    let body = || async {
                        other_poll().await;
                        app.tracer
                            .in_span(format!("in {id}"), |_| other_poll())
                            .await;
                        done()
                    };
                    app.engine.step(call, body).await?;
                    other_poll().await;
                }
                Ok(completed())
            };
            app.engine.execute(&stored, 1, workflow).await.unwrap();
        }
    };
    futures::future::join_all(["one", "two", "three"].map(one)).await;
    app.spans.assert_sound();
    let trees = app.spans.tree().to_string();
    for id in ["one", "two", "three"] {
        let expected = format!(
            "workflow.start {id}\n└── workflow.execute {id}\n    ├── step.run a\n    │   └── in {id}\n    \
             ├── step.run b\n    │   └── in {id}\n    └── step.run c\n        └── in {id}\n"
        );
        assert!(trees.contains(&expected), "{trees}");
    }
}

#[test]
fn attributes_of_the_user_s_function_are_there_for_samplers() {
    let spans = SpanCollector::new();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&spans.provider())
        .attributes(|call| match call {
            workflow_otel::SpanCall::CreateRun(call) => {
                vec![KeyValue::new("app.input", call.input.expose().to_owned())]
            }
            workflow_otel::SpanCall::Step(call) => {
                vec![KeyValue::new(
                    "app.step_of",
                    call.execution.run.id.to_string(),
                )]
            }
            _ => Vec::new(),
        })
        .build();
    let engine = &Engine::new(otel);
    futures::executor::block_on(async {
        let run = engine.create(run("order", "run-A"), None).await;
        let workflow = |e: Arc<Execution>| async move {
            let call = step(&e, "charge", StepKind::Run);
            engine.step(call, || async { done() }).await?;
            Ok(completed())
        };
        engine.execute(&run, 1, workflow).await.unwrap();
    });
    spans
        .tree()
        .attributes(["app.input", "app.step_of"])
        .assert_eq(
            r#"
        workflow.start order {app.input="\"input-marker\""}
        └── workflow.execute order
            └── step.run charge {app.step_of=run-A}
        "#,
        );
}
