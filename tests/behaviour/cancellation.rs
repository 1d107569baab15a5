//! How work that outlives its step hears that its execution is over.

use std::time::Duration;

use openworkflow::{
    Cancellation, Interruption, RetryPolicy, Workflow, WorkflowContext, WorkflowSpec,
};
use openworkflow_tests::{Database, Gate, Log};

use super::{HOUR, Harness};

static W: WorkflowSpec<(), ()> = WorkflowSpec::new("w");

/// For tests in which half of a lease is to pass.
const SHORT_LEASE: Duration = Duration::from_millis(300);

/// A step that works on a blocking thread until it hears that it is in vain.
fn blocking(log: &Log) -> Workflow {
    let log = log.clone();
    W.implement(move |wf: WorkflowContext, ()| {
        let log = log.clone();
        async move {
            let cancellation = wf.cancellation();
            wf.run("work", || async {
                let (log, cancellation) = (log.clone(), cancellation.clone());
                let work = tokio::task::spawn_blocking(move || {
                    log.add("begins");
                    while !cancellation.is_canceled() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    log.add(format!("{:?}", cancellation.reason()));
                });
                Ok(work.await?)
            })
            .await
        }
    })
}

/// A workflow whose first execution hands its cancellation to a task, and does then what `code` says.
fn with_task<F>(log: &Log, code: impl Fn(WorkflowContext) -> F + Send + Sync + 'static) -> Workflow
where
    F: Future<Output = openworkflow::Result<()>> + Send + 'static,
{
    let log = log.clone();
    W.implement(move |wf: WorkflowContext, ()| {
        if !wf.is_replay() {
            let (log, cancellation) = (log.clone(), wf.cancellation());
            tokio::spawn(async move {
                let reason = cancellation.canceled().await;
                assert!(cancellation.is_canceled());
                assert_eq!(cancellation.reason(), reason);
                log.add(format!("{reason:?}"));
            });
        }
        code(wf)
    })
}

#[tokio::test]
async fn a_run_that_is_canceled_here_tells_its_thread_at_once() {
    let log = Log::new();
    let harness = Harness::new(|worker| worker.lease(HOUR).workflow(blocking(&log))).await;
    let run = harness.start(&W, ()).await;
    log.reached("begins", 1).await;
    // Half of the lease would be half an hour.
    run.cancel().await.unwrap();
    log.reached("Some(Canceled)", 1).await;
}

#[tokio::test]
async fn a_run_that_is_canceled_elsewhere_tells_its_thread_within_half_of_the_lease() {
    let log = Log::new();
    let workflow = blocking(&log);
    let harness = Harness::new(|worker| worker.lease(SHORT_LEASE).workflow(workflow)).await;
    harness.start(&W, ()).await;
    log.reached("begins", 1).await;
    harness
        .execute("UPDATE workflow_runs SET status = 'canceled', worker_id = NULL")
        .await;
    log.reached("Some(Canceled)", 1).await;
}

#[tokio::test]
async fn a_run_that_another_worker_has_tells_its_thread() {
    let log = Log::new();
    let workflow = blocking(&log);
    let harness = Harness::new(|worker| worker.lease(SHORT_LEASE).workflow(workflow)).await;
    harness.start(&W, ()).await;
    log.reached("begins", 1).await;
    harness
        .execute("UPDATE workflow_runs SET worker_id = 'another', attempts = attempts + 1")
        .await;
    log.reached("Some(LeaseLost)", 1).await;
}

#[tokio::test]
async fn a_worker_that_stops_tells_the_threads_of_its_runs() {
    let log = Log::new();
    let mut harness = Harness::new(|worker| {
        let worker = worker.stop_deadline(Duration::ZERO);
        worker.workflow(blocking(&log))
    })
    .await;
    harness.start(&W, ()).await;
    log.reached("begins", 1).await;
    harness.stop().await;
    log.reached("Some(WorkerStopped)", 1).await;

    // Given back, and claimed by the next, which is dropped.
    harness.start_worker(|worker| worker.workflow(blocking(&log)));
    log.reached("begins", 2).await;
    harness.worker = None;
    log.reached("Some(WorkerStopped)", 2).await;
}

#[tokio::test]
async fn an_execution_that_comes_to_its_own_end_has_no_reason() {
    for failing in [false, true] {
        let log = Log::new();
        let ends = with_task(&log, move |wf| async move {
            let policy = RetryPolicy::none();
            let step = wf.run("step", || async move {
                if failing {
                    return Err("no such luck".into());
                }
                Ok(())
            });
            step.retry(policy).await
        });
        let harness = Harness::new(|worker| worker.workflow(ends)).await;
        let run = harness.start(&W, ()).await;
        harness.ended(run.id()).await;
        log.reached("None", 1).await;
    }
    let log = Log::new();
    let parks = with_task(&log, |wf| async move { wf.sleep("nap", HOUR).await });
    let harness = Harness::new(|worker| worker.workflow(parks)).await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    log.reached("None", 1).await;
}

#[tokio::test]
async fn what_is_asked_for_after_the_end_says_so() {
    let (log, gate) = (Log::new(), Gate::closed());
    let (lines, held) = (log.clone(), gate.clone());
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, ()| {
            let (log, gate) = (lines.clone(), held.clone());
            async move {
                tokio::spawn(async move {
                    gate.pass().await;
                    let cancellation: Cancellation = wf.cancellation();
                    assert!(cancellation.is_canceled());
                    log.add(format!("{:?}", cancellation.canceled().await));
                });
                std::future::pending().await
            }
        }))
    })
    .await;
    harness.start(&W, ()).await;
    gate.reached_by(1).await;
    let mut worker = harness.worker;
    worker.as_mut().unwrap().abort().await;
    gate.open();
    log.reached(&format!("{:?}", Some(Interruption::WorkerStopped)), 1)
        .await;
}
