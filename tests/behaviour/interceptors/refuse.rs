//! What interceptors may refuse, or answer themselves.

use openworkflow::{
    ClientError, CreateRun, CreatedRun, Error, ErrorKind, ExecuteRun, Payload, StepCall, StepKind,
    StepOutcome, StepPhase, WorkflowSpec,
};
use openworkflow_tests::{Database, Log};
use serde_json::json;

use super::super::{HOUR, Harness, SECOND};
use super::{CHILD, Hooks, W, plus_one, way_in};

#[tokio::test]
async fn a_creation_may_be_refused_or_answered() {
    let hooks = Hooks {
        create_run: way_in(|call: &mut CreateRun| match call.input.expose() {
            "0" => Some(Err(Error::rejected("no zeros").non_retryable())),
            "1" => Some(Ok(CreatedRun::new("made-elsewhere", false))),
            _ => None,
        }),
        ..Hooks::default()
    };
    let harness = Harness::idle_with(|client| client.interceptor(hooks)).await;
    let refused = harness
        .client
        .start(&W, &0)
        .await
        .expect_err("it is refused");
    assert!(
        matches!(&refused, ClientError::Refused { error_type, message, .. }
            if error_type == "rejected" && message == "no zeros"),
        "{refused:?}"
    );
    assert_eq!(harness.start(&W, 1).await.id(), "made-elsewhere");
    assert!(harness.runs().await.is_empty());
    harness.start(&W, 2).await;
    assert_eq!(harness.runs().await.len(), 1);
}

#[tokio::test]
async fn an_execution_may_be_refused() {
    let log = Log::new();
    let lines = log.clone();
    let hooks = Hooks {
        execute: way_in(move |call: &mut ExecuteRun| {
            match (call.input.expose(), call.execution.attempt) {
                ("0", _) => Some(Err(Error::rejected("never").non_retryable())),
                (_, 1) => Some(Err(Error::rejected("not yet"))),
                _ => {
                    lines.add("let through");
                    None
                }
            }
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| worker.workflow(plus_one()).interceptor(hooks)).await;
    let never = harness.start(&W, 0).await;
    let row = harness.failure(&never).await;
    assert_eq!(
        row.error,
        Some(json!({"name": "RejectedError", "message": "never"}))
    );
    let later = harness.start(&W, 1).await;
    let row = harness.retrying(later.id(), 1).await;
    assert_eq!(row.error_message(), Some("not yet"));
    harness.assert_after_now(row.available_at, SECOND);
    harness.advance(SECOND).await;
    assert_eq!(harness.output(&later).await, 2);
    assert_eq!(log.lines(), ["let through"]);
}

#[tokio::test]
async fn any_kind_of_step_may_be_answered_without_being_carried_out() {
    static ALL: WorkflowSpec<(), String> = WorkflowSpec::new("all");
    let log = Log::new();
    let lines = log.clone();
    let hooks = Hooks {
        step: way_in(|call: &mut StepCall| {
            let completed = |json: &str| {
                Some(Ok(StepOutcome::Completed {
                    output: Payload::from_json(json),
                }))
            };
            match (&call.kind, &*call.name) {
                (StepKind::Run, _) => completed("1"),
                (StepKind::Sleep { .. }, "nap") => completed("null"),
                (StepKind::RunWorkflow { .. }, _) => completed("2"),
                (StepKind::WaitForSignal { .. }, "delivered") => completed(r#"{"data":3}"#),
                (StepKind::WaitForSignal { .. }, _) => Some(Ok(StepOutcome::TimedOut)),
                (StepKind::SendSignal { .. }, _) => Some(Ok(StepOutcome::SignalSent {
                    run_ids: vec!["x".to_owned()],
                })),
                _ => None,
            }
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| {
        worker
            .workflow(ALL.implement(move |wf, ()| {
                let log = lines.clone();
                async move {
                    let ran: u32 = wf
                        .run("function", || async {
                            log.add("body");
                            Ok(0)
                        })
                        .await?;
                    wf.sleep("nap", HOUR).await?;
                    let child = wf.run_workflow(&CHILD, &1).await?;
                    let delivered: Option<u32> = wf.wait_for_signal("delivered").await?;
                    let timed_out: Option<u32> = wf.wait_for_signal("timed-out").await?;
                    let sent = wf.send_signal("ping", &()).await?;
                    // From history as well.
                    wf.sleep("replay", "0s").await?;
                    Ok(format!(
                        "{ran} {child} {delivered:?} {timed_out:?} {sent:?}"
                    ))
                }
            }))
            .interceptor(hooks)
    })
    .await;
    let run = harness.start(&ALL, ()).await;
    assert_eq!(harness.output(&run).await, r#"1 2 Some(3) None ["x"]"#);
    assert_eq!(log.lines(), [""; 0]);
    assert_eq!(harness.runs().await.len(), 1, "there is no child");
    let steps = harness.steps(run.id()).await;
    assert_eq!(steps.len(), 7);
    assert!(steps.iter().all(|step| step.status == "completed"));
}

#[tokio::test]
async fn a_refusal_for_good_can_be_caught_and_stays_at_every_replay() {
    static ALL: WorkflowSpec<(), ()> = WorkflowSpec::new("all");
    let (log, asked) = (Log::new(), Log::new());
    let (lines, calls) = (log.clone(), asked.clone());
    let hooks = Hooks {
        step: way_in(move |call: &mut StepCall| {
            if &*call.name == "replay" {
                return None;
            }
            calls.add(&*call.name);
            Some(Err(
                Error::rejected(format!("no {}", call.name)).non_retryable()
            ))
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| {
        worker
            .workflow(ALL.implement(move |wf, ()| {
                let log = lines.clone();
                async move {
                    let errors = [
                        wf.run("function", || async { Ok(()) }).await.unwrap_err(),
                        wf.sleep("nap", HOUR).await.unwrap_err(),
                        wf.run_workflow(&CHILD, &1).await.unwrap_err(),
                        wf.wait_for_signal::<u32>("wait").await.unwrap_err(),
                        wf.send_signal("send", &()).await.unwrap_err(),
                    ];
                    for error in errors {
                        assert_eq!(error.kind(), ErrorKind::Rejected);
                        log.add(format!("{} at {:?}", error.message(), error.step_name()));
                    }
                    wf.sleep("replay", "0s").await
                }
            }))
            .interceptor(hooks)
    })
    .await;
    let run = harness.start(&ALL, ()).await;
    harness.output(&run).await;
    let names = ["function", "nap", "child", "wait", "send"];
    assert_eq!(asked.lines(), names, "each was asked for once");
    let expected: Vec<_> = names
        .iter()
        .map(|name| format!("no {name} at Some({name:?})"))
        .collect();
    assert_eq!(log.lines(), [expected.clone(), expected].concat());
}

#[tokio::test]
async fn a_refusal_that_may_pass_is_tried_again() {
    static ALL: WorkflowSpec<(), u32> = WorkflowSpec::new("all");
    let hooks = Hooks {
        step: way_in(|call: &mut StepCall| {
            (call.phase == StepPhase::Start && call.prior_failures < 2)
                .then(|| Err(Error::rejected("too busy")))
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| {
        worker
            .workflow(ALL.implement(|wf, ()| async move {
                let one = wf.run("function", || async { Ok(1) }).await?;
                wf.sleep("nap", "0s").await?;
                let child = wf.run_workflow(&CHILD, &5).await?;
                let _: Option<u32> = wf.wait_for_signal("wait").timeout("0s").await?;
                wf.send_signal("send", &()).await?;
                Ok(one + child)
            }))
            .workflow(CHILD.implement(|_, n: u32| async move { Ok(n) }))
            .interceptor(hooks)
    })
    .await;
    let run = harness.start(&ALL, ()).await;
    openworkflow_tests::wait_until("the run completes", || async {
        harness.advance(2 * SECOND).await;
        harness.run(run.id()).await.status == "completed"
    })
    .await;
    assert_eq!(harness.output(&run).await, 6);
    for name in ["function", "nap", "child", "wait", "send"] {
        let statuses: Vec<_> = harness.step(run.id(), name).await;
        let failed = statuses
            .iter()
            .filter(|step| step.status == "failed")
            .count();
        assert_eq!((statuses.len(), failed), (3, 2), "{name}");
    }
}
