//! Errors that no step's span could see, and steps that another's failure cut off.

use std::time::Duration;

use openworkflow::backend::Backend;
use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::opentelemetry::trace::{Link, SpanKind, TraceId, TraceState};
use openworkflow::otel::opentelemetry::{Context, KeyValue};
use openworkflow::otel::opentelemetry_sdk::trace::{
    SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample,
};
use openworkflow::otel::testing::SpanCollector;
use openworkflow::{
    Client, Error, ErrorKind, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result, RetryPolicy,
    StepCall, StepOutcome, Worker, Workflow, WorkflowSpec, async_trait,
};
use tokio::sync::oneshot;
use tower::timeout::TimeoutLayer;

use super::{SOON, Traced, over, tree, until};

static W: WorkflowSpec<(), ()> = WorkflowSpec::new("w");

/// A step that is done at once, if it is let.
fn one_step() -> Workflow {
    W.implement(|wf, ()| async move { wf.run("step", || async { Ok(()) }).await })
}

/// Refuses the step, or breaks at it.
struct Door {
    broken: bool,
}

#[async_trait]
impl Interceptor for Door {
    async fn step(&self, _: StepCall, _: Next<'_, StepCall>) -> Result<StepOutcome> {
        assert!(!self.broken, "the door is broken");
        Err(Error::rejected("we are closed").non_retryable())
    }
}

pub(crate) async fn refused_out_of_sight<S: Backend + Clone>(store: S) {
    let traced = Traced::inside(
        &store,
        |worker| worker.interceptor(Door { broken: false }),
        |otel| otel,
        |worker| worker.workflow(one_step()),
    );
    traced.run(traced.client.start(&W, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            └── workflow.execute w [consumer] error("we are closed") {error.type=rejected, workflow.outcome=failed, workflow_run.attempt=1}
                  * exception {exception.message="we are closed", exception.type=RejectedError}
        "#,
    );

    // The workflow knows what to do about it, and still it happened.
    let traced = Traced::inside(
        &store,
        |worker| worker.interceptor(Door { broken: true }),
        |otel| otel,
        |worker| {
            worker.workflow(W.implement(|wf, ()| async move {
                let step = wf.run("step", || async { Ok(()) });
                let _caught = step.retry(RetryPolicy::none()).await;
                Ok(())
            }))
        },
    );
    traced.run(traced.client.start(&W, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            └── workflow.execute w [consumer] ok {workflow.outcome=completed, workflow_run.attempt=1}
                  * exception {exception.message="the door is broken", exception.type=Panic}
        "#,
    );
}

/// Answers with what the step cannot be.
struct Nonsense;

#[async_trait]
impl Interceptor for Nonsense {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        next.run(call).await?;
        Ok(StepOutcome::TimedOut)
    }
}

pub(crate) async fn answered_with_nonsense<S: Backend + Clone>(store: S) {
    let traced = Traced::inside(
        &store,
        |worker| worker.interceptor(Nonsense),
        |otel| otel,
        |worker| {
            worker.workflow(W.implement(|wf, ()| async move {
                let _caught = wf.run("step", || async { Ok(()) }).await;
                Ok(())
            }))
        },
    );
    traced.run(traced.client.start(&W, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            └── workflow.execute w [consumer] ok {workflow.outcome=completed, workflow_run.attempt=1}
                │ * exception {exception.message="an interceptor answered with TimedOut, which is no outcome of this step", exception.type=InvalidArgumentError}
                └── step.run step [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
        "#,
    );
}

pub(crate) async fn timed_out_further_out<S: Backend + Clone>(store: S) {
    let traced = Traced::inside(
        &store,
        |worker| worker.layer(TimeoutLayer::new(Duration::from_millis(20))),
        |otel| otel,
        |worker| {
            worker.workflow(W.implement(|wf, ()| async move {
                let step = wf.run("step", std::future::pending);
                step.retry(RetryPolicy::none()).await
            }))
        },
    );
    traced.run(traced.client.start(&W, &())).await;
    let spans = traced.spans().await;
    // The step's own span is the one that tells most.
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            └── workflow.execute w [consumer] error("the step timed out") {error.type=timeout, workflow.outcome=failed, workflow_run.attempt=1}
                └── step.run step [internal] error("the step timed out") {error.type=timeout, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=1}
                      * exception {exception.message="the step timed out", exception.type=TimeoutError}
        "#,
    );
}

pub(crate) async fn took_longer_than_its_limit<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(W.implement(|wf, ()| async move {
            let step = wf.run("step", || async {
                if wf.attempt() == 1 {
                    std::future::pending::<()>().await;
                }
                Ok(())
            });
            step.timeout("20ms").retry(SOON).await
        }))
    });
    traced.run(traced.client.start(&W, &())).await;
    let spans = traced.spans().await;
    // A limit of the step's own is inside of its span, and tried again by its policy.
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            ├── workflow.execute w [consumer] error("step \"step\" took longer than its limit of 20ms") {error.type=timeout, workflow.outcome=retrying, workflow_run.attempt=1}
            │   └── step.run step [internal] error("step \"step\" took longer than its limit of 20ms") {error.type=timeout, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │         * exception {exception.message="step \"step\" took longer than its limit of 20ms", exception.type=TimeoutError}
            └── workflow.execute w [consumer] ok {workflow.outcome=completed, workflow_run.attempt=2}
                └── step.run step [internal] ok {step.outcome=completed, step_attempt.prior_failures=1, workflow_run.attempt=2}
        "#,
    );
}

pub(crate) async fn stored_result_no_longer_fits<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(W.implement(|wf, ()| async move {
            // As if the code had been changed between two executions.
            if wf.attempt() == 1 {
                wf.run("count", || async { Ok("many".to_owned()) }).await?;
            } else {
                wf.run("count", || async { Ok(3_u32) }).await?;
            }
            wf.sleep("nap", "1ms").await
        }))
    });
    let run = traced.start(traced.client.start(&W, &())).await;
    until("the second execution has failed", || async {
        let run = run.describe().await.ok()?;
        (run.attempts == 2 && run.error.is_some()).then_some(())
    })
    .await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            ├── workflow.execute w [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   ├── step.run count [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │   └── step.sleep nap [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            └── workflow.execute w [consumer] error("the result of step \"count\" does not fit the type u32: expected u32 at line 1 column 6; mend the type or who wrote the value") {error.type=invalid_payload, workflow.outcome=retrying, workflow_run.attempt=2}
                  * exception {exception.message="the result of step \"count\" does not fit the type u32: expected u32 at line 1 column 6; mend the type or who wrote the value", exception.type=InvalidPayloadError}
        "#,
    );
}

/// Leaves steps out.
#[derive(Debug, Clone)]
struct NoSteps;

impl ShouldSample for NoSteps {
    fn should_sample(
        &self,
        _: Option<&Context>,
        _: TraceId,
        name: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        SamplingResult {
            decision: if name.starts_with("step.") {
                SamplingDecision::Drop
            } else {
                SamplingDecision::RecordAndSample
            },
            attributes: Vec::new(),
            trace_state: TraceState::default(),
        }
    }
}

pub(crate) async fn step_left_out_by_a_sampler<S: Backend + Clone>(store: S) {
    let spans = SpanCollector::new();
    let provider = SdkTracerProvider::builder()
        .with_sampler(NoSteps)
        .with_span_processor(spans.clone())
        .build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let broken = W.implement(|wf, ()| async move {
        let step = wf.run("step", || async {
            Err(Error::new("Broken", "no such luck"))
        });
        step.retry(SOON).await
    });
    let worker = Worker::builder(store.clone())
        .interceptor(otel)
        .workflow(broken);
    let mut worker = worker.build().unwrap().start();
    over(&Client::new(store).start(&W, &()).await.unwrap()).await;
    worker.stop().await.unwrap();
    tree(&spans).assert_eq(
        r#"
        workflow.execute w [consumer] error("no such luck") {error.type=Broken, workflow.outcome=retrying, workflow_run.attempt=1}
          * exception {exception.message="no such luck", exception.type=Broken}
        workflow.execute w [consumer] error("no such luck") {error.type=Broken, workflow.outcome=retrying, workflow_run.attempt=2}
          * exception {exception.message="no such luck", exception.type=Broken}
        workflow.execute w [consumer] error("no such luck") {error.type=Broken, workflow.outcome=failed, workflow_run.attempt=3}
          * exception {exception.message="no such luck", exception.type=Broken}
        "#,
    );
}

/// Gives an execution no more than this.
struct Impatient(Duration);

#[async_trait]
impl Interceptor for Impatient {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        let execution = tokio::time::timeout(self.0, next.run(call)).await;
        let too_slow = || Error::of_kind(ErrorKind::Timeout, "too slow").non_retryable();
        execution.unwrap_or_else(|_| Err(too_slow()))
    }
}

pub(crate) async fn execution_timed_out_further_out<S: Backend + Clone>(store: S) {
    let traced = Traced::inside(
        &store,
        |worker| worker.interceptor(Impatient(Duration::from_millis(20))),
        |otel| otel,
        |worker| {
            let never =
                W.implement(|wf, ()| async move { wf.run("step", std::future::pending).await });
            worker.workflow(never)
        },
    );
    traced.run(traced.client.start(&W, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            └── workflow.execute w [consumer] error("too slow") {error.type=timeout, workflow.outcome=failed, workflow_run.attempt=1}
                │ * exception {exception.message="too slow", exception.type=TimeoutError}
                └── step.run step [internal] error("execution_failed") {error.type=execution_failed, step.outcome=canceled, step_attempt.prior_failures=0, workflow_run.attempt=1}
        "#,
    );
}

/// Two branches: a step that never ends, and code that does as soon as the step is at work.
async fn beside_a_step<S, F>(store: S, code: fn() -> F) -> SpanCollector
where
    S: Backend + Clone,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let traced = Traced::new(&store, |worker| {
        worker.workflow(W.implement(move |wf, ()| async move {
            let (at_work, begun) = oneshot::channel::<()>();
            let slow = wf.run("slow", || async {
                drop(at_work);
                std::future::pending::<Result<()>>().await
            });
            let code = async {
                drop(begun.await);
                code().await
            };
            tokio::try_join!(slow, code)?;
            Ok(())
        }))
    });
    traced.run(traced.client.start(&W, &())).await;
    traced.spans().await
}

pub(crate) async fn step_beside_a_panic<S: Backend + Clone>(store: S) {
    let spans = beside_a_step(store, || async { panic!("out of cheese") }).await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            └── workflow.execute w [consumer] error("out of cheese") {error.type=panic, workflow.outcome=failed, workflow_run.attempt=1}
                │ * exception {exception.message="out of cheese", exception.type=Panic}
                └── step.run slow [internal] error("execution_failed") {error.type=execution_failed, step.outcome=canceled, step_attempt.prior_failures=0, workflow_run.attempt=1}
        "#,
    );
}

pub(crate) async fn step_beside_an_error<S: Backend + Clone>(store: S) {
    let spans = beside_a_step(store, || async { Err(Error::new("Declined", "no")) }).await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            └── workflow.execute w [consumer] error("no") {error.type=Declined, workflow.outcome=failed, workflow_run.attempt=1}
                │ * exception {exception.message=no, exception.type=Declined}
                └── step.run slow [internal] error("execution_failed") {error.type=execution_failed, step.outcome=canceled, step_attempt.prior_failures=0, workflow_run.attempt=1}
        "#,
    );
}

/// Is written as what it cannot be read from.
#[derive(Debug)]
struct Fickle;

impl serde::Serialize for Fickle {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str("fickle")
    }
}

impl<'de> serde::Deserialize<'de> for Fickle {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        u32::deserialize(deserializer).map(|_| Self)
    }
}

pub(crate) async fn results_that_cannot_be_read_back<S: Backend + Clone>(store: S) {
    static CHILD: WorkflowSpec<(), String> = WorkflowSpec::new("child");
    // What the parent takes the same child for.
    static TAKEN: WorkflowSpec<(), u32> = WorkflowSpec::new("child");
    let traced = Traced::new(&store, |worker| {
        let child = CHILD.implement(|_, ()| async { Ok("three".to_owned()) });
        worker
            .workflow(child)
            .workflow(W.implement(|wf, ()| async move {
                let error = wf.run("fickle", || async { Ok(Fickle) }).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidPayload);
                wf.run_workflow(&TAKEN, &()).await.map(|_| ())
            }))
    });
    traced.run(traced.client.start(&W, &())).await;
    let spans = traced.spans().await;
    let tree = tree(&spans).replacing(std::any::type_name::<Fickle>(), "Fickle");
    tree.assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            ├── workflow.execute w [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   ├── step.run fickle [internal] error("the result of step \"fickle\" does not fit the type Fickle: expected u32 at line 1 column 8; mend the type or who wrote the value") {error.type=invalid_payload, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │   │     * exception {exception.message="the result of step \"fickle\" does not fit the type Fickle: expected u32 at line 1 column 8; mend the type or who wrote the value", exception.type=InvalidPayloadError}
            │   └── step.run_workflow child [producer] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │       └── workflow.execute child [consumer] ok {workflow.outcome=completed, workflow_run.attempt=1}
            └── workflow.execute w [consumer] error("the output of child workflow \"child\" does not fit the type u32: expected u32 at line 1 column 7; mend the type or who wrote the value") {error.type=invalid_payload, workflow.outcome=failed, workflow_run.attempt=2}
                └── step.run_workflow child [internal] error("the output of child workflow \"child\" does not fit the type u32: expected u32 at line 1 column 7; mend the type or who wrote the value") {error.type=invalid_payload, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=2}
                      * exception {exception.message="the output of child workflow \"child\" does not fit the type u32: expected u32 at line 1 column 7; mend the type or who wrote the value", exception.type=InvalidPayloadError}
        "#,
    );
}

pub(crate) async fn a_step_of_another_kind<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(W.implement(|wf, ()| async move {
            if wf.attempt() == 1 {
                wf.run("step", || async { Ok(()) }).await?;
                return wf.sleep("nap", "1ms").await;
            }
            wf.sleep("step", "1ms").await
        }))
    });
    let run = traced.start(traced.client.start(&W, &())).await;
    until("the second execution has failed", || async {
        let run = run.describe().await.ok()?;
        (run.attempts == 2 && run.error.is_some()).then_some(())
    })
    .await;
    let spans = traced.spans().await;
    tree(&spans).replacing(run.id(), "RUN").assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start w [producer] ok
            ├── workflow.execute w [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   ├── step.run step [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │   └── step.sleep nap [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            └── workflow.execute w [consumer] error("step \"step\" of run RUN is recorded as \"function\" and the workflow's code asks for \"sleep\": the code has changed while the run was under way. Deploy the old code, and give the new code a version of its own (docs/changing-workflows.md); the run goes on by itself") {error.type=non_determinism, workflow.outcome=retrying, workflow_run.attempt=2}
                  * workflow.non_determinism
                  * exception {exception.message="step \"step\" of run RUN is recorded as \"function\" and the workflow's code asks for \"sleep\": the code has changed while the run was under way. Deploy the old code, and give the new code a version of its own (docs/changing-workflows.md); the run goes on by itself", exception.type=NonDeterminismError}
        "#,
    );
}
