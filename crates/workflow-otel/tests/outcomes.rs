//! What the end of each call says on its span: status, outcome, `error.type`, exception event.

mod support;

use std::future::{pending, ready};
use std::sync::Arc;

use futures::FutureExt;
use futures::executor::block_on;
use support::*;
use workflow_core::{
    CancelRun, CreateRun, CreatedRun, Error, ErrorKind, Execution, ExecutionOutcome, Interruption,
    ParentStep, Payload, Result, RunInfo, SendSignal, SentSignal, StepCall, StepKind, StepOutcome,
};
use workflow_otel::testing::SpanCollector;
use workflow_otel::{
    ErrorDetail, OtelInterceptor, OtelInterceptorBuilder, SuccessStatus, attribute,
};

const SHOWN: [&str; 5] = [
    attribute::WORKFLOW_OUTCOME,
    attribute::STEP_OUTCOME,
    attribute::ERROR_TYPE,
    attribute::EXCEPTION_TYPE,
    attribute::EXCEPTION_MESSAGE,
];

fn engine_with(
    set_up: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder,
) -> (Engine, SpanCollector) {
    let spans = SpanCollector::new();
    let otel = OtelInterceptor::builder().tracer_provider(&spans.provider());
    (Engine::new(set_up(otel).build()), spans)
}

fn engine() -> (Engine, SpanCollector) {
    engine_with(|otel| otel)
}

fn execution(attempt: u32) -> Arc<Execution> {
    let run = run("order", "run-A");
    let execution = Execution::new(run, attempt, attempt > 1, "worker-1", instant());
    Arc::new(execution)
}

fn expect(spans: &SpanCollector, expected: &str) {
    spans.assert_sound();
    let tree = spans.tree().kinds().statuses().events().attributes(SHOWN);
    tree.assert_eq(expected);
}

/// The span of an execution that ends so.
fn of_execution(outcome: impl FnOnce() -> Result<ExecutionOutcome> + Send, expected: &str) {
    let (engine, spans) = engine();
    let execution = execution(1);
    let ended = engine.execute_as(Arc::clone(&execution), |_| async { outcome() });
    drop(block_on(ended));
    expect(&spans, expected);
    // Nothing of it is kept.
    assert_eq!(Arc::strong_count(&execution), 1);
}

#[test]
fn executions() {
    of_execution(
        || Ok(completed()),
        "workflow.execute order [consumer] ok {workflow.outcome=completed}",
    );
    of_execution(
        || Ok(parked()),
        "workflow.execute order [consumer] ok {workflow.outcome=parked}",
    );
    let failed = || ExecutionOutcome::Failed {
        error: Error::of_kind(ErrorKind::NotRegistered, "no such workflow"),
    };
    of_execution(
        move || Ok(failed()),
        r#"
        workflow.execute order [consumer] error("no such workflow") {error.type=not_registered, workflow.outcome=failed}
          * exception {exception.message="no such workflow", exception.type=NotRegisteredError}
        "#,
    );
    // Of a step that failed in an earlier execution: here nobody else has seen it.
    let of_step = || ExecutionOutcome::Failed {
        error: Error::new("Declined", "declined").with_step_name("charge".into()),
    };
    of_execution(
        move || Ok(of_step()),
        r#"
        workflow.execute order [consumer] error("declined") {error.type=Declined, workflow.outcome=failed}
          * exception {exception.message=declined, exception.type=Declined}
        "#,
    );
    let retrying = || ExecutionOutcome::Retrying {
        error: Error::new("Declined", "declined"),
        at: instant(),
    };
    of_execution(
        move || Ok(retrying()),
        r#"
        workflow.execute order [consumer] error("declined") {error.type=Declined, workflow.outcome=retrying}
          * exception {exception.message=declined, exception.type=Declined}
        "#,
    );
}

#[test]
fn executions_that_an_interceptor_or_a_panic_ends() {
    of_execution(
        || Err(Error::rejected("not now")),
        r#"
        workflow.execute order [consumer] error("not now") {error.type=rejected, workflow.outcome=retrying}
          * exception {exception.message="not now", exception.type=RejectedError}
        "#,
    );
    of_execution(
        || Err(Error::rejected("never").non_retryable()),
        r#"
        workflow.execute order [consumer] error("never") {error.type=rejected, workflow.outcome=failed}
          * exception {exception.message=never, exception.type=RejectedError}
        "#,
    );
    of_execution(
        || panic!("out of cheese"),
        r#"
        workflow.execute order [consumer] error("out of cheese") {error.type=panic, workflow.outcome=retrying}
          * exception {exception.message="out of cheese", exception.type=Panic}
        "#,
    );
}

/// The spans of an execution that is dropped while a step runs.
fn of_interruption(reason: Option<Interruption>, expected: &str) {
    let (engine, spans) = engine();
    let execution = execution(1);
    let workflow = |e: Arc<Execution>| async {
        let call = step(&e, "charge", StepKind::Run);
        engine.step(call, pending).await?;
        drop(e);
        Ok(completed())
    };
    let mut future = Box::pin(engine.execute_as(Arc::clone(&execution), workflow));
    assert!((&mut future).now_or_never().is_none());
    assert_eq!(spans.open().len(), 2);
    if let Some(reason) = reason {
        execution.interrupt(reason);
    }
    drop(future);
    expect(&spans, expected);
    // Nothing of it is kept.
    assert_eq!(Arc::strong_count(&execution), 1);
}

#[test]
fn executions_that_are_dropped() {
    of_interruption(
        Some(Interruption::Canceled),
        r#"
        workflow.execute order [consumer] error("canceled") {error.type=canceled, workflow.outcome=canceled}
        └── step.run charge [internal] error("canceled") {error.type=canceled, step.outcome=canceled}
        "#,
    );
    of_interruption(
        Some(Interruption::LeaseLost),
        r#"
        workflow.execute order [consumer] error("lease_lost") {error.type=lease_lost, workflow.outcome=stale}
        └── step.run charge [internal] error("lease_lost") {error.type=lease_lost, step.outcome=stale}
        "#,
    );
    of_interruption(
        Some(Interruption::DeadlineExceeded),
        r#"
        workflow.execute order [consumer] error("deadline_exceeded") {error.type=deadline_exceeded, workflow.outcome=failed}
        └── step.run charge [internal] error("deadline_exceeded") {error.type=deadline_exceeded, step.outcome=failed}
        "#,
    );
    // Given or not: a runtime that is torn down tells nobody why.
    for reason in [Some(Interruption::WorkerStopped), None] {
        of_interruption(
            reason,
            r#"
            workflow.execute order [consumer] error("worker_stopped") {error.type=worker_stopped, workflow.outcome=stale}
            └── step.run charge [internal] error("worker_stopped") {error.type=worker_stopped, step.outcome=stale}
            "#,
        );
    }
}

#[test]
fn a_step_that_the_workflow_gives_up_is_no_error() {
    let (engine, spans) = engine();
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            let slow = engine.step(step(&e, "slow", StepKind::Run), pending);
            let fast = engine.step(step(&e, "fast", StepKind::Run), || async { done() });
            futures::future::select(Box::pin(slow), Box::pin(fast)).await;
            Ok(completed())
        }
    };
    block_on(engine.execute_as(execution(1), workflow)).unwrap();
    expect(
        &spans,
        "
        workflow.execute order [consumer] ok {workflow.outcome=completed}
        ├── step.run slow [internal] unset {step.outcome=canceled}
        └── step.run fast [internal] ok {step.outcome=completed}
        ",
    );
}

#[test]
fn a_step_answered_from_history_leaves_no_trace() {
    let (engine, spans) = engine();
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            engine
                .0
                .event(&workflow_core::Event::step_replayed(&e, "charge"));
            Ok(completed())
        }
    };
    block_on(engine.execute_as(execution(2), workflow)).unwrap();
    expect(
        &spans,
        "workflow.execute order [consumer] ok {workflow.outcome=completed}",
    );
}

#[test]
fn a_departure_from_history_is_told_on_the_execution() {
    use workflow_core::Event;
    let (engine, spans) = engine();
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            let depart = |asked, recorded| {
                engine.0.event(&Event::non_determinism(&e, asked, recorded));
            };
            depart(Some("pay"), Some("charge"));
            depart(None, Some("ship"));
            // Wherever the code is when it is noticed.
            let in_step = || async {
                depart(Some("mail"), None);
                done()
            };
            engine.step(charge(&e), in_step).await?;
            Ok(completed())
        }
    };
    block_on(engine.execute_as(execution(2), workflow)).unwrap();
    // An execution that is over, and one that is unknown, are passed over.
    engine
        .0
        .event(&Event::non_determinism(&execution(3), Some("pay"), None));
    spans.assert_sound();
    let shown = ["step.name", "step.recorded_name"];
    spans
        .tree()
        .statuses()
        .events()
        .attributes(shown)
        .assert_eq(
            "
        workflow.execute order ok
        │ * workflow.non_determinism {step.name=pay, step.recorded_name=charge}
        │ * workflow.non_determinism {step.recorded_name=ship}
        │ * workflow.non_determinism {step.name=mail}
        └── step.run charge ok {step.name=charge}
        ",
        );
}

/// The span of a step that ends so.
fn of_step(
    make: impl FnOnce(&Arc<Execution>) -> StepCall + Send,
    result: impl FnOnce() -> Result<StepOutcome> + Send,
    expected: &str,
) {
    let (engine, spans) = engine();
    let workflow = |e: Arc<Execution>| {
        let (engine, call) = (&engine, make(&e));
        async move {
            // What the workflow makes of the result is its own affair.
            drop(engine.step(call, || async { result() }).await);
            Ok(completed())
        }
    };
    block_on(engine.execute_as(execution(1), workflow)).unwrap();
    let tree = spans.tree().kinds().statuses().events();
    let shown = SHOWN.into_iter().chain([attribute::SIGNAL_RECIPIENT_COUNT]);
    spans.assert_sound();
    let parent = "workflow.execute order [consumer] ok {workflow.outcome=completed}";
    tree.attributes(shown)
        .assert_eq(&format!("{parent}\n└── {}", expected.trim()));
}

fn charge(e: &Arc<Execution>) -> StepCall {
    step(e, "charge", StepKind::Run)
}

fn ship(e: &Arc<Execution>) -> StepCall {
    child_step(e, &run("ship", "run-B"))
}

fn confirmed(e: &Arc<Execution>) -> StepCall {
    signal_step(e, "confirmed")
}

#[test]
fn functions() {
    of_step(
        charge,
        done,
        "step.run charge [internal] ok {step.outcome=completed}",
    );
    of_step(
        charge,
        || {
            "x".parse::<u8>()
                .map(|_| unreachable!())
                .map_err(Error::from)
        },
        r#"
step.run charge [internal] error("invalid digit found in string") {error.type=ParseIntError, step.outcome=failed}
      * exception {exception.message="invalid digit found in string", exception.type=ParseIntError}
        "#,
    );
    of_step(
        charge,
        || panic!("out of cheese"),
        r#"
step.run charge [internal] error("out of cheese") {error.type=panic, step.outcome=failed}
      * exception {exception.message="out of cheese", exception.type=Panic}
        "#,
    );
    of_step(
        charge,
        || Err(Error::of_kind(ErrorKind::Timeout, "too slow")),
        r#"
step.run charge [internal] error("too slow") {error.type=timeout, step.outcome=failed}
      * exception {exception.message="too slow", exception.type=TimeoutError}
        "#,
    );
}

#[test]
fn sleeps_and_signals_sent() {
    of_step(
        |e| step(e, "cooldown", StepKind::sleep(instant())),
        waiting,
        "step.sleep cooldown [internal] ok {step.outcome=parked}",
    );
    of_step(
        |e| step(e, "tell", StepKind::send_signal("go".into(), Payload::NULL)),
        || {
            let run_ids = vec!["run-B".to_owned(), "run-C".to_owned()];
            Ok(StepOutcome::SignalSent { run_ids })
        },
        "step.send_signal tell [producer] ok {signal.recipient_count=2, step.outcome=completed}",
    );
    of_step(
        |e| {
            let mut call = step(e, "go", StepKind::send_signal("go".into(), Payload::NULL));
            call.named = false;
            call
        },
        || {
            let run_ids = Vec::new();
            Ok(StepOutcome::SignalSent { run_ids })
        },
        "step.send_signal [producer] ok {signal.recipient_count=0, step.outcome=completed}",
    );
}

#[test]
fn children() {
    of_step(
        ship,
        waiting,
        "step.run_workflow ship [producer] ok {step.outcome=parked}",
    );
    // Where nothing was created, by the id that it was to have.
    let child = |create: Option<Result<CreatedRun>>| {
        let (engine, spans) = engine();
        let workflow = |e: Arc<Execution>| {
            let engine = &engine;
            async move {
                let call = ship(&e);
                let mut creation = CreateRun::new(run("ship", "run-B"), Payload::NULL);
                creation.parent = Some(ParentStep::new(
                    Arc::clone(&e),
                    Arc::clone(&call.name),
                    Arc::clone(&call.attempt_id),
                ));
                let set_up = || async {
                    if let Some(created) = create {
                        engine.0.call(creation, |_| ready(created)).await?;
                    }
                    waiting()
                };
                drop(engine.step(call, set_up).await);
                Ok(parked())
            }
        };
        block_on(engine.execute_as(execution(1), workflow)).unwrap();
        spans.assert_sound();
        let attributes = &spans.spans()[1].attributes;
        let id = attributes
            .iter()
            .find(|kv| kv.key.as_str() == attribute::CHILD_WORKFLOW_RUN_ID);
        id.unwrap().value.to_string()
    };
    assert_eq!(child(None), "run-B");
    assert_eq!(child(Some(Err(Error::rejected("no")))), "run-B");
    // And else by the one of the run that was created or found.
    assert_eq!(child(Some(Ok(CreatedRun::new("run-C", true)))), "run-C");
    // Set up and ended at once: one span.
    of_step(
        ship,
        done,
        "step.run_workflow ship [producer] ok {step.outcome=completed}",
    );
    of_step(
        |e| resolve(ship(e)),
        done,
        "step.run_workflow ship [internal] ok {step.outcome=completed}",
    );
    for (kind, error_type, name, outcome) in [
        (ErrorKind::ChildFailed, "Error", "Error", "failed"),
        (
            ErrorKind::ChildCanceled,
            "child_canceled",
            "ChildCanceledError",
            "failed",
        ),
        (ErrorKind::Timeout, "timeout", "TimeoutError", "timed_out"),
    ] {
        of_step(
            |e| resolve(ship(e)),
            || Err(Error::of_kind(kind, "no luck")),
            &format!(
                r#"
step.run_workflow ship [internal] error("no luck") {{error.type={error_type}, step.outcome={outcome}}}
      * exception {{exception.message="no luck", exception.type={name}}}
                "#
            ),
        );
    }
}

#[test]
fn waits_for_signals() {
    of_step(
        confirmed,
        waiting,
        "step.wait_for_signal [internal] ok {step.outcome=parked}",
    );
    of_step(
        |e| {
            let mut call = confirmed(e);
            (call.named, call.name) = (true, "confirmation".into());
            call
        },
        waiting,
        "step.wait_for_signal confirmation [internal] ok {step.outcome=parked}",
    );
    of_step(
        |e| resolve(confirmed(e)),
        done,
        "step.wait_for_signal [internal] ok {step.outcome=completed}",
    );
    of_step(
        |e| resolve(confirmed(e)),
        || Ok(StepOutcome::TimedOut),
        "step.wait_for_signal [internal] ok {step.outcome=timed_out}",
    );
    of_step(
        |e| resolve(confirmed(e)),
        || Err(Error::of_kind(ErrorKind::InvalidPayload, "not a number")),
        r#"
step.wait_for_signal [internal] error("not a number") {error.type=invalid_payload, step.outcome=failed}
      * exception {exception.message="not a number", exception.type=InvalidPayloadError}
        "#,
    );
}

/// Creates a run by idempotency key, with this result.
fn create(result: Result<CreatedRun>) -> SpanCollector {
    let (engine, spans) = engine();
    let mut call = CreateRun::new(run("order", "run-A"), Payload::NULL);
    call.idempotency_key = Some("order-42".to_owned());
    drop(block_on(engine.0.call(call, |_| async { result })));
    spans.assert_sound();
    spans
}

#[test]
fn creations() {
    let shown = [attribute::WORKFLOW_RUN_ID, attribute::ERROR_TYPE];
    let tree = |spans: SpanCollector| spans.tree().statuses().attributes(shown);
    tree(create(Ok(CreatedRun::new("run-A", false))))
        .assert_eq("workflow.start order ok {workflow_run.id=run-A}");
    // The run that was found, not the one that never came to be.
    tree(create(Ok(CreatedRun::new("run-0", true))))
        .assert_eq("workflow.start order ok {workflow_run.id=run-0}");
    let failed = create(Err(Error::of_kind(ErrorKind::Backend, "disk full")));
    assert_eq!(failed.spans()[0].events.len(), 1);
    tree(failed).assert_eq(
        r#"workflow.start order error("disk full") {error.type=backend, workflow_run.id=run-A}"#,
    );

    // Without a key too: an interceptor further in can have changed it.
    let (engine, spans) = engine();
    let call = CreateRun::new(run("order", "run-A"), Payload::NULL);
    let create = |_| async { Ok(CreatedRun::new("run-B", false)) };
    block_on(engine.0.call(call, create)).unwrap();
    spans.assert_sound();
    tree(spans).assert_eq("workflow.start order ok {workflow_run.id=run-B}");

    let (engine, spans) = self::engine();
    let call = CreateRun::new(run("order", "run-A"), Payload::NULL);
    drop(engine.0.call(call, |_| pending()).now_or_never());
    spans.assert_sound();
    tree(spans).assert_eq(
        r#"workflow.start order error("canceled") {error.type=canceled, workflow_run.id=run-A}"#,
    );
}

#[test]
fn clients_signals_and_cancellations() {
    let (engine, spans) = engine();
    let signal = || SendSignal::new("default".into(), "go".into(), Payload::NULL);
    let sent = || SentSignal::new(vec!["run-A".to_owned()]);
    let cancel = || CancelRun::new(RunInfo::new("default", "run-A", "order"));
    let refused = || Error::of_kind(ErrorKind::Backend, "gone");
    block_on(async {
        engine
            .0
            .call(signal(), |_| async { Ok(sent()) })
            .await
            .unwrap();
        engine
            .0
            .call(signal(), |_| async { Err(refused()) })
            .await
            .unwrap_err();
        engine.0.call(cancel(), |_| async { Ok(()) }).await.unwrap();
        engine
            .0
            .call(cancel(), |_| async { Err(refused()) })
            .await
            .unwrap_err();
    });
    spans.assert_sound();
    spans.tree().kinds().statuses().attributes_but::<&str>([]).assert_eq(
        r#"
        signal.send [producer] ok {signal.name=go, signal.recipient_count=1, workflow_run.namespace_id=default}
        signal.send [producer] error("gone") {error.type=backend, signal.name=go, workflow_run.namespace_id=default}
        workflow.cancel order [internal] ok {workflow.name=order, workflow_run.id=run-A, workflow_run.namespace_id=default}
        workflow.cancel order [internal] error("gone") {error.type=backend, workflow.name=order, workflow_run.id=run-A, workflow_run.namespace_id=default}
        "#,
    );
}

/// A step that fails with an error that says much, and the execution with it.
async fn fail(engine: &Engine) {
    let error =
        || Error::new("Declined", "card 4242 declined").with_stack("caused by: issuer of 4242");
    let workflow = |e: Arc<Execution>| async move {
        drop(engine.step(charge(&e), || async { Err(error()) }).await);
        let error = error().with_step_name("charge".into());
        Ok(ExecutionOutcome::Failed { error })
    };
    engine.execute_as(execution(1), workflow).await.unwrap();
}

#[test]
fn messages_and_stacks_can_be_left_out() {
    let (engine, spans) = engine();
    block_on(fail(&engine));
    let step = &spans.spans()[1];
    let stack = &step.events[0].attributes[2];
    assert_eq!(stack.key.as_str(), attribute::EXCEPTION_STACKTRACE);
    assert_eq!(stack.value.as_str(), "caused by: issuer of 4242");

    let (engine, spans) = engine_with(|otel| otel.error_detail(ErrorDetail::TypeOnly));
    block_on(fail(&engine));
    assert_eq!(spans.mentions("4242"), Vec::<String>::new());
    expect(
        &spans,
        r#"
        workflow.execute order [consumer] error("Declined") {error.type=Declined, workflow.outcome=failed}
        └── step.run charge [internal] error("Declined") {error.type=Declined, step.outcome=failed}
              * exception {exception.type=Declined}
        "#,
    );
}

#[test]
fn long_messages_are_cut() {
    let (engine, spans) = engine();
    // Two bytes a letter, behind one: the limit is in the middle of a letter.
    let long =
        || Error::new("Long", format!("a{}", "é".repeat(50_000))).with_stack("é".repeat(50_000));
    let workflow = |_| async { Ok(ExecutionOutcome::Failed { error: long() }) };
    block_on(engine.execute_as(execution(1), workflow)).unwrap();
    let span = &spans.spans()[0];
    let length = |i: usize| span.events[0].attributes[i].value.as_str().len();
    assert_eq!((length(1), length(2)), (4095, 16_384));
}

#[test]
fn success_can_be_left_unset() {
    let (engine, spans) = engine_with(|otel| otel.success_status(SuccessStatus::Unset));
    let workflow = |e: Arc<Execution>| {
        let engine = &engine;
        async move {
            engine.step(charge(&e), || async { done() }).await?;
            Err(Error::rejected("no"))
        }
    };
    block_on(engine.execute_as(execution(1), workflow)).unwrap_err();
    spans.tree().statuses().assert_eq(
        r#"
        workflow.execute order error("no")
        └── step.run charge unset
        "#,
    );
}
