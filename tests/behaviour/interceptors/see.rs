//! What interceptors see: in which order, when, and why they are dropped.

use std::sync::Arc;

use async_trait::async_trait;
use openworkflow::{
    Client, CreateRun, CreatedRun, Error, Event, ExecuteRun, Execution, ExecutionOutcome,
    Interceptor, Next, Result, RetryPolicy, StepCall, StepKind, StepOutcome,
};
use openworkflow_tests::{Database, Gate, Log};

use super::super::{HOUR, Harness, LEASE, SECOND};
use super::{CHILD, Hooks, W, plus_one, way_in};

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
    let harness = Harness::idle_with(|client| client.interceptor(hooks)).await;
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
            // The sleep ends in silence: what is told is that an answer came from history.
            "go replayed by 3",
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
        assert_eq!(
            log.lines(),
            [
                format!("step Some({reason})"),
                format!("execute Some({reason})"),
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
