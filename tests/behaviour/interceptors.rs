//! Interceptors: their order, what they see, and what they may change.

use std::sync::Arc;

use async_trait::async_trait;
use openworkflow::{
    CancelRun, Client, ClientError, CreateRun, CreatedRun, Error, ErrorKind, Event, ExecuteRun,
    Execution, ExecutionOutcome, Interceptor, Next, Payload, Result, RetryPolicy, SendSignal,
    SentSignal, StepCall, StepKind, StepOutcome, StepPhase, Workflow, WorkflowSpec,
};
use openworkflow_tests::{Database, Gate, Log};
use serde_json::json;

use super::{HOUR, Harness, LEASE, SECOND};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");
static CHILD: WorkflowSpec<u32, u32> = WorkflowSpec::new("child");

/// Hooks given as closures; those that are not given pass on.
#[derive(Default)]
struct Hooks {
    create_run: Option<Hook<CreateRun, CreatedRun>>,
    execute: Option<Hook<ExecuteRun, ExecutionOutcome>>,
    step: Option<Hook<StepCall, StepOutcome>>,
    send_signal: Option<Hook<SendSignal, SentSignal>>,
    cancel_run: Option<Hook<CancelRun, ()>>,
}

/// What happens to the call on its way in, and to the outcome on its way out. A way in that gives
/// an outcome skips the rest.
struct Hook<C, O> {
    way_in: Box<dyn Fn(&mut C) -> Option<Result<O>> + Send + Sync>,
    way_out: Box<dyn Fn(Result<O>) -> Result<O> + Send + Sync>,
}

fn way_in<C, O>(
    f: impl Fn(&mut C) -> Option<Result<O>> + Send + Sync + 'static,
) -> Option<Hook<C, O>> {
    Some(Hook {
        way_in: Box::new(f),
        way_out: Box::new(|outcome| outcome),
    })
}

fn way_out<C, O>(f: impl Fn(Result<O>) -> Result<O> + Send + Sync + 'static) -> Option<Hook<C, O>> {
    Some(Hook {
        way_in: Box::new(|_| None),
        way_out: Box::new(f),
    })
}

macro_rules! hooks {
    ($($hook:ident($call:ty) -> $output:ty;)*) => {
        #[async_trait]
        impl Interceptor for Hooks {
            $(async fn $hook(&self, mut call: $call, next: Next<'_, $call>) -> Result<$output> {
                let Some(hook) = &self.$hook else {
                    return next.run(call).await;
                };
                match (hook.way_in)(&mut call) {
                    Some(answer) => answer,
                    None => (hook.way_out)(next.run(call).await),
                }
            })*
        }
    };
}

hooks! {
    create_run(CreateRun) -> CreatedRun;
    execute(ExecuteRun) -> ExecutionOutcome;
    step(StepCall) -> StepOutcome;
    send_signal(SendSignal) -> SentSignal;
    cancel_run(CancelRun) -> ();
}

fn plus_one() -> Workflow {
    W.implement(|wf, n: u32| async move { wf.run("step", || async { Ok(n + 1) }).await })
}

/// Writes down when it is entered and left.
struct Trace(&'static str, Log);

#[async_trait]
impl Interceptor for Trace {
    async fn create_run(&self, call: CreateRun, next: Next<'_, CreateRun>) -> Result<CreatedRun> {
        self.1.add(format!("{} create>", self.0));
        let outcome = next.run(call).await;
        self.1.add(format!("{} <create", self.0));
        outcome
    }

    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        self.1.add(format!("{} execute>", self.0));
        let outcome = next.run(call).await;
        self.1.add(format!("{} <execute", self.0));
        outcome
    }

    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        self.1.add(format!("{} step>", self.0));
        let outcome = next.run(call).await;
        self.1.add(format!("{} <step", self.0));
        outcome
    }
}

#[tokio::test]
async fn the_first_registered_is_the_outermost() {
    let log = Log::new();
    let harness = Harness::with_client(
        |client| {
            client
                .interceptor(Trace("a", log.clone()))
                .interceptor(Trace("b", log.clone()))
        },
        |worker| {
            worker
                .workflow(plus_one())
                .interceptor(Trace("c", log.clone()))
                .interceptor(Trace("d", log.clone()))
        },
    )
    .await;
    harness.complete(&W, 1).await;
    let lines = log.lines();
    let of = |what: &str| -> Vec<String> {
        lines
            .iter()
            .filter(|line| line.contains(what))
            .cloned()
            .collect()
    };
    assert_eq!(
        of("create"),
        ["a create>", "b create>", "b <create", "a <create"]
    );
    assert_eq!(
        of("execute"),
        ["c execute>", "d execute>", "d <execute", "c <execute"]
    );
    assert_eq!(of("step"), ["c step>", "d step>", "d <step", "c <step"]);
}

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
async fn the_id_is_known_before_the_run_exists() {
    let log = Log::new();
    let lines = log.clone();
    let hooks = Hooks {
        create_run: way_in(move |call: &mut CreateRun| {
            lines.add(&*call.run.id);
            None
        }),
        ..Hooks::default()
    };
    let harness = Harness::with_client(|client| client.interceptor(hooks), |worker| worker).await;
    let first = harness
        .client
        .start(&W, &1)
        .idempotency_key("k")
        .await
        .unwrap();
    let again = harness
        .client
        .start(&W, &1)
        .idempotency_key("k")
        .await
        .unwrap();
    let asked_for = log.lines();
    assert_eq!(first.id(), asked_for[0]);
    assert_eq!(again.id(), asked_for[0], "found, not created");
    assert_ne!(asked_for[1], asked_for[0]);
}

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
    let harness = Harness::with_client(|client| client.interceptor(hooks), |worker| worker).await;
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

#[tokio::test]
async fn a_replayed_step_makes_no_call_but_an_event() {
    struct Events(Log);
    #[async_trait]
    impl Interceptor for Events {
        async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
            self.0.add(format!("{} {:?}", call.name, call.phase));
            next.run(call).await
        }

        fn event(&self, event: &Event<'_>) {
            if let Event::StepReplayed {
                execution,
                step_name,
                ..
            } = event
            {
                self.0
                    .add(format!("{step_name} replayed by {}", execution.attempt));
            }
        }
    }
    let log = Log::new();
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(|wf, n: u32| async move {
                wf.run("step", || async { Ok(()) }).await?;
                let _: Option<u32> = wf.wait_for_signal("go").timeout(HOUR).await?;
                wf.sleep("nap", HOUR).await?;
                Ok(n)
            }))
            .interceptor(Events(log.clone()))
    })
    .await;
    let run = harness.start(&W, 1).await;
    for attempt in 1..=2 {
        harness.parked(run.id(), attempt).await;
        harness.advance(HOUR).await;
    }
    harness.output(&run).await;
    assert_eq!(
        log.lines(),
        [
            "step Start",
            "go Start",
            "step replayed by 2",
            "go Resolve",
            "nap Start",
            "step replayed by 3",
            "go replayed by 3",
            "nap replayed by 3",
        ]
    );
}

#[tokio::test]
async fn a_call_tells_all_that_is_known_beforehand() {
    let log = Log::new();
    let lines = log.clone();
    let hooks = Hooks {
        step: way_in(move |call: &mut StepCall| {
            let execution = &call.execution;
            assert!(!call.attempt_id.is_empty());
            let kind = match &call.kind {
                StepKind::Sleep { resume_at, .. } => {
                    format!("{:?}", resume_at > &execution.started_at)
                }
                StepKind::RunWorkflow {
                    workflow_name,
                    workflow_version,
                    run_id,
                    ..
                } => format!("{workflow_name} {workflow_version:?} {}", run_id.len()),
                StepKind::WaitForSignal { signal, .. } => signal.to_string(),
                StepKind::SendSignal { signal, data, .. } => format!("{signal} {data:?}"),
                _ => String::new(),
            };
            lines.add(format!(
                "{} named={} {} failures={} attempt={} replay={} {kind}",
                call.name,
                call.named,
                call.kind.as_str(),
                call.prior_failures,
                execution.attempt,
                execution.replay,
            ));
            None
        }),
        ..Hooks::default()
    };
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(|wf, n: u32| async move {
                wf.run("step", || async {
                    match wf.attempt() {
                        1 => Err(Error::new("Once", "not yet")),
                        _ => Ok(()),
                    }
                })
                .retry(RetryPolicy::attempts(2).initial_interval(std::time::Duration::ZERO))
                .await?;
                wf.send_signal("ping", "four").await?;
                let _: Option<u32> = wf
                    .wait_for_signal("pong")
                    .name("wait")
                    .timeout("0s")
                    .await?;
                wf.run_workflow(&CHILD, &n).await
            }))
            .workflow(CHILD.implement(|wf, n: u32| async move {
                wf.sleep("nap", "1ms").await?;
                Ok(n)
            }))
            .interceptor(hooks)
    })
    .await;
    let run = harness.start(&W, 1).await;
    openworkflow_tests::wait_until("the run completes", || async {
        harness.advance(SECOND).await;
        harness.run(run.id()).await.status == "completed"
    })
    .await;
    assert_eq!(
        log.lines(),
        [
            "step named=true function failures=0 attempt=1 replay=false ",
            "step named=true function failures=1 attempt=2 replay=true ",
            "ping named=false signal-send failures=0 attempt=2 replay=true ping Payload(6 bytes)",
            "wait named=true signal-wait failures=0 attempt=2 replay=true pong",
            "wait named=true signal-wait failures=0 attempt=3 replay=true pong",
            "child named=false workflow failures=0 attempt=3 replay=true child None 36",
            "nap named=true sleep failures=0 attempt=1 replay=false true",
            "child named=false workflow failures=0 attempt=4 replay=true child None 36",
        ]
    );
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
    assert_eq!(
        log.lines(),
        [
            "go None".to_owned(),
            format!("cancel w {}", run.id()),
            "go Some(\"k\")".to_owned(),
            format!("cancel w {}", other.id()),
        ]
    );
}

/// Writes down why a hook's future is dropped.
struct Watch(Log);

struct Watched(Log, &'static str, Arc<Execution>);

impl Drop for Watched {
    fn drop(&mut self) {
        let reason = self.2.interruption();
        self.0.add(format!("{} {reason:?}", self.1));
    }
}

#[async_trait]
impl Interceptor for Watch {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        let _watched = Watched(self.0.clone(), "execute", Arc::clone(&call.execution));
        next.run(call).await
    }

    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let _watched = Watched(self.0.clone(), "step", Arc::clone(&call.execution));
        next.run(call).await
    }

    fn event(&self, event: &Event<'_>) {
        if let Event::ExecutionInterrupted { reason, .. } = event {
            self.0.add(format!("event {reason:?}"));
        }
    }
}

#[tokio::test]
async fn hooks_learn_why_they_are_dropped() {
    for reason in ["Canceled", "LeaseLost", "WorkerStopped"] {
        let (gate, log) = (Gate::closed(), Log::new());
        let held = gate.clone();
        let mut harness = Harness::new(|worker| {
            worker
                .workflow(W.implement(move |wf, n: u32| {
                    let gate = held.clone();
                    async move {
                        wf.run("step", || async {
                            gate.pass().await;
                            Ok(())
                        })
                        .await?;
                        Ok(n)
                    }
                }))
                .interceptor(Watch(log.clone()))
                .lease(if reason == "LeaseLost" {
                    SECOND
                } else {
                    LEASE / 100
                })
                .stop_deadline(std::time::Duration::ZERO)
        })
        .await;
        let run = harness.start(&W, 1).await;
        gate.reached_by(1).await;
        match reason {
            "Canceled" => run.cancel().await.unwrap(),
            "LeaseLost" => {
                // Somebody else takes it over.
                harness
                    .execute(&format!(
                        "UPDATE workflow_runs SET worker_id = 'thief' WHERE id = '{}'",
                        run.id()
                    ))
                    .await;
            }
            _ => harness.stop().await,
        }
        log.reached(&format!("event {reason}"), 1).await;
        let dropped = Some(format!("execute Some({reason})"));
        assert_eq!(
            log.lines(),
            [
                format!("step Some({reason})"),
                dropped.unwrap(),
                format!("event {reason}"),
            ]
        );
    }
}

#[tokio::test]
async fn one_interceptor_serves_clients_and_workers() {
    let log = Log::new();
    let shared = Arc::new(Trace("both", log.clone()));
    let harness = Harness::with_client(
        |client| client.interceptor(Arc::clone(&shared)),
        |worker| worker.workflow(plus_one()).interceptor(Arc::clone(&shared)),
    )
    .await;
    harness.complete(&W, 1).await;
    assert_eq!(log.count("both create>"), 1);
    assert_eq!(log.count("both step>"), 1);
    let _: Client = harness.client.clone();
}
