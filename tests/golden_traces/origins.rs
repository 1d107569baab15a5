//! Where a run comes from: a second start, a delayed one, a refused one; with, without, and with an
//! unsampled caller.

use openworkflow::backend::Backend;
use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::opentelemetry::Context;
use openworkflow::otel::opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use openworkflow::{
    Client, CreateRun, CreatedRun, Error, Interceptor, Next, Result, Workflow, WorkflowSpec,
    async_trait,
};

use super::{Traced, child_of, idle, over, tree};

static PARENT: WorkflowSpec<(), ()> = WorkflowSpec::new("parent");
static CHILD: WorkflowSpec<(), ()> = WorkflowSpec::new("child");

fn parent() -> Workflow {
    PARENT.implement(|wf, ()| async move { wf.run_workflow(&CHILD, &()).await })
}

fn child() -> Workflow {
    CHILD.implement(|wf, ()| async move { wf.run("leaf", || async { Ok(()) }).await })
}

pub(crate) async fn idempotent_start<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(child()));
    let first = traced
        .start(traced.client.start(&CHILD, &()).idempotency_key("k"))
        .await;
    let carrier = over(&first).await.carrier;
    let second = traced
        .start(traced.client.start(&CHILD, &()).idempotency_key("k"))
        .await;
    assert_eq!(second.id(), first.id());
    assert_eq!(
        over(&second).await.carrier,
        carrier,
        "the first carrier is kept"
    );
    let spans = traced.spans().await;
    for span in spans
        .spans()
        .iter()
        .filter(|span| span.name == "workflow.start child")
    {
        let id = span
            .attributes
            .iter()
            .find(|kv| kv.key.as_str() == "workflow_run.id");
        assert_eq!(id.unwrap().value.to_string(), first.id());
    }
    tree(&spans).assert_eq(
        "
        caller [internal] unset
        └── workflow.start child [producer] ok
            └── workflow.execute child [consumer] ok {workflow.outcome=completed, workflow_run.attempt=1}
                └── step.run leaf [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
        caller [internal] unset
        └── workflow.start child [producer] ok
        ",
    );
}

pub(crate) async fn delayed_start<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(child()));
    traced
        .run(traced.client.start(&CHILD, &()).delay("100ms"))
        .await;
    let spans = traced.spans().await;
    spans.tree().assert_eq(
        "
        caller
        └── workflow.start child
            └── workflow.execute child
                └── step.run leaf
        ",
    );
    let spans = spans.spans();
    let gap = spans[2]
        .start_time
        .duration_since(spans[1].end_time)
        .unwrap();
    assert!(
        gap.as_millis() >= 50,
        "the execution is where it happened in time: {gap:?}"
    );
}

struct Closed;

#[async_trait]
impl Interceptor for Closed {
    async fn create_run(&self, _: CreateRun, _: Next<'_, CreateRun>) -> Result<CreatedRun> {
        Err(Error::rejected("we are closed").with_name("Closed"))
    }
}

pub(crate) async fn start_refused<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, idle);
    let otel = OtelInterceptor::builder()
        .tracer_provider(&traced.spans.provider())
        .build();
    let client = Client::builder(store)
        .interceptor(otel)
        .interceptor(Closed)
        .build();
    client.start(&CHILD, &()).await.unwrap_err();
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        workflow.start child [producer] error("we are closed") {error.type=rejected}
          * exception {exception.message="we are closed", exception.type=Closed}
        "#,
    );
}

/// Gives runs an id of its own, and that of the first instead of one without an input.
struct Renames(&'static str);

#[async_trait]
impl Interceptor for Renames {
    async fn create_run(
        &self,
        mut call: CreateRun,
        next: Next<'_, CreateRun>,
    ) -> Result<CreatedRun> {
        if call.input.is_null() {
            return Ok(CreatedRun::new(self.0, true));
        }
        call.run.id = self.0.into();
        next.run(call).await
    }
}

pub(crate) async fn start_changed_further_in<S: Backend + Clone>(store: S) {
    static COUNTED: WorkflowSpec<Option<u32>, ()> = WorkflowSpec::new("counted");
    let id = "11111111-2222-3333-4444-555555555555";
    let traced = Traced::new(&store, idle);
    let otel = OtelInterceptor::builder()
        .tracer_provider(&traced.spans.provider())
        .build();
    let client = Client::builder(store)
        .interceptor(otel)
        .interceptor(Renames(id))
        .build();
    for input in [Some(1), None] {
        assert_eq!(client.start(&COUNTED, &input).await.unwrap().id(), id);
    }
    let spans = traced.spans().await;
    spans
        .tree()
        .attributes(["workflow_run.id"])
        .replacing(id, "run-A")
        .assert_eq(
            "
            workflow.start counted {workflow_run.id=run-A}
            workflow.start counted {workflow_run.id=run-A}
            ",
        );
}

pub(crate) async fn no_caller<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(child()));
    over(&traced.client.start(&CHILD, &()).await.unwrap()).await;
    let spans = traced.spans().await;
    spans.tree().kinds().statuses().assert_eq(
        "
        workflow.start child [producer] ok
        └── workflow.execute child [consumer] ok
            └── step.run leaf [internal] ok
        ",
    );
}

pub(crate) async fn unsampled_caller<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(parent()).workflow(child()));
    let trace_id = TraceId::from_bytes([7; 16]);
    let caller = SpanContext::new(
        trace_id,
        SpanId::from_bytes([9; 8]),
        TraceFlags::default(),
        true,
        TraceState::default(),
    );
    let caller = Context::new().with_remote_span_context(caller);
    let run = traced
        .client
        .start(&PARENT, &())
        .with_context(caller)
        .await
        .unwrap();
    let ended = over(&run).await;
    let child = child_of(&traced.stranger, &run)
        .await
        .describe()
        .await
        .unwrap();
    for carrier in [&ended.carrier, &child.carrier] {
        let traceparent = carrier.get("traceparent").unwrap();
        assert!(traceparent.contains(&trace_id.to_string()), "{traceparent}");
        assert!(traceparent.ends_with("-00"), "{traceparent}");
    }
    assert_eq!(
        traced.spans().await.spans().len(),
        0,
        "no span, and no new root"
    );
}

pub(crate) async fn no_carrier<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(parent()).workflow(child()));
    let run = traced.stranger.start(&PARENT, &()).await.unwrap();
    over(&run).await;
    let spans = traced.spans().await;
    spans.tree().assert_eq(
        "
        workflow.execute parent
        └── step.run_workflow child
            └── workflow.execute child
                └── step.run leaf
        workflow.execute parent
        └── step.run_workflow child
        ",
    );
}
