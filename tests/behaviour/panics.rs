//! Panics: of steps, workflows, interceptors and destructors. None takes a worker down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use openworkflow::{
    CancelRun, ClientError, CreateRun, CreatedRun, ErrorKind, Event, ExecuteRun, ExecutionOutcome,
    Interceptor, Next, Result, RetryPolicy, SendSignal, SentSignal, StepCall, StepKind,
    StepOutcome, StepPhase, Workflow, WorkflowSpec,
};
use openworkflow_tests::{Database, Gate, Log, wait_until};
use serde_json::json;

use super::{Harness, SECOND};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");

#[tokio::test]
async fn a_panicking_step_is_a_failed_step() {
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, n: u32| {
            let log = lines.clone();
            async move {
                wf.run("step", || async {
                    log.add("step");
                    assert!(log.count("step") > 1, "panicking number {n}");
                    Ok(n)
                })
                .await
            }
        }))
    })
    .await;
    let run = harness.start(&W, 4).await;
    let row = harness.retrying(run.id(), 1).await;
    let error = json!({"name": "Panic", "message": "panicking number 4", "step": "step"});
    assert_eq!(row.error, Some(error));
    let step = harness.steps(run.id()).await.remove(0);
    assert_eq!(step.status, "failed");
    assert_eq!(step.error_message(), Some("panicking number 4"));
    harness.advance(SECOND).await;
    assert_eq!(harness.output(&run).await, 4);
}

#[tokio::test]
async fn a_panic_before_the_first_await_and_one_without_text() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf, n: u32| async move {
            let step = if n == 0 {
                wf.run("step", || {
                    assert!(std::hint::black_box(false), "before the future");
                    async { Ok(0) }
                })
            } else {
                wf.run("step", || async { std::panic::panic_any(7_u8) })
            };
            step.retry(RetryPolicy::none()).await
        }))
    })
    .await;
    let row = harness.failure(&harness.start(&W, 0).await).await;
    assert_eq!(row.error_message(), Some("before the future"));
    let row = harness.failure(&harness.start(&W, 1).await).await;
    assert_eq!(
        row.error_message(),
        Some("panicked with a value that is not text")
    );
}

#[tokio::test]
async fn the_kind_of_a_caught_panic_is_the_same_at_every_replay() {
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, n: u32| {
            let log = lines.clone();
            async move {
                let step = wf.run("step", || async { panic!("oh no") });
                let caught: Result<()> = step.retry(RetryPolicy::none()).await;
                log.add(format!("{:?}", caught.unwrap_err().kind()));
                wf.sleep("replay", "0s").await?;
                Ok(n)
            }
        }))
    })
    .await;
    harness.complete(&W, 1).await;
    assert_eq!(log.lines(), ["Panic", "Panic"]);
}

#[tokio::test]
async fn a_panicking_workflow_is_a_failed_workflow() {
    static RETRIED: WorkflowSpec<u32, u32> = WorkflowSpec::new("w").retry(RetryPolicy::attempts(2));
    let harness = Harness::new(|worker| {
        worker.workflow(RETRIED.implement(|wf, n: u32| {
            // Before there is a future.
            assert!(wf.attempt() > 1 || n != 0, "at once");
            async move {
                assert!(wf.attempt() > 1 || n != 1, "in the code");
                wf.run("step", || async { Ok(()) }).await?;
                assert!(n != 2, "each time");
                Ok(n)
            }
        }))
    })
    .await;
    for (n, message) in [(0, "at once"), (1, "in the code")] {
        let run = harness.start(&RETRIED, n).await;
        let row = harness.retrying(run.id(), 1).await;
        assert_eq!(
            row.error,
            Some(json!({"name": "Panic", "message": message}))
        );
        harness.advance(SECOND).await;
        assert_eq!(harness.output(&run).await, n);
    }
    let run = harness.start(&RETRIED, 2).await;
    harness.retrying(run.id(), 1).await;
    harness.advance(SECOND).await;
    let row = harness.failure(&run).await;
    assert_eq!((row.attempts, row.error_message()), (2, Some("each time")));
}

#[tokio::test]
async fn a_panicking_destructor_of_a_dropped_execution_is_contained() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("in a destructor");
            }
        }
    }
    let gate = Gate::closed();
    let held = gate.clone();
    let harness = Harness::new(|worker| {
        worker
            .concurrency(1)
            .workflow(W.implement(move |wf, n: u32| {
                let gate = held.clone();
                async move {
                    let bomb = (n == 0).then(|| Bomb);
                    wf.run("step", || async {
                        gate.pass().await;
                        Ok(())
                    })
                    .await?;
                    std::mem::forget(bomb);
                    Ok(n)
                }
            }))
    })
    .await;
    let run = harness.start(&W, 0).await;
    gate.reached_by(1).await;
    run.cancel().await.unwrap();
    gate.open();
    // The only slot becomes free again.
    assert_eq!(harness.complete(&W, 5).await, 5);
    assert_eq!(harness.run(run.id()).await.status, "canceled");
}

/// Where a hook panics.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Before,
    After,
}

/// Panics in one hook, once.
struct PanicOnce {
    hook: String,
    at: At,
    done: Arc<AtomicBool>,
}

impl PanicOnce {
    fn maybe(&self, hook: &str, at: At) {
        if self.hook == hook && self.at == at && !self.done.swap(true, Ordering::SeqCst) {
            panic!("{hook} panics");
        }
    }
}

macro_rules! hook {
    ($name:ident, $call:ty, $output:ty) => {
        fn $name<'life0, 'life1, 'async_trait>(
            &'life0 self,
            call: $call,
            next: Next<'life1, $call>,
        ) -> openworkflow::BoxFuture<'async_trait, Result<$output>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            // Before there is a future.
            self.maybe(stringify!($name), At::Before);
            Box::pin(async move {
                let outcome = next.run(call).await;
                self.maybe(stringify!($name), At::After);
                outcome
            })
        }
    };
}

#[async_trait]
impl Interceptor for PanicOnce {
    hook!(create_run, CreateRun, CreatedRun);
    hook!(execute, ExecuteRun, ExecutionOutcome);
    hook!(send_signal, SendSignal, SentSignal);
    hook!(cancel_run, CancelRun, ());

    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let phase = if call.phase == StepPhase::Resolve {
            "resolve"
        } else {
            "start"
        };
        let hook = format!("{} {phase}", call.kind.as_str());
        self.maybe(&hook, At::Before);
        let outcome = next.run(call).await;
        self.maybe(&hook, At::After);
        outcome
    }

    fn event(&self, _: &Event<'_>) {
        self.maybe("event", At::Before);
    }
}

static CHILD: WorkflowSpec<u32, u32> = WorkflowSpec::new("child");

/// One step of each kind.
fn all_kinds() -> Workflow {
    W.implement(|wf, n: u32| async move {
        let a = wf.run("function", || async { Ok(n + 1) }).await?;
        let b = wf.run_workflow(&CHILD, &n).await?;
        wf.send_signal("nobody", &()).await?;
        let c: Option<u32> = wf.wait_for_signal("go").await?;
        wf.sleep("nap", 5 * SECOND).await?;
        Ok(a + b + c.unwrap_or_default())
    })
}

fn child() -> Workflow {
    CHILD.implement(|_, n: u32| async move { Ok(n * 10) })
}

#[tokio::test]
async fn a_panic_in_any_hook_of_a_worker_only_costs_time() {
    let mut cases = vec![
        ("execute".to_owned(), At::Before),
        ("execute".to_owned(), At::After),
        ("create_run".to_owned(), At::Before),
        ("create_run".to_owned(), At::After),
        ("event".to_owned(), At::Before),
    ];
    for at in [At::Before, At::After] {
        for kind in [
            "function",
            "workflow",
            "signal-send",
            "signal-wait",
            "sleep",
        ] {
            cases.push((format!("{kind} start"), at));
        }
        for kind in ["workflow", "signal-wait"] {
            cases.push((format!("{kind} resolve"), at));
        }
    }
    let cases = cases.into_iter().map(|(hook, at)| async move {
        let done = Arc::new(AtomicBool::new(false));
        let panics = PanicOnce {
            hook: hook.clone(),
            at,
            done: Arc::clone(&done),
        };
        let harness = Harness::new(|worker| {
            worker
                .workflow(all_kinds())
                .workflow(child())
                .interceptor(panics)
        })
        .await;
        let run = harness.start(&W, 1).await;
        wait_until(
            &format!("the run completes although {hook} panics"),
            || async {
                harness.advance(SECOND).await;
                harness.client.send_signal("go", &100).await.unwrap();
                let row = harness.run(run.id()).await;
                assert_ne!(row.status, "failed", "{hook} {at:?}: {row:#?}");
                row.status == "completed"
            },
        )
        .await;
        assert_eq!(harness.output(&run).await, 2 + 10 + 100, "{hook} {at:?}");
        assert!(done.load(Ordering::SeqCst), "{hook} {at:?} did panic");
        let children = harness.runs().await.len() - 1;
        assert_eq!(children, 1, "{hook} {at:?} makes no second child");
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn a_panic_in_a_hook_of_a_client_is_an_error_of_the_operation() {
    for at in [At::Before, At::After] {
        for hook in ["create_run", "send_signal", "cancel_run"] {
            let panics = PanicOnce {
                hook: hook.to_owned(),
                at,
                done: Arc::default(),
            };
            let harness = Harness::idle_with(|client| client.interceptor(panics)).await;
            let mut failures = Vec::new();
            let run = match harness.client.start(&W, &1).idempotency_key("k").await {
                Ok(run) => run,
                Err(error) => {
                    failures.push(error);
                    harness
                        .client
                        .start(&W, &1)
                        .idempotency_key("k")
                        .await
                        .unwrap()
                }
            };
            failures.extend(harness.client.send_signal("go", &1).await.err());
            failures.extend(run.cancel().await.err());
            assert_eq!(failures.len(), 1, "{hook}");
            assert!(
                matches!(&failures[0], ClientError::Refused { error_type, message, .. }
                    if error_type == ErrorKind::Panic.as_str()
                        && *message == format!("{hook} panics")),
                "{:?}",
                failures[0]
            );
            run.cancel().await.unwrap();
            assert_eq!(harness.runs().await.len(), 1);
        }
    }
}

#[tokio::test]
async fn an_interceptor_outside_sees_the_panic_as_an_error() {
    struct Watch(Log);
    #[async_trait]
    impl Interceptor for Watch {
        async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
            assert!(matches!(call.kind, StepKind::Run));
            let outcome = next.run(call).await;
            if let Err(error) = &outcome {
                self.0.add(format!("{:?}: {error}", error.kind()));
            }
            outcome
        }
    }
    let log = Log::new();
    let panics = PanicOnce {
        hook: "function start".to_owned(),
        at: At::After,
        done: Arc::default(),
    };
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(|wf, n: u32| async move {
                wf.run("step", || async {
                    assert!(wf.attempt() > 2, "the body panics");
                    Ok(n)
                })
                .retry(RetryPolicy::unlimited().initial_interval(std::time::Duration::ZERO))
                .await
            }))
            .interceptor(Watch(log.clone()))
            .interceptor(panics)
    })
    .await;
    harness.complete(&W, 1).await;
    assert_eq!(
        log.lines(),
        ["Panic: function start panics", "Panic: the body panics"]
    );
}
