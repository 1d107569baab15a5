//! The same on each flavour of tokio's runtime.

use openworkflow::{Result, WorkflowContext, WorkflowSpec};
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
fn one_store_serves_one_runtime_after_the_other() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    // As a static does that several tests share.
    let mut harness = runtime().block_on(Harness::idle());
    for _ in 0..3 {
        runtime().block_on(async {
            harness.start_worker(|worker| worker.workflow(SUM.implement(sum)));
            let mut runs = Vec::new();
            for n in 0..10 {
                runs.push(harness.start(&SUM, n).await);
            }
            for (n, run) in runs.iter().enumerate() {
                assert_eq!(harness.output(run).await, n as u32 + 3);
            }
        });
        // The runtime ends under the worker.
    }
}

static SUM: WorkflowSpec<u32, u32> = WorkflowSpec::new("sum");

/// Adds one three times, side by side: writes that share a commit.
async fn sum(wf: WorkflowContext, n: u32) -> Result<u32> {
    let one = |name| wf.run(name, || async { Ok(1) });
    let (a, b, c) = futures::try_join!(one("a"), one("b"), one("c"))?;
    Ok(n + a + b + c)
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
