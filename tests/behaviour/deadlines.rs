//! Deadlines of runs: who notices that one has passed, and what becomes of the run.

use std::sync::Arc;

use async_trait::async_trait;
use openworkflow::{
    CreateRun, CreatedRun, Error, Interceptor, Interruption, Next, Result, RetryPolicy, StepCall,
    StepOutcome, Workflow, WorkflowSpec,
};
use openworkflow_tests::{Database, Gate, Log, RunRow, wait_until};
use serde_json::json;

use super::{HOUR, Harness, LEASE, MINUTE, SECOND};

static W: WorkflowSpec<(), ()> = WorkflowSpec::new("w");

#[track_caller]
fn assert_overdue(row: &RunRow) {
    assert_eq!(row.status, "failed");
    assert_eq!(
        row.error,
        Some(json!({"message": "Workflow run deadline exceeded"}))
    );
    assert_eq!((&row.worker_id, &row.available_at), (&None, &None));
    assert!(row.finished_at.is_some());
}

#[tokio::test]
async fn a_parked_run_fails_at_its_deadline() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf, ()| async move { wf.sleep("nap", 2 * HOUR).await }))
    })
    .await;
    let run = harness.client.start(&W, &()).deadline(HOUR).await.unwrap();
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    let row = harness.failure(&run).await;
    assert_overdue(&row);
    assert_eq!(row.attempts, 1);
    assert!(row.started_at.is_some(), "the sweep keeps it");
    assert_eq!(harness.step(run.id(), "nap").await[0].status, "running");
}

#[tokio::test]
async fn a_run_that_never_began_fails_at_its_deadline() {
    let harness =
        Harness::new(|worker| worker.workflow(W.implement(|_, ()| async { Ok(()) }))).await;
    let request = harness.client.start(&W, &()).delay(2 * HOUR).deadline(HOUR);
    let run = request.await.unwrap();
    harness.advance(HOUR).await;
    let row = harness.failure(&run).await;
    assert_overdue(&row);
    assert_eq!((row.attempts, row.started_at), (0, None));
}

#[tokio::test]
async fn any_worker_of_the_namespace_notices() {
    // The worker does not know the workflow.
    let other = Workflow::new("other", |_, ()| async { Ok(()) });
    let harness = Harness::new(|worker| worker.workflow(other)).await;
    let run = harness.client.start(&W, &()).deadline(HOUR).await.unwrap();
    harness.advance(HOUR).await;
    assert_overdue(&harness.failure(&run).await);
}

/// Tells when a step's future is dropped, and why.
struct Drops(Log);

struct Guard(Log, Arc<openworkflow::Execution>, bool);

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.2 {
            self.0.add(format!("dropped: {:?}", self.1.interruption()));
        }
    }
}

#[async_trait]
impl Interceptor for Drops {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let mut guard = Guard(self.0.clone(), Arc::clone(&call.execution), false);
        let outcome = next.run(call).await;
        guard.2 = true;
        outcome
    }
}

/// Says when a workflow's code is dropped, and why.
struct OnDrop(openworkflow::WorkflowContext, Log);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let reason = self.0.execution().interruption();
        self.1.add(format!("dropped: {reason:?}"));
    }
}

#[tokio::test]
async fn a_step_under_way_is_dropped_after_the_deadline() {
    let (log, gate) = (Log::new(), Gate::closed());
    let (lines, held) = (log.clone(), gate.clone());
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, ()| {
            let (log, gate) = (lines.clone(), held.clone());
            async move {
                let _guard = OnDrop(wf.clone(), log.clone());
                wf.run("step", || async {
                    gate.pass().await;
                    Ok(())
                })
                .await?;
                log.add("went on");
                Ok(())
            }
        }))
    })
    .await;
    let run = harness
        .client
        .start(&W, &())
        .deadline(MINUTE)
        .await
        .unwrap();
    gate.reached_by(1).await;
    wait_until("the step is recorded", || async {
        !harness.steps(run.id()).await.is_empty()
    })
    .await;
    // Not only the deadline passes, the lease runs out as well: the sweep comes first.
    harness.advance(MINUTE).await;
    let row = harness.failure(&run).await;
    assert_overdue(&row);
    assert_eq!(row.attempts, 1);
    // The next write is refused, and the execution dropped.
    gate.open();
    let reason = format!("dropped: {:?}", Some(Interruption::DeadlineExceeded));
    log.reached(&reason, 1).await;
    assert_eq!(log.lines(), [reason]);
    assert_eq!(harness.steps(run.id()).await[0].status, "running");
    assert_overdue(&harness.run(run.id()).await);
}

#[tokio::test]
async fn the_next_heartbeat_notices_too() {
    let (log, gate) = (Log::new(), Gate::closed());
    let held = gate.clone();
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(move |wf, ()| {
                let gate = held.clone();
                async move {
                    wf.run("step", || async {
                        gate.pass().await;
                        Ok(())
                    })
                    .await
                }
            }))
            .interceptor(Drops(log.clone()))
            .lease(SECOND / 2)
    })
    .await;
    let run = harness
        .client
        .start(&W, &())
        .deadline(MINUTE)
        .await
        .unwrap();
    gate.reached_by(1).await;
    wait_until("the step is recorded", || async {
        !harness.steps(run.id()).await.is_empty()
    })
    .await;
    harness.advance(MINUTE).await;
    assert_overdue(&harness.failure(&run).await);
    let reason = format!("dropped: {:?}", Some(Interruption::DeadlineExceeded));
    log.reached(&reason, 1).await;
}

#[tokio::test]
async fn no_retry_is_made_beyond_the_deadline() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf, ()| async move {
            wf.run("step", || async {
                Err::<(), _>(Error::new("Failing", "as ever"))
            })
            .retry(RetryPolicy::unlimited().initial_interval(MINUTE))
            .await
        }))
    })
    .await;
    let run = harness.client.start(&W, &()).deadline("2m").await.unwrap();
    harness.retrying(run.id(), 1).await;
    harness.advance(MINUTE).await;
    // The next one would come after 2 minutes more.
    let row = harness.failure(&run).await;
    assert_eq!(
        row.error,
        Some(json!({"name": "Failing", "message": "as ever", "step": "step"}))
    );
    assert_eq!((row.attempts, row.started_at), (2, None));
}

#[tokio::test]
async fn no_retry_of_a_workflow_is_made_beyond_the_deadline() {
    static RETRIED: WorkflowSpec<(), ()> =
        WorkflowSpec::new("w").retry(RetryPolicy::unlimited().initial_interval(HOUR));
    let harness = Harness::new(|worker| {
        worker.workflow(RETRIED.implement(|_, ()| async { Err(Error::new("Own", "my own")) }))
    })
    .await;
    let run = harness
        .client
        .start(&RETRIED, &())
        .deadline(MINUTE)
        .await
        .unwrap();
    let row = harness.failure(&run).await;
    assert_eq!((row.attempts, row.error_message()), (1, Some("my own")));
}

/// A worker with one slot, which is taken, never sweeps.
#[tokio::test]
async fn a_failure_after_the_deadline_is_the_deadlines() {
    let gate = Gate::closed();
    let held = gate.clone();
    let harness = Harness::new(|worker| {
        worker.concurrency(1).workflow(W.implement(move |wf, ()| {
            let gate = held.clone();
            async move {
                wf.run("step", || async {
                    gate.pass().await;
                    Err::<(), _>(Error::new("Failing", "too late"))
                })
                .await
            }
        }))
    })
    .await;
    let run = harness
        .client
        .start(&W, &())
        .deadline(LEASE / 2)
        .await
        .unwrap();
    gate.reached_by(1).await;
    harness.advance(LEASE / 2).await;
    gate.open();
    let row = harness.failure(&run).await;
    assert_overdue(&row);
    assert_eq!(
        row.started_at, None,
        "the failure of an execution clears it"
    );
    assert_eq!(
        harness.steps(run.id()).await[0].error_message(),
        Some("too late")
    );
}

#[tokio::test]
async fn completion_after_the_deadline_is_completion() {
    let gate = Gate::closed();
    let held = gate.clone();
    let harness = Harness::new(|worker| {
        worker.concurrency(1).workflow(W.implement(move |wf, ()| {
            let gate = held.clone();
            async move {
                wf.run("step", || async {
                    gate.pass().await;
                    Ok(())
                })
                .await
            }
        }))
    })
    .await;
    let run = harness
        .client
        .start(&W, &())
        .deadline(LEASE / 2)
        .await
        .unwrap();
    gate.reached_by(1).await;
    harness.advance(LEASE / 2).await;
    gate.open();
    harness.output(&run).await;
    assert_eq!(harness.run(run.id()).await.status, "completed");
}

/// Gives children a deadline.
struct Hurry;

#[async_trait]
impl Interceptor for Hurry {
    async fn create_run(
        &self,
        mut call: CreateRun,
        next: Next<'_, CreateRun>,
    ) -> Result<CreatedRun> {
        assert!(call.parent.is_some() && call.deadline_at.is_none());
        let now = call
            .parent
            .as_ref()
            .map(|parent| parent.execution.started_at);
        call.deadline_at = now.map(|now| now + MINUTE);
        next.run(call).await
    }
}

#[tokio::test]
async fn the_parent_of_an_overdue_child_is_woken() {
    static CHILD: WorkflowSpec<(), ()> = WorkflowSpec::new("child");
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(|wf, ()| async move { wf.run_workflow(&CHILD, &()).await }))
            .workflow(CHILD.implement(|wf, ()| async move { wf.sleep("nap", HOUR).await }))
            .interceptor(Hurry)
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    let child = harness.step(run.id(), "child").await.remove(0);
    let child_id = child.child_workflow_run_id.unwrap();
    let row = harness.parked(&child_id, 1).await;
    harness.assert_after_now(row.deadline_at, MINUTE);
    harness.advance(MINUTE).await;
    let row = harness.failure(&run).await;
    assert_eq!(row.error_message(), Some("Workflow run deadline exceeded"));
    assert_eq!(row.attempts, 2, "it did not wait for its own time-out");
    assert_overdue(&harness.run(&child_id).await);
}
