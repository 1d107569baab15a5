//! Who has an error that nobody else saw, why a step was dropped, and what the last write says.

mod support;

use std::future::{pending, poll_fn, ready};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use async_trait::async_trait;
use futures::FutureExt;
use futures::executor::block_on;
use futures::future::{Either, select};
use opentelemetry::trace::{Link, SpanKind, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample};
use support::*;
use workflow_core::{
    Chain, Error, ErrorKind, Event, Execution, ExecutionOutcome, Interceptor, Interruption, Next,
    PromisedEnd, Result, StepCall, StepKind, StepOutcome, Unwritten,
};
use workflow_otel::testing::SpanCollector;
use workflow_otel::{OtelInterceptor, OtelInterceptorBuilder, SpanSelection, attribute};

const SHOWN: [&str; 5] = [
    attribute::WORKFLOW_OUTCOME,
    attribute::STEP_OUTCOME,
    attribute::ERROR_TYPE,
    attribute::EXCEPTION_TYPE,
    attribute::EXCEPTION_MESSAGE,
];

fn otel(
    set_up: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder,
) -> (OtelInterceptor, SpanCollector) {
    let spans = SpanCollector::new();
    let otel = OtelInterceptor::builder().tracer_provider(&spans.provider());
    (set_up(otel).build(), spans)
}

fn engine() -> (Engine, SpanCollector) {
    let (otel, spans) = otel(|otel| otel);
    (Engine::new(otel), spans)
}

/// An engine with an interceptor outside of the one that is tested.
fn engine_inside(outer: impl Interceptor) -> (Engine, SpanCollector) {
    let (otel, spans) = otel(|otel| otel);
    let chain = Chain::new([Arc::new(outer) as Arc<dyn Interceptor>, Arc::new(otel)]);
    (Engine(chain), spans)
}

fn execution() -> Arc<Execution> {
    let execution = Execution::new(run("order", "run-A"), 1, false, "worker-1", instant());
    Arc::new(execution)
}

fn charge(e: &Arc<Execution>) -> StepCall {
    step(e, "charge", StepKind::Run)
}

fn expect(spans: &SpanCollector, expected: &str) {
    spans.assert_sound();
    let tree = spans.tree().kinds().statuses().events().attributes(SHOWN);
    tree.assert_eq(expected);
}

fn declined() -> Error {
    Error::new("Declined", "card declined")
}

/// Carries out a step as a real engine does: what comes out of the chain as an error is told.
async fn step_told(engine: &Engine, call: StepCall, body: Result<StepOutcome>) -> Error {
    let (execution, name) = (Arc::clone(&call.execution), Arc::clone(&call.name));
    let error = engine.step(call, || ready(body)).await.unwrap_err();
    let failed = Event::step_failed(&execution, &name, &error);
    engine.0.event(&failed);
    error.with_step_name(name)
}

/// Refuses the steps, without asking further.
struct Refuses;

#[async_trait]
impl Interceptor for Refuses {
    async fn step(&self, _: StepCall, _: Next<'_, StepCall>) -> Result<StepOutcome> {
        Err(Error::rejected("not today"))
    }
}

#[test]
fn what_failed_out_of_sight_is_on_the_execution() {
    // The workflow goes on without the step, or fails with it.
    for fails in [false, true] {
        let (engine, spans) = engine_inside(Refuses);
        let workflow = |e: Arc<Execution>| {
            let engine = &engine;
            async move {
                let error = step_told(engine, charge(&e), done()).await;
                match fails {
                    true => Ok(ExecutionOutcome::Failed { error }),
                    false => Ok(completed()),
                }
            }
        };
        drop(block_on(engine.execute_as(execution(), workflow)));
        let event =
            "\n  * exception {exception.message=\"not today\", exception.type=RejectedError}";
        let end = match fails {
            true => r#"error("not today") {error.type=rejected, workflow.outcome=failed}"#,
            false => "ok {workflow.outcome=completed}",
        };
        expect(
            &spans,
            &format!("workflow.execute order [consumer] {end}{event}"),
        );
    }
}

#[test]
fn what_a_step_has_is_not_on_the_execution() {
    let (engine, spans) = engine();
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            let error = step_told(engine, charge(&e), Err(declined())).await;
            Ok(ExecutionOutcome::Failed { error })
        }
    };
    block_on(engine.execute_as(execution(), workflow)).unwrap();
    expect(
        &spans,
        r#"
        workflow.execute order [consumer] error("card declined") {error.type=Declined, workflow.outcome=failed}
        └── step.run charge [internal] error("card declined") {error.type=Declined, step.outcome=failed}
              * exception {exception.message="card declined", exception.type=Declined}
        "#,
    );
}

/// Turns every failure of a step into another one.
struct Rewords;

#[async_trait]
impl Interceptor for Rewords {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let outcome = next.run(call).await;
        outcome.map_err(|error| Error::new("Worded", format!("in other words: {error}")))
    }
}

#[test]
fn another_error_made_of_it_is_another_event() {
    let (engine, spans) = engine_inside(Rewords);
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            let error = step_told(engine, charge(&e), Err(declined())).await;
            Ok(ExecutionOutcome::Failed { error })
        }
    };
    block_on(engine.execute_as(execution(), workflow)).unwrap();
    expect(
        &spans,
        r#"
        workflow.execute order [consumer] error("in other words: card declined") {error.type=Worded, workflow.outcome=failed}
        │ * exception {exception.message="in other words: card declined", exception.type=Worded}
        └── step.run charge [internal] error("card declined") {error.type=Declined, step.outcome=failed}
              * exception {exception.message="card declined", exception.type=Declined}
        "#,
    );
}

#[test]
fn without_spans_for_steps_the_execution_has_their_errors() {
    let (otel, spans) = otel(|otel| otel.spans(SpanSelection::RunsOnly));
    let engine = Engine::new(otel);
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            step_told(engine, charge(&e), Err(declined())).await;
            let ship = step(&e, "ship", StepKind::Run);
            let error = step_told(engine, ship, Err(Error::new("Lost", "at sea"))).await;
            Ok(ExecutionOutcome::Failed { error })
        }
    };
    block_on(engine.execute_as(execution(), workflow)).unwrap();
    expect(
        &spans,
        r#"
        workflow.execute order [consumer] error("at sea") {error.type=Lost, workflow.outcome=failed}
          * exception {exception.message="card declined", exception.type=Declined}
          * exception {exception.message="at sea", exception.type=Lost}
        "#,
    );
}

/// Leaves the steps out, or records them for nobody to export.
#[derive(Debug, Clone)]
struct NoSteps(SamplingDecision);

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
            decision: match name.starts_with("step.") {
                true => self.0.clone(),
                false => SamplingDecision::RecordAndSample,
            },
            attributes: Vec::new(),
            trace_state: TraceState::default(),
        }
    }
}

#[test]
fn the_error_of_a_step_that_a_sampler_dropped_is_on_the_execution() {
    for decision in [SamplingDecision::Drop, SamplingDecision::RecordOnly] {
        let spans = SpanCollector::new();
        let provider = SdkTracerProvider::builder()
            .with_sampler(NoSteps(decision))
            .with_span_processor(spans.clone())
            .build();
        let otel = OtelInterceptor::builder()
            .tracer_provider(&provider)
            .build();
        let engine = Engine::new(otel);
        let workflow = |e: Arc<Execution>| {
            let engine = &engine;
            async move {
                let error = step_told(engine, charge(&e), Err(declined())).await;
                Ok(ExecutionOutcome::Failed { error })
            }
        };
        block_on(engine.execute_as(execution(), workflow)).unwrap();
        let all = spans.spans();
        let execution = all
            .iter()
            .find(|span| span.name == "workflow.execute order");
        assert_eq!(execution.unwrap().events.len(), 1);
    }
}

/// Gives up on a step at once.
struct Impatient;

#[async_trait]
impl Interceptor for Impatient {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let outcome = next.run(call).now_or_never();
        outcome.unwrap_or_else(|| Err(Error::of_kind(ErrorKind::Timeout, "too slow")))
    }
}

#[test]
fn a_step_that_an_interceptor_further_out_drops_has_its_error() {
    let (engine, spans) = engine_inside(Impatient);
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            let error = engine.step(charge(&e), pending).await.unwrap_err();
            engine.0.event(&Event::step_failed(&e, "charge", &error));
            let error = error.with_step_name("charge".into());
            Ok(ExecutionOutcome::Failed { error })
        }
    };
    block_on(engine.execute_as(execution(), workflow)).unwrap();
    expect(
        &spans,
        r#"
        workflow.execute order [consumer] error("too slow") {error.type=timeout, workflow.outcome=failed}
        └── step.run charge [internal] error("too slow") {error.type=timeout, step.outcome=failed}
              * exception {exception.message="too slow", exception.type=TimeoutError}
        "#,
    );
}

/// Lets the workflow's code be polled once more.
async fn yielded() {
    let mut again = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut again, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Expects this of an execution of which `code` runs beside a step that never ends.
fn of_step_beside(code: impl Future<Output = Result<ExecutionOutcome>> + Send, expected: &str) {
    let (engine, spans) = engine();
    let execution = execution();
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        let code = async move {
            let slow = pin!(engine.step(charge(&e), pending));
            match select(slow, pin!(code)).await {
                Either::Right((ended, _)) => ended,
                Either::Left(_) => unreachable!("the step never ends"),
            }
        };
        // As a real engine has it, a panic of the workflow's code is an outcome.
        AssertUnwindSafe(code).catch_unwind().map(|ended| {
            ended.unwrap_or_else(|panic| {
                let error = Error::from_panic(&*panic);
                Ok(ExecutionOutcome::Failed { error })
            })
        })
    };
    drop(block_on(
        engine.execute_as(Arc::clone(&execution), workflow),
    ));
    expect(&spans, expected);
    // Nothing of it is kept.
    assert_eq!(Arc::strong_count(&execution), 1);
}

#[test]
fn a_step_beside_code_that_fails_is_not_given_up() {
    of_step_beside(
        async {
            yielded().await;
            panic!("out of cheese")
        },
        r#"
        workflow.execute order [consumer] error("out of cheese") {error.type=panic, workflow.outcome=failed}
        │ * exception {exception.message="out of cheese", exception.type=Panic}
        └── step.run charge [internal] error("execution_failed") {error.type=execution_failed, step.outcome=canceled}
        "#,
    );
    of_step_beside(
        async {
            Ok(ExecutionOutcome::Retrying {
                error: declined(),
                at: instant(),
            })
        },
        r#"
        workflow.execute order [consumer] error("card declined") {error.type=Declined, workflow.outcome=retrying}
        │ * exception {exception.message="card declined", exception.type=Declined}
        └── step.run charge [internal] error("execution_failed") {error.type=execution_failed, step.outcome=canceled}
        "#,
    );
    of_step_beside(
        async { Err(Error::rejected("an interceptor further in")) },
        r#"
        workflow.execute order [consumer] error("an interceptor further in") {error.type=rejected, workflow.outcome=retrying}
        │ * exception {exception.message="an interceptor further in", exception.type=RejectedError}
        └── step.run charge [internal] error("execution_failed") {error.type=execution_failed, step.outcome=canceled}
        "#,
    );
}

#[test]
fn a_step_beside_code_that_succeeds_is_given_up() {
    of_step_beside(
        async { Ok(completed()) },
        "
        workflow.execute order [consumer] ok {workflow.outcome=completed}
        └── step.run charge [internal] unset {step.outcome=canceled}
        ",
    );
    // What waits for the retry of a step is not at its end.
    of_step_beside(
        async { Ok(retrying("ship", declined())) },
        r#"
        workflow.execute order [consumer] error("card declined") {error.type=Declined, workflow.outcome=retrying}
        │ * exception {exception.message="card declined", exception.type=Declined}
        └── step.run charge [internal] unset {step.outcome=canceled}
        "#,
    );
}

#[test]
fn a_step_that_was_given_up_is_not_blamed_on_what_came_later() {
    let (engine, spans) = engine();
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            let give_up = |name| {
                let slow = engine.step(step(&e, name, StepKind::Run), pending);
                async {
                    drop(select(pin!(slow), pin!(ready(()))).await);
                }
            };
            // The code goes on with another step, or comes again, or does neither.
            give_up("before a step").await;
            engine.step(charge(&e), || ready(done())).await?;
            give_up("before a wait").await;
            yielded().await;
            give_up("at the end").await;
            Ok(ExecutionOutcome::Failed { error: declined() })
        }
    };
    block_on(engine.execute_as(execution(), workflow)).unwrap();
    expect(
        &spans,
        r#"
        workflow.execute order [consumer] error("card declined") {error.type=Declined, workflow.outcome=failed}
        │ * exception {exception.message="card declined", exception.type=Declined}
        ├── step.run before a step [internal] unset {step.outcome=canceled}
        ├── step.run charge [internal] ok {step.outcome=completed}
        ├── step.run before a wait [internal] unset {step.outcome=canceled}
        └── step.run at the end [internal] error("execution_failed") {error.type=execution_failed, step.outcome=canceled}
        "#,
    );
    // They ended when they were dropped.
    let spans = spans.spans();
    let ends = |name: &str| {
        let span = spans.iter().find(|span| span.name.ends_with(name));
        span.unwrap().end_time
    };
    assert!(ends("before a step") <= ends("charge"));
}

#[test]
fn a_step_that_outlives_its_execution_has_its_end() {
    for (ended, expected) in [
        (Ok(completed()), "unset {step.outcome=canceled}"),
        (
            Ok(ExecutionOutcome::Failed { error: declined() }),
            r#"error("execution_failed") {error.type=execution_failed, step.outcome=canceled}"#,
        ),
    ] {
        let (engine, spans) = engine();
        // As in a task of its own.
        let mut outlives = None;
        let workflow = |e: Arc<Execution>| {
            let (engine, outlives) = (&engine, &mut outlives);
            async move {
                let mut slow = Box::pin(engine.step(charge(&e), pending));
                assert!((&mut slow).now_or_never().is_none());
                *outlives = Some(slow);
                ended
            }
        };
        block_on(engine.execute_as(execution(), workflow)).unwrap();
        assert_eq!(spans.open(), ["step.run charge"]);
        drop(outlives);
        let tree = spans.tree().kinds().statuses().attributes(SHOWN);
        let tree = tree.to_string();
        let step = tree.lines().last().unwrap();
        assert_eq!(step, format!("└── step.run charge [internal] {expected}"));
        spans.assert_sound();
    }
}

/// Expects this of an execution whose end the engine promised, and told so.
fn of_promised(
    outcome: Result<ExecutionOutcome>,
    tell: impl FnOnce(PromisedEnd, &Result<ExecutionOutcome>),
    expected: &str,
) {
    let (engine, spans) = engine();
    let execution = execution();
    let end = engine.0.promise_end(&execution);
    let outcome = block_on(engine.execute_as(Arc::clone(&execution), |_| ready(outcome)));
    assert_eq!(
        spans.open(),
        ["workflow.execute order"],
        "it is not written yet"
    );
    let returned = SystemTime::now();
    tell(end, &outcome);
    expect(&spans, expected);
    assert!(spans.spans()[0].end_time >= returned);
    // Nothing of it is kept.
    assert_eq!(Arc::strong_count(&execution), 1);
}

#[test]
fn an_execution_ends_as_it_was_written() {
    of_promised(
        Ok(completed()),
        |end, outcome| end.tell(Ok(outcome.as_ref().unwrap())),
        "workflow.execute order [consumer] ok {workflow.outcome=completed}",
    );
    of_promised(
        Ok(ExecutionOutcome::Failed { error: declined() }),
        |end, outcome| end.tell(Ok(outcome.as_ref().unwrap())),
        r#"
        workflow.execute order [consumer] error("card declined") {error.type=Declined, workflow.outcome=failed}
          * exception {exception.message="card declined", exception.type=Declined}
        "#,
    );
    // An interceptor further out thought otherwise.
    of_promised(
        Ok(ExecutionOutcome::Failed { error: declined() }),
        |end, _| end.tell(Ok(&completed())),
        r#"
        workflow.execute order [consumer] ok {workflow.outcome=completed}
          * exception {exception.message="card declined", exception.type=Declined}
        "#,
    );
    of_promised(
        Ok(completed()),
        |end, _| {
            let error = Error::rejected("not so fast");
            let at = instant();
            end.tell(Ok(&ExecutionOutcome::Retrying { error, at }));
        },
        r#"
        workflow.execute order [consumer] error("not so fast") {error.type=rejected, workflow.outcome=retrying}
          * exception {exception.message="not so fast", exception.type=RejectedError}
        "#,
    );
}

#[test]
fn an_execution_whose_last_write_was_refused_says_so() {
    for (reason, outcome) in [
        (Interruption::Canceled, "canceled"),
        (Interruption::LeaseLost, "stale"),
        (Interruption::DeadlineExceeded, "failed"),
    ] {
        let reason_given = reason.as_str();
        of_promised(
            Ok(completed()),
            |end, _| end.tell(Err(Unwritten::Interrupted(reason))),
            &format!(
                r#"workflow.execute order [consumer] error("{reason_given}") {{error.type={reason_given}, workflow.outcome={outcome}}}"#
            ),
        );
    }
    of_promised(
        Ok(completed()),
        |end, _| {
            let error = Error::of_kind(ErrorKind::Backend, "disk full");
            end.tell(Err(Unwritten::Failed(&error)));
        },
        r#"
        workflow.execute order [consumer] error("disk full") {error.type=backend, workflow.outcome=stale}
          * exception {exception.message="disk full", exception.type=BackendError}
        "#,
    );
    // The engine was dropped in the middle of the write.
    of_promised(
        Ok(completed()),
        |end, _| drop(end),
        r#"workflow.execute order [consumer] error("worker_stopped") {error.type=worker_stopped, workflow.outcome=stale}"#,
    );
}

#[test]
fn an_execution_that_an_interceptor_further_out_drops_ends_as_it_was_written() {
    let (engine, spans) = engine();
    let execution = execution();
    let end = engine.0.promise_end(&execution);
    let workflow = |e: Arc<Execution>| async {
        engine.step(charge(&e), pending).await?;
        drop(e);
        Ok(completed())
    };
    let mut future = Box::pin(engine.execute_as(Arc::clone(&execution), workflow));
    assert!((&mut future).now_or_never().is_none());
    drop(future);
    let error = Error::of_kind(ErrorKind::Timeout, "too slow");
    end.tell(Ok(&ExecutionOutcome::Failed { error }));
    expect(
        &spans,
        r#"
        workflow.execute order [consumer] error("too slow") {error.type=timeout, workflow.outcome=failed}
        │ * exception {exception.message="too slow", exception.type=TimeoutError}
        └── step.run charge [internal] error("execution_failed") {error.type=execution_failed, step.outcome=canceled}
        "#,
    );
    assert_eq!(Arc::strong_count(&execution), 1);
}

#[test]
fn one_that_is_registered_twice_ends_both_its_spans() {
    let (otel, spans) = otel(|otel| otel);
    let chain = [otel.clone(), otel].map(|otel| Arc::new(otel) as Arc<dyn Interceptor>);
    let engine = Engine(Chain::new(chain));
    let execution = execution();
    let end = engine.0.promise_end(&execution);
    let workflow = |_| ready(Ok(completed()));
    block_on(engine.execute_as(Arc::clone(&execution), workflow)).unwrap();
    assert_eq!(spans.open().len(), 2);
    end.tell(Ok(&completed()));
    assert_eq!(spans.open().len(), 0);
    assert_eq!(spans.spans().len(), 2);
    assert_eq!(Arc::strong_count(&execution), 1);
}
