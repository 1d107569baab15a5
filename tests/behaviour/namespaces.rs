//! Namespaces that share a database: what happens in one is no business of another's workers.

use std::time::Duration;

use openworkflow::{Worker, WorkflowSpec};
use openworkflow_tests::{Database, Recorded};
use tokio::time::Instant;

use super::Harness;

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");

#[tokio::test]
async fn runs_of_one_namespace_wake_no_worker_of_another() {
    const WORKERS: usize = 20;
    let mut harness = Harness::idle().await;
    // In the process that works, and in another.
    let here = Recorded::new(harness.store());
    let there = Recorded::new(harness.open().await);
    let mut idle = Vec::new();
    for n in 0..WORKERS {
        let store = if n % 2 == 0 { &here } else { &there };
        let worker = Worker::builder(store.clone()).namespace("elsewhere");
        let double = W.implement(|_, n: u32| async move { Ok(n * 2) });
        idle.push(worker.workflow(double).build().unwrap().start());
    }
    // Six polls in vain, and they are as rare as they get.
    for store in [&here, &there] {
        store.reached(WORKERS / 2 * 6).await;
    }
    let claims = || here.claims().len() + there.claims().len();
    let (before, began) = (claims(), Instant::now());
    harness.start_worker(|worker| {
        worker.workflow(
            W.implement(|wf, n: u32| async move { wf.run("double", || async { Ok(n * 2) }).await }),
        )
    });
    for n in 0..300 {
        assert_eq!(harness.complete(&W, n).await, n * 2);
    }
    // What polling alone comes to: a second apart, or half of it, as chance will have it.
    let polls = began.elapsed().as_millis() / Duration::from_millis(500).as_millis() + 2;
    let made = claims() - before;
    let allowed = WORKERS * usize::try_from(polls).unwrap();
    assert!(
        made <= allowed,
        "{made} claims, where polls are {allowed} at most"
    );
}
