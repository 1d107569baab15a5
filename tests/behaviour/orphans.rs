//! Due runs that no worker takes, and what an idle worker says of them.

use openworkflow::{Worker, WorkerHandle, Workflow, WorkflowSpec};
use openworkflow_tests::{Database, Log, Recorded, logged, wait_until};

use super::{Harness, SECOND};
use crate::Db;

static OLD: WorkflowSpec<(), ()> = WorkflowSpec::new("greet").version("1");
static MISSPELT: WorkflowSpec<(), ()> = WorkflowSpec::new("gret");

fn greet() -> Workflow {
    Workflow::new("greet", |_, ()| async { Ok(()) }).version("2")
}

/// A worker with nothing but version 2 of `greet`, and a record of its looks.
fn worker(harness: &Harness) -> (WorkerHandle, Recorded<<Db as Database>::Store>) {
    let store = Recorded::new(harness.store());
    let worker = Worker::builder(store.clone()).workflow(greet());
    (worker.build().unwrap().start(), store)
}

fn told(log: &Log) -> Vec<String> {
    let lines = log.lines().into_iter();
    lines
        .filter(|line| line.contains("runs are due that nobody takes"))
        .collect()
}

async fn told_of(harness: &Harness, log: &Log) -> Vec<String> {
    wait_until("a warning", async || {
        harness.advance(11 * SECOND).await;
        !told(log).is_empty()
    })
    .await;
    told(log)
}

#[tokio::test]
async fn an_idle_worker_tells_by_name_and_version_of_runs_that_nobody_takes() {
    let (log, _collecting) = logged::collect();
    let mut harness = Harness::idle().await;
    let oldest = harness.start(&OLD, ()).await;
    harness.start(&OLD, ()).await;
    harness.start(&MISSPELT, ()).await;
    let (mut worker, _store) = worker(&harness);
    let lines = told_of(&harness, &log).await;
    worker.stop().await.unwrap();
    assert_eq!(lines.len(), 2, "one for each workflow: {lines:#?}");
    let of = |what: &str| {
        let line = lines.iter().find(|line| line.contains(what));
        line.unwrap_or_else(|| panic!("{what} is not in {lines:#?}"))
    };
    let old = of(r#"workflow.name="greet" workflow.version="1" namespace_id="default" runs=2"#);
    assert!(old.contains("at_least=false"), "{old}");
    assert!(
        old.contains(&format!("workflow_run.id={:?}", oldest.id())),
        "{old}"
    );
    let age = old
        .split("queue_ms=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let age = age.and_then(|age| age.parse::<u64>().ok());
    assert!(matches!(age, Some(10_000..)), "{old}");
    of(r#"workflow.name="gret" namespace_id="default" runs=1"#);

    // Where somebody has come, it is over.
    harness.start_worker(|worker| worker.workflow(OLD.implement(|_, ()| async { Ok(()) })));
    harness.output(&oldest).await;
}

#[tokio::test]
async fn a_backlog_that_somebody_works_on_is_not_told_of() {
    let (log, _collecting) = logged::collect();
    let harness = Harness::idle().await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(harness.start(&OLD, ()).await);
        // Times of the database are told apart by milliseconds.
        harness.advance(SECOND).await;
    }
    let (mut worker, store) = worker(&harness);
    for (look, run) in [(1, &runs[0]), (2, &runs[1])] {
        store.looked(look).await;
        // Somebody else has taken it.
        run.cancel().await.unwrap();
        harness.advance(11 * SECOND).await;
    }
    let lines = told_of(&harness, &log).await;
    worker.stop().await.unwrap();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].contains("runs=1"),
        "only after the oldest stayed: {lines:#?}"
    );
    assert!(lines[0].contains(runs[2].id()), "{lines:#?}");
}

#[tokio::test]
async fn whoever_claims_everything_leaves_nothing_behind() {
    let harness = Harness::idle().await;
    harness.start(&MISSPELT, ()).await;
    let store = Recorded::new(harness.store());
    let worker = Worker::builder(store.clone()).claim_unregistered(true);
    let mut worker = worker.build().unwrap().start();
    store.reached(3).await;
    worker.stop().await.unwrap();
    assert_eq!(store.looks(), 0);
}
