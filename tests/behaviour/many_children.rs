//! A workflow with three hundred children side by side.

use futures_util::future::{join_all, try_join_all};
use openworkflow::{Error, RetryPolicy, Workflow, WorkflowSpec};
use openworkflow_tests::{Database, RunRow, wait_for};

use super::{HOUR, Harness};

const CHILDREN: u32 = 300;
/// The one that is unlike the others.
const ODD_ONE: u32 = 137;

static PARENT: WorkflowSpec<(), u32> = WorkflowSpec::new("parent");
static CHILD: WorkflowSpec<u32, u32> = WorkflowSpec::new("child");

/// The sum of what the children give; an error where one fails.
fn parent() -> Workflow {
    PARENT.implement(|wf, ()| async move {
        let children = (0..CHILDREN).map(|n| wf.run_workflow(&CHILD, &n));
        Ok(try_join_all(children).await?.into_iter().sum())
    })
}

fn next() -> Workflow {
    CHILD.implement(|wf, n: u32| async move { wf.run("add", || async { Ok(n + 1) }).await })
}

/// As [`next`], but for the odd one, which fails in the first of its executions, or in each.
fn next_unless_odd(fails_once: bool) -> Workflow {
    let policy = RetryPolicy::attempts(if fails_once { 2 } else { 1 });
    let policy = policy.initial_interval(HOUR).maximum_interval(HOUR);
    let workflow = CHILD.implement(move |wf, n: u32| async move {
        if n == ODD_ONE && (wf.attempt() == 1 || !fails_once) {
            return Err(Error::new("Odd", "I am not like the others"));
        }
        Ok(n + 1)
    });
    workflow.retry(policy)
}

fn sum() -> u32 {
    (1..=CHILDREN).sum()
}

/// Each child was created once and is completed, but for `failed`.
async fn assert_children(harness: &Harness, failed: usize) {
    let mut children = harness.runs().await;
    children.retain(|run| run.workflow_name == "child");
    assert_eq!(children.len(), CHILDREN as usize);
    let completed = children.iter().filter(|run| run.status == "completed");
    assert_eq!(completed.count(), CHILDREN as usize - failed);
}

#[tokio::test]
async fn all_do_well() {
    let harness =
        Harness::new(|worker| worker.workflow(parent()).workflow(next()).concurrency(50)).await;
    let run = harness.start(&PARENT, ()).await;
    assert_eq!(harness.output(&run).await, sum());
    assert_children(&harness, 0).await;
    let steps = harness.steps(run.id()).await;
    assert_eq!(steps.len(), CHILDREN as usize);
    assert!(steps.iter().all(|step| step.status == "completed"));
}

#[tokio::test]
async fn one_fails_and_fails_its_parent() {
    let harness = Harness::new(|worker| {
        let workflows = worker.workflow(parent()).workflow(next_unless_odd(false));
        workflows.concurrency(50)
    })
    .await;
    let run = harness.start(&PARENT, ()).await;
    let row = harness.failure(&run).await;
    assert_eq!(row.error_message(), Some("I am not like the others"));
    let failed = harness.steps(run.id()).await;
    let failed = failed.iter().filter(|step| step.status == "failed");
    assert_eq!(failed.count(), 1);
    // Nobody stops the others.
    for child in harness.runs().await {
        harness.ended(&child.id).await;
    }
    assert_children(&harness, 1).await;
}

#[tokio::test]
async fn one_fails_and_its_parent_goes_on_with_the_others() {
    let tolerant = PARENT.implement(|wf, ()| async move {
        let children = (0..CHILDREN).map(|n| wf.run_workflow(&CHILD, &n));
        let results = join_all(children).await;
        let failed: Vec<_> = (0..)
            .zip(&results)
            .filter(|(_, result)| result.is_err())
            .collect();
        assert_eq!(failed.len(), 1);
        assert_eq!(
            failed[0].0, ODD_ONE,
            "results are in the order of the calls"
        );
        Ok(results.into_iter().flatten().sum())
    });
    let harness = Harness::new(|worker| {
        let workflows = worker.workflow(tolerant).workflow(next_unless_odd(false));
        workflows.concurrency(50)
    })
    .await;
    let run = harness.start(&PARENT, ()).await;
    assert_eq!(harness.output(&run).await, sum() - (ODD_ONE + 1));
    assert_children(&harness, 1).await;
}

#[tokio::test]
async fn one_is_retried_while_the_parent_waits() {
    let harness = Harness::new(|worker| {
        let workflows = worker.workflow(parent()).workflow(next_unless_odd(true));
        workflows.concurrency(50)
    })
    .await;
    let run = harness.start(&PARENT, ()).await;
    let odd = wait_for("one child is left", || async {
        let children = harness.runs().await;
        let children = children
            .into_iter()
            .filter(|run| run.workflow_name == "child");
        let (mut left, completed): (Vec<_>, Vec<_>) =
            children.partition(|run| run.status != "completed");
        (completed.len() + 1 == CHILDREN as usize).then(|| left.remove(0))
    })
    .await;
    harness.retrying(&odd.id, 1).await;
    // Whatever the others woke it for is over.
    let parent = |row: &RunRow| row.is_parked(harness.now());
    harness.run_where("is parked", run.id(), parent).await;
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, sum());
    assert_eq!(harness.run(&odd.id).await.attempts, 2);
    assert_children(&harness, 0).await;
}
