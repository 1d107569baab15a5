//! The behavioural suite on SQLite.

mod behaviour;

use std::time::Duration;

use openworkflow::WorkflowSpec;
use openworkflow_tests::{Database as _, Gate, Harness, Log, RunRow};

type Db = openworkflow_tests::SqliteDatabase;

static NAPS: WorkflowSpec<(), u32> = WorkflowSpec::new("naps");

/// What waits waits for longer by as much, and that is all: workers that are alive keep their runs, and
/// replays are as before, although later rows have earlier times.
#[tokio::test]
async fn a_clock_that_is_set_back_disturbs_nobody_who_is_alive() {
    const LEASE: Duration = Duration::from_millis(400);
    const NAP: Duration = Duration::from_secs(60);
    let (log, gate) = (Log::new(), Gate::closed());
    let workflow = || {
        let (log, gate) = (log.clone(), gate.clone());
        NAPS.implement(move |wf, ()| {
            let (log, gate) = (log.clone(), gate.clone());
            async move {
                let before = wf.run("before", || async { Ok(1) }).await?;
                let held = || async {
                    log.add("held");
                    gate.pass().await;
                    Ok(2)
                };
                let held = wf.run("held", held).await?;
                wf.sleep("nap", NAP).await?;
                Ok(before + held + wf.run("after", || async { Ok(4) }).await?)
            }
        })
    };
    let harness = Harness::<Db>::new(|worker| worker.workflow(workflow()).lease(LEASE)).await;
    let run = harness.start(&NAPS, ()).await;
    log.reached("held", 1).await;
    let _rival = harness.another_worker(|worker| worker.workflow(workflow()).lease(LEASE));

    let hour = Duration::from_secs(3600);
    harness.db.clock().set(harness.now() - hour);
    let end = harness.now() + LEASE;
    let extended = |row: &RunRow| row.available_at.is_some_and(|at| at <= end);
    harness
        .run_where("is extended by the new time", run.id(), extended)
        .await;
    // Each lease that the clock sees the end of was extended before it.
    for _ in 0..8 {
        harness.advance(LEASE / 4).await;
        let end = harness.now() + LEASE * 3 / 4;
        let extended = |row: &RunRow| row.available_at.is_some_and(|at| at >= end);
        harness
            .run_where("is extended in time", run.id(), extended)
            .await;
    }
    gate.open();
    let parked = harness.parked(run.id(), 1).await;
    harness.assert_after_now(parked.available_at, NAP);
    harness.advance(NAP).await;
    assert_eq!(harness.output(&run).await, 7);
    assert_eq!(harness.run(run.id()).await.attempts, 2);
    assert_eq!(log.count("held"), 1);
}

/// No socket, no driver for them. A server cannot be reached without.
#[test]
fn a_runtime_without_io() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let order = behaviour::runtimes::process_an_order();
    runtime.unwrap().block_on(order);
}
