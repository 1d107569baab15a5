//! What is told of a run from the outside: executions that were lost, the bar from its creation to its
//! end, how old it may be to be under its caller, and what it came from.

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::executor::block_on;
use opentelemetry::trace::{FutureExt, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, Value};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData};
use support::*;
use workflow_core::{
    Error, Event, Execution, ExecutionOutcome, Interruption, LostExecution, RunInfo, StepKind,
    Unwritten, WakeCause,
};
use workflow_otel::ids::{self, DerivedIds};
use workflow_otel::testing::SpanCollector;
use workflow_otel::{OtelInterceptor, OtelInterceptorBuilder, SpanSelection, TraceMode, attribute};

/// A process: with its own interceptor and engine.
struct Process {
    engine: Engine,
    otel: OtelInterceptor,
}

fn process(
    spans: &SpanCollector,
    set_up: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder,
) -> Process {
    let otel = OtelInterceptor::builder().tracer_provider(&spans.provider());
    let otel = set_up(otel).build();
    Process {
        engine: Engine::new(otel.clone()),
        otel,
    }
}

impl Process {
    /// Creates a run under a caller's span.
    fn create(&self, spans: &SpanCollector, run: RunInfo) -> RunInfo {
        let span = spans.provider().tracer("app").start("caller");
        let cx = Context::new().with_span(span);
        let created = block_on(self.engine.create(run, None).with_context(cx.clone()));
        cx.span().end();
        created
    }

    /// Executes a run that was created `age` before, with one step, and tells what was written.
    fn execute(&self, run: &RunInfo, attempt: u32, age: Duration, outcome: ExecutionOutcome) {
        let execution = execution(run, attempt, age);
        let end = self.engine.0.promise_end(&execution);
        let workflow = |e| async move {
            let call = step(&e, "pack", StepKind::Run);
            self.engine.step(call, || async { done() }).await?;
            Ok(outcome)
        };
        let executed = self.engine.execute_as(execution, workflow);
        let outcome = block_on(executed).expect("it has an outcome");
        end.tell(Ok(&outcome));
    }

    fn tell(&self, event: &Event<'_>) {
        self.engine.0.event(event);
    }
}

fn execution(run: &RunInfo, attempt: u32, age: Duration) -> Arc<Execution> {
    let began = SystemTime::now();
    let execution = Execution::new(run.clone(), attempt, attempt > 1, "worker-1", began);
    Arc::new(execution.with_run_created_at(began - age))
}

fn failed() -> ExecutionOutcome {
    ExecutionOutcome::Failed {
        error: Error::new("CardDeclined", "card declined"),
    }
}

fn lost(attempt: u32) -> LostExecution {
    LostExecution::new(
        attempt,
        "worker-0",
        instant(),
        instant() + Duration::from_secs(9),
    )
    .with_replay(true)
    .with_due_for(Duration::from_millis(1500))
    .with_woken_by(WakeCause::Signal)
}

fn find(spans: &SpanCollector, name: &str) -> SpanData {
    let spans = spans.spans();
    let found = spans.into_iter().find(|span| span.name == name);
    found.unwrap_or_else(|| panic!("there is no {name}"))
}

fn value(span: &SpanData, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|kv| kv.key.as_str() == key);
    found.map(|kv| kv.value.clone())
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

// ===== where time went =====

#[test]
fn an_execution_says_how_long_its_run_was_due_and_what_woke_it() {
    let spans = SpanCollector::new();
    let engine = &process(&spans, |otel| otel).engine;
    let now = SystemTime::now();
    let execution = Execution::new(run("order", "run-A"), 2, true, "worker-1", now)
        .with_claim(std::time::Instant::now(), Duration::from_millis(250))
        .with_woken_by(WakeCause::Child);
    let workflow = |e| async move {
        let mut call = resolve(signal_step(&e, "paid"));
        call.parked_for = Some(Duration::from_secs(90));
        engine.step(call, || async { done() }).await?;
        Ok(completed())
    };
    let executed = engine.execute_as(Arc::new(execution), workflow);
    block_on(executed).unwrap();
    spans.assert_sound();
    let execution = find(&spans, "workflow.execute order");
    let queued = value(&execution, attribute::WORKFLOW_RUN_QUEUE_DURATION);
    assert_eq!(queued, Some(Value::F64(0.25)));
    let woken_by = value(&execution, attribute::WORKFLOW_RUN_WOKEN_BY);
    assert_eq!(woken_by, Some(Value::from("child")));
    let wait = find(&spans, "step.wait_for_signal");
    let parked = value(&wait, attribute::STEP_PARKED_DURATION);
    assert_eq!(parked, Some(Value::F64(90.0)));
    // On the execution's own span alone.
    assert_eq!(value(&wait, attribute::WORKFLOW_RUN_QUEUE_DURATION), None);
    assert_eq!(value(&wait, attribute::WORKFLOW_RUN_WOKEN_BY), None);
}

// ===== executions that were lost =====

#[test]
fn a_dead_workers_execution_is_ended_under_its_own_id() {
    for mode in [TraceMode::CallerAsParent, TraceMode::Linked] {
        let spans = SpanCollector::new();
        let client = process(&spans, |otel| otel);
        let order = client.create(&spans, run("order", "run-A"));
        let dying = process(&spans, |otel| otel.trace_mode(mode));
        let of_dead = execution(&order, 1, MINUTE);
        // The step is exported, the execution never ends: what it holds is forgotten.
        let unended = dying.engine.execute_as(of_dead, |e| {
            let engine = &dying.engine;
            async move {
                let call = step(&e, "pack", StepKind::Run);
                engine.step(call, || async { done() }).await?;
                std::future::pending().await
            }
        });
        let mut unended = Box::pin(unended);
        assert!(futures::FutureExt::now_or_never(unended.as_mut()).is_none());
        std::mem::forget(unended);
        assert_eq!(spans.open(), ["workflow.execute order"]);

        let other = process(&spans, |otel| otel.trace_mode(mode));
        let created = SystemTime::now() - MINUTE;
        other.tell(&Event::execution_lost(&order, Some(created), &lost(1)));
        other.execute(&order, 2, MINUTE, completed());

        // The open span and its tombstone share an id, so the collector counts an end for one of them.
        let tree = spans.tree().kinds().statuses().links();
        let tree = tree.attributes([
            attribute::WORKFLOW_OUTCOME,
            attribute::ERROR_TYPE,
            attribute::WORKER_ID,
            attribute::WORKFLOW_RUN_ATTEMPT,
            attribute::WORKFLOW_RUN_REPLAY,
            attribute::WORKFLOW_RUN_QUEUE_DURATION,
            attribute::WORKFLOW_RUN_WOKEN_BY,
        ]);
        if mode == TraceMode::CallerAsParent {
            tree.assert_eq(
                r#"
                caller [internal] unset
                └── workflow.start order [producer] ok
                    ├── workflow.execute order [consumer] error("worker_lost") {error.type=worker_lost, worker.id=worker-0, workflow.outcome=lost, workflow_run.attempt=1, workflow_run.queue_duration=1.5, workflow_run.replay=true, workflow_run.woken_by=signal}
                    │   └── step.run pack [internal] ok {worker.id=worker-1, workflow_run.attempt=1, workflow_run.replay=false}
                    └── workflow.execute order [consumer] ok {worker.id=worker-1, workflow.outcome=completed, workflow_run.attempt=2, workflow_run.replay=true}
                        └── step.run pack [internal] ok {worker.id=worker-1, workflow_run.attempt=2, workflow_run.replay=true}
                "#,
            );
        } else {
            tree.assert_eq(
                r#"
                caller [internal] unset
                └── workflow.start order [producer] ok
                workflow.execute order [consumer] error("worker_lost") {error.type=worker_lost, worker.id=worker-0, workflow.outcome=lost, workflow_run.attempt=1, workflow_run.queue_duration=1.5, workflow_run.replay=true, workflow_run.woken_by=signal}
                │ ~> workflow.start order
                └── step.run pack [internal] ok {worker.id=worker-1, workflow_run.attempt=1, workflow_run.replay=false}
                workflow.execute order [consumer] ok {worker.id=worker-1, workflow.outcome=completed, workflow_run.attempt=2, workflow_run.replay=true}
                │ ~> workflow.start order
                └── step.run pack [internal] ok {worker.id=worker-1, workflow_run.attempt=2, workflow_run.replay=true}
                "#,
            );
        }
        let tombstone = find(&spans, "workflow.execute order");
        let span = &tombstone.span_context;
        assert_eq!(span.span_id(), ids::execution("default", "run-A", 1));
        assert_eq!(tombstone.start_time, instant());
        assert_eq!(tombstone.end_time, instant() + Duration::from_secs(9));
        if mode == TraceMode::Linked {
            assert_eq!(span.trace_id(), ids::trace("default", "run-A", 1));
        }
    }
}

/// A worker that stood still for so long that another of its process took the run over.
#[test]
fn an_execution_that_lives_is_not_ended_by_another() {
    let spans = SpanCollector::new();
    let process = process(&spans, |otel| otel);
    let order = process.create(&spans, run("order", "run-A"));
    let cut_off = execution(&order, 1, MINUTE);
    let end = process.engine.0.promise_end(&cut_off);
    let executed = process.engine.execute_as(cut_off, |_| async {
        process.tell(&Event::execution_lost(&order, None, &lost(1)));
        Ok(completed())
    });
    block_on(executed).unwrap();
    process.tell(&Event::execution_lost(&order, None, &lost(1)));
    end.tell(Err(Unwritten::Interrupted(Interruption::LeaseLost)));
    spans.assert_sound();
    let tree = spans.tree().attributes([attribute::WORKFLOW_OUTCOME]);
    tree.assert_eq(
        "
        caller
        └── workflow.start order
            └── workflow.execute order ERROR {workflow.outcome=stale}
        ",
    );
}

#[test]
fn nothing_is_told_of_lost_executions_that_nobody_recorded() {
    let spans = SpanCollector::new();
    let unsampled = SdkTracerProvider::builder()
        .with_id_generator(DerivedIds::default())
        .with_sampler(Sampler::AlwaysOff)
        .with_span_processor(spans.clone())
        .build();
    let client = OtelInterceptor::builder()
        .tracer_provider(&unsampled)
        .build();
    let client = Engine::new(client);
    let order = block_on(client.create(run("order", "run-A"), None));
    let silent = run("silent", "run-B");
    let worker = process(&spans, |otel| otel.spans_of("silent", SpanSelection::None));
    for run in [&order, &silent] {
        worker.tell(&Event::execution_lost(run, None, &lost(1)));
    }
    assert_eq!(spans.tree().to_string(), "");
    assert_eq!(worker.otel.losses(), Default::default());
}

// ===== the bar =====

fn bar(spans: &SpanCollector, expected: &str) {
    spans.assert_sound();
    let tree = spans.tree().kinds().statuses().links().events();
    let tree = tree.attributes([attribute::WORKFLOW_RUN_STATUS, attribute::ERROR_TYPE]);
    tree.assert_eq(expected);
}

#[test]
fn a_run_is_one_bar_where_its_creator_chose_so() {
    let spans = SpanCollector::new();
    let client = process(&spans, |otel| otel.run_bar(true));
    let worker = process(&spans, |otel| otel);
    let order = client.create(&spans, run("order", "run-A"));
    worker.execute(&order, 1, HOUR, parked());
    assert_eq!(spans.spans().len(), 4, "the bar is made at the end");
    worker.execute(&order, 2, HOUR, completed());
    bar(
        &spans,
        "
        caller [internal] unset
        └── workflow.start order [producer] ok
            └── workflow.run order [internal] ok {workflow_run.status=completed}
                ├── workflow.execute order [consumer] ok
                │   └── step.run pack [internal] ok
                └── workflow.execute order [consumer] ok
                    └── step.run pack [internal] ok
        ",
    );
    let made = find(&spans, "workflow.run order");
    assert_eq!(made.span_context.span_id(), ids::run("default", "run-A"));
    let took = made.end_time.duration_since(made.start_time).unwrap();
    assert!(took >= HOUR && took < HOUR + MINUTE, "{took:?}");
    let run_id = value(&made, attribute::WORKFLOW_RUN_ID);
    assert_eq!(run_id, Some(Value::from("run-A")));
}

#[test]
fn whoever_ends_a_run_makes_its_bar() {
    let spans = SpanCollector::new();
    let process = process(&spans, |otel| otel.run_bar(true));
    let created = SystemTime::now() - HOUR;
    let [one, two, three] = ["run-A", "run-B", "run-C"].map(|id| {
        let run = process.create(&spans, run("order", id));
        spans.clear();
        run
    });
    process.execute(&one, 1, HOUR, failed());
    process.tell(&Event::run_canceled(&two, Some(created), Some(HOUR)));
    let error = Error::new("DeadlineExceeded", "too late");
    process.tell(&Event::run_overdue(
        &three,
        &error,
        Some(created),
        Some(HOUR),
    ));
    let bars = spans.tree().statuses().events();
    let bars = bars.attributes([attribute::WORKFLOW_RUN_STATUS, attribute::ERROR_TYPE]);
    bars.assert_eq(
        r#"
        workflow.run order error("card declined") {error.type=CardDeclined, workflow_run.status=failed} (remote parent)
        └── workflow.execute order error("card declined") {error.type=CardDeclined}
            │ * exception
            └── step.run pack ok
        workflow.run order error("canceled") {error.type=canceled, workflow_run.status=canceled} (remote parent)
        workflow.run order error("too late") {error.type=DeadlineExceeded, workflow_run.status=failed} (remote parent)
        "#,
    );
    let canceled = &spans.spans()[3];
    assert_eq!(
        canceled.span_context.span_id(),
        ids::run("default", "run-B")
    );
    let took = canceled.end_time.duration_since(canceled.start_time);
    assert_eq!(took.unwrap(), HOUR);
}

/// An execution that did not get to write leaves the bar to who did.
#[test]
fn an_execution_that_is_interrupted_makes_no_bar() {
    let spans = SpanCollector::new();
    let process = process(&spans, |otel| otel.run_bar(true));
    let order = process.create(&spans, run("order", "run-A"));
    let execution = execution(&order, 1, HOUR);
    let end = process.engine.0.promise_end(&execution);
    let executed = process
        .engine
        .execute_as(execution, |_| async { Ok(completed()) });
    block_on(executed).unwrap();
    end.tell(Err(Unwritten::Interrupted(Interruption::Canceled)));
    let bars = spans.spans();
    let mut bars = bars.iter().filter(|s| s.name.starts_with("workflow.run "));
    assert!(bars.next().is_none());
    // Under the bar that is yet to come.
    let execution = find(&spans, "workflow.execute order");
    assert_eq!(execution.parent_span_id, ids::run("default", "run-A"));
}

#[test]
fn children_have_bars_of_their_own() {
    let spans = SpanCollector::new();
    let process = &process(&spans, |otel| otel.run_bar(true));
    let order = process.create(&spans, run("order", "run-A"));
    let parent = execution(&order, 1, MINUTE);
    let end = process.engine.0.promise_end(&parent);
    let child = std::sync::Mutex::new(None);
    let executed = process.engine.execute_as(parent, |e| {
        let child = &child;
        async move {
            let created = process.engine.start_child(&e, run("ship", "run-B")).await;
            *child.lock().unwrap() = Some(created);
            Ok(completed())
        }
    });
    let outcome = block_on(executed).unwrap();
    let child = child.into_inner().unwrap().unwrap();
    process.execute(&child, 1, MINUTE, completed());
    end.tell(Ok(&outcome));
    bar(
        &spans,
        "
        caller [internal] unset
        └── workflow.start order [producer] ok
            └── workflow.run order [internal] ok {workflow_run.status=completed}
                └── workflow.execute order [consumer] ok
                    └── step.run_workflow ship [producer] ok
                        └── workflow.run ship [internal] ok {workflow_run.status=completed}
                            └── workflow.execute ship [consumer] ok
                                └── step.run pack [internal] ok
        ",
    );
}

#[test]
fn linked_executions_link_to_the_bar() {
    let spans = SpanCollector::new();
    let process = process(&spans, |otel| {
        otel.run_bar(true).trace_mode(TraceMode::Linked)
    });
    let order = process.create(&spans, run("order", "run-A"));
    process.execute(&order, 1, MINUTE, completed());
    bar(
        &spans,
        "
        caller [internal] unset
        └── workflow.start order [producer] ok
            └── workflow.run order [internal] ok {workflow_run.status=completed}
        workflow.execute order [consumer] ok
        │ ~> workflow.run order
        └── step.run pack [internal] ok
        ",
    );
}

/// Which has the carrier of the run before.
#[test]
fn a_run_continued_as_has_a_bar_of_its_own() {
    let spans = SpanCollector::new();
    let process = &process(&spans, |otel| otel.run_bar(true));
    let order = process.create(&spans, run("order", "run-A"));
    let next = continued(process, &order, MINUTE, "run-B");
    process.execute(&next, 1, Duration::ZERO, completed());
    bar(
        &spans,
        "
        caller [internal] unset
        └── workflow.start order [producer] ok
            ├── workflow.run order [internal] ok {workflow_run.status=completed}
            │   └── workflow.execute order [consumer] ok
            └── workflow.run order [internal] ok {workflow_run.status=completed}
                └── workflow.execute order [consumer] ok
                    │ ~> workflow.execute order {workflow.link=continued_from}
                    └── step.run pack [internal] ok
        ",
    );
}

/// Ends a run in favor of a new one, which is returned as it would be stored.
fn continued(process: &Process, run: &RunInfo, age: Duration, id: &str) -> RunInfo {
    let before = execution(run, 1, age);
    let end = process.engine.0.promise_end(&before);
    let run_id: Arc<str> = id.into();
    let outcome = ExecutionOutcome::Continued {
        run_id: Arc::clone(&run_id),
    };
    let executed = process
        .engine
        .execute_as(Arc::clone(&before), |_| async { Ok(outcome) });
    let outcome = block_on(executed).unwrap();
    let info = RunInfo::new("default", run_id, Arc::clone(&run.workflow_name));
    let info = info.with_carrier(run.carrier.clone());
    let input = workflow_core::Payload::from_json("1");
    let mut call = workflow_core::CreateRun::new(info, input);
    call.continues = Some(before);
    let mut stored = None;
    let create = |call: workflow_core::CreateRun| {
        stored = Some(call.run.clone());
        async move { Ok(workflow_core::CreatedRun::new(call.run.id, false)) }
    };
    block_on(process.engine.0.call(call, create)).unwrap();
    end.tell(Ok(&outcome));
    stored.unwrap()
}

// ===== linked when old =====

#[test]
fn an_old_run_is_linked_and_a_young_one_is_not() {
    let spans = SpanCollector::new();
    let process = process(&spans, |otel| otel.trace_mode(TraceMode::auto()));
    let order = process.create(&spans, run("order", "run-A"));
    process.execute(&order, 1, HOUR - MINUTE, parked());
    process.execute(&order, 2, HOUR, parked());
    let created = Some(instant() - HOUR);
    process.tell(&Event::execution_lost(&order, created, &lost(3)));
    let created = Some(instant() - MINUTE);
    process.tell(&Event::execution_lost(&order, created, &lost(4)));
    spans.assert_sound();
    spans
        .tree()
        .links()
        .attributes([attribute::WORKFLOW_RUN_ATTEMPT])
        .assert_eq(
            "
            caller
            └── workflow.start order
                ├── workflow.execute order {workflow_run.attempt=1}
                │   └── step.run pack {workflow_run.attempt=1}
                └── workflow.execute order ERROR {workflow_run.attempt=4}
            workflow.execute order {workflow_run.attempt=2}
            │ ~> workflow.start order
            └── step.run pack {workflow_run.attempt=2}
            workflow.execute order ERROR {workflow_run.attempt=3}
              ~> workflow.start order
            ",
        );
}

/// A chain of runs is as old as the first of them.
#[test]
fn runs_that_others_continued_as_are_linked_in_the_end() {
    let spans = SpanCollector::new();
    let linked_after = 10 * MINUTE;
    let process = process(&spans, |otel| {
        otel.trace_mode(TraceMode::Auto { linked_after })
    });
    let first = process.create(&spans, run("poll", "run-A"));
    let second = continued(&process, &first, 9 * MINUTE, "run-B");
    let third = continued(&process, &second, Duration::ZERO, "run-C");
    assert_eq!(
        second.carrier.get("workflow-first-created-at"),
        third.carrier.get("workflow-first-created-at")
    );
    let old = execution(&third, 1, Duration::ZERO);
    // Two minutes later.
    let later = SystemTime::now() + 2 * MINUTE;
    let old = Execution::new(old.run.clone(), 1, false, "worker-1", later)
        .with_run_created_at(later - MINUTE);
    let executed = process
        .engine
        .execute_as(Arc::new(old), |_| async { Ok(completed()) });
    block_on(executed).unwrap();
    spans.tree().links().assert_eq(
        "
        caller
        └── workflow.start poll
            ├── workflow.execute poll
            └── workflow.execute poll
                  ~> workflow.execute poll {workflow.link=continued_from}
        workflow.execute poll
          ~> workflow.start poll
          ~> workflow.execute poll {workflow.link=continued_from}
        ",
    );
}

// ===== what a run came from =====

#[test]
fn a_run_made_of_another_links_to_its_last_execution() {
    let spans = SpanCollector::new();
    let process = process(&spans, |otel| otel);
    let old = process.create(&spans, run("order", "run-A"));
    process.execute(&old, 1, MINUTE, parked());
    process.execute(&old, 2, MINUTE, failed());
    let mut again = run("order", "run-B");
    let origin = format!("2 run-A {}", old.carrier.get("traceparent").unwrap());
    again.carrier.insert("workflow-retried-from", origin);
    let again = process.create(&spans, again);
    process.execute(&again, 1, MINUTE, parked());
    process.execute(&again, 2, MINUTE, completed());
    spans.assert_sound();
    spans
        .tree()
        .links()
        .attributes([attribute::WORKFLOW_OUTCOME])
        .assert_eq(
            "
            caller
            └── workflow.start order
                ├── workflow.execute order {workflow.outcome=parked}
                │   └── step.run pack
                └── workflow.execute order ERROR {workflow.outcome=failed}
                    └── step.run pack
            caller
            └── workflow.start order
                ├── workflow.execute order {workflow.outcome=parked}
                │   │ ~> workflow.execute order {workflow.link=retried_from, workflow_run.id=run-A}
                │   └── step.run pack
                └── workflow.execute order {workflow.outcome=completed}
                    └── step.run pack
            ",
        );
    let first = spans.spans();
    let first = first.iter().find(|span| !span.links.links.is_empty());
    let link = &first.expect("there is a link").links.links[0];
    let span = ids::execution("default", "run-A", 2);
    assert_eq!(link.span_context.span_id(), span);
}
