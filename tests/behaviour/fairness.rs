//! What is claimed first where there is more than a worker can execute: neither new runs nor those that
//! were started before wait for all of the others.

use openworkflow::{Worker, Workflow, WorkflowSpec};
use openworkflow_tests::{Database, Log};

use super::{HOUR, Harness};

static NEW: WorkflowSpec<u32, ()> = WorkflowSpec::new("new");
static PARKED: WorkflowSpec<u32, ()> = WorkflowSpec::new("parked");

/// Of this many runs that a worker claims, one was started before.
const OF: usize = 4;

/// Adds itself to the log.
fn new(log: &Log) -> Workflow {
    let log = log.clone();
    NEW.implement(move |_, _: u32| {
        let log = log.clone();
        async move {
            log.add("new");
            Ok(())
        }
    })
}

/// Adds itself to the log once it was signaled.
fn parked(log: &Log) -> Workflow {
    let log = log.clone();
    PARKED.implement(move |wf, _: u32| {
        let log = log.clone();
        async move {
            let _: Option<()> = wf.wait_for_signal("go").timeout(HOUR).await?;
            log.add("parked");
            Ok(())
        }
    })
}

/// Lets one worker with one slot execute so many runs that were parked and are due, and so many new ones.
/// Returns in which order they went on.
async fn order(waiting: u32, fresh: u32) -> Vec<String> {
    let log = Log::new();
    let mut harness = Harness::new(|worker| worker.workflow(parked(&log))).await;
    let mut runs = Vec::new();
    for n in 0..waiting {
        runs.push(harness.start(&PARKED, n).await);
    }
    for run in &runs {
        harness.parked(run.id(), 1).await;
    }
    harness.stop().await;
    let woken = harness.client.send_signal("go", &()).await.unwrap();
    assert_eq!(woken.len(), runs.len());
    for n in 0..fresh {
        runs.push(harness.start(&NEW, n).await);
    }
    harness.start_worker(|worker| {
        let worker = worker.concurrency(1);
        worker.workflow(new(&log)).workflow(parked(&log))
    });
    for run in &runs {
        harness.output(run).await;
    }
    harness.stop().await;
    log.lines()
}

#[tokio::test]
async fn a_parked_run_that_is_due_waits_for_a_few_new_ones_and_not_for_all() {
    let order = order(1, 40).await;
    let before = order.iter().position(|run| run == "parked");
    assert!(before.is_some_and(|before| before < OF), "{order:?}");
}

#[tokio::test]
async fn a_new_run_waits_for_one_parked_one_and_not_for_all() {
    let order = order(40, 1).await;
    let before = order.iter().position(|run| run == "new");
    assert!(before.is_some_and(|before| before <= 1), "{order:?}");
}

#[tokio::test]
async fn of_four_runs_one_was_started_before_as_long_as_there_are_both() {
    let order = order(10, 30).await;
    let (mut started, mut new) = (0, 0);
    for run in &order {
        match run.as_str() {
            "new" => new += 1,
            _ => started += 1,
        }
        if started == 10 || new == 30 {
            break;
        }
        let all = started + new;
        assert!(
            (all / OF..=all.div_ceil(OF)).contains(&started),
            "{started} of the first {all}: {order:?}"
        );
    }
    assert!(started >= 7, "{order:?}");
}

#[tokio::test]
async fn ticks_of_one_worker_have_their_shares_too() {
    let log = Log::new();
    let harness = Harness::idle().await;
    let worker = Worker::builder(harness.store()).concurrency(1);
    let worker = worker.workflow(new(&log)).workflow(parked(&log));
    let worker = worker.build().unwrap();
    harness.start(&PARKED, 0).await;
    assert_eq!(worker.tick().await.unwrap(), 1);
    harness.client.send_signal("go", &()).await.unwrap();
    for n in 0..10 {
        harness.start(&NEW, n).await;
    }
    for _ in 0..OF {
        assert_eq!(worker.tick().await.unwrap(), 1);
    }
    assert_eq!(log.count("parked"), 1, "{:?}", log.lines());
}
