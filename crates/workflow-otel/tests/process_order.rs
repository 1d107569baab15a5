//! The run that the trace contract shows, whole: five executions, a child, a signal, a sleep, a
//! failure.

mod support;

use std::collections::BTreeSet;

use futures::executor::block_on;
use opentelemetry::Context;
use opentelemetry::trace::{FutureExt, TraceContextExt, Tracer, TracerProvider};
use support::*;
use workflow_core::{Error, ExecutionOutcome, Result, StepKind};
use workflow_otel::OtelInterceptor;
use workflow_otel::testing::SpanCollector;

/// Drives process-order through its five executions.
async fn process_order(engine: &Engine) -> Result<()> {
    let order = run("process-order", "run-A").with_workflow_version("v7");
    let order = engine.create(order, None).await;

    let mut shipment = None;
    let first = engine.execute(&order, 1, |e| async {
        let validate = step(&e, "validate-order", StepKind::Run);
        engine.step(validate, || async { done() }).await?;
        let child = run("fulfill-shipment", "run-B");
        shipment = Some(engine.start_child(&e, child).await);
        drop(e);
        Ok(parked())
    });
    first.await?;

    let shipment = shipment.unwrap_or_else(|| run("", ""));
    let child = engine.execute(&shipment, 1, |e| async move {
        for name in ["reserve-inventory", "dispatch-courier"] {
            let call = step(&e, name, StepKind::Run);
            engine.step(call, || async { done() }).await?;
        }
        Ok(completed())
    });
    child.await?;

    let second = engine.execute(&order, 2, |e| async move {
        let call = resolve(child_step(&e, &run("fulfill-shipment", "run-B")));
        engine.step(call, || async { done() }).await?;
        let call = signal_step(&e, "confirmed:42");
        engine.step(call, || async { waiting() }).await?;
        Ok(parked())
    });
    second.await?;

    let third = engine.execute(&order, 3, |e| async move {
        let call = resolve(signal_step(&e, "confirmed:42"));
        engine.step(call, || async { done() }).await?;
        let call = step(&e, "cooldown", StepKind::sleep(instant()));
        engine.step(call, || async { waiting() }).await?;
        Ok(parked())
    });
    third.await?;

    let fourth = engine.execute(&order, 4, |e| async move {
        let call = step(&e, "notify-customer", StepKind::Run);
        let declined = || Error::new("MailboxFull", "mailbox is full");
        let failed = engine.step(call, || async { Err(declined()) }).await;
        assert!(failed.is_err());
        Ok(retrying("notify-customer", declined()))
    });
    assert!(matches!(fourth.await?, ExecutionOutcome::Retrying { .. }));

    let fifth = engine.execute(&order, 5, |e| async move {
        let mut call = step(&e, "notify-customer", StepKind::Run);
        call.prior_failures = 1;
        engine.step(call, || async { done() }).await?;
        Ok(completed())
    });
    fifth.await?;
    Ok(())
}

fn collected(otel: impl FnOnce(&SpanCollector) -> OtelInterceptor) -> SpanCollector {
    let spans = SpanCollector::new();
    let otel = otel(&spans);
    let tracer = spans.provider().tracer("app");
    let caller = Context::new().with_span(tracer.start("app.orders.handler"));
    let engine = Engine::new(otel.clone());
    block_on(process_order(&engine).with_context(caller.clone())).unwrap();
    caller.span().end();
    spans.assert_sound();
    assert_eq!(otel.losses(), Default::default());
    spans
}

fn with_defaults(spans: &SpanCollector) -> OtelInterceptor {
    let provider = spans.provider();
    OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build()
}

#[test]
fn is_the_tree_of_the_contract() {
    let spans = collected(with_defaults);
    assert_eq!(spans.spans().len(), 18);
    spans.tree().kinds().statuses().events().assert_eq(
        r#"
        app.orders.handler [internal] unset
        └── workflow.start process-order [producer] ok
            ├── workflow.execute process-order [consumer] ok
            │   ├── step.run validate-order [internal] ok
            │   └── step.run_workflow fulfill-shipment [producer] ok
            │       └── workflow.execute fulfill-shipment [consumer] ok
            │           ├── step.run reserve-inventory [internal] ok
            │           └── step.run dispatch-courier [internal] ok
            ├── workflow.execute process-order [consumer] ok
            │   ├── step.run_workflow fulfill-shipment [internal] ok
            │   └── step.wait_for_signal [internal] ok
            ├── workflow.execute process-order [consumer] ok
            │   ├── step.wait_for_signal [internal] ok
            │   └── step.sleep cooldown [internal] ok
            ├── workflow.execute process-order [consumer] error("mailbox is full")
            │   └── step.run notify-customer [internal] error("mailbox is full")
            │         * exception {exception.message="mailbox is full", exception.type=MailboxFull}
            └── workflow.execute process-order [consumer] ok
                └── step.run notify-customer [internal] ok
        "#,
    );
}

#[test]
fn has_every_attribute_of_the_contract_and_no_other() {
    let spans = collected(with_defaults).spans();
    let order = "workflow.name=process-order workflow.version=v7 workflow_run.id=run-A \
                 workflow_run.namespace_id=default";
    let shipment = "workflow.name=fulfill-shipment workflow_run.id=run-B \
                    workflow_run.namespace_id=default";
    let execution = |run: &str, attempt: u32| {
        let replay = attempt > 1;
        format!(
            "{run} worker.id=worker-1 workflow_run.attempt={attempt} workflow_run.replay={replay}"
        )
    };
    let ended = |attempt: u32, outcome: &str| {
        format!("{} workflow.outcome={outcome}", execution(order, attempt))
    };
    let step = |execution: String, name: &str, kind: &str, outcome: &str| {
        format!(
            "{execution} step.name={name} step.kind={kind} step.outcome={outcome} \
             step_attempt.id=attempt-of-{name}"
        )
    };
    let first_try = "step_attempt.prior_failures=0";
    let child = "child_workflow.name=fulfill-shipment child_workflow_run.id=run-B \
                 step.timeout_at=2026-01-02T03:04:05.678Z";
    let signal = "signal.name=confirmed:42 step.timeout_at=2026-01-02T03:04:05.678Z";
    let of_order = |attempt: u32, name: &str, kind: &str, outcome: &str| {
        step(execution(order, attempt), name, kind, outcome)
    };
    let of_shipment = |name: &str| {
        let step = step(execution(shipment, 1), name, "function", "completed");
        format!("{step} {first_try}")
    };
    let expected = [
        String::new(),
        order.to_owned(),
        ended(1, "parked"),
        of_order(1, "validate-order", "function", "completed") + " " + first_try,
        of_order(1, "fulfill-shipment", "workflow", "parked") + " " + first_try + " " + child,
        execution(shipment, 1) + " workflow.outcome=completed",
        of_shipment("reserve-inventory"),
        of_shipment("dispatch-courier"),
        ended(2, "parked"),
        of_order(2, "fulfill-shipment", "workflow", "completed") + " " + first_try + " " + child,
        of_order(2, "confirmed:42", "signal-wait", "parked") + " " + first_try + " " + signal,
        ended(3, "parked"),
        of_order(3, "confirmed:42", "signal-wait", "completed") + " " + first_try + " " + signal,
        of_order(3, "cooldown", "sleep", "parked")
            + " "
            + first_try
            + " step.resume_at=2026-01-02T03:04:05.678Z",
        ended(4, "retrying") + " error.type=MailboxFull",
        of_order(4, "notify-customer", "function", "failed")
            + " "
            + first_try
            + " error.type=MailboxFull",
        ended(5, "completed"),
        of_order(5, "notify-customer", "function", "completed") + " step_attempt.prior_failures=1",
    ];
    assert_eq!(spans.len(), expected.len());
    for (span, expected) in spans.iter().zip(expected) {
        let expected: BTreeSet<_> = expected.split_whitespace().map(str::to_owned).collect();
        let attributes = span.attributes.iter();
        let actual: BTreeSet<_> = attributes
            .map(|a| format!("{}={}", a.key, a.value))
            .collect();
        assert_eq!(actual, expected, "{}", span.name);
        let scope = &span.instrumentation_scope;
        if !span.name.starts_with("app.") {
            assert_eq!(scope.name(), "workflow-otel");
            assert_eq!(scope.version(), Some(env!("CARGO_PKG_VERSION")));
        }
    }
}

#[test]
fn holds_no_payload() {
    let spans = collected(with_defaults);
    for marker in [
        "input-marker",
        "output-marker",
        "result-marker",
        "signal-marker",
    ] {
        assert_eq!(spans.mentions(marker), Vec::<String>::new());
    }
    assert!(!spans.mentions("mailbox is full").is_empty());
}
