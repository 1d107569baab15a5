//! Signals across languages.

use std::time::Duration;

use async_trait::async_trait;
use openworkflow::{Interceptor, Next, Result, StepCall, StepKind, StepOutcome, StepPhase};
use openworkflow_tests::{Database, Gate};
use serde_json::{Value, json};

use super::workflows::{PHASES, SENDER};
use super::{By, Sdk, Site};

super::checks! {
    both:
        each_receives_what_the_other_sends,
        a_workflow_signals_one_in_the_other_language;
    current:
        a_signal_under_a_key_is_sent_once,
        a_wait_times_out_in_the_other_language,
        a_signal_before_the_park_is_received_right_after,
        an_ended_waiter_counts_as_a_recipient_of_typescript
}

async fn each_receives_what_the_other_sends(sdk: Sdk) {
    for (waits, sends) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        // Nobody waits: it is lost.
        assert_eq!(site.signal_by(sends, "data", json!(0)).await, [""; 0]);
        for data in [
            json!({"keyA": [null, "ü"]}),
            json!("text"),
            json!(false),
            Value::Null,
        ] {
            let run = site
                .start_by(sends, &PHASES, json!({"signal": "data"}))
                .await;
            site.park_by(waits, &run, 1).await;
            assert_eq!(
                site.signal_by(sends, "data", data.clone()).await,
                [run.as_str()]
            );
            // One delivery each.
            assert_eq!(site.signal_by(sends, "data", json!("late")).await, [""; 0]);
            assert_eq!(site.signal_by(waits, "data", json!("late")).await, [""; 0]);
            let output = site.complete_by(waits, &run).await;
            assert_eq!(output["received"], json!({"data": data}), "{sends:?} sends");
            let wait = site.step(&run, "data").await.remove(0);
            assert_eq!(wait.output, Some(json!({"data": data})));
        }

        // All who wait receive it, in whatever language they were parked.
        let mut waiting = Vec::new();
        for by in [By::Rust, By::TypeScript, By::Rust] {
            let run = site.start_by(by, &PHASES, json!({"signal": "all"})).await;
            site.park_by(by, &run, 1).await;
            waiting.push(run);
        }
        let mut received = site.signal_by(sends, "all", json!("everybody")).await;
        received.sort();
        let worker = site.work(waits).await;
        for run in &waiting {
            let output = site.ended(run).await.output.unwrap();
            assert_eq!(output["received"]["data"], "everybody");
        }
        site.rest(worker).await;
        waiting.sort();
        assert_eq!(received, waiting);
    }
}

async fn a_workflow_signals_one_in_the_other_language(sdk: Sdk) {
    for (waits, sends) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let waiting = site.start_by(waits, &PHASES, json!({"signal": "s"})).await;
        site.park_by(waits, &waiting, 1).await;
        let input = json!({"signal": "s", "data": {"n": 1}});
        let sender = site.start_by(waits, &SENDER, input).await;
        let worker = site.work_on(sends, &["sender"]).await;
        let row = site.ended(&sender).await;
        site.rest(worker).await;
        assert_eq!(
            row.output,
            Some(json!({"by": sends.name(), "received": [waiting]}))
        );
        let step = site.step(&sender, "s").await.remove(0);
        assert_eq!((step.kind.as_str(), step.context), ("signal-send", None));
        assert_eq!(step.output, Some(json!({"workflowRunIds": [waiting]})));
        let signal = site.signals().await.remove(0);
        assert_eq!(
            signal.sender_idempotency_key,
            Some(format!("__signal:{sender}:s"))
        );
        let output = site.complete_by(waits, &waiting).await;
        assert_eq!(output["received"], json!({"data": {"n": 1}}));
    }
}

async fn a_signal_under_a_key_is_sent_once(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let send = |by| {
            let site = &site;
            async move {
                match by {
                    By::Rust => {
                        let send = site
                            .client
                            .send_signal("s", &json!(1))
                            .idempotency_key("key");
                        send.await.unwrap()
                    }
                    By::TypeScript => {
                        let send = json!({"signal": "s", "data": 1, "idempotencyKey": "key"});
                        site.peer.signal_with(send).await
                    }
                }
            }
        };
        // What nobody received does not use up the key.
        assert_eq!(send(first).await, [""; 0]);
        let run = site.start_by(first, &PHASES, json!({"signal": "s"})).await;
        site.park_by(first, &run, 1).await;
        assert_eq!(send(second).await, [run.as_str()]);
        assert_eq!(send(first).await, [run.as_str()]);
        site.complete_by(second, &run).await;
        // Another waits, and does not get it again.
        let other = site.start_by(first, &PHASES, json!({"signal": "s"})).await;
        site.park_by(second, &other, 1).await;
        assert_eq!(send(first).await, [run.as_str()]);
        assert_eq!(send(second).await, [run]);
        assert_eq!(site.signals().await.len(), 1);
    }
}

async fn a_wait_times_out_in_the_other_language(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let input = json!({"signal": "s", "timeout": "1h"});
        let run = site.start_by(first, &PHASES, input).await;
        site.park_by(first, &run, 1).await;
        site.advance(Duration::from_secs(3601)).await;
        let output = site.complete_by(second, &run).await;
        assert_eq!(output["received"], Value::Null);
        let wait = site.step(&run, "s").await.remove(0);
        assert_eq!((wait.status.as_str(), wait.output), ("completed", None));

        // A signal that comes after the time-out, but before the run is looked at, counts.
        let input = json!({"signal": "t", "timeout": "1h"});
        let run = site.start_by(first, &PHASES, input).await;
        site.park_by(first, &run, 1).await;
        site.advance(Duration::from_secs(3601)).await;
        assert_eq!(site.signal_by(first, "t", json!(1)).await, [run.as_str()]);
        let output = site.complete_by(second, &run).await;
        assert_eq!(output["received"], json!({"data": 1}));
    }
}

/// Holds up a waiter between the set-up of its wait and its park.
struct HoldUp(Gate);

#[async_trait]
impl Interceptor for HoldUp {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let set_up =
            matches!(call.kind, StepKind::WaitForSignal { .. }) && call.phase == StepPhase::Start;
        let outcome = next.run(call).await;
        if set_up {
            self.0.pass().await;
        }
        outcome
    }
}

async fn a_signal_before_the_park_is_received_right_after(sdk: Sdk) {
    // The waiter is Rust's.
    let site = Site::new(sdk).await;
    let gate = Gate::closed();
    let hold_up = HoldUp(gate.clone());
    let mut worker = site.rust_works(|worker| worker.interceptor(hold_up));
    let run = site.peer.start("phases", json!({"signal": "s"})).await;
    gate.reached_by(1).await;
    assert_eq!(site.peer.signal("s", json!(1)).await, [run.as_str()]);
    gate.open();
    assert_eq!(
        site.ended(&run).await.output.unwrap()["received"],
        json!({"data": 1})
    );
    worker.stop().await.unwrap();

    // The waiter is TypeScript's; each of its writes is made by hand.
    let site = Site::new(sdk).await;
    let run = site.start(&PHASES, json!({"signal": "s"})).await;
    let run = run.id();
    let claim = json!({"workerId": "by-hand", "leaseDurationMs": 30_000});
    site.peer.backend("claimWorkflowRun", claim).await;
    let context = json!({
        "kind": "signal-wait", "signal": "s", "timeoutAt": "2099-01-01T00:00:00.000Z",
    });
    let attempt = json!({
        "workflowRunId": run, "workerId": "by-hand", "stepName": "s", "kind": "signal-wait",
        "config": {}, "context": context,
    });
    site.peer.backend("createStepAttempt", attempt).await;
    assert_eq!(site.signal_by(By::Rust, "s", json!(1)).await, [run]);
    let park = json!({
        "workflowRunId": run, "workerId": "by-hand", "availableAt": "2099-01-01T00:00:00.000Z",
    });
    site.peer.backend("sleepWorkflowRun", park).await;
    let output = site.complete_by(By::Rust, run).await;
    assert_eq!(output["received"], json!({"data": 1}));
}

async fn an_ended_waiter_counts_as_a_recipient_of_typescript(sdk: Sdk) {
    for (waits, sends) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site.start_by(waits, &PHASES, json!({"signal": "s"})).await;
        site.park_by(waits, &run, 1).await;
        site.cancel_by(sends, &run).await.unwrap();
        let first = site.signal_by(sends, "s", json!(1)).await;
        let second = site.signal_by(sends, "s", json!(2)).await;
        assert_eq!(site.db.run(&run).await.status, "canceled");
        let wait = site.step(&run, "s").await.remove(0);
        match sends {
            By::TypeScript => {
                assert_eq!(first, [run]);
                assert_eq!(wait.status, "running");
            }
            // It closes the wait, so that nobody names the run any more.
            By::Rust => {
                assert!(first.is_empty(), "{first:?}");
                assert_eq!((wait.status.as_str(), wait.output), ("completed", None));
                let third = site.signal_by(By::TypeScript, "s", json!(3)).await;
                assert!(third.is_empty(), "{third:?}");
            }
        }
        assert!(second.is_empty(), "{second:?}");
    }
}
