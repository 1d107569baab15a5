//! What interceptors are told of beside their hooks: failures that passed them by, and what came of an
//! execution.

use async_trait::async_trait;
use openworkflow::{
    Error, Event, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result, StepCall, Unwritten,
};
use openworkflow_tests::{Database, Gate, Log, RunRow};

use super::super::{Harness, SECOND};
use super::{Hooks, W, plus_one, way_in, way_out};

/// Writes down what it is told, and lets an execution's outcome out only through the gate.
struct Told(Log, Gate);

impl Told {
    fn at_once(log: &Log) -> Self {
        let gate = Gate::closed();
        gate.open();
        Self(log.clone(), gate)
    }
}

#[async_trait]
impl Interceptor for Told {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        assert!(call.execution.end_is_promised());
        let outcome = next.run(call).await;
        self.0.add("hook");
        self.1.pass().await;
        outcome
    }

    fn event(&self, event: &Event<'_>) {
        match event {
            Event::StepFailed {
                step_name, error, ..
            } => self.0.add(format!("{step_name} failed: {error}")),
            Event::ExecutionEnded { written, .. } => self.0.add(match written {
                Ok(outcome) => format!("written {outcome:?}"),
                Err(Unwritten::Interrupted(reason)) => format!("interrupted {reason:?}"),
                Err(Unwritten::Failed(error)) => format!("failed {:?}", error.kind()),
                Err(other) => format!("{other:?}"),
            }),
            _ => {}
        }
    }
}

fn has_ended(row: &RunRow) -> bool {
    row.status == "completed"
}

#[tokio::test]
async fn the_end_of_an_execution_once_it_is_written() {
    let (log, gate) = (Log::new(), Gate::closed());
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(plus_one())
            .interceptor(Told(log.clone(), gate.clone()))
    })
    .await;
    let run = harness.start(&W, 1).await;
    gate.reached_by(1).await;
    assert!(!has_ended(&harness.run(run.id()).await));
    assert_eq!(log.lines(), ["hook"], "nothing is written yet");
    gate.open();
    harness.output(&run).await;
    harness.stop().await;
    let completed = "written Completed { output: Payload(1 bytes) }";
    assert_eq!(log.lines(), ["hook", completed]);
}

#[tokio::test]
async fn the_outcome_that_was_written_whoever_changed_it() {
    let log = Log::new();
    let hooks = Hooks {
        execute: way_out(|_| Err(Error::rejected("not so fast"))),
        ..Hooks::default()
    };
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(plus_one())
            .interceptor(hooks)
            .interceptor(Told::at_once(&log))
    })
    .await;
    let run = harness.start(&W, 1).await;
    harness.retrying(run.id(), 1).await;
    harness.stop().await;
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let retrying = "written Retrying { error: Error { kind: Rejected,";
    assert!(lines[1].starts_with(retrying), "{lines:?}");
}

#[tokio::test]
async fn a_last_write_that_was_refused() {
    let (log, gate) = (Log::new(), Gate::closed());
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(plus_one())
            .interceptor(Told(log.clone(), gate.clone()))
            // No sign of life notices first.
            .lease(60 * SECOND)
    })
    .await;
    let run = harness.start(&W, 1).await;
    gate.reached_by(1).await;
    run.cancel().await.unwrap();
    gate.open();
    log.reached("interrupted Canceled", 1).await;
    harness.stop().await;
    assert_eq!(log.lines(), ["hook", "interrupted Canceled"]);
}

#[tokio::test]
async fn a_last_write_that_failed() {
    let (log, gate) = (Log::new(), Gate::closed());
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(plus_one())
            .interceptor(Told(log.clone(), gate.clone()))
    })
    .await;
    harness.start(&W, 1).await;
    gate.reached_by(1).await;
    harness
        .execute("ALTER TABLE workflow_runs RENAME COLUMN output TO gone")
        .await;
    gate.open();
    log.reached("failed Backend", 1).await;
    harness
        .execute("ALTER TABLE workflow_runs RENAME COLUMN gone TO output")
        .await;
    harness.stop().await;
    assert_eq!(log.lines(), ["hook", "failed Backend"]);
}

#[tokio::test]
async fn an_execution_that_was_dropped_before_its_end() {
    // In the middle of a step, and between the code's end and the write.
    for in_step in [true, false] {
        let (log, gate) = (Log::new(), Gate::closed());
        let told = Told(log.clone(), gate.clone());
        let held = gate.clone();
        let mut harness = Harness::new(|worker| {
            worker
                .workflow(W.implement(move |wf, n: u32| {
                    let gate = held.clone();
                    async move {
                        if in_step {
                            wf.run("step", || async {
                                gate.pass().await;
                                Ok(())
                            })
                            .await?;
                        }
                        Ok(n)
                    }
                }))
                .interceptor(told)
                .stop_deadline(std::time::Duration::ZERO)
        })
        .await;
        harness.start(&W, 1).await;
        gate.reached_by(1).await;
        harness.stop().await;
        log.reached("interrupted WorkerStopped", 1).await;
        let interrupted = log.lines().into_iter().filter(|line| line != "hook");
        assert_eq!(
            interrupted.collect::<Vec<_>>(),
            ["interrupted WorkerStopped"]
        );
    }
}

#[tokio::test]
async fn a_step_that_failed_out_of_their_sight() {
    let log = Log::new();
    let hooks = Hooks {
        step: way_in(|call: &mut StepCall| {
            assert_ne!(&*call.name, "broken", "a layer is broken");
            let refused = || Err(Error::rejected("not today").non_retryable());
            (&*call.name == "refused").then(refused)
        }),
        ..Hooks::default()
    };
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(|wf, n: u32| async move {
                for step in ["refused", "fine", "broken"] {
                    let ran = wf.run(step, || async { Ok(()) });
                    let _ = ran.retry(openworkflow::RetryPolicy::attempts(1)).await;
                }
                Ok(n)
            }))
            .interceptor(hooks)
            .interceptor(Told::at_once(&log))
    })
    .await;
    harness.complete(&W, 1).await;
    harness.stop().await;
    let lines = log.lines();
    assert_eq!(lines[0], "refused failed: not today");
    assert!(lines[1].starts_with("broken failed: "), "{lines:?}");
    assert!(lines[1].contains("a layer is broken"), "{lines:?}");
    assert_eq!(lines[2], "hook");
}
