//! Failures of steps and of workflows, and their retries.

use openworkflow::backend::Backend;
use openworkflow::{Error, WorkflowSpec};

use super::{SOON, Traced, tree};

static FLAKY: WorkflowSpec<(), ()> = WorkflowSpec::new("flaky");

pub(crate) async fn step_retried_to_exhaustion<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(FLAKY.implement(|wf, ()| async move {
            let call = wf.run("call", || async {
                "x".parse::<u32>()?;
                Ok(())
            });
            call.retry(SOON).await
        }))
    });
    traced.run(traced.client.start(&FLAKY, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start flaky [producer] ok
            ├── workflow.execute flaky [consumer] error("invalid digit found in string") {error.type=ParseIntError, workflow.outcome=retrying, workflow_run.attempt=1}
            │   └── step.run call [internal] error("invalid digit found in string") {error.type=ParseIntError, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │         * exception {exception.message="invalid digit found in string", exception.type=ParseIntError}
            ├── workflow.execute flaky [consumer] error("invalid digit found in string") {error.type=ParseIntError, workflow.outcome=retrying, workflow_run.attempt=2}
            │   └── step.run call [internal] error("invalid digit found in string") {error.type=ParseIntError, step.outcome=failed, step_attempt.prior_failures=1, workflow_run.attempt=2}
            │         * exception {exception.message="invalid digit found in string", exception.type=ParseIntError}
            └── workflow.execute flaky [consumer] error("invalid digit found in string") {error.type=ParseIntError, workflow.outcome=failed, workflow_run.attempt=3}
                └── step.run call [internal] error("invalid digit found in string") {error.type=ParseIntError, step.outcome=failed, step_attempt.prior_failures=2, workflow_run.attempt=3}
                      * exception {exception.message="invalid digit found in string", exception.type=ParseIntError}
        "#,
    );
}

pub(crate) async fn step_panics<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(FLAKY.implement(|wf, ()| async move {
            let failed = wf.run("burst", || async { panic!("the pipe is broken") });
            let _caught = failed.retry(openworkflow::RetryPolicy::none()).await as Result<(), _>;
            // Caught and forgotten: the run is a success, its step is not.
            Ok(())
        }))
    });
    traced.run(traced.client.start(&FLAKY, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start flaky [producer] ok
            └── workflow.execute flaky [consumer] ok {workflow.outcome=completed, workflow_run.attempt=1}
                └── step.run burst [internal] error("the pipe is broken") {error.type=panic, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=1}
                      * exception {exception.message="the pipe is broken", exception.type=Panic}
        "#,
    );
}

pub(crate) async fn workflow_retried<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        let flaky = FLAKY.implement(|wf, ()| async move {
            wf.run("once", || async { Ok(()) }).await?;
            if wf.attempt() < 3 {
                return Err(Error::new("NotYet", "come back later"));
            }
            Ok(())
        });
        worker.workflow(flaky.retry(SOON))
    });
    traced.run(traced.client.start(&FLAKY, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start flaky [producer] ok
            ├── workflow.execute flaky [consumer] error("come back later") {error.type=NotYet, workflow.outcome=retrying, workflow_run.attempt=1}
            │   │ * exception {exception.message="come back later", exception.type=NotYet}
            │   └── step.run once [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
            ├── workflow.execute flaky [consumer] error("come back later") {error.type=NotYet, workflow.outcome=retrying, workflow_run.attempt=2}
            │     * exception {exception.message="come back later", exception.type=NotYet}
            └── workflow.execute flaky [consumer] ok {workflow.outcome=completed, workflow_run.attempt=3}
        "#,
    );
}
