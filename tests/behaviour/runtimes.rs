//! The same on each flavour of tokio's runtime.

use openworkflow_examples::{Order, PROCESS_ORDER, fulfill_shipment, process_order};
use openworkflow_tests::{Database, wait_until};

use super::{Harness, MINUTE};

pub(crate) async fn process_an_order() {
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(process_order(MINUTE))
            .workflow(fulfill_shipment())
    })
    .await;
    let run = harness.start(&PROCESS_ORDER, Order::sample()).await;
    wait_until("the customer is asked", || async {
        let sent = harness.client.send_signal("confirmed:4711", "ada").await;
        !sent.unwrap().is_empty()
    })
    .await;
    harness.parked(run.id(), 3).await;
    harness.advance(MINUTE).await;
    harness.retrying(run.id(), 4).await;
    harness.advance(MINUTE).await;
    assert_eq!(
        harness.output(&run).await.confirmed_by.as_deref(),
        Some("ada")
    );
    harness.stop().await;
}

#[test]
fn current_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(process_an_order());
}

#[test]
fn multi_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build();
    runtime.unwrap().block_on(process_an_order());
}

#[test]
fn a_worker_outlives_no_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let harness = runtime.block_on(async {
        let harness = Harness::new(|worker| worker.workflow(process_order(MINUTE))).await;
        let run = harness.start(&PROCESS_ORDER, Order::sample()).await;
        harness.parked(run.id(), 1).await;
        harness
    });
    // Nothing hangs and nothing panics, though the worker was never stopped.
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert_eq!(harness.runs().await.len(), 2);
        assert_eq!(harness.client.count_runs().await.unwrap().running, 1);
    });
}
