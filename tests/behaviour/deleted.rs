//! Runs that somebody deletes while others depend on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openworkflow::{ClientError, Workflow, WorkflowSpec};
use openworkflow_tests::{Database, Gate};

use super::{HOUR, Harness};

static PARENT: WorkflowSpec<u32, String> = WorkflowSpec::new("parent");
static CHILD: WorkflowSpec<u32, u32> = WorkflowSpec::new("child");

/// Gives what became of its child, from history too.
fn parent() -> Workflow {
    PARENT.implement(|wf, n: u32| async move {
        let outcome = match wf.run_workflow(&CHILD, &n).timeout(HOUR).await {
            Ok(result) => format!("ok: {result}"),
            Err(error) => format!("{:?}: {}", error.kind(), error.message()),
        };
        wf.sleep("replay", "0s").await?;
        Ok(outcome)
    })
}

/// Doubles, and counts how often it did.
fn child(executions: &Arc<AtomicUsize>) -> Workflow {
    let executions = Arc::clone(executions);
    CHILD.implement(move |_, n: u32| {
        executions.fetch_add(1, Ordering::SeqCst);
        async move { Ok(n * 2) }
    })
}

async fn delete(harness: &Harness, run_id: &str) {
    let sql = format!("DELETE FROM workflow_runs WHERE id = '{run_id}'");
    harness.execute(&sql).await;
}

async fn child_of(harness: &Harness, parent_id: &str) -> String {
    let wait = harness.step(parent_id, "child").await.remove(0);
    wait.child_workflow_run_id.expect("it is linked")
}

#[tokio::test]
async fn a_child_that_was_deleted_fails_its_step_and_is_not_created_anew() {
    let executions = Arc::default();
    let mut harness = Harness::new(|worker| worker.workflow(parent())).await;
    let run = harness.start(&PARENT, 1).await;
    harness.parked(run.id(), 1).await;
    let child_id = child_of(&harness, run.id()).await;
    harness.stop().await;
    delete(&harness, &child_id).await;
    harness.start_worker(|worker| worker.workflow(parent()).workflow(child(&executions)));
    harness.advance(HOUR).await;
    let expected = format!(
        "ChildFailed: Workflow step \"child\" could not find linked child workflow run \"{child_id}\""
    );
    assert_eq!(harness.output(&run).await, expected);
    assert_eq!(harness.runs().await.len(), 1, "there is no second child");
    assert_eq!(executions.load(Ordering::SeqCst), 0);
    assert_eq!(
        harness.step_summary(run.id()).await,
        ["child workflow failed", "replay sleep completed"]
    );
}

#[tokio::test]
async fn a_child_that_did_its_work_and_was_deleted_does_not_do_it_again() {
    let executions = Arc::default();
    let mut harness = Harness::new(|worker| worker.workflow(parent())).await;
    let run = harness.start(&PARENT, 1).await;
    harness.parked(run.id(), 1).await;
    let child_id = child_of(&harness, run.id()).await;
    harness.stop().await;
    harness.start_worker(|worker| worker.workflow(child(&executions)));
    harness.ended(&child_id).await;
    delete(&harness, &child_id).await;
    let parents = harness.another_worker(|worker| worker.workflow(parent()));
    let outcome = harness.output(&run).await;
    assert!(outcome.contains("could not find"), "{outcome}");
    assert_eq!(executions.load(Ordering::SeqCst), 1);
    drop(parents);
}

#[tokio::test]
async fn a_child_whose_output_was_observed_may_be_deleted() {
    static PATIENT: WorkflowSpec<u32, u32> = WorkflowSpec::new("patient");
    let executions = Arc::default();
    let patient = PATIENT.implement(|wf, n: u32| async move {
        let result = wf.run_workflow(&CHILD, &n).await?;
        wf.sleep("nap", HOUR).await?;
        Ok(result)
    });
    let harness =
        Harness::new(|worker| worker.workflow(patient).workflow(child(&executions))).await;
    let run = harness.start(&PATIENT, 4).await;
    harness.parked(run.id(), 2).await;
    delete(&harness, &child_of(&harness, run.id()).await).await;
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, 8);
    assert_eq!(executions.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_child_whose_parent_was_deleted_goes_on() {
    let executions = Arc::default();
    let mut harness = Harness::new(|worker| worker.workflow(parent())).await;
    let run = harness.start(&PARENT, 1).await;
    harness.parked(run.id(), 1).await;
    let child_id = child_of(&harness, run.id()).await;
    delete(&harness, run.id()).await;
    harness.start_worker(|worker| worker.workflow(parent()).workflow(child(&executions)));
    assert_eq!(harness.ended(&child_id).await.status, "completed");
}

#[tokio::test]
async fn whoever_awaits_the_result_of_a_run_that_is_deleted_is_told() {
    let harness = Harness::idle().await;
    let run = harness.start(&CHILD, 1).await;
    let (awaited, ()) = tokio::join!(run.result(), delete(&harness, run.id()));
    let Err(ClientError::RunNotFound { run_id }) = awaited else {
        panic!("{awaited:?}");
    };
    assert_eq!(run_id, run.id());
    let within = run.result_within(HOUR).await;
    assert!(
        matches!(within, Err(ClientError::RunNotFound { .. })),
        "{within:?}"
    );
    let canceled = run.cancel().await;
    assert!(
        matches!(canceled, Err(ClientError::RunNotFound { .. })),
        "{canceled:?}"
    );
}

#[tokio::test]
async fn a_run_that_is_deleted_in_the_middle_of_a_step_leaves_nothing_behind() {
    let gate = Gate::closed();
    let held = gate.clone();
    let gated = CHILD.implement(move |wf, n: u32| {
        let gate = held.clone();
        async move {
            wf.run("work", || async {
                gate.pass().await;
                Ok(n)
            })
            .await
        }
    });
    let mut harness = Harness::new(|worker| worker.workflow(gated)).await;
    let run = harness.start(&CHILD, 1).await;
    gate.reached_by(1).await;
    delete(&harness, run.id()).await;
    gate.open();
    // The worker is none the worse for it.
    assert_eq!(harness.complete(&CHILD, 2).await, 2);
    harness.stop().await;
    assert_eq!(harness.runs().await.len(), 1);
    assert!(harness.steps(run.id()).await.is_empty());
}
