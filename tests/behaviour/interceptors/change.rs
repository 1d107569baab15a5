//! What interceptors may change: calls on the way in, outcomes on the way out.

use openworkflow::{
    CancelRun, ClientError, CreateRun, Error, ExecuteRun, ExecutionOutcome, Payload, RetryPolicy,
    SendSignal, StepCall, StepOutcome, WorkflowSpec,
};
use openworkflow_tests::{Database, Log};
use serde_json::json;

use super::super::{HOUR, Harness, SECOND};
use super::{CHILD, Hook, Hooks, W, plus_one, way_in, way_out};

#[tokio::test]
async fn a_creation_may_be_changed() {
    let log = Log::new();
    let lines = log.clone();
    let hooks = Hooks {
        create_run: way_in(move |call: &mut CreateRun| {
            lines.add(format!(
                "{} {} {:?} {}",
                call.run.workflow_name,
                call.input.expose(),
                call.idempotency_key,
                call.parent.is_none()
            ));
            call.input = Payload::from_json("41");
            call.idempotency_key = Some("another".to_owned());
            call.run.carrier.insert("tenant", "acme");
            None
        }),
        ..Hooks::default()
    };
    let harness = Harness::with_client(
        |client| client.interceptor(hooks),
        |worker| worker.workflow(plus_one()),
    )
    .await;
    let run = harness
        .client
        .start(&W, &1)
        .idempotency_key("k")
        .await
        .unwrap();
    assert_eq!(harness.output(&run).await, 42);
    assert_eq!(log.lines(), ["w 1 Some(\"k\") true"]);
    let row = harness.run(run.id()).await;
    assert_eq!(row.input, Some(json!(41)));
    assert_eq!(row.idempotency_key.as_deref(), Some("another"));
}

#[tokio::test]
async fn an_execution_may_be_changed() {
    let hooks = Hooks {
        execute: Some(Hook {
            way_in: Box::new(|call: &mut ExecuteRun| {
                call.input = Payload::from_json("10");
                None
            }),
            way_out: Box::new(|outcome| {
                Ok(match outcome? {
                    ExecutionOutcome::Completed { output } => {
                        assert_eq!(output.expose(), "11");
                        ExecutionOutcome::Completed {
                            output: Payload::from_json("12"),
                        }
                    }
                    other => other,
                })
            }),
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| worker.workflow(plus_one()).interceptor(hooks)).await;
    let run = harness.start(&W, 1).await;
    assert_eq!(harness.output(&run).await, 12);
    let row = harness.run(run.id()).await;
    assert_eq!((row.input, row.output), (Some(json!(1)), Some(json!(12))));
}

#[tokio::test]
async fn a_decision_to_retry_may_be_overruled() {
    static RETRIED: WorkflowSpec<u32, u32> = WorkflowSpec::new("w").retry(RetryPolicy::attempts(9));
    let hooks = Hooks {
        execute: way_out(|outcome| {
            Ok(match outcome? {
                ExecutionOutcome::Retrying { error, at } if error.message() == "later" => {
                    ExecutionOutcome::Retrying {
                        error,
                        at: at + HOUR,
                    }
                }
                ExecutionOutcome::Retrying { error, .. } => ExecutionOutcome::Failed { error },
                other => other,
            })
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| {
        worker
            .workflow(RETRIED.implement(|wf, _: u32| async move {
                match wf.attempt() {
                    1 => Err(Error::new("Own", "later")),
                    _ => Err(Error::new("Own", "never")),
                }
            }))
            .interceptor(hooks)
    })
    .await;
    let run = harness.start(&RETRIED, 1).await;
    let row = harness.retrying(run.id(), 1).await;
    harness.assert_after_now(row.available_at, HOUR + SECOND);
    harness.advance(HOUR + SECOND).await;
    let row = harness.failure(&run).await;
    assert_eq!((row.attempts, row.error_message()), (2, Some("never")));
}

#[tokio::test]
async fn a_steps_result_may_be_replaced_and_is_stored_so() {
    let hooks = Hooks {
        step: way_out(|outcome| {
            Ok(match outcome? {
                StepOutcome::Completed { .. } => StepOutcome::Completed {
                    output: Payload::from_json("99"),
                },
                other => other,
            })
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| worker.workflow(plus_one()).interceptor(hooks)).await;
    let run = harness.start(&W, 1).await;
    assert_eq!(harness.output(&run).await, 99);
    assert_eq!(harness.steps(run.id()).await[0].output, Some(json!(99)));
}

#[tokio::test]
async fn a_result_that_does_not_fit_fails_the_step_rather_than_each_replay() {
    let hooks = Hooks {
        step: way_in(|_: &mut StepCall| {
            Some(Ok(StepOutcome::Completed {
                output: Payload::from_json("\"no number\""),
            }))
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| worker.workflow(plus_one()).interceptor(hooks)).await;
    let run = harness.start(&W, 1).await;
    let row = harness.failure(&run).await;
    assert_eq!(row.error.as_ref().unwrap()["name"], "InvalidPayloadError");
    assert_eq!(harness.steps(run.id()).await[0].status, "failed");
}

#[tokio::test]
async fn a_child_is_created_through_the_parents_chain() {
    let log = Log::new();
    let lines = log.clone();
    let hooks = Hooks {
        create_run: way_in(move |call: &mut CreateRun| {
            let parent = call.parent.as_ref().expect("the client has another chain");
            lines.add(format!(
                "{} for {} of {} attempt {}",
                call.run.workflow_name,
                parent.step_name,
                parent.execution.run.workflow_name,
                parent.execution.attempt
            ));
            lines.add(&*parent.execution.run.id);
            lines.add(&*parent.attempt_id);
            lines.add(&*call.run.id);
            call.input = Payload::from_json("50");
            call.run.carrier.insert("from", "parent");
            None
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(|wf, n: u32| async move {
                wf.run_workflow(&CHILD, &n).name("kid").await
            }))
            .workflow(CHILD.implement(|_, n: u32| async move { Ok(n) }))
            .interceptor(hooks)
    })
    .await;
    let run = harness.start(&W, 1).await;
    assert_eq!(harness.output(&run).await, 50);
    let step = harness.steps(run.id()).await.remove(0);
    let child_id = step.child_workflow_run_id.unwrap();
    assert_eq!(
        log.lines(),
        [
            "child for kid of w attempt 1",
            run.id(),
            &step.id,
            &child_id
        ]
    );
    assert_eq!(
        harness.run(&child_id).await.context,
        Some(json!({"telemetry": {"from": "parent"}, "traceContext": {"from": "parent"}}))
    );
    assert_eq!(harness.run(run.id()).await.context, None);
}

#[tokio::test]
async fn signals_and_cancellations_of_a_client_go_through_its_chain() {
    let log = Log::new();
    let (signals, cancels) = (log.clone(), log.clone());
    let hooks = Hooks {
        send_signal: Some(Hook {
            way_in: Box::new(move |call: &mut SendSignal| {
                signals.add(format!("{} {:?}", call.signal, call.idempotency_key));
                if call.data.expose() == "0" {
                    return Some(Err(Error::rejected("no zeros")));
                }
                call.data = Payload::from_json("77");
                None
            }),
            way_out: Box::new(|outcome| outcome),
        }),
        cancel_run: way_in(move |call: &mut CancelRun| {
            cancels.add(format!("cancel {} {}", call.run.workflow_name, call.run.id));
            (call.run.carrier.get("protected") == Some("yes"))
                .then(|| Err(Error::rejected("it is protected")))
        }),
        create_run: way_in(|call: &mut CreateRun| {
            if call.input.expose() == "1" {
                call.run.carrier.insert("protected", "yes");
            }
            None
        }),
        ..Hooks::default()
    };
    let harness = Harness::with_client(
        |client| client.interceptor(hooks),
        |worker| {
            worker.workflow(W.implement(|wf, _| async move {
                let data: Option<u32> = wf.wait_for_signal("go").await?;
                Ok(data.unwrap_or_default())
            }))
        },
    )
    .await;
    let run = harness.start(&W, 1).await;
    harness.parked(run.id(), 1).await;
    let refused = harness.client.send_signal("go", &0).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }));
    let refused = run.cancel().await.unwrap_err();
    assert_eq!(refused.to_string(), "rejected: it is protected");
    assert_eq!(harness.run(run.id()).await.status, "running");
    harness
        .client
        .send_signal("go", &5)
        .idempotency_key("k")
        .await
        .unwrap();
    assert_eq!(harness.output(&run).await, 77);
    let other = harness.start(&W, 2).await;
    other.cancel().await.unwrap();
    assert_eq!(harness.run(other.id()).await.status, "canceled");
    let unknown = harness.client.cancel("missing").await.unwrap_err();
    assert!(matches!(unknown, ClientError::RunNotFound { .. }));
    assert_eq!(
        log.lines(),
        [
            "go None".to_owned(),
            format!("cancel w {}", run.id()),
            "go Some(\"k\")".to_owned(),
            format!("cancel w {}", other.id()),
            "cancel  missing".to_owned(),
        ]
    );
}
