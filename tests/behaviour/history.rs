//! What clients are told of what happened to a run: from the rows that clients and workers left.

use std::time::Duration;

use openworkflow::trace::{
    Standing, StepState, TraceEvent, TraceEventKind, TraceEvents, TraceSummary,
};
use openworkflow::{ClientError, Error, RetryPolicy, WakeCause, WorkflowSpec};
use openworkflow_examples::{Order, PROCESS_ORDER, fulfill_shipment, process_order};
use openworkflow_tests::{Database, Gate, wait_until};

use super::{DAY, HOUR, Harness, MINUTE, SECOND};
use crate::Db;

/// The event's name, its step, and its execution where it is known; `~` before what is concluded.
fn line(event: &TraceEvent) -> String {
    let mut line = event.kind.name().to_owned();
    if event.estimated {
        line.insert(0, '~');
    }
    if let Some(step) = event.kind.step() {
        line.push_str(&format!(" {}", step.name));
        if step.attempt > 1 {
            line.push_str(&format!("#{}", step.attempt));
        }
    }
    if let Some(number) = event.execution {
        line.push_str(&format!(" [{number}]"));
    }
    line
}

fn lines(trace: &TraceEvents) -> Vec<String> {
    trace.events.iter().map(line).collect()
}

async fn everything(harness: &Harness, run_id: &str) -> TraceEvents {
    let events = harness.client.trace_events(run_id).include_internal(true);
    events.await.expect("the run is there")
}

async fn summary(harness: &Harness, run_id: &str) -> TraceSummary {
    let summary = harness.client.trace_summary(run_id).await;
    summary.expect("the run is there")
}

/// Forgets what is recorded of the executions beside the protocol's rows, as if TypeScript had executed it.
async fn forget(harness: &Harness) {
    harness
        .execute("UPDATE workflow_runs SET config = '{}'; DELETE FROM openworkflow_executions")
        .await;
}

static W: WorkflowSpec<(), u32> = WorkflowSpec::new("w");

/// Takes an order through to its end, with a minute between its parts. Returns the run's id.
async fn an_order(harness: &Harness) -> String {
    let run = harness.start(&PROCESS_ORDER, Order::sample()).await;
    harness.parked(run.id(), 2).await;
    harness.advance(MINUTE).await;
    let confirmed = harness.client.send_signal("confirmed:4711", "ada");
    assert_eq!(confirmed.await.expect("it is sent"), [run.id()]);
    harness.parked(run.id(), 3).await;
    harness.advance(MINUTE).await;
    harness.retrying(run.id(), 4).await;
    harness.advance(MINUTE).await;
    harness.output(&run).await;
    run.id().to_owned()
}

async fn with_orders() -> Harness {
    Harness::new(|worker| {
        let worker = worker.workflow(process_order(MINUTE));
        worker.workflow(fulfill_shipment())
    })
    .await
}

#[tokio::test]
async fn an_order_is_told_from_the_protocols_rows_alone() {
    let harness = with_orders().await;
    let id = an_order(&harness).await;
    forget(&harness).await;
    let trace = harness.client.trace_events(&*id).await.unwrap();
    assert_eq!(trace.unreadable, []);
    assert_eq!(
        lines(&trace),
        [
            "run_created",
            "step_started validate-order",
            "step_completed validate-order",
            "step_started fulfill-shipment",
            "child_ended fulfill-shipment",
            "step_completed fulfill-shipment",
            "step_started confirmed:4711",
            "signal_received confirmed:4711",
            "step_completed confirmed:4711",
            "step_started cooldown",
            "step_completed cooldown",
            "step_started notify-customer",
            "step_failed notify-customer",
            "~run_retry_scheduled",
            "step_started notify-customer#2",
            "step_completed notify-customer#2",
            "run_completed",
        ]
    );
    // Where it was parked is concluded, and says so.
    let trace = everything(&harness, &id).await;
    let internal: Vec<_> = trace
        .events
        .iter()
        .filter(|e| e.kind.is_internal())
        .collect();
    // But for the claim since the last failure, whose time stands in the run's row.
    let recorded: Vec<_> = internal.iter().filter(|event| !event.estimated).collect();
    assert_eq!(recorded.len(), 1, "{internal:#?}");
    assert_eq!(recorded[0].kind.name(), "run_claimed");
    let parks = |waits_for: &str| {
        let event = internal.iter().find(|event| {
            matches!(&event.kind, TraceEventKind::RunParked { waits_for: steps, .. }
                if steps.iter().any(|step| step == waits_for))
        });
        event.expect("it was parked").at
    };
    let parked = parks("cooldown").duration_since(parks("confirmed:4711"));
    assert!(parked.unwrap() >= MINUTE);
    let resumed = internal.iter().filter_map(|event| match &event.kind {
        TraceEventKind::RunResumed { cause, .. } | TraceEventKind::RunClaimed { cause, .. } => {
            *cause
        }
        _ => None,
    });
    let resumed: Vec<_> = resumed.filter(|cause| *cause != WakeCause::Child).collect();
    assert_eq!(
        resumed,
        [
            WakeCause::Created,
            WakeCause::Signal,
            WakeCause::Timer,
            WakeCause::Retry
        ]
    );

    let summary = summary(&harness, &id).await;
    assert_eq!((summary.attempts, summary.retries), (5, 1));
    assert_eq!(summary.standing, Standing::Over);
    assert_eq!(summary.steps.len(), 5);
    assert!(
        summary
            .steps
            .iter()
            .all(|step| step.state == StepState::Completed)
    );
    assert!(summary.total >= 3 * MINUTE, "{:?}", summary.total);
    let parked = summary.time.parked.unwrap();
    assert!(
        parked.estimated && parked.duration >= 2 * MINUTE,
        "{parked:?}"
    );
    let waited = summary.time.backing_off.unwrap();
    assert!(
        waited.estimated && waited.duration >= MINUTE - SECOND,
        "{waited:?}"
    );
    // How long it was due before each claim, nobody recorded.
    assert_eq!((summary.time.queued, summary.time.lost), (None, None));
    assert_eq!(summary.errors.len(), 1);
    let failure = &summary.errors[0];
    assert_eq!(failure.error.message, "the mail server does not answer");
    assert_eq!(failure.step.as_ref().unwrap().name, "notify-customer");
    assert!(failure.next_try_at.unwrap() >= failure.at + MINUTE - SECOND);
    assert_eq!(summary.slowest[0], "notify-customer");
    assert_eq!(summary.children.len(), 1);
}

#[tokio::test]
async fn children_are_told_where_they_are_asked_for() {
    let harness = with_orders().await;
    let id = an_order(&harness).await;
    let child = summary(&harness, &id).await.children.remove(0).run_id;
    let trace = harness
        .client
        .trace_events(&*id)
        .children(true)
        .await
        .unwrap();
    assert!(trace.events.is_sorted_by_key(|event| event.at));
    let of_child: Vec<_> = trace
        .events
        .iter()
        .filter(|event| event.run_id == child)
        .collect();
    assert_eq!(of_child.len(), 6, "{of_child:#?}");
    let TraceEventKind::RunCreated { parent_run_id, .. } = &of_child[0].kind else {
        panic!("it was created first: {:?}", of_child[0]);
    };
    assert_eq!(parent_run_id.as_deref(), Some(&*id));
    assert_eq!(trace.events.len() - of_child.len(), 17);

    let summary = harness
        .client
        .trace_summary(&*id)
        .children(true)
        .await
        .unwrap();
    assert_eq!(summary.descendants.len(), 1);
    let descendant = &summary.descendants[0];
    assert_eq!(descendant.run_id, child);
    assert_eq!(descendant.parent_run_id.as_deref(), Some(&*id));
    let counts = &descendant.step_counts;
    assert_eq!((counts.len(), counts[0].count), (1, 2));
    let alone = harness.client.trace_summary(&*id).await.unwrap();
    assert_eq!(alone.descendants.len(), 0);
}

/// Who was executed once has everything in the protocol's rows.
#[tokio::test]
async fn a_run_that_was_executed_once_is_known_to_the_millisecond() {
    let once = W.implement(|wf, ()| async move { wf.run("only", || async { Ok(1) }).await });
    let mut harness = Harness::idle().await;
    let run = harness.start(&W, ()).await;
    harness.advance(MINUTE).await;
    harness.start_worker(|worker| worker.workflow(once));
    harness.output(&run).await;
    forget(&harness).await;
    let trace = everything(&harness, run.id()).await;
    assert_eq!(
        lines(&trace),
        [
            "run_created",
            "run_claimed [1]",
            "step_started only [1]",
            "step_completed only [1]",
            "run_completed [1]",
        ]
    );
    let summary = summary(&harness, run.id()).await;
    let time = &summary.time;
    assert_eq!(time.unaccounted, Duration::ZERO);
    assert!(time.parts().all(|(_, part)| !part.estimated), "{time:?}");
    let all: Duration = time.parts().map(|(_, part)| part.duration).sum();
    assert_eq!((all, time.parts().count()), (summary.total, 6));
    assert!(time.queued.unwrap().duration >= MINUTE);
    assert_eq!(time.parked.unwrap().duration, Duration::ZERO);
    let row = harness.run(run.id()).await;
    assert_eq!(summary.worker_ids, [row.worker_id.unwrap()]);
}

#[tokio::test]
async fn a_run_under_way_says_where_it_stands() {
    let gate = Gate::closed();
    let held = gate.clone();
    let workflow = W.implement(move |wf, ()| {
        let gate = held.clone();
        async move {
            wf.run("held", || async {
                gate.pass().await;
                Ok(())
            })
            .await?;
            let never = RetryPolicy::attempts(2).initial_interval(MINUTE);
            let fail = || async { Err::<(), _>(Error::new("Broken", "it is broken")) };
            if wf.run("flaky", fail).retry(never).await.is_err() {
                wf.wait_for_signal::<()>("go").timeout("2h").await?;
            }
            Ok(1)
        }
    });
    let mut harness = Harness::idle().await;
    let delayed = harness.client.start(&W, &()).delay(HOUR).await.unwrap();
    let standing = summary(&harness, delayed.id()).await;
    assert!(
        matches!(standing.standing, Standing::Delayed { .. }),
        "{standing:?}"
    );
    assert_eq!(standing.time.delayed.unwrap().duration, standing.total);
    delayed.cancel().await.unwrap();

    let run = harness.start(&W, ()).await;
    let id = run.id();
    harness.advance(MINUTE).await;
    let queued = summary(&harness, id).await;
    assert!(
        matches!(queued.standing, Standing::Queued { since: Some(_) }),
        "{queued:?}"
    );
    assert!(queued.time.queued.unwrap().duration >= MINUTE);
    assert_eq!(lines(&everything(&harness, id).await), ["run_created"]);

    harness.start_worker(|worker| worker.workflow(workflow));
    gate.reached_by(1).await;
    let executing = summary(&harness, id).await;
    assert!(
        matches!(
            &executing.standing,
            Standing::Executing { since: Some(_), .. }
        ),
        "{executing:?}"
    );
    assert_eq!(
        lines(&everything(&harness, id).await)[..2],
        ["run_created", "run_claimed [1]"]
    );
    // What takes longer than some milliseconds is recorded when it began.
    wait_until("the step is recorded", || async {
        !harness.step(id, "held").await.is_empty()
    })
    .await;
    assert_eq!(
        summary(&harness, id).await.steps[0].state,
        StepState::Running
    );

    gate.open();
    harness.retrying(id, 1).await;
    let waiting = summary(&harness, id).await;
    let Standing::BackingOff {
        until: Some(until),
        error: Some(error),
    } = &waiting.standing
    else {
        panic!("it waits for its retry: {waiting:?}");
    };
    harness.assert_after_now(Some(*until), MINUTE);
    assert_eq!(error.message, "it is broken");
    assert_eq!(waiting.errors[0].next_try_at, Some(*until));
    assert_eq!(waiting.steps[1].state, StepState::Retrying);
    harness.advance(MINUTE).await;

    harness.parked(id, 2).await;
    let parked = summary(&harness, id).await;
    let Standing::Parked { until, waits_for } = &parked.standing else {
        panic!("it is parked: {parked:?}");
    };
    harness.assert_after_now(*until, 2 * HOUR);
    assert_eq!(*waits_for, ["go"]);
    assert_eq!(parked.steps[1].state, StepState::Failed);
    assert_eq!(parked.steps[2].state, StepState::Waiting);
    assert_eq!(
        parked.errors[1].next_try_at, None,
        "the code was told of it"
    );

    harness.advance(2 * HOUR).await;
    harness.output(&run).await;
    let over = summary(&harness, id).await;
    assert_eq!(over.standing, Standing::Over);
    assert_eq!(over.steps[2].state, StepState::TimedOut);
    let last = lines(&everything(&harness, id).await);
    assert!(
        last.iter()
            .any(|line| line.starts_with("step_timed_out go")),
        "{last:?}"
    );
}

#[tokio::test]
async fn every_end_is_told() {
    static END: WorkflowSpec<String, ()> = WorkflowSpec::new("end");
    let workflow = END.implement(|wf, how: String| async move {
        match &*how {
            "fails" => Err(Error::new("Refused", "no more").non_retryable()),
            "sleeps" => wf.sleep("nap", DAY).await,
            "continues" => wf.continue_as_new(&"completes".to_owned()).await,
            "sends" => {
                wf.send_signal("nobody", "data").await?;
                Ok(())
            }
            _ => Ok(()),
        }
    });
    let harness = Harness::new(|worker| worker.workflow(workflow)).await;
    let start = async |how: &str| harness.start(&END, how.to_owned()).await;
    let last = async |id: &str| {
        let trace = harness.client.trace_events(id).await.unwrap();
        trace.events.into_iter().last().unwrap().kind
    };

    let run = start("fails").await;
    harness.failure(&run).await;
    let TraceEventKind::RunFailed { error } = last(run.id()).await else {
        panic!("it failed");
    };
    assert_eq!(
        (error.name.as_deref(), &*error.message),
        (Some("Refused"), "no more")
    );
    let failed = summary(&harness, run.id()).await;
    assert_eq!(
        (failed.errors.len(), failed.errors[0].step.as_ref()),
        (1, None)
    );

    let run = start("sleeps").await;
    harness.parked(run.id(), 1).await;
    run.cancel().await.unwrap();
    assert_eq!(last(run.id()).await, TraceEventKind::RunCanceled);
    let canceled = summary(&harness, run.id()).await;
    assert_eq!(canceled.steps[0].state, StepState::Abandoned);
    let executing = canceled.time.executing.unwrap().duration;
    assert!(
        executing <= Db::CLOCK_TOLERANCE,
        "it slept, and did not work: {executing:?}"
    );

    let run = harness
        .client
        .start(&END, &"sleeps".to_owned())
        .deadline(HOUR)
        .await
        .unwrap();
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.failure(&run).await;
    let TraceEventKind::RunFailed { error } = last(run.id()).await else {
        panic!("it failed");
    };
    assert_eq!(error.message, "Workflow run deadline exceeded");

    let run = start("continues").await;
    harness.output(&run).await;
    let TraceEventKind::RunContinued { successor_run_id } = last(run.id()).await else {
        panic!("it continued");
    };
    assert_eq!(last(&successor_run_id).await, TraceEventKind::RunCompleted);
    let continued = summary(&harness, run.id()).await;
    assert_eq!(continued.continued_as, Some(successor_run_id));

    let run = start("sends").await;
    harness.output(&run).await;
    let trace = harness.client.trace_events(run.id()).await.unwrap();
    let recipients = trace.events.iter().find_map(|event| match event.kind {
        TraceEventKind::StepCompleted { recipients, .. } => recipients,
        _ => None,
    });
    assert_eq!(recipients, Some(0));
}

#[tokio::test]
async fn waits_that_lost_a_race_say_so() {
    let workflow = W.implement(|wf, ()| async move {
        Ok(openworkflow::race!(wf;
            _ = wf.wait_for_signal::<()>("never") => 0,
            _ = wf.run("quick", || async { Ok(()) }) => 1,
        ))
    });
    let harness = Harness::new(|worker| worker.workflow(workflow)).await;
    let run = harness.start(&W, ()).await;
    harness.output(&run).await;
    let summary = summary(&harness, run.id()).await;
    let lost = summary.steps.iter().find(|step| step.name == "never");
    assert_eq!(lost.unwrap().state, StepState::Withdrawn);
}

#[tokio::test]
async fn what_is_not_there_is_an_error_that_says_so() {
    let harness = Harness::idle().await;
    let unknown = harness.client.trace_events("no-such-run").await;
    let Err(ClientError::RunNotFound { run_id }) = unknown else {
        panic!("there is no such run: {unknown:?}");
    };
    assert_eq!(run_id, "no-such-run");
    let unknown = harness
        .client
        .trace_summary("no-such-run")
        .children(true)
        .await;
    assert!(
        matches!(unknown, Err(ClientError::RunNotFound { .. })),
        "{unknown:?}"
    );
    let no_id = harness.client.trace_summary("a\0b").await.unwrap_err();
    assert!(no_id.to_string().contains("the run's id"), "{no_id}");
    // Nor one of another namespace.
    let run = harness.start(&W, ()).await;
    let other = openworkflow::Client::builder(harness.store())
        .namespace("other")
        .build();
    let hidden = other.trace_events(run.id()).await;
    assert!(
        matches!(hidden, Err(ClientError::RunNotFound { .. })),
        "{hidden:?}"
    );
}

/// What nobody knows is kept as it stands, and a circle of children ends.
#[tokio::test]
async fn rows_of_others_are_told_as_they_stand() {
    let harness = with_orders().await;
    let id = an_order(&harness).await;
    let child = summary(&harness, &id).await.children.remove(0).run_id;
    harness
        .execute(&format!(
            "UPDATE step_attempts SET kind = 'dream', status = 'lucid' WHERE step_name = 'cooldown';
             UPDATE workflow_runs SET status = 'archived' WHERE id = '{id}';
             UPDATE step_attempts SET kind = 'workflow', child_workflow_run_namespace_id = 'default',
                 child_workflow_run_id = '{id}' WHERE step_name = 'dispatch-courier'"
        ))
        .await;
    let summary = harness
        .client
        .trace_summary(&*id)
        .children(true)
        .await
        .unwrap();
    assert_eq!(
        (summary.status.as_str(), &summary.standing),
        ("archived", &Standing::Unknown)
    );
    let foreign = summary
        .steps
        .iter()
        .find(|step| step.name == "cooldown")
        .unwrap();
    assert_eq!(foreign.kind.as_str(), "dream");
    assert_eq!(summary.descendants.len(), 1, "the circle ends");
    assert_eq!(summary.descendants[0].run_id, child);
    let trace = harness
        .client
        .trace_events(&*id)
        .children(true)
        .await
        .unwrap();
    assert_eq!(trace.events.last().unwrap().kind.name(), "step_completed");
}

#[tokio::test]
async fn the_answers_are_json() {
    let harness = with_orders().await;
    let id = an_order(&harness).await;
    let trace = serde_json::to_value(everything(&harness, &id).await).unwrap();
    let first = &trace["events"][0];
    assert_eq!(first["event"], "run_created");
    assert_eq!(first["workflow_name"], "process-order");
    let at = first["at"].as_str().unwrap();
    assert!(at.ends_with('Z') && at.contains('T'), "{at}");
    let failed = trace["events"].as_array().unwrap().iter();
    let failed = failed
        .clone()
        .find(|event| event["event"] == "step_failed")
        .unwrap();
    assert_eq!(failed["step"]["name"], "notify-customer");
    assert_eq!(failed["error"]["name"], "MailServerDown");
    // Neither the order nor what it came to.
    assert!(!trace.to_string().contains("4711-B7"));

    let summary = serde_json::to_value(summary(&harness, &id).await).unwrap();
    assert_eq!(summary["standing"]["is"], "over");
    assert!(summary["total"].as_f64().unwrap() >= 180.0);
    assert!(summary["time"]["parked"]["seconds"].as_f64().unwrap() >= 119.0);
    assert_eq!(summary["steps"][2]["signal"], "confirmed:4711");
}
