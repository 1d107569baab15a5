//! Runs as one bar, from creation to end, whoever ends them.

use std::time::Duration;

use openworkflow::WorkflowSpec;
use openworkflow::backend::{Backend, RunStatus};
use openworkflow::otel::ids;
use openworkflow::otel::testing::{SpanCollector, SpanTree};
use openworkflow_examples::{
    Order, PROCESS_ORDER, confirm, fulfill_shipment, process_order as order,
};

use super::{Traced, over, parked};

static SLOW: WorkflowSpec<(), ()> = WorkflowSpec::new("slow");
static ROUNDS: WorkflowSpec<u32, u32> = WorkflowSpec::new("rounds");

fn tree(spans: &SpanCollector) -> SpanTree {
    spans
        .tree()
        .kinds()
        .statuses()
        .links()
        .attributes(["workflow_run.status"])
}

pub(crate) async fn process_order_as_a_bar<S: Backend + Clone>(store: S) {
    let traced = Traced::with(
        &store,
        |otel| otel.run_bar(true),
        |worker| {
            worker
                .workflow(order(Duration::from_millis(50)))
                .workflow(fulfill_shipment())
        },
    );
    let sample = Order::sample();
    let run = traced
        .start(traced.client.start(&PROCESS_ORDER, &sample))
        .await;
    confirm(&traced.stranger, &sample).await.unwrap();
    let ended = over(&run).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start process-order [producer] ok
            └── workflow.run process-order [internal] ok {workflow_run.status=completed}
                ├── workflow.execute process-order [consumer] ok
                │   ├── step.run validate-order [internal] ok
                │   └── step.run_workflow fulfill-shipment [producer] ok
                │       └── workflow.run fulfill-shipment [internal] ok {workflow_run.status=completed}
                │           └── workflow.execute fulfill-shipment [consumer] ok
                │               ├── step.run reserve-inventory [internal] ok
                │               └── step.run dispatch-courier [internal] ok
                ├── workflow.execute process-order [consumer] ok
                │   ├── step.run_workflow fulfill-shipment [internal] ok
                │   └── step.wait_for_signal [internal] ok
                ├── workflow.execute process-order [consumer] ok
                │   ├── step.wait_for_signal [internal] ok
                │   └── step.sleep cooldown [internal] ok
                ├── workflow.execute process-order [consumer] error("the mail server does not answer")
                │   └── step.run notify-customer [internal] error("the mail server does not answer")
                └── workflow.execute process-order [consumer] ok
                    └── step.run notify-customer [internal] ok
        "#,
    );
    let spans = spans.spans();
    let bar = spans
        .iter()
        .find(|s| s.name == "workflow.run process-order");
    let bar = bar.expect("it is in the tree");
    let id = ids::run(&ended.namespace_id, &ended.id);
    assert_eq!(bar.span_context.span_id(), id);
    assert_eq!(bar.start_time, ended.created_at);
    let ended_at = ended.finished_at.expect("it is over");
    let off = bar.end_time.duration_since(ended_at).unwrap_or_default();
    assert!(off < Duration::from_secs(10), "{off:?}");
    assert!(bar.end_time > bar.start_time + Duration::from_millis(50));
}

fn sleeper() -> openworkflow::Workflow {
    SLOW.implement(|wf, ()| async move { wf.sleep("for-long", "1 day").await })
}

pub(crate) async fn canceled_as_a_bar<S: Backend + Clone>(store: S) {
    let traced = Traced::with(
        &store,
        |otel| otel.run_bar(true),
        |worker| worker.workflow(sleeper()),
    );
    let run = traced.start(traced.client.start(&SLOW, &())).await;
    parked(&run).await;
    traced.client.cancel(run.id()).await.unwrap();
    assert_eq!(over(&run).await.status, RunStatus::Canceled);
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start slow [producer] ok
            └── workflow.run slow [internal] error("canceled") {workflow_run.status=canceled}
                └── workflow.execute slow [consumer] ok
                    └── step.sleep for-long [internal] ok
        workflow.cancel slow [internal] ok
        "#,
    );
}

pub(crate) async fn overdue_as_a_bar<S: Backend + Clone>(store: S) {
    let traced = Traced::with(
        &store,
        |otel| otel.run_bar(true),
        |worker| worker.workflow(sleeper()),
    );
    let request = traced.client.start(&SLOW, &()).deadline("300ms");
    let run = traced.start(request).await;
    over(&run).await;
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        r#"
        caller [internal] unset
        └── workflow.start slow [producer] ok
            └── workflow.run slow [internal] error("Workflow run deadline exceeded") {workflow_run.status=failed}
                └── workflow.execute slow [consumer] ok
                    └── step.sleep for-long [internal] ok
        "#,
    );
}

pub(crate) async fn continued_as_bars<S: Backend + Clone>(store: S) {
    let rounds = ROUNDS.implement(|wf, round: u32| async move {
        if round == 1 {
            return Ok(round);
        }
        wf.continue_as_new(&(round + 1)).await
    });
    let traced = Traced::with(
        &store,
        |otel| otel.run_bar(true),
        |worker| worker.workflow(rounds),
    );
    let run = traced.start(traced.client.start(&ROUNDS, &0)).await;
    assert_eq!(run.result().await.unwrap(), 1);
    let spans = traced.spans().await;
    tree(&spans).assert_eq(
        "
        caller [internal] unset
        └── workflow.start rounds [producer] ok
            ├── workflow.run rounds [internal] ok {workflow_run.status=completed}
            │   └── workflow.execute rounds [consumer] ok
            └── workflow.run rounds [internal] ok {workflow_run.status=completed}
                └── workflow.execute rounds [consumer] ok
                      ~> workflow.execute rounds {workflow.link=continued_from}
        ",
    );
}
