//! How failures of steps reach the workflow's code, and how they end its run.

#![cfg(feature = "sqlite")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::future::try_join;
use openworkflow::backend::RunStatus;
use openworkflow::{
    Client, ClientError, Clock, Error, ErrorKind, Interceptor, Next, RetryPolicy, RunHandle,
    Sqlite, StepCall, StepOutcome, Worker, WorkerHandle, Workflow, WorkflowSpec, async_trait,
};

type Fallible = Result<(), Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(60);

static WORKFLOW: WorkflowSpec<(), String> = WorkflowSpec::new("under-test");
/// Nobody implements it, so that waiting for it times out.
static NEVER_RUN: WorkflowSpec<(), ()> = WorkflowSpec::new("never-run");

async fn start(
    workflow: Workflow,
) -> Result<(WorkerHandle, RunHandle<String>), Box<dyn std::error::Error>> {
    let store = Sqlite::open_in_memory().await?;
    let worker = Worker::builder(store.clone()).workflow(workflow).build()?;
    let run = Client::new(store).start(&WORKFLOW, &()).await?;
    Ok((worker.start(), run))
}

#[tokio::test]
async fn the_attempt_beyond_the_limit_fails_the_run() -> Fallible {
    let workflow = WORKFLOW.implement(|wf, ()| async move {
        for _ in 0..1000 {
            wf.run("step", || async { Ok(()) }).await?;
        }
        // Nothing that user code does can catch it.
        let _ = wf.run("one-too-many", || async { Ok(()) }).await;
        Ok("survived".to_owned())
    });
    let (_worker, run) = start(workflow).await?;
    let Err(ClientError::RunFailed { error, .. }) = run.result_within(PATIENCE).await else {
        return Err("the run did not fail".into());
    };
    assert_eq!(error.name.as_deref(), Some("StepLimitExceededError"));
    assert_eq!(
        error.message,
        "Exceeded the step limit of 1000 attempts (current count: 1000)"
    );
    Ok(())
}

#[tokio::test]
async fn a_failure_that_nobody_hears_of_any_more_does_not_keep_the_run() -> Fallible {
    let workflow = WORKFLOW.implement(|wf, ()| async move {
        let dropped = async {
            let fails = || async { Err::<(), _>(Error::new("Refused", "no").non_retryable()) };
            tokio::select! {
                failed = wf.run("fails", fails) => failed,
                // Long enough for the failure to be written, and to wait for the step beside it.
                () = tokio::time::sleep(Duration::from_millis(50)) => Ok(()),
            }
        };
        let works = || async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(())
        };
        let (dropped, worked) = tokio::join!(dropped, wf.run("works", works));
        dropped?;
        worked?;
        wf.run("later", || async { Ok(()) }).await?;
        Ok("done".to_owned())
    });
    let (_worker, run) = start(workflow).await?;
    assert_eq!(run.result_within(PATIENCE).await?, "done");
    Ok(())
}

#[tokio::test]
async fn what_a_failure_sets_to_work_is_done_before_the_next_is_told() -> Fallible {
    let begun = Arc::new(AtomicUsize::new(0));
    let begins = Arc::clone(&begun);
    let workflow = WORKFLOW.implement(move |wf, ()| {
        let begins = Arc::clone(&begins);
        async move {
            let refused = || async { Err::<(), _>(Error::new("Refused", "no").non_retryable()) };
            let mends = async {
                let failed = wf.run("first-fails", refused).await.is_err();
                wf.run("mends", || async {
                    begins.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    Ok(failed)
                })
                .await
            };
            let joined = try_join(mends, wf.run("second-fails", refused)).await;
            wf.sleep("later", Duration::from_millis(1)).await?;
            Ok(joined
                .err()
                .and_then(|error| error.step_name().map(str::to_owned))
                .unwrap_or_default())
        }
    });
    let (_worker, run) = start(workflow).await?;
    assert_eq!(run.result_within(PATIENCE).await?, "second-fails");
    assert_eq!(begun.load(Ordering::Relaxed), 1);
    Ok(())
}

#[tokio::test]
async fn a_caught_failure_has_the_same_kind_at_replay() -> Fallible {
    let workflow = WORKFLOW.implement(|wf, ()| async move {
        let panicked = wf
            .run("panics", || async {
                assert_ne!(1, 1, "this panic is part of the test");
                Ok(())
            })
            .retry(RetryPolicy::none());
        let panicked = panicked.await.err().map(|error| error.kind());
        let timed_out = wf
            .run_workflow(&NEVER_RUN, &())
            .timeout(Duration::from_millis(1));
        let timed_out = timed_out.await.err().map(|error| error.kind());
        // Parks: what is returned was seen by a later execution.
        wf.sleep("later", Duration::from_millis(1)).await?;
        Ok(format!("{panicked:?}, {timed_out:?}, {}", wf.is_replay()))
    });
    let (_worker, run) = start(workflow).await?;
    assert_eq!(
        run.result_within(PATIENCE).await?,
        "Some(Panic), Some(Timeout), true"
    );
    Ok(())
}

/// Fails the first call for each step as a layer's time-out would.
#[derive(Default)]
struct SlowAtFirst(Mutex<HashSet<String>>);

#[async_trait]
impl Interceptor for SlowAtFirst {
    async fn step(
        &self,
        call: StepCall,
        next: Next<'_, StepCall>,
    ) -> openworkflow::Result<StepOutcome> {
        let seen = self
            .0
            .lock()
            .map(|mut seen| seen.insert(call.name.to_string()));
        if seen.unwrap_or(true) {
            return Err(Error::of_kind(ErrorKind::Timeout, "the layer timed out"));
        }
        next.run(call).await
    }
}

#[tokio::test]
async fn a_wait_that_a_layer_timed_out_is_set_up_again() -> Fallible {
    let clock = Clock::manual(SystemTime::now());
    let store = Sqlite::options()
        .clock(clock.clone())
        .open_in_memory()
        .await?;
    let workflow = WORKFLOW.implement(|wf, ()| async move {
        wf.sleep("later", Duration::from_secs(60)).await?;
        Ok("done".to_owned())
    });
    let worker = Worker::builder(store.clone())
        .workflow(workflow)
        .interceptor(SlowAtFirst::default())
        .build()?;
    let client = Client::new(store);
    let run = client.start(&WORKFLOW, &()).await?;
    let _worker = worker.start();
    let patience = tokio::time::timeout(PATIENCE, async {
        loop {
            match run.result_within(Duration::from_millis(10)).await {
                Err(ClientError::TimedOut { .. }) => clock.advance(Duration::from_secs(10)),
                ended => return ended,
            }
        }
    });
    assert_eq!(patience.await??, "done");
    let attempts = client.list_steps(run.id()).await?.items;
    let statuses: Vec<_> = attempts
        .iter()
        .map(|attempt| attempt.status.as_str())
        .collect();
    assert_eq!(statuses, ["failed", "completed"]);
    Ok(())
}

#[tokio::test]
async fn a_retry_beyond_all_times_is_put_off_as_far_as_times_go() -> Fallible {
    let workflow = WORKFLOW.implement(|wf, ()| async move {
        let policy = RetryPolicy::attempts(2)
            .initial_interval(Duration::MAX)
            .maximum_interval(Duration::MAX);
        let fails = || async { Err(Error::new("Refused", "no")) };
        wf.run("fails", fails).retry(policy).await
    });
    let (_worker, run) = start(workflow).await?;
    let rescheduled = async {
        loop {
            let run = run.describe().await?;
            if run.error.is_some() {
                return Ok::<_, ClientError>(run);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let run = tokio::time::timeout(PATIENCE, rescheduled).await??;
    assert_eq!(run.status, RunStatus::Pending);
    assert_eq!(run.error.map(|error| error.message).as_deref(), Some("no"));
    Ok(())
}
