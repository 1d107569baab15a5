//! process-order itself, parallel branches, children and grandchildren.

use std::time::Duration;

use openworkflow::backend::Backend;
use openworkflow::{Error, Workflow, WorkflowSpec};
use openworkflow_examples::{
    Order, PROCESS_ORDER, confirm, fulfill_shipment, process_order as order,
};

use super::{Traced, child_of, over, parked, tree};

static PARENT: WorkflowSpec<(), ()> = WorkflowSpec::new("parent");
static CHILD: WorkflowSpec<(), ()> = WorkflowSpec::new("child");
static GRANDCHILD: WorkflowSpec<(), ()> = WorkflowSpec::new("grandchild");

async fn run_order(traced: &Traced) {
    let sample = Order::sample();
    let run = traced
        .start(traced.client.start(&PROCESS_ORDER, &sample))
        .await;
    confirm(&traced.stranger, &sample).await.unwrap();
    assert_eq!(over(&run).await.attempts, 5);
}

pub(crate) async fn process_order<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker
            .workflow(order(Duration::from_millis(50)))
            .workflow(fulfill_shipment())
    });
    run_order(&traced).await;
    let spans = traced.spans().await;
    assert_eq!(spans.spans().len(), 18);
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start process-order [producer] ok
            ├── workflow.execute process-order [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   ├── step.run validate-order [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │   └── step.run_workflow fulfill-shipment [producer] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │       └── workflow.execute fulfill-shipment [consumer] ok {workflow.outcome=completed, workflow_run.attempt=1}
            │           ├── step.run reserve-inventory [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │           └── step.run dispatch-courier [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=1}
            ├── workflow.execute process-order [consumer] ok {workflow.outcome=parked, workflow_run.attempt=2}
            │   ├── step.run_workflow fulfill-shipment [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=2}
            │   └── step.wait_for_signal [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=2}
            ├── workflow.execute process-order [consumer] ok {workflow.outcome=parked, workflow_run.attempt=3}
            │   ├── step.wait_for_signal [internal] ok {step.outcome=completed, step_attempt.prior_failures=0, workflow_run.attempt=3}
            │   └── step.sleep cooldown [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=3}
            ├── workflow.execute process-order [consumer] error("the mail server does not answer") {error.type=MailServerDown, workflow.outcome=retrying, workflow_run.attempt=4}
            │   └── step.run notify-customer [internal] error("the mail server does not answer") {error.type=MailServerDown, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=4}
            │         * exception {exception.message="the mail server does not answer", exception.type=MailServerDown}
            └── workflow.execute process-order [consumer] ok {workflow.outcome=completed, workflow_run.attempt=5}
                └── step.run notify-customer [internal] ok {step.outcome=completed, step_attempt.prior_failures=1, workflow_run.attempt=5}
        "#,
    );
    let all = spans.spans();
    let told = |name: &str, key: &str| -> Vec<String> {
        all.iter()
            .filter(|span| span.name == name)
            .flat_map(|span| &span.attributes)
            .filter(|attribute| attribute.key.as_str() == key)
            .map(|attribute| attribute.value.to_string())
            .collect()
    };
    let replays = told("workflow.execute process-order", "workflow_run.replay");
    assert_eq!(replays, ["false", "true", "true", "true", "true"]);
    let causes = told("workflow.execute process-order", "workflow_run.woken_by");
    assert_eq!(causes, ["created", "child", "signal", "timer", "retry"]);
    // Where the end of a wait is observed, not where it is set up.
    for wait in ["step.run_workflow fulfill-shipment", "step.wait_for_signal"] {
        assert_eq!(told(wait, "step.parked_duration").len(), 1, "{wait}");
    }
}

pub(crate) async fn process_order_linked<S: Backend + Clone>(store: S) {
    let traced = Traced::linked(&store, |worker| {
        worker
            .workflow(order(Duration::from_millis(50)))
            .workflow(fulfill_shipment())
    });
    run_order(&traced).await;
    let spans = traced.spans().await;
    spans.tree().links().assert_eq(
        "
        caller
        └── workflow.start process-order
        workflow.execute process-order
        │ ~> workflow.start process-order
        ├── step.run validate-order
        └── step.run_workflow fulfill-shipment
        workflow.execute fulfill-shipment
        │ ~> step.run_workflow fulfill-shipment
        ├── step.run reserve-inventory
        └── step.run dispatch-courier
        workflow.execute process-order
        │ ~> workflow.start process-order
        ├── step.run_workflow fulfill-shipment
        └── step.wait_for_signal
        workflow.execute process-order
        │ ~> workflow.start process-order
        ├── step.wait_for_signal
        └── step.sleep cooldown
        workflow.execute process-order ERROR
        │ ~> workflow.start process-order
        └── step.run notify-customer ERROR
        workflow.execute process-order
        │ ~> workflow.start process-order
        └── step.run notify-customer
        ",
    );
}

/// A function that outlasts the set-up of the waits beside it, a sleep, and a child.
fn branches() -> Workflow {
    PARENT.implement(|wf, ()| async move {
        let work = wf.run("work", || async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            Ok(())
        });
        let nap = wf.sleep("nap", "300ms");
        let child = wf.run_workflow(&CHILD, &());
        let (work, nap, child) = tokio::join!(work, nap, child);
        work.and(nap).and(child)
    })
}

fn leaf(spec: &WorkflowSpec<(), ()>) -> Workflow {
    spec.implement(|wf, ()| async move { wf.run("leaf", || async { Ok(()) }).await })
}

pub(crate) async fn parallel_branches<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(branches()).workflow(leaf(&CHILD))
    });
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    spans
        .tree()
        .kinds()
        .statuses()
        .attributes(["step.outcome", "workflow.outcome"])
        .assert_eq(
            "
        caller [internal] unset
        └── workflow.start parent [producer] ok
            ├── workflow.execute parent [consumer] ok {workflow.outcome=parked}
            │   ├── step.run work [internal] ok {step.outcome=completed}
            │   ├── step.sleep nap [internal] ok {step.outcome=parked}
            │   └── step.run_workflow child [producer] ok {step.outcome=parked}
            │       └── workflow.execute child [consumer] ok {workflow.outcome=completed}
            │           └── step.run leaf [internal] ok {step.outcome=completed}
            ├── workflow.execute parent [consumer] ok {workflow.outcome=parked}
            │   └── step.run_workflow child [internal] ok {step.outcome=completed}
            └── workflow.execute parent [consumer] ok {workflow.outcome=completed}
        ",
        );
}

pub(crate) async fn parallel_branches_linked<S: Backend + Clone>(store: S) {
    let traced = Traced::linked(&store, |worker| {
        worker.workflow(branches()).workflow(leaf(&CHILD))
    });
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    spans.tree().links().assert_eq(
        "
        caller
        └── workflow.start parent
        workflow.execute parent
        │ ~> workflow.start parent
        ├── step.run work
        ├── step.sleep nap
        └── step.run_workflow child
        workflow.execute child
        │ ~> step.run_workflow child
        └── step.run leaf
        workflow.execute parent
        │ ~> workflow.start parent
        └── step.run_workflow child
        workflow.execute parent
          ~> workflow.start parent
        ",
    );
}

/// One child after the other, so that the tree is the same every time.
fn two() -> Workflow {
    PARENT.implement(|wf, ()| async move {
        wf.run_workflow(&CHILD, &()).name("first").await?;
        wf.run_workflow(&CHILD, &()).name("second").await
    })
}

pub(crate) async fn two_children<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(two()).workflow(leaf(&CHILD))
    });
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    spans
        .tree()
        .kinds()
        .attributes(["child_workflow.name"])
        .assert_eq(
            "
        caller [internal]
        └── workflow.start parent [producer]
            ├── workflow.execute parent [consumer]
            │   └── step.run_workflow first [producer] {child_workflow.name=child}
            │       └── workflow.execute child [consumer]
            │           └── step.run leaf [internal]
            ├── workflow.execute parent [consumer]
            │   ├── step.run_workflow first [internal] {child_workflow.name=child}
            │   └── step.run_workflow second [producer] {child_workflow.name=child}
            │       └── workflow.execute child [consumer]
            │           └── step.run leaf [internal]
            └── workflow.execute parent [consumer]
                └── step.run_workflow second [internal] {child_workflow.name=child}
        ",
        );
}

pub(crate) async fn two_children_linked<S: Backend + Clone>(store: S) {
    let traced = Traced::linked(&store, |worker| {
        worker.workflow(two()).workflow(leaf(&CHILD))
    });
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    spans.tree().links().assert_eq(
        "
        caller
        └── workflow.start parent
        workflow.execute parent
        │ ~> workflow.start parent
        └── step.run_workflow first
        workflow.execute child
        │ ~> step.run_workflow first
        └── step.run leaf
        workflow.execute parent
        │ ~> workflow.start parent
        ├── step.run_workflow first
        └── step.run_workflow second
        workflow.execute child
        │ ~> step.run_workflow second
        └── step.run leaf
        workflow.execute parent
        │ ~> workflow.start parent
        └── step.run_workflow second
        ",
    );
}

fn middle() -> Workflow {
    CHILD.implement(|wf, ()| async move { wf.run_workflow(&GRANDCHILD, &()).await })
}

fn top() -> Workflow {
    PARENT.implement(|wf, ()| async move { wf.run_workflow(&CHILD, &()).await })
}

pub(crate) async fn grandchild<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker
            .workflow(top())
            .workflow(middle())
            .workflow(leaf(&GRANDCHILD))
    });
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    spans.tree().kinds().statuses().assert_eq(
        "
        caller [internal] unset
        └── workflow.start parent [producer] ok
            ├── workflow.execute parent [consumer] ok
            │   └── step.run_workflow child [producer] ok
            │       ├── workflow.execute child [consumer] ok
            │       │   └── step.run_workflow grandchild [producer] ok
            │       │       └── workflow.execute grandchild [consumer] ok
            │       │           └── step.run leaf [internal] ok
            │       └── workflow.execute child [consumer] ok
            │           └── step.run_workflow grandchild [internal] ok
            └── workflow.execute parent [consumer] ok
                └── step.run_workflow child [internal] ok
        ",
    );
}

pub(crate) async fn grandchild_linked<S: Backend + Clone>(store: S) {
    let traced = Traced::linked(&store, |worker| {
        worker
            .workflow(top())
            .workflow(middle())
            .workflow(leaf(&GRANDCHILD))
    });
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    spans.tree().links().assert_eq(
        "
        caller
        └── workflow.start parent
        workflow.execute parent
        │ ~> workflow.start parent
        └── step.run_workflow child
        workflow.execute child
        │ ~> step.run_workflow child
        └── step.run_workflow grandchild
        workflow.execute grandchild
        │ ~> step.run_workflow grandchild
        └── step.run leaf
        workflow.execute child
        │ ~> step.run_workflow child
        └── step.run_workflow grandchild
        workflow.execute parent
        │ ~> workflow.start parent
        └── step.run_workflow child
        ",
    );
}

fn catching() -> Workflow {
    PARENT.implement(|wf, ()| async move {
        let _caught = wf.run_workflow(&CHILD, &()).timeout("100ms").await;
        wf.run("compensate", || async { Ok(()) }).await
    })
}

fn hasty() -> Workflow {
    PARENT.implement(|wf, ()| async move { wf.run_workflow(&CHILD, &()).timeout("100ms").await })
}

fn failing() -> Workflow {
    CHILD.implement(|_wf, ()| async move { Err(Error::new("OutOfStock", "no teapots left")) })
}

fn waiting() -> Workflow {
    CHILD.implement(|wf, ()| async move { wf.sleep("for-long", "1 day").await })
}

pub(crate) async fn child_failed_uncaught<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(top()).workflow(failing()));
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start parent [producer] ok
            ├── workflow.execute parent [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   └── step.run_workflow child [producer] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │       └── workflow.execute child [consumer] error("no teapots left") {error.type=OutOfStock, workflow.outcome=failed, workflow_run.attempt=1}
            │             * exception {exception.message="no teapots left", exception.type=OutOfStock}
            └── workflow.execute parent [consumer] error("no teapots left") {error.type=OutOfStock, workflow.outcome=failed, workflow_run.attempt=2}
                └── step.run_workflow child [internal] error("no teapots left") {error.type=OutOfStock, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=2}
                      * exception {exception.message="no teapots left", exception.type=OutOfStock}
        "#,
    );
}

pub(crate) async fn child_failed_uncaught_linked<S: Backend + Clone>(store: S) {
    let traced = Traced::linked(&store, |worker| worker.workflow(top()).workflow(failing()));
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    spans.tree().links().assert_eq(
        "
        caller
        └── workflow.start parent
        workflow.execute parent
        │ ~> workflow.start parent
        └── step.run_workflow child
        workflow.execute child ERROR
          ~> step.run_workflow child
        workflow.execute parent ERROR
        │ ~> workflow.start parent
        └── step.run_workflow child ERROR
        ",
    );
}

pub(crate) async fn child_failed_caught<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        let parent = PARENT.implement(|wf, ()| async move {
            let _caught = wf.run_workflow(&CHILD, &()).await;
            wf.run("compensate", || async { Ok(()) }).await
        });
        worker.workflow(parent).workflow(failing())
    });
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    spans
        .tree()
        .statuses()
        .attributes(["step.outcome", "workflow.outcome"])
        .assert_eq(
            r#"
        caller unset
        └── workflow.start parent ok
            ├── workflow.execute parent ok {workflow.outcome=parked}
            │   └── step.run_workflow child ok {step.outcome=parked}
            │       └── workflow.execute child error("no teapots left") {workflow.outcome=failed}
            └── workflow.execute parent ok {workflow.outcome=completed}
                ├── step.run_workflow child error("no teapots left") {step.outcome=failed}
                └── step.run compensate ok {step.outcome=completed}
        "#,
        );
}

pub(crate) async fn child_canceled_uncaught<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| worker.workflow(top()).workflow(waiting()));
    let run = traced.start(traced.client.start(&PARENT, &())).await;
    let child = child_of(&traced.stranger, &run).await;
    parked(&child).await;
    parked(&run).await;
    child.cancel().await.unwrap();
    over(&run).await;
    let spans = traced.spans().await;
    tree(&spans).replacing(child.id(), "CHILD").assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start parent [producer] ok
            ├── workflow.execute parent [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   └── step.run_workflow child [producer] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │       └── workflow.execute child [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │           └── step.sleep for-long [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            └── workflow.execute parent [consumer] error("Workflow step \"child\" failed because child workflow run \"CHILD\" was canceled") {error.type=child_canceled, workflow.outcome=failed, workflow_run.attempt=2}
                └── step.run_workflow child [internal] error("Workflow step \"child\" failed because child workflow run \"CHILD\" was canceled") {error.type=child_canceled, step.outcome=failed, step_attempt.prior_failures=0, workflow_run.attempt=2}
                      * exception {exception.message="Workflow step \"child\" failed because child workflow run \"CHILD\" was canceled", exception.type=ChildCanceledError}
        "#,
    );
}

pub(crate) async fn child_canceled_caught<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        let parent = PARENT.implement(|wf, ()| async move {
            let _caught = wf.run_workflow(&CHILD, &()).await;
            Ok(())
        });
        worker.workflow(parent).workflow(waiting())
    });
    let run = traced.start(traced.client.start(&PARENT, &())).await;
    let child = child_of(&traced.stranger, &run).await;
    parked(&child).await;
    parked(&run).await;
    child.cancel().await.unwrap();
    over(&run).await;
    let spans = traced.spans().await;
    spans
        .tree()
        .attributes(["error.type", "workflow.outcome"])
        .assert_eq(
            "
        caller
        └── workflow.start parent
            ├── workflow.execute parent {workflow.outcome=parked}
            │   └── step.run_workflow child
            │       └── workflow.execute child {workflow.outcome=parked}
            │           └── step.sleep for-long
            └── workflow.execute parent {workflow.outcome=completed}
                └── step.run_workflow child ERROR {error.type=child_canceled}
        ",
        );
}

pub(crate) async fn child_timed_out_uncaught<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(hasty()).workflow(waiting())
    });
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start parent [producer] ok
            ├── workflow.execute parent [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │   └── step.run_workflow child [producer] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            │       └── workflow.execute child [consumer] ok {workflow.outcome=parked, workflow_run.attempt=1}
            │           └── step.sleep for-long [internal] ok {step.outcome=parked, step_attempt.prior_failures=0, workflow_run.attempt=1}
            └── workflow.execute parent [consumer] error("Timed out waiting for child workflow to complete") {error.type=timeout, workflow.outcome=failed, workflow_run.attempt=2}
                └── step.run_workflow child [internal] error("Timed out waiting for child workflow to complete") {error.type=timeout, step.outcome=timed_out, step_attempt.prior_failures=0, workflow_run.attempt=2}
                      * exception {exception.message="Timed out waiting for child workflow to complete", exception.type=TimeoutError}
        "#,
    );
}

pub(crate) async fn child_timed_out_caught<S: Backend + Clone>(store: S) {
    let traced = Traced::new(&store, |worker| {
        worker.workflow(catching()).workflow(waiting())
    });
    traced.run(traced.client.start(&PARENT, &())).await;
    let spans = traced.spans().await;
    spans
        .tree()
        .attributes(["error.type", "step.outcome", "workflow.outcome"])
        .assert_eq(
            "
        caller
        └── workflow.start parent
            ├── workflow.execute parent {workflow.outcome=parked}
            │   └── step.run_workflow child {step.outcome=parked}
            │       └── workflow.execute child {workflow.outcome=parked}
            │           └── step.sleep for-long {step.outcome=parked}
            └── workflow.execute parent {workflow.outcome=completed}
                ├── step.run_workflow child ERROR {error.type=timeout, step.outcome=timed_out}
                └── step.run compensate {step.outcome=completed}
        ",
        );
}
