//! What is tried again, when, how often, and what is stored of a failure.

use std::time::Duration;

use openworkflow::{
    Error, ErrorKind, Result, RetryPolicy, Workflow, WorkflowContext, WorkflowSpec,
};
use openworkflow_tests::{Database, Log};
use serde_json::json;

use super::{HOUR, Harness, SECOND};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");

/// One step, which fails as often as the input says.
fn failing_step(policy: Option<RetryPolicy>, log: &Log) -> Workflow {
    let log = log.clone();
    W.implement(move |wf: WorkflowContext, failures: u32| {
        let log = log.clone();
        async move {
            let step = wf.run("step", || async {
                log.add("step");
                let times = log.count("step") as u32;
                if times <= failures {
                    return Err(Error::new("Failing", format!("failure {times}")));
                }
                Ok(times)
            });
            match policy {
                Some(policy) => step.retry(policy).await,
                None => step.await,
            }
        }
    })
}

#[tokio::test]
async fn a_step_is_tried_ten_times_ever_more_slowly() {
    let log = Log::new();
    let harness = Harness::new(|worker| worker.workflow(failing_step(None, &log))).await;
    let run = harness.start(&W, 10).await;
    for (failures, delay) in (1..).zip([1, 2, 4, 8, 16, 32, 64, 100, 100]) {
        let row = harness.retrying(run.id(), failures).await;
        harness.assert_after_now(row.available_at, delay * SECOND);
        assert_eq!((&row.worker_id, &row.started_at), (&None, &None));
        assert_eq!(
            row.error,
            Some(
                json!({"name": "Failing", "message": format!("failure {failures}"), "step": "step"})
            )
        );
        harness.advance(delay * SECOND).await;
    }
    let row = harness.failure(&run).await;
    assert_eq!(row.error_message(), Some("failure 10"));
    assert_eq!(
        (row.attempts, row.worker_id, row.started_at),
        (10, None, None)
    );
    assert_eq!(row.available_at, None);
    harness.assert_after_now(row.finished_at, Duration::ZERO);
    let steps = harness.steps(run.id()).await;
    assert_eq!(steps.len(), 10);
    assert!(steps.iter().all(|step| step.status == "failed"));
}

#[tokio::test]
async fn the_tenth_try_may_succeed() {
    let log = Log::new();
    let harness = Harness::new(|worker| worker.workflow(failing_step(None, &log))).await;
    let run = harness.start(&W, 9).await;
    for failures in 1..=9 {
        harness.retrying(run.id(), failures).await;
        harness.advance(100 * SECOND).await;
    }
    assert_eq!(harness.output(&run).await, 10);
    let row = harness.run(run.id()).await;
    assert_eq!((row.error, row.attempts), (None, 10));
}

#[tokio::test]
async fn a_policy_of_ones_own() {
    let log = Log::new();
    let policy = RetryPolicy::attempts(4)
        .initial_interval(10 * SECOND)
        .backoff_coefficient(3.0)
        .maximum_interval(60 * SECOND);
    let harness = Harness::new(|worker| worker.workflow(failing_step(Some(policy), &log))).await;
    let run = harness.start(&W, 9).await;
    for (failures, delay) in (1..).zip([10, 30, 60]) {
        let row = harness.retrying(run.id(), failures).await;
        harness.assert_after_now(row.available_at, delay * SECOND);
        harness.advance(delay * SECOND).await;
    }
    assert_eq!(
        harness.failure(&run).await.error_message(),
        Some("failure 4")
    );
}

#[tokio::test]
async fn a_policy_without_limit_goes_on() {
    let log = Log::new();
    let policy = RetryPolicy::unlimited().initial_interval(Duration::ZERO);
    let harness = Harness::new(|worker| worker.workflow(failing_step(Some(policy), &log))).await;
    let run = harness.start(&W, 25).await;
    assert_eq!(harness.output(&run).await, 26);
}

#[tokio::test]
async fn an_exhausted_step_fails_the_run_whatever_the_workflows_policy() {
    static GENEROUS: WorkflowSpec<u32, u32> =
        WorkflowSpec::new("w").retry(RetryPolicy::unlimited());
    let harness = Harness::new(|worker| {
        worker.workflow(GENEROUS.implement(|wf, _: u32| async move {
            wf.run("step", || async { Err(Error::new("Failing", "as ever")) })
                .retry(RetryPolicy::none())
                .await
        }))
    })
    .await;
    let run = harness.start(&GENEROUS, 0).await;
    assert_eq!(harness.failure(&run).await.attempts, 1);
}

#[tokio::test]
async fn an_error_that_no_retry_mends_is_not_tried_again() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf, _| async move {
            wf.run("step", || async {
                Err(Error::new("CardDeclined", "no money").non_retryable())
            })
            .await
        }))
    })
    .await;
    let run = harness.start(&W, 0).await;
    let row = harness.failure(&run).await;
    assert_eq!(row.attempts, 1);
    assert_eq!(
        row.error,
        Some(json!({"name": "CardDeclined", "message": "no money", "step": "step"}))
    );
}

#[tokio::test]
async fn any_error_type_becomes_an_object_with_name_message_and_causes() {
    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("outer")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf, which: u32| async move {
            let step = wf.run("step", || async {
                match which {
                    0 => Err("a text")?,
                    _ => Err(Outer("x".parse::<u32>().unwrap_err()))?,
                }
                Ok(0)
            });
            step.retry(RetryPolicy::none()).await
        }))
    })
    .await;
    let row = harness.failure(&harness.start(&W, 0).await).await;
    assert_eq!(
        row.error,
        Some(json!({"name": "Error", "message": "a text", "step": "step"}))
    );
    let row = harness.failure(&harness.start(&W, 1).await).await;
    let error = row.error.unwrap();
    assert_eq!(error["name"], "Outer");
    assert_eq!(error["message"], "outer: invalid digit found in string");
    assert_eq!(error["stack"], "caused by: invalid digit found in string");
}

#[tokio::test]
async fn a_workflow_is_tried_once_unless_it_says_otherwise() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|_, _| async { Err(Error::new("Own", "my own")) }))
    })
    .await;
    let row = harness.failure(&harness.start(&W, 0).await).await;
    assert_eq!((row.attempts, row.error_message()), (1, Some("my own")));
}

#[tokio::test]
async fn a_workflow_is_tried_again_by_its_policy() {
    static RETRIED: WorkflowSpec<(), u32> = WorkflowSpec::new("w").retry(RetryPolicy::attempts(4));
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(RETRIED.implement(move |wf, ()| {
            let log = lines.clone();
            async move {
                wf.run("once", || async {
                    log.add("once");
                    Ok(())
                })
                .await?;
                match wf.attempt() {
                    4 => Ok(4),
                    attempt => Err(Error::new("Own", format!("attempt {attempt}"))),
                }
            }
        }))
    })
    .await;
    let run = harness.start(&RETRIED, ()).await;
    for (attempt, delay) in (1..).zip([1, 2, 4]) {
        let row = harness.retrying(run.id(), attempt).await;
        harness.assert_after_now(row.available_at, delay * SECOND);
        assert_eq!(row.error_message(), Some(&*format!("attempt {attempt}")));
        harness.advance(delay * SECOND).await;
    }
    assert_eq!(harness.output(&run).await, 4);
    assert_eq!(harness.run(run.id()).await.error, None);
    assert_eq!(log.count("once"), 1);
}

#[tokio::test]
async fn a_workflows_policy_counts_every_execution() {
    static RETRIED: WorkflowSpec<(), ()> = WorkflowSpec::new("w").retry(RetryPolicy::attempts(3));
    let harness = Harness::new(|worker| {
        worker.workflow(RETRIED.implement(|wf, ()| async move {
            wf.sleep("one", HOUR).await?;
            wf.sleep("two", HOUR).await?;
            Err(Error::new("Own", "too late"))
        }))
    })
    .await;
    let run = harness.start(&RETRIED, ()).await;
    for attempt in 1..=2 {
        harness.parked(run.id(), attempt).await;
        harness.advance(HOUR).await;
    }
    let row = harness.failure(&run).await;
    assert_eq!(row.attempts, 3, "the parks used the budget up");
}

#[tokio::test]
async fn an_error_that_no_retry_mends_ends_the_workflow_too() {
    static RETRIED: WorkflowSpec<(), ()> = WorkflowSpec::new("w").retry(RetryPolicy::unlimited());
    let harness =
        Harness::new(|worker| {
            worker.workflow(RETRIED.implement(|_, ()| async move {
                Err(Error::new("Own", "for good").non_retryable())
            }))
        })
        .await;
    let row = harness.failure(&harness.start(&RETRIED, ()).await).await;
    assert_eq!(row.attempts, 1);
}

#[tokio::test]
async fn a_caught_error_of_a_step_may_be_turned_into_ones_own() {
    static RETRIED: WorkflowSpec<(), ()> = WorkflowSpec::new("w").retry(RetryPolicy::attempts(2));
    let harness = Harness::new(|worker| {
        worker.workflow(RETRIED.implement(|wf, ()| async move {
            let step: Result<()> = wf
                .run("step", || async { Err(Error::new("Failing", "step")) })
                .retry(RetryPolicy::none())
                .await;
            let error = step.expect_err("it fails");
            assert_eq!(error.step_name(), Some("step"));
            assert_eq!(error.kind(), ErrorKind::Application);
            Err(Error::new("Own", format!("because of {error}")))
        }))
    })
    .await;
    let run = harness.start(&RETRIED, ()).await;
    // The error is the workflow's now, so its policy decides.
    let row = harness.retrying(run.id(), 1).await;
    assert_eq!(row.error_message(), Some("because of step"));
    harness.advance(SECOND).await;
    assert_eq!(harness.failure(&run).await.attempts, 2);
    assert_eq!(harness.steps(run.id()).await.len(), 1);
}

#[tokio::test]
async fn each_step_counts_its_own_failures() {
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, _| {
            let log = lines.clone();
            async move {
                for name in ["a", "b", "c"] {
                    wf.run(name, || async {
                        log.add(name);
                        match log.count(name) {
                            1 => Err(Error::new("Once", "once")),
                            _ => Ok(()),
                        }
                    })
                    .retry(RetryPolicy::attempts(2))
                    .await?;
                }
                Ok(0)
            }
        }))
    })
    .await;
    let run = harness.start(&W, 0).await;
    for attempt in 1..=3 {
        let row = harness.retrying(run.id(), attempt).await;
        harness.assert_after_now(row.available_at, SECOND);
        harness.advance(SECOND).await;
    }
    harness.output(&run).await;
    assert_eq!(log.lines(), ["a", "a", "b", "b", "c", "c"]);
}

/// An execution that came before that would find the retry still to come, and be one for nothing.
#[tokio::test]
async fn a_retry_is_due_when_its_delay_has_passed_since_the_row_of_the_failure() {
    let log = Log::new();
    let harness = Harness::new(|worker| worker.workflow(failing_step(None, &log))).await;
    for _ in 0..5 {
        log.clear();
        let run = harness.start(&W, 1).await;
        let row = harness.retrying(run.id(), 1).await;
        let failed_at = harness.step(run.id(), "step").await[0].finished_at.unwrap();
        // What is due has whole milliseconds, and a moment more is allowed for that.
        let due = row.available_at.unwrap() + Duration::from_millis(1);
        let early = (failed_at + SECOND).duration_since(due).unwrap_or_default();
        assert_eq!(
            early,
            Duration::ZERO,
            "due {due:?} for a failure at {failed_at:?}"
        );
    }
}
