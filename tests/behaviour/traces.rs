//! What traces name, where only the database knows it.

use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::testing::SpanCollector;
use openworkflow::{Client, Worker, WorkflowSpec};
use openworkflow_tests::Database;

use super::{HOUR, Harness};

static PARENT: WorkflowSpec<(), u32> = WorkflowSpec::new("parent");
static CHILD: WorkflowSpec<(), u32> = WorkflowSpec::new("child");

#[tokio::test]
async fn a_child_that_was_created_but_not_linked_is_named_by_its_own_id() {
    let spans = SpanCollector::new();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&spans.provider())
        .build();
    let parent =
        PARENT.implement(|wf, ()| async move { wf.run_workflow(&CHILD, &()).timeout(HOUR).await });
    let mut harness = Harness::new(|worker| worker.workflow(parent).interceptor(otel)).await;
    let run = harness.start(&PARENT, ()).await;
    harness.parked(run.id(), 1).await;
    let wait = harness.step(run.id(), "child").await.remove(0);
    let child = wait.child_workflow_run_id.expect("it is linked");
    // What a worker leaves that dies in between.
    harness
        .execute(&format!(
            "UPDATE step_attempts SET child_workflow_run_id = NULL,
                 child_workflow_run_namespace_id = NULL WHERE workflow_run_id = '{0}';
             UPDATE workflow_runs SET available_at = created_at WHERE id = '{0}'",
            run.id()
        ))
        .await;
    harness.parked(run.id(), 2).await;
    harness.stop().await;
    assert_eq!(harness.runs().await.len(), 2, "there is one child");
    spans
        .tree()
        .kinds()
        .attributes(["child_workflow_run.id", "step.outcome"])
        .replacing(&child, "run-B")
        .assert_eq(
            "
            workflow.execute parent [consumer]
            └── step.run_workflow child [producer] {child_workflow_run.id=run-B, step.outcome=parked}
            workflow.execute parent [consumer]
            └── step.run_workflow child [producer] {child_workflow_run.id=run-B, step.outcome=parked}
            ",
        );
}

#[tokio::test]
async fn a_tick_is_traced_like_the_work_of_a_started_worker() {
    let harness = Harness::idle().await;
    let spans = SpanCollector::new();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&spans.provider())
        .build();
    let napping = PARENT.implement(|wf, ()| async move {
        wf.sleep("nap", HOUR).await?;
        wf.run("wake", || async { Ok(7) }).await
    });
    let client = Client::builder(harness.store())
        .interceptor(otel.clone())
        .build();
    let worker = Worker::builder(harness.store()).workflow(napping);
    let worker = worker.interceptor(otel).build().unwrap();
    let run = client.start(&PARENT, &()).await.unwrap();
    assert_eq!(worker.tick().await.unwrap(), 1);
    harness.advance(HOUR).await;
    assert_eq!(worker.tick().await.unwrap(), 1);
    assert_eq!(harness.output(&run).await, 7);
    spans
        .tree()
        .kinds()
        .attributes(["step.outcome", "workflow.outcome"])
        .assert_eq(
            "
            workflow.start parent [producer]
            ├── workflow.execute parent [consumer] {workflow.outcome=parked}
            │   └── step.sleep nap [internal] {step.outcome=parked}
            └── workflow.execute parent [consumer] {workflow.outcome=completed}
                └── step.run wake [internal] {step.outcome=completed}
            ",
        );
}
