//! Runs that are canceled, overdue or unknown, and executions that are dropped.

use std::time::Duration;

use openworkflow::backend::{Backend, RunStatus};
use openworkflow::{
    Client, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result, Workflow, WorkflowSpec,
    async_trait,
};

use super::{Traced, idle, over, parked, tree, until};

static SLOW: WorkflowSpec<(), ()> = WorkflowSpec::new("slow");

fn sleeper() -> Workflow {
    SLOW.implement(|wf, ()| async move { wf.sleep("for-long", "1 day").await })
}

/// A step that never ends by itself.
fn worker_bee() -> Workflow {
    SLOW.implement(|wf, ()| async move { wf.run("toil", std::future::pending).await })
}

async fn toiling(traced: &Traced) {
    until("the step is at work", || async {
        traced
            .spans
            .open()
            .contains(&"step.run toil".to_owned())
            .then_some(())
    })
    .await;
}

pub(crate) async fn canceled_while_parked<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(sleeper()));
    let run = traced.start(traced.client.start(&SLOW, &())).await;
    parked(&run).await;
    traced.client.cancel(run.id()).await.unwrap();
    assert_eq!(over(&run).await.status, RunStatus::Canceled);
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        "
        caller [internal] unset
        └── workflow.start slow [producer] ok
            └── workflow.execute slow [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
                └── step.sleep for-long [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
        workflow.cancel slow [internal] ok
        ",
    );
}

pub(crate) async fn canceled_during_a_step<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker
            .workflow(worker_bee())
            .lease(Duration::from_millis(200))
    });
    let run = traced.start(traced.client.start(&SLOW, &())).await;
    toiling(&traced).await;
    traced.stranger.cancel(run.id()).await.unwrap();
    until("the execution is dropped", || async {
        traced.spans.open().is_empty().then_some(())
    })
    .await;
    assert_eq!(over(&run).await.status, RunStatus::Canceled);
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start slow [producer] ok
            └── workflow.execute slow [consumer] error("canceled") {error.type=canceled, workflow.outcome=canceled, workflow_run.attempt=1}
                └── step.run toil [internal] error("canceled") {error.type=canceled, step.outcome=canceled, step_attempt.prior_failures=0, workflow_run.attempt=1}
        "#,
    );
}

pub(crate) async fn deadline_while_parked<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(sleeper()));
    let run = traced
        .start(traced.client.start(&SLOW, &()).deadline("300ms"))
        .await;
    let run = over(&run).await;
    assert_eq!(run.error.unwrap().message, "Workflow run deadline exceeded");
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        "
        caller [internal] unset
        └── workflow.start slow [producer] ok
            └── workflow.execute slow [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
                └── step.sleep for-long [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
        ",
    );
}

pub(crate) async fn deadline_during_a_step<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker
            .workflow(worker_bee())
            .lease(Duration::from_millis(200))
    });
    let run = traced
        .start(traced.client.start(&SLOW, &()).deadline("300ms"))
        .await;
    toiling(&traced).await;
    over(&run).await;
    until("the execution is dropped", || async {
        traced.spans.open().is_empty().then_some(())
    })
    .await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start slow [producer] ok
            └── workflow.execute slow [consumer] error("deadline_exceeded") {error.type=deadline_exceeded, workflow.outcome=failed, workflow_run.attempt=1}
                └── step.run toil [internal] error("deadline_exceeded") {error.type=deadline_exceeded, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=1}
        "#,
    );
}

pub(crate) async fn unregistered_workflow<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.claim_unregistered(true));
    let run = traced.start(traced.client.start(&SLOW, &())).await;
    until("the run is put back", || async {
        let run = run.describe().await.ok()?;
        (run.attempts == 1 && run.status == RunStatus::Pending).then_some(())
    })
    .await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start slow [producer] ok
            └── workflow.execute slow [consumer] error("Workflow \"slow\" is not registered") {error.type=not_registered, workflow.outcome=retrying, workflow_run.attempt=1}
                  * exception {exception.message="Workflow \"slow\" is not registered", exception.type=NotRegisteredError}
        "#,
    );
}

pub(crate) async fn worker_stopped_during_a_step<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(worker_bee()).stop_deadline(Duration::ZERO)
    });
    traced.start(traced.client.start(&SLOW, &())).await;
    toiling(&traced).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start slow [producer] ok
            └── workflow.execute slow [consumer] error("worker_stopped") {error.type=worker_stopped, workflow.outcome=stale, workflow_run.attempt=1}
                └── step.run toil [internal] error("worker_stopped") {error.type=worker_stopped, step.outcome=stale, step_attempt.prior_failures=0, workflow_run.attempt=1}
        "#,
    );
}

/// Cancels the run at the moment in which it comes to its end.
struct Canceling(Client);

#[async_trait]
impl Interceptor for Canceling {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        let run_id = call.execution.run.id.clone();
        let outcome = next.run(call).await;
        self.0.cancel(&run_id).await.unwrap();
        outcome
    }
}

pub(crate) async fn last_write_refused<S: Backend + Clone>(store: S) {
    let stranger = Client::new(store.clone());
    let traced = Traced::inside(
        &store,
        |worker| worker.interceptor(Canceling(stranger)),
        |otel| otel,
        |worker| {
            let quick =
                SLOW.implement(|wf, ()| async move { wf.run("toil", || async { Ok(()) }).await });
            worker.workflow(quick)
        },
    );
    let run = traced.start(traced.client.start(&SLOW, &())).await;
    assert_eq!(over(&run).await.status, RunStatus::Canceled);
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start slow [producer] ok
            └── workflow.execute slow [consumer] error("canceled") {error.type=canceled, workflow.outcome=canceled, workflow_run.attempt=1}
                └── step.run toil [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
        "#,
    );
}

pub(crate) async fn cancel_of_an_unknown_run<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, idle);
    let nobody = "00000000-0000-0000-0000-000000000000";
    traced.client.cancel(nobody).await.unwrap_err();
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        workflow.cancel [internal] error("Workflow run 00000000-0000-0000-0000-000000000000 does not exist") {error.type=RunNotFoundError}
          * exception {exception.message="Workflow run 00000000-0000-0000-0000-000000000000 does not exist", exception.type=RunNotFoundError}
        "#,
    );
}
