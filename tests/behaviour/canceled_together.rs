//! Children that are canceled with their parents.

use openworkflow::{ClientError, WorkflowContext, WorkflowSpec};
use openworkflow_tests::{Database, logged};
use serde_json::json;

use super::{HOUR, Harness, MINUTE};

static FAMILY: WorkflowSpec<(), ()> = WorkflowSpec::new("family");
static PARENT: WorkflowSpec<(), ()> = WorkflowSpec::new("parent");
static WAITS: WorkflowSpec<String, Option<u32>> = WorkflowSpec::new("waits");

/// A workflow with a parent and a child that are canceled with it, and a child that goes on.
async fn families() -> Harness {
    Harness::new(|worker| {
        let worker = worker.workflow(FAMILY.implement(|wf, ()| async move {
            let bound = wf.run_workflow(&PARENT, &()).cancel_with_parent(true);
            let other = waits(&wf, "bound").cancel_with_parent(true);
            let free = waits(&wf, "free");
            tokio::try_join!(bound, other, free)?;
            Ok(())
        }));
        let worker = worker.workflow(PARENT.implement(|wf, ()| async move {
            waits(&wf, "grandchild").cancel_with_parent(true).await?;
            Ok(())
        }));
        worker.workflow(WAITS.implement(|wf, signal: String| async move {
            wf.wait_for_signal(signal).timeout(HOUR).await
        }))
    })
    .await
}

fn waits(wf: &WorkflowContext, name: &str) -> openworkflow::RunWorkflowStep<Option<u32>> {
    wf.run_workflow(&WAITS, &name.to_owned()).name(name)
}

/// The child that a step of the run waits for, once that is parked.
async fn child(harness: &Harness, run_id: &str, step: &str) -> String {
    harness.parked(run_id, 1).await;
    let step = harness.step(run_id, step).await.remove(0);
    let id = step.child_workflow_run_id.expect("it is linked");
    harness.parked(&id, 1).await;
    id
}

#[tokio::test]
async fn children_that_are_bound_are_canceled_with_their_parent_and_theirs_with_them() {
    let (log, _collecting) = logged::collect();
    let harness = families().await;
    let run = harness.start(&FAMILY, ()).await;
    let parent = child(&harness, run.id(), "parent").await;
    let grandchild = child(&harness, &parent, "grandchild").await;
    let bound = child(&harness, run.id(), "bound").await;
    let free = child(&harness, run.id(), "free").await;
    let kept = harness.step(run.id(), "parent").await.remove(0).config;
    let expected = json!({"child": &*parent, "cancelWithParent": true});
    assert_eq!(kept, Some(expected));

    run.cancel().await.unwrap();
    for canceled in [run.id(), &*parent, &*grandchild, &*bound] {
        let row = harness.run(canceled).await;
        assert_eq!(row.status, "canceled");
        assert_eq!((row.worker_id, row.available_at), (None, None));
        assert!(row.finished_at.is_some());
        let waiting = harness.client.handle::<()>(canceled).result().await;
        assert!(matches!(waiting, Err(ClientError::RunCanceled { .. })));
    }
    assert_eq!(harness.run(&free).await.status, "running");
    // Whoever waited for a signal waits no more.
    for (signal, receivers) in [("grandchild", 0), ("bound", 0), ("free", 1)] {
        let received = harness.client.send_signal(signal, &1).await.unwrap();
        assert_eq!(received.len(), receivers, "{signal}");
    }
    let told = log.lines().join("\n");
    let with = told.matches("run canceled with its parent").count();
    assert_eq!(with, 3, "{told}");
    for canceled in [&parent, &grandchild, &bound] {
        assert!(told.contains(canceled.as_str()), "{told}");
    }
}

#[tokio::test]
async fn a_child_that_is_canceled_takes_its_own_and_not_its_parent() {
    let harness = families().await;
    let run = harness.start(&FAMILY, ()).await;
    let parent = child(&harness, run.id(), "parent").await;
    let grandchild = child(&harness, &parent, "grandchild").await;
    let bound = child(&harness, run.id(), "bound").await;
    harness.client.cancel(&parent).await.unwrap();
    for canceled in [&parent, &grandchild] {
        assert_eq!(harness.run(canceled).await.status, "canceled");
    }
    assert_eq!(harness.run(&bound).await.status, "running");
    // Its parent was woken, and fails of it.
    let row = harness.failure(&run).await;
    assert!(row.error_message().unwrap().ends_with("was canceled"));
    // A run that ended leaves its children alone, and cannot be canceled.
    let refused = run.cancel().await;
    assert!(matches!(refused, Err(ClientError::NotCancelable { .. })));
    assert_eq!(harness.run(&bound).await.status, "running");
}

#[tokio::test]
async fn what_somebody_canceled_alone_is_made_up_for_by_canceling_it_again() {
    let harness = families().await;
    let run = harness.start(&FAMILY, ()).await;
    let parent = child(&harness, run.id(), "parent").await;
    let grandchild = child(&harness, &parent, "grandchild").await;
    // As OpenWorkflow for TypeScript does.
    let alone = format!(
        "UPDATE workflow_runs SET status = 'canceled', worker_id = NULL, available_at = NULL, \
         finished_at = updated_at WHERE id = '{parent}'"
    );
    harness.execute(&alone).await;
    assert_eq!(harness.run(&grandchild).await.status, "running");
    run.cancel().await.unwrap();
    assert_eq!(harness.run(&grandchild).await.status, "canceled");
    run.cancel().await.unwrap();
}

#[tokio::test]
async fn a_child_that_outlived_its_step_is_still_bound() {
    static IMPATIENT: WorkflowSpec<(), ()> = WorkflowSpec::new("impatient");
    let harness = Harness::new(|worker| {
        let worker = worker.workflow(WAITS.implement(|wf, signal: String| async move {
            wf.wait_for_signal(signal).timeout(24 * HOUR).await
        }));
        worker.workflow(IMPATIENT.implement(|wf, ()| async move {
            let child = waits(&wf, "child").cancel_with_parent(true);
            child.timeout(MINUTE).await.unwrap_err();
            wf.sleep("on", 24 * HOUR).await
        }))
    })
    .await;
    let run = harness.start(&IMPATIENT, ()).await;
    let child = child(&harness, run.id(), "child").await;
    harness.advance(MINUTE).await;
    harness.parked(run.id(), 2).await;
    assert_eq!(harness.run(&child).await.status, "running");
    run.cancel().await.unwrap();
    assert_eq!(harness.run(&child).await.status, "canceled");
}
