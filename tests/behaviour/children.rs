//! Child workflows: their results, failures, and who wakes whom.

use openworkflow::{ClientError, Error, ErrorKind, Workflow, WorkflowSpec};
use openworkflow_tests::{Database, Gate};
use serde_json::json;

use super::{HOUR, Harness};

static PARENT: WorkflowSpec<u32, u32> = WorkflowSpec::new("parent");
static CHILD: WorkflowSpec<u32, u32> = WorkflowSpec::new("child");

/// Runs the child and adds one. Waits for the child for an hour.
fn parent() -> Workflow {
    PARENT.implement(|wf, n: u32| async move {
        let result = wf.run_workflow(&CHILD, &n).timeout(HOUR).await?;
        Ok(result + 1)
    })
}

/// As [`parent`], with the outcome of the child as text.
static CAUTIOUS: WorkflowSpec<u32, String> = WorkflowSpec::new("cautious");

fn cautious() -> Workflow {
    CAUTIOUS.implement(|wf, n: u32| async move {
        let outcome = match wf.run_workflow(&CHILD, &n).timeout(HOUR).await {
            Ok(result) => format!("ok: {result}"),
            Err(error) => format!(
                "{:?}, {}, at {:?}: {}",
                error.kind(),
                error.name(),
                error.step_name(),
                error.message()
            ),
        };
        // Once more from history.
        wf.sleep("replay", "0s").await?;
        Ok(outcome)
    })
}

fn doubling() -> Workflow {
    CHILD.implement(|wf, n: u32| async move { wf.run("double", || async { Ok(n * 2) }).await })
}

fn failing() -> Workflow {
    CHILD.implement(|_, _| async { Err(Error::new("Broken", "it broke")) })
}

/// The run of the child of `parent_id`.
async fn child_of(harness: &Harness, parent_id: &str) -> String {
    let steps = harness.step(parent_id, "child").await;
    steps[0]
        .child_workflow_run_id
        .clone()
        .expect("it is linked")
}

#[tokio::test]
async fn a_child_gives_its_output() {
    let harness = Harness::new(|worker| worker.workflow(parent()).workflow(doubling())).await;
    let run = harness.start(&PARENT, 20).await;
    assert_eq!(harness.output(&run).await, 41);
    let row = harness.run(run.id()).await;
    assert_eq!((row.attempts, row.error), (2, None));
    let step = harness.step(run.id(), "child").await.remove(0);
    assert_eq!(step.summary(), "child workflow completed");
    assert_eq!(step.output, Some(json!(40)));
    let child = harness.run(&child_of(&harness, run.id()).await).await;
    assert_eq!((child.status.as_str(), child.attempts), ("completed", 1));
    assert_eq!(child.output, Some(json!(40)));
}

#[tokio::test]
async fn an_uncaught_failure_of_a_child_is_its_parents() {
    let harness = Harness::new(|worker| worker.workflow(parent()).workflow(failing())).await;
    let run = harness.start(&PARENT, 1).await;
    let row = harness.failure(&run).await;
    let error = row.error.unwrap();
    assert_eq!(
        (&error["name"], &error["message"]),
        (&json!("Broken"), &json!("it broke"))
    );
    assert_eq!(
        (row.attempts, row.worker_id, row.started_at),
        (2, None, None)
    );
    let step = harness.step(run.id(), "child").await.remove(0);
    assert_eq!(step.status, "failed");
    assert_eq!(step.error_message(), Some("it broke"));
}

#[tokio::test]
async fn a_caught_failure_of_a_child_stays_as_it_was() {
    let harness = Harness::new(|worker| worker.workflow(cautious()).workflow(failing())).await;
    let run = harness.start(&CAUTIOUS, 1).await;
    let outcome = harness.output(&run).await;
    assert_eq!(outcome, "ChildFailed, Broken, at Some(\"child\"): it broke");
    let steps = harness.step(run.id(), "child").await;
    assert_eq!(steps.len(), 1, "the child is not started again at replay");
    assert_eq!(harness.runs().await.len(), 2);
}

#[tokio::test]
async fn a_child_that_failed_without_an_error_fails_its_step_all_the_same() {
    let mut harness = Harness::new(|worker| worker.workflow(cautious())).await;
    let run = harness.start(&CAUTIOUS, 1).await;
    harness.parked(run.id(), 1).await;
    let child_id = child_of(&harness, run.id()).await;
    harness.stop().await;
    // As another process may write it.
    harness
        .execute(&format!(
            "UPDATE workflow_runs SET status = 'failed', error = NULL, available_at = NULL,
                 finished_at = created_at WHERE id = '{child_id}';
             UPDATE workflow_runs SET available_at = created_at WHERE id = '{}'",
            run.id()
        ))
        .await;
    harness.start_worker(|worker| worker.workflow(cautious()));
    let outcome = harness.output(&run).await;
    let message = format!("Child workflow run \"{child_id}\" failed");
    assert_eq!(
        outcome,
        format!("ChildFailed, Error, at Some(\"child\"): {message}")
    );
    let awaited = harness
        .client
        .handle::<u32>(child_id.as_str())
        .result()
        .await;
    let Err(ClientError::RunFailed { run_id, error }) = awaited else {
        panic!("{awaited:?}");
    };
    assert_eq!(run_id, child_id);
    assert_eq!(error.message, "no error was recorded");
}

#[tokio::test]
async fn a_canceled_child_fails_its_step() {
    let harness = Harness::new(|worker| worker.workflow(cautious())).await;
    let run = harness.start(&CAUTIOUS, 1).await;
    harness.parked(run.id(), 1).await;
    let child_id = child_of(&harness, run.id()).await;
    harness.client.cancel(&child_id).await.unwrap();
    let outcome = harness.output(&run).await;
    let message = format!(
        "Workflow step \"child\" failed because child workflow run \"{child_id}\" was canceled"
    );
    assert_eq!(
        outcome,
        format!("ChildCanceled, ChildCanceledError, at Some(\"child\"): {message}")
    );
}

#[tokio::test]
async fn a_wait_for_a_child_times_out_and_the_child_goes_on() {
    let mut harness = Harness::new(|worker| worker.workflow(cautious())).await;
    let run = harness.start(&CAUTIOUS, 4).await;
    let row = harness.parked(run.id(), 1).await;
    harness.assert_after_now(row.available_at, HOUR);
    let child_id = child_of(&harness, run.id()).await;
    harness.advance(HOUR).await;
    let outcome = harness.output(&run).await;
    assert_eq!(
        outcome,
        "Timeout, TimeoutError, at Some(\"child\"): \
         Timed out waiting for child workflow to complete"
    );
    assert_eq!(harness.run(&child_id).await.status, "pending");
    harness.start_worker(|worker| worker.workflow(doubling()));
    assert_eq!(harness.ended(&child_id).await.output, Some(json!(8)));
    assert_eq!(harness.run(run.id()).await.attempts, 3);
}

#[tokio::test]
async fn a_child_that_ended_after_the_timeout_has_timed_out() {
    let mut harness = Harness::new(|worker| worker.workflow(cautious())).await;
    let run = harness.start(&CAUTIOUS, 4).await;
    harness.parked(run.id(), 1).await;
    let child_id = child_of(&harness, run.id()).await;
    harness.stop().await;
    harness.advance(2 * HOUR).await;
    harness.start_worker(|worker| worker.workflow(doubling()));
    harness.ended(&child_id).await;
    harness.start_worker(|worker| worker.workflow(cautious()));
    let outcome = harness.output(&run).await;
    assert!(outcome.starts_with("Timeout"), "{outcome}");
}

#[tokio::test]
async fn a_child_that_ended_in_time_counts_even_when_it_is_read_late() {
    let mut harness = Harness::new(|worker| worker.workflow(cautious())).await;
    let run = harness.start(&CAUTIOUS, 4).await;
    harness.parked(run.id(), 1).await;
    let child_id = child_of(&harness, run.id()).await;
    harness.stop().await;
    harness.start_worker(|worker| worker.workflow(doubling()));
    harness.ended(&child_id).await;
    harness.stop().await;
    harness.advance(2 * HOUR).await;
    harness.start_worker(|worker| worker.workflow(cautious()));
    assert_eq!(harness.output(&run).await, "ok: 8");
}

#[tokio::test]
async fn a_child_that_ends_while_its_parent_executes_wakes_it_right_after_parking() {
    let gate = Gate::closed();
    let held = gate.clone();
    let harness = Harness::new(|worker| {
        worker
            .workflow(doubling())
            .workflow(PARENT.implement(move |wf, n: u32| {
                let gate = held.clone();
                async move {
                    let work = wf.run("work", || async {
                        gate.pass().await;
                        Ok(())
                    });
                    let child = wf.run_workflow(&CHILD, &n).timeout(HOUR);
                    let (work, child) = tokio::join!(work, child);
                    work?;
                    child
                }
            }))
    })
    .await;
    let run = harness.start(&PARENT, 3).await;
    gate.reached_by(1).await;
    let child_id = openworkflow_tests::wait_for("the child is created", || async {
        let steps = harness.step(run.id(), "child").await;
        steps
            .into_iter()
            .find_map(|step| step.child_workflow_run_id)
    })
    .await;
    harness.ended(&child_id).await;
    assert_eq!(harness.run(run.id()).await.attempts, 1);
    gate.open();
    // The clock stands still: only the child makes the parent due.
    assert_eq!(harness.output(&run).await, 6);
    assert_eq!(harness.run(run.id()).await.attempts, 2);
    assert_eq!(gate.arrived(), 1);
}

#[tokio::test]
async fn grandchildren() {
    static GRANDPARENT: WorkflowSpec<u32, u32> = WorkflowSpec::new("grandparent");
    let harness = Harness::new(|worker| {
        worker
            .workflow(doubling())
            .workflow(parent())
            .workflow(GRANDPARENT.implement(|wf, n: u32| async move {
                let result = wf.run_workflow(&PARENT, &n).await?;
                Ok(result * 100)
            }))
    })
    .await;
    let run = harness.start(&GRANDPARENT, 5).await;
    assert_eq!(harness.output(&run).await, 1100);
    assert_eq!(harness.runs().await.len(), 3);
    for row in harness.runs().await {
        assert_eq!(row.status, "completed", "{}", row.workflow_name);
    }
}

#[tokio::test]
async fn a_failure_travels_up_through_generations() {
    static GRANDPARENT: WorkflowSpec<u32, u32> = WorkflowSpec::new("grandparent");
    let harness = Harness::new(|worker| {
        worker.workflow(failing()).workflow(parent()).workflow(
            GRANDPARENT.implement(|wf, n: u32| async move { wf.run_workflow(&PARENT, &n).await }),
        )
    })
    .await;
    let run = harness.start(&GRANDPARENT, 5).await;
    let row = harness.failure(&run).await;
    assert_eq!(row.error_message(), Some("it broke"));
    assert_eq!(row.error.unwrap()["name"], "Broken");
}

#[tokio::test]
async fn two_children_side_by_side() {
    let gate = Gate::closed();
    let held = gate.clone();
    let harness = Harness::new(|worker| {
        worker
            .workflow(CHILD.implement(move |wf, n: u32| {
                let gate = held.clone();
                async move {
                    wf.run("work", || async {
                        gate.pass().await;
                        Ok(n * 2)
                    })
                    .await
                }
            }))
            .workflow(PARENT.implement(|wf, n: u32| async move {
                let (left, right) = tokio::try_join!(
                    wf.run_workflow(&CHILD, &n).name("left"),
                    wf.run_workflow(&CHILD, &(n + 1)).name("right"),
                )?;
                Ok(left + right)
            }))
    })
    .await;
    let run = harness.start(&PARENT, 10).await;
    // Both at work at the same time.
    gate.reached_by(2).await;
    harness.parked(run.id(), 1).await;
    gate.open();
    assert_eq!(harness.output(&run).await, 42);
    assert_eq!(
        harness.step_summary(run.id()).await,
        ["left workflow completed", "right workflow completed"]
    );
    // One wake-up for each child, or one for both.
    let attempts = harness.run(run.id()).await.attempts;
    assert!((2..=3).contains(&attempts), "{attempts} executions");
}

#[tokio::test]
async fn canceling_a_parent_leaves_its_child_alone() {
    let mut harness = Harness::new(|worker| worker.workflow(parent())).await;
    let run = harness.start(&PARENT, 1).await;
    harness.parked(run.id(), 1).await;
    let child_id = child_of(&harness, run.id()).await;
    run.cancel().await.unwrap();
    harness.start_worker(|worker| worker.workflow(doubling()));
    assert_eq!(harness.ended(&child_id).await.status, "completed");
    let row = harness.run(run.id()).await;
    assert_eq!((row.status.as_str(), row.attempts), ("canceled", 1));
}

#[tokio::test]
async fn a_retried_child_keeps_its_parent_waiting() {
    static RETRIED: WorkflowSpec<u32, u32> =
        WorkflowSpec::new("child").retry(openworkflow::RetryPolicy::attempts(2));
    let harness = Harness::new(|worker| {
        worker
            .workflow(parent())
            .workflow(RETRIED.implement(|wf, n: u32| async move {
                if wf.attempt() == 1 {
                    return Err(Error::new("Early", "not yet"));
                }
                Ok(n)
            }))
    })
    .await;
    let run = harness.start(&PARENT, 1).await;
    harness.parked(run.id(), 1).await;
    let child_id = child_of(&harness, run.id()).await;
    harness.retrying(&child_id, 1).await;
    assert_eq!(harness.run(run.id()).await.attempts, 1);
    harness.advance(super::SECOND).await;
    assert_eq!(harness.output(&run).await, 2);
    assert_eq!(harness.run(run.id()).await.attempts, 2);
}

#[tokio::test]
async fn a_child_of_another_type_is_an_error_of_the_step() {
    static TEXTS: WorkflowSpec<u32, String> = WorkflowSpec::new("child");
    static READER: WorkflowSpec<u32, String> = WorkflowSpec::new("reader");
    let harness = Harness::new(|worker| {
        worker
            .workflow(doubling())
            .workflow(READER.implement(|wf, n: u32| async move {
                let error = wf
                    .run_workflow(&TEXTS, &n)
                    .await
                    .expect_err("a number is no text");
                assert_eq!(error.kind(), ErrorKind::InvalidPayload);
                Ok(error.message().to_owned())
            }))
    })
    .await;
    let message = harness.complete(&READER, 1).await;
    assert!(
        message.starts_with("the output of child workflow \"child\""),
        "{message}"
    );
}

#[tokio::test]
async fn a_child_runs_the_version_that_was_asked_for() {
    static V1: WorkflowSpec<u32, u32> = WorkflowSpec::new("child").version("v1");
    static V2: WorkflowSpec<u32, u32> = WorkflowSpec::new("child").version("v2");
    let harness = Harness::new(|worker| {
        worker
            .workflow(V1.implement(|_, n: u32| async move { Ok(n + 1) }))
            .workflow(V2.implement(|_, n: u32| async move { Ok(n + 2) }))
            .workflow(doubling())
            .workflow(PARENT.implement(|wf, n: u32| async move {
                Ok(wf.run_workflow(&V1, &n).await? * 10_000
                    + wf.run_workflow(&V2, &n).await? * 100
                    + wf.run_workflow(&CHILD, &n).await?)
            }))
    })
    .await;
    assert_eq!(harness.complete(&PARENT, 1).await, 20_302);
}
