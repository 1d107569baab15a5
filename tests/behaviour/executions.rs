//! What is recorded of executions, beside the protocol: told later, and to interceptors at once.

use openworkflow::WakeCause as C;
use openworkflow::trace::{ExecutionEnding as E, TraceEventKind, TraceExecution};
use openworkflow::{
    Error, Event, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result, RetryPolicy,
    WorkflowSpec,
};
use openworkflow_examples::{Order, PROCESS_ORDER, fulfill_shipment, process_order};
use openworkflow_tests::{Database, Gate, Log, wait_until};

use super::{HOUR, Harness, LEASE, MINUTE};

static W: WorkflowSpec<(), ()> = WorkflowSpec::new("w");

/// Notes what woke the executions that begin, and those that were lost.
struct Notes(Log);

#[async_trait::async_trait]
impl Interceptor for Notes {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        let execution = &call.execution;
        let cause = execution
            .woken_by
            .map_or("nobody knows", |cause| cause.as_str());
        self.0.add(format!(
            "{} {}: {cause}",
            execution.run.workflow_name, execution.attempt
        ));
        next.run(call).await
    }

    fn event(&self, event: &Event<'_>) {
        if let Event::ExecutionLost { run, lost, .. } = event {
            let cause = lost.woken_by.map_or("nobody knows", |cause| cause.as_str());
            assert!(lost.started_at <= lost.last_seen_at);
            self.0.add(format!(
                "{} {} lost: {cause}",
                run.workflow_name, lost.attempt
            ));
        }
    }
}

async fn executions(harness: &Harness, run_id: &str) -> Vec<TraceExecution> {
    let summary = harness.client.trace_summary(run_id).await;
    summary.expect("the run is there").executions
}

fn story(executions: &[TraceExecution]) -> Vec<(Option<u32>, Option<C>, Option<E>)> {
    let known = executions.iter().all(|of| {
        let all = of.due_at.is_some() && of.began_at.is_some() && !of.estimated;
        all && of.due_at <= of.began_at && of.ended_at.is_none_or(|at| of.began_at <= Some(at))
    });
    assert!(known, "{executions:#?}");
    executions
        .iter()
        .map(|of| (of.number, of.cause, of.ending))
        .collect()
}

#[tokio::test]
async fn each_execution_is_known_with_what_woke_it() {
    let log = Log::default();
    let notes = log.clone();
    let harness = Harness::new(|worker| {
        let worker = worker.workflow(process_order(MINUTE));
        worker
            .workflow(fulfill_shipment())
            .interceptor(Notes(notes))
    })
    .await;
    let run = harness.start(&PROCESS_ORDER, Order::sample()).await;
    let id = run.id();
    harness.parked(id, 2).await;
    harness.advance(MINUTE).await;
    harness
        .client
        .send_signal("confirmed:4711", "ada")
        .await
        .unwrap();
    harness.parked(id, 3).await;
    harness.advance(MINUTE).await;
    harness.retrying(id, 4).await;
    harness.advance(MINUTE).await;
    harness.output(&run).await;

    let executions = executions(&harness, id).await;
    assert_eq!(
        story(&executions),
        [
            (Some(1), Some(C::Created), Some(E::Parked)),
            (Some(2), Some(C::Child), Some(E::Parked)),
            (Some(3), Some(C::Signal), Some(E::Parked)),
            (Some(4), Some(C::Timer), Some(E::Retrying)),
            (Some(5), Some(C::Retry), Some(E::Completed)),
        ]
    );
    let told: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|entry| entry.starts_with("process-order"))
        .collect();
    let causes = ["created", "child", "signal", "timer", "retry"];
    let expected: Vec<_> = (1..)
        .zip(causes)
        .map(|(n, cause)| format!("process-order {n}: {cause}"))
        .collect();
    assert_eq!(told, expected);
    assert!(executions.iter().all(|of| of.worker_id.is_some()));

    // Nothing is concluded, so the parts are the whole.
    let summary = harness.client.trace_summary(id).await.unwrap();
    let time = &summary.time;
    assert!(time.parts().all(|(_, part)| !part.estimated), "{time:?}");
    assert!(time.parked.unwrap().duration >= 2 * MINUTE, "{time:?}");
    assert!(time.unaccounted.as_millis() <= 5, "{time:?}");
    let trace = harness
        .client
        .trace_events(id)
        .include_internal(true)
        .await
        .unwrap();
    assert!(
        trace.events.iter().all(|event| !event.estimated),
        "{:#?}",
        trace.events
    );
}

/// A workflow that stops at a gate in its first step.
fn held(gate: &Gate) -> openworkflow::Workflow {
    let gate = gate.clone();
    W.implement(move |wf, ()| {
        let gate = gate.clone();
        async move {
            wf.run("held", || async {
                gate.pass().await;
                Ok(())
            })
            .await
        }
    })
}

#[tokio::test]
async fn a_dead_workers_execution_is_told_of_once_and_recorded() {
    let gate = Gate::closed();
    let log = Log::default();
    let mut harness = Harness::new(|worker| worker.workflow(held(&gate))).await;
    let run = harness.start(&W, ()).await;
    gate.reached_by(1).await;
    // A write that is on its way would come after the time that passes.
    wait_until("the step is recorded", || async {
        !harness.step(run.id(), "held").await.is_empty()
    })
    .await;
    let dead = harness.run(run.id()).await.worker_id;
    harness.worker.take().unwrap().abort().await;
    harness.advance(2 * LEASE).await;
    gate.open();
    let notes = log.clone();
    harness.start_worker(|worker| worker.workflow(held(&gate)).interceptor(Notes(notes)));
    harness.output(&run).await;
    assert_eq!(log.lines(), ["w 1 lost: created", "w 2: take_over"]);
    let executions = executions(&harness, run.id()).await;
    assert_eq!(
        story(&executions),
        [
            (Some(1), Some(C::Created), Some(E::Lost)),
            (Some(2), Some(C::TakeOver), Some(E::Completed)),
        ]
    );
    assert_eq!(executions[0].worker_id, dead);
    assert!(executions[0].ended_at < executions[1].began_at);
    assert!(
        executions[1].due_at > executions[0].ended_at,
        "due since the lease ran out"
    );
}

#[tokio::test]
async fn a_client_and_a_sweep_tell_of_executions_that_were_lost() {
    let gate = Gate::closed();
    let log = Log::default();
    let mut harness = Harness::idle_with(|client| client.interceptor(Notes(log.clone()))).await;
    let canceled = harness.client.start(&W, &()).delay(MINUTE).await.unwrap();
    let swept = harness
        .client
        .start(&W, &())
        .delay(MINUTE)
        .deadline(2 * HOUR)
        .await
        .unwrap();
    harness.advance(MINUTE).await;
    harness.start_worker(|worker| worker.workflow(held(&gate)));
    gate.reached_by(2).await;
    harness.worker.take().unwrap().abort().await;
    harness.advance(HOUR).await;
    canceled.cancel().await.unwrap();
    assert_eq!(log.lines(), ["w 1 lost: created"]);
    log.clear();
    harness.advance(HOUR).await;
    let notes = log.clone();
    let other = openworkflow::Workflow::new("other", |_, ()| async { Ok(()) });
    harness.start_worker(|worker| worker.workflow(other).interceptor(Notes(notes)));
    harness.failure(&swept).await;
    wait_until("it is told", || async { !log.lines().is_empty() }).await;
    assert_eq!(log.lines(), ["w 1 lost: created"]);
    for run in [&canceled, &swept] {
        let executions = executions(&harness, run.id()).await;
        assert_eq!(
            story(&executions),
            [(Some(1), Some(C::Created), Some(E::Lost))]
        );
        let queued = executions[0]
            .began_at
            .unwrap()
            .duration_since(executions[0].due_at.unwrap());
        assert!(queued.unwrap() < MINUTE, "the delay is no waiting");
    }
}

#[tokio::test]
async fn ends_by_others_and_by_a_stopping_worker_are_recorded() {
    let gate = Gate::closed();
    let mut harness = Harness::new(|worker| worker.workflow(held(&gate))).await;
    let run = harness.start(&W, ()).await;
    gate.reached_by(1).await;
    run.cancel().await.unwrap();
    let of = executions(&harness, run.id()).await;
    assert_eq!(story(&of), [(Some(1), Some(C::Created), Some(E::Canceled))]);
    assert!(of[0].worker_id.is_some());

    harness.stop().await;
    let log = Log::default();
    let notes = log.clone();
    let given_back = harness.start(&W, ()).await;
    let deadline = std::time::Duration::from_millis(1);
    harness.start_worker(|worker| worker.workflow(held(&gate)).stop_deadline(deadline));
    gate.reached_by(2).await;
    harness.stop().await;
    gate.open();
    harness.start_worker(|worker| worker.workflow(held(&gate)).interceptor(Notes(notes)));
    harness.output(&given_back).await;
    assert_eq!(
        story(&executions(&harness, given_back.id()).await),
        [
            (Some(1), Some(C::Created), Some(E::GivenBack)),
            (Some(2), Some(C::GivenBack), Some(E::Completed)),
        ]
    );
    assert_eq!(log.lines(), ["w 2: given_back"]);
}

#[tokio::test]
async fn a_failure_is_recorded_with_its_worker() {
    let fails = W.implement(|wf, ()| async move {
        wf.run("broken", || async {
            Err::<(), _>(Error::new("Broken", "it is"))
        })
        .retry(RetryPolicy::attempts(1))
        .await
    });
    let harness = Harness::new(|worker| worker.workflow(fails)).await;
    let run = harness.start(&W, ()).await;
    harness.failure(&run).await;
    let of = executions(&harness, run.id()).await;
    assert_eq!(story(&of), [(Some(1), Some(C::Created), Some(E::Failed))]);
    assert!(of[0].worker_id.is_some());
}

#[tokio::test]
async fn what_somebody_else_writes_in_its_place_is_no_record() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf, ()| async move { wf.sleep("nap", HOUR).await }))
    })
    .await;
    for config in [
        r#"{"claim":7,"executions":"x"}"#,
        r#"{"claim":{"attempt":2},"executions":[1,{"attempt":2}]}"#,
        "[]",
        "7",
    ] {
        let run = harness.start(&W, ()).await;
        harness.parked(run.id(), 1).await;
        harness
            .execute(&format!("UPDATE workflow_runs SET config = '{config}'"))
            .await;
        harness.advance(HOUR).await;
        harness.output(&run).await;
        let of = executions(&harness, run.id()).await;
        assert_eq!(of[0].ending, Some(E::Parked), "{config}");
        assert!(!of[0].estimated);
    }
}

#[tokio::test]
async fn a_wait_that_ended_as_the_run_was_parked_is_none_that_it_was_parked_on() {
    let two = W.implement(|wf, ()| async move {
        wf.wait_for_signal::<()>("one").await?;
        wf.wait_for_signal::<()>("two").await?;
        Ok(())
    });
    let harness = Harness::new(|worker| worker.workflow(two)).await;
    let run = harness.start(&W, ()).await;
    for (attempts, signal) in [(1, "one"), (2, "two")] {
        harness.parked(run.id(), attempts).await;
        // On SQLite, all that an execution does happens in one millisecond.
        harness.advance(MINUTE).await;
        harness.client.send_signal(signal, &()).await.unwrap();
    }
    harness.output(&run).await;
    let trace = harness.client.trace_events(run.id());
    let trace = trace.include_internal(true).await.unwrap();
    let parked_on = trace.events.iter().filter_map(|event| match &event.kind {
        TraceEventKind::RunParked { waits_for, .. } => Some(waits_for.join(", ")),
        _ => None,
    });
    assert_eq!(parked_on.collect::<Vec<_>>(), ["one", "two"]);
}
