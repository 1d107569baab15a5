//! Signals: who receives them, when, and what is remembered.

use openworkflow::{ErrorKind, WorkflowSpec};
use openworkflow_tests::{Database, Gate, Log};
use serde_json::json;

use super::{HOUR, Harness, MINUTE};

/// Waits for the signal that its input names, for an hour.
static WAIT: WorkflowSpec<String, Option<u32>> = WorkflowSpec::new("wait");

fn wait() -> openworkflow::Workflow {
    WAIT.implement(
        |wf, signal: String| async move { wf.wait_for_signal(signal).timeout(HOUR).await },
    )
}

async fn waiting() -> Harness {
    Harness::new(|worker| worker.workflow(wait())).await
}

#[tokio::test]
async fn a_signal_wakes_its_waiter_with_the_data() {
    let harness = waiting().await;
    let run = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(run.id(), 1).await;
    let received = harness.client.send_signal("go", &42).await.unwrap();
    assert_eq!(received, [run.id()]);
    assert_eq!(harness.output(&run).await, Some(42));
    let step = harness.step(run.id(), "go").await.remove(0);
    assert_eq!(step.status, "completed");
    assert_eq!(step.output, Some(json!({"data": 42})));
    harness.assert_after_now(step.finished_at, std::time::Duration::ZERO);
}

#[tokio::test]
async fn a_wait_that_times_out_gives_none() {
    let harness = waiting().await;
    let run = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, None);
    let step = harness.step(run.id(), "go").await.remove(0);
    assert_eq!((step.status.as_str(), &step.output), ("completed", &None));
    let late = harness.client.send_signal("go", &42).await.unwrap();
    assert_eq!(late, [""; 0]);
}

#[tokio::test]
async fn a_signal_counts_even_when_it_is_read_after_the_timeout() {
    let mut harness = waiting().await;
    let run = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(run.id(), 1).await;
    harness.stop().await;
    harness.client.send_signal("go", &42).await.unwrap();
    harness.advance(2 * HOUR).await;
    harness.start_worker(|worker| worker.workflow(wait()));
    assert_eq!(harness.output(&run).await, Some(42));
}

#[tokio::test]
async fn null_data_is_data() {
    static NULLS: WorkflowSpec<(), (bool, bool)> = WorkflowSpec::new("nulls");
    let harness = Harness::new(|worker| {
        worker.workflow(NULLS.implement(|wf, ()| async move {
            let unit: Option<()> = wf.wait_for_signal("unit").await?;
            let option: Option<Option<u32>> = wf.wait_for_signal("option").await?;
            Ok((unit.is_some(), option == Some(None)))
        }))
    })
    .await;
    let run = harness.start(&NULLS, ()).await;
    harness.parked(run.id(), 1).await;
    harness.client.send_signal("unit", &()).await.unwrap();
    harness.parked(run.id(), 2).await;
    let nothing: Option<u32> = None;
    harness
        .client
        .send_signal("option", &nothing)
        .await
        .unwrap();
    assert_eq!(harness.output(&run).await, (true, true));
    for signal in harness.signals().await {
        assert_eq!(signal.data, None, "null data is SQL NULL");
    }
    let step = harness.step(run.id(), "unit").await.remove(0);
    assert_eq!(step.output, Some(json!({"data": null})));
}

#[tokio::test]
async fn a_signal_reaches_all_who_wait_for_it_and_nobody_else() {
    let harness = waiting().await;
    let mut waiters = Vec::new();
    for signal in ["go", "go", "go", "stay"] {
        let run = harness.start(&WAIT, signal.to_owned()).await;
        harness.parked(run.id(), 1).await;
        waiters.push(run);
    }
    let mut received = harness.client.send_signal("go", &1).await.unwrap();
    received.sort();
    let mut expected: Vec<_> = waiters[..3].iter().map(|run| run.id().to_owned()).collect();
    expected.sort();
    assert_eq!(received, expected);
    for run in &waiters[..3] {
        assert_eq!(harness.output(run).await, Some(1));
    }
    assert_eq!(harness.run(waiters[3].id()).await.attempts, 1);
}

#[tokio::test]
async fn a_signal_that_nobody_waits_for_is_dropped() {
    let harness = waiting().await;
    let dropped = harness.client.send_signal("go", &1).await.unwrap();
    assert_eq!(dropped, [""; 0]);
    assert!(harness.signals().await.is_empty());
    let run = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, None);
}

#[tokio::test]
async fn a_waiter_receives_one_signal() {
    let mut harness = waiting().await;
    let run = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(run.id(), 1).await;
    harness.stop().await;
    assert_eq!(
        harness.client.send_signal("go", &1).await.unwrap(),
        [run.id()]
    );
    assert_eq!(harness.client.send_signal("go", &2).await.unwrap(), [""; 0]);
    harness.start_worker(|worker| worker.workflow(wait()));
    assert_eq!(harness.output(&run).await, Some(1));
    assert_eq!(harness.signals().await.len(), 1);
}

#[tokio::test]
async fn a_key_delivers_once() {
    let harness = waiting().await;
    let send = |data: u32| harness.client.send_signal("go", &data).idempotency_key("k");
    // Nobody there yet: the key is not used up.
    assert_eq!(send(1).await.unwrap(), [""; 0]);
    let first = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(first.id(), 1).await;
    assert_eq!(send(2).await.unwrap(), [first.id()]);
    assert_eq!(harness.output(&first).await, Some(2));

    let second = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(second.id(), 1).await;
    assert_eq!(send(3).await.unwrap(), [first.id()], "answered as before");
    let signals = harness.signals().await;
    assert_eq!(signals.len(), 1);
    assert_eq!(signals[0].sender_idempotency_key.as_deref(), Some("k"));
    // Another key, and another signal under the same key, deliver.
    let other = harness.client.send_signal("go", &4).idempotency_key("l");
    assert_eq!(other.await.unwrap(), [second.id()]);
    assert_eq!(harness.output(&second).await, Some(4));
}

#[tokio::test]
async fn a_signal_sent_while_the_waiter_executes_is_received_right_after_parking() {
    static BUSY: WorkflowSpec<(), Option<u32>> = WorkflowSpec::new("busy");
    let gate = Gate::closed();
    let held = gate.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(BUSY.implement(move |wf, ()| {
            let gate = held.clone();
            async move {
                let work = wf.run("work", || async {
                    gate.pass().await;
                    Ok(())
                });
                let signal = wf.wait_for_signal("go").timeout(HOUR);
                let (work, signal) = tokio::join!(work, signal);
                work?;
                signal
            }
        }))
    })
    .await;
    let run = harness.start(&BUSY, ()).await;
    gate.reached_by(1).await;
    openworkflow_tests::wait_until("the wait is recorded", || async {
        !harness.step(run.id(), "go").await.is_empty()
    })
    .await;
    assert_eq!(
        harness.client.send_signal("go", &9).await.unwrap(),
        [run.id()]
    );
    gate.open();
    // The clock stands still: only the signal makes the run due.
    assert_eq!(harness.output(&run).await, Some(9));
    assert_eq!(harness.run(run.id()).await.attempts, 2);
    assert_eq!(gate.arrived(), 1, "the step beside it ran once");
}

#[tokio::test]
async fn one_signal_after_the_other() {
    static TWICE: WorkflowSpec<(), Vec<Option<u32>>> = WorkflowSpec::new("twice");
    let harness = Harness::new(|worker| {
        worker.workflow(TWICE.implement(|wf, ()| async move {
            Ok(vec![
                wf.wait_for_signal("go").await?,
                wf.wait_for_signal("go").await?,
            ])
        }))
    })
    .await;
    let run = harness.start(&TWICE, ()).await;
    for attempt in 1..=2 {
        harness.parked(run.id(), attempt).await;
        harness.client.send_signal("go", &attempt).await.unwrap();
    }
    assert_eq!(harness.output(&run).await, [Some(1), Some(2)]);
}

#[tokio::test]
async fn a_second_wait_on_a_signal_is_a_conflict() {
    static CONFLICT: WorkflowSpec<(), ()> = WorkflowSpec::new("conflict");
    let (log, gate) = (Log::new(), Gate::closed());
    let (lines, held) = (log.clone(), gate.clone());
    let harness = Harness::new(|worker| {
        worker.workflow(CONFLICT.implement(move |wf, ()| {
            let (log, gate) = (lines.clone(), held.clone());
            async move {
                let first = wf.wait_for_signal::<u32>("go").name("first");
                let second = async {
                    wf.run("before", || async {
                        gate.pass().await;
                        Ok(())
                    })
                    .await?;
                    let second = wf.wait_for_signal::<u32>("go").name("second").await;
                    let error = second.expect_err("the first waits already");
                    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                    log.add(error.message());
                    Err::<(), _>(error)
                };
                tokio::try_join!(first, second)?;
                Ok(())
            }
        }))
    })
    .await;
    let run = harness.start(&CONFLICT, ()).await;
    gate.reached_by(1).await;
    openworkflow_tests::wait_until("the first wait is recorded", || async {
        !harness.step(run.id(), "first").await.is_empty()
    })
    .await;
    gate.open();
    let row = harness.failure(&run).await;
    let message = "Signal \"go\" is already being waited on by step \"first\"";
    assert_eq!(log.lines(), [message]);
    assert_eq!(row.error_message(), Some(message));
    // Recorded, since a replay may find the first wait over.
    assert_eq!(harness.step(run.id(), "second").await[0].status, "failed");
}

#[tokio::test]
async fn two_waits_begun_at_once_both_receive() {
    static PAIR: WorkflowSpec<(), (Option<u32>, Option<u32>)> = WorkflowSpec::new("pair");
    let harness = Harness::new(|worker| {
        worker.workflow(PAIR.implement(|wf, ()| async move {
            tokio::try_join!(
                wf.wait_for_signal("go").name("left"),
                wf.wait_for_signal("go").name("right")
            )
        }))
    })
    .await;
    let run = harness.start(&PAIR, ()).await;
    harness.parked(run.id(), 1).await;
    let received = harness.client.send_signal("go", &5).await.unwrap();
    assert_eq!(received, [run.id()], "a run is reported once");
    assert_eq!(harness.output(&run).await, (Some(5), Some(5)));
}

#[tokio::test]
async fn a_workflow_sends_a_signal_once() {
    static SEND: WorkflowSpec<String, Vec<String>> = WorkflowSpec::new("send");
    let harness = Harness::new(|worker| {
        worker
            .workflow(wait())
            .workflow(SEND.implement(|wf, signal: String| async move {
                let received = wf.send_signal(signal, &7).name("tell").await?;
                wf.sleep("replay", "0s").await?;
                Ok(received)
            }))
    })
    .await;
    let waiter = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(waiter.id(), 1).await;
    let sender = harness.start(&SEND, "go".to_owned()).await;
    assert_eq!(harness.output(&sender).await, [waiter.id()]);
    assert_eq!(harness.output(&waiter).await, Some(7));
    let step = harness.step(sender.id(), "tell").await.remove(0);
    assert_eq!(step.summary(), "tell signal-send completed");
    assert_eq!(step.context, None);
    assert_eq!(step.output, Some(json!({"workflowRunIds": [waiter.id()]})));
    let signals = harness.signals().await;
    assert_eq!(signals.len(), 1);
    assert_eq!(
        signals[0].sender_idempotency_key,
        Some(format!("__signal:{}:tell", sender.id()))
    );
    // To nobody.
    let sender = harness.start(&SEND, "nobody".to_owned()).await;
    assert_eq!(harness.output(&sender).await, [""; 0]);
    let step = harness.step(sender.id(), "tell").await.remove(0);
    assert_eq!(step.output, Some(json!({"workflowRunIds": []})));
}

#[tokio::test]
async fn data_of_another_type_fails_the_step_and_shows_no_value() {
    let harness = waiting().await;
    let run = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(run.id(), 1).await;
    harness.client.send_signal("go", "a secret").await.unwrap();
    let row = harness.failure(&run).await;
    let message = row.error_message().unwrap();
    assert!(
        message.starts_with("Signal schema validation failed: "),
        "{message}"
    );
    assert!(!message.contains("secret"), "{message}");
    let step = harness.step(run.id(), "go").await.remove(0);
    assert_eq!(step.status, "failed");
    assert_eq!(row.attempts, 2, "it is not tried again");
}

#[tokio::test]
async fn a_canceled_waiter_receives_nothing() {
    let harness = waiting().await;
    let run = harness.start(&WAIT, "go".to_owned()).await;
    harness.parked(run.id(), 1).await;
    run.cancel().await.unwrap();
    let step = harness.step(run.id(), "go").await.remove(0);
    assert_eq!(step.status, "running");
    let received = harness.client.send_signal("go", &1).await.unwrap();
    assert!(received.is_empty(), "{received:?}");
    assert!(harness.db.signals().await.is_empty());
    assert_eq!(harness.run(run.id()).await.status, "canceled");
    // Nobody reads the wait again.
    let step = harness.step(run.id(), "go").await.remove(0);
    assert_eq!((step.status.as_str(), step.output), ("completed", None));
    harness.assert_after_now(step.finished_at, std::time::Duration::ZERO);
}

#[tokio::test]
async fn the_default_timeout_is_a_year() {
    static PATIENT: WorkflowSpec<(), Option<u32>> = WorkflowSpec::new("patient");
    let harness = Harness::new(|worker| {
        worker.workflow(PATIENT.implement(|wf, ()| async move { wf.wait_for_signal("go").await }))
    })
    .await;
    let run = harness.start(&PATIENT, ()).await;
    let row = harness.parked(run.id(), 1).await;
    let wait = row
        .available_at
        .unwrap()
        .duration_since(harness.now())
        .unwrap();
    let days = wait.as_secs().div_ceil(24 * 3600);
    assert!(days == 365 || days == 366, "{days} days");
    harness.advance(wait + MINUTE).await;
    assert_eq!(harness.output(&run).await, None);
}
