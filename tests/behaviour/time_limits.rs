//! Time limits of steps: what is cut off, what becomes of it, and who hears of it.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use openworkflow::{
    ErrorKind, Interceptor, Next, Result, RetryPolicy, StepCall, StepOutcome, When,
    WorkflowContext, WorkflowSpec, async_trait,
};
use openworkflow_tests::{Database, Log};
use serde_json::json;

use super::{HOUR, Harness, SECOND};

static W: WorkflowSpec<(), String> = WorkflowSpec::new("w");

/// Short, since a test waits for it. What it limits here is never done.
const LIMIT: Duration = Duration::from_millis(30);

/// Writes down that it was dropped.
struct Dropped(Log);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add("dropped");
    }
}

#[tokio::test]
async fn a_step_that_takes_too_long_is_dropped_and_tried_again() {
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, ()| {
            let log = lines.clone();
            async move {
                let charge = wf.run("charge", || async {
                    log.add("charge");
                    if log.count("charge") < 3 {
                        let _dropped = Dropped(log.clone());
                        pending::<()>().await;
                    }
                    Ok("charged".to_owned())
                });
                charge.timeout(LIMIT).await
            }
        }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    for (failures, delay) in [(1, SECOND), (2, 2 * SECOND)] {
        let row = harness.retrying(run.id(), failures).await;
        assert_eq!(log.count("dropped"), failures as usize);
        assert_eq!(
            row.error,
            Some(json!({
                "name": "TimeoutError",
                "message": "step \"charge\" took longer than its limit of 30ms",
                "step": "charge",
            }))
        );
        harness.assert_after_now(row.available_at, delay);
        harness.advance(delay).await;
    }
    assert_eq!(harness.output(&run).await, "charged");
    let attempts = harness.step(run.id(), "charge").await;
    let statuses: Vec<_> = attempts.iter().map(|step| step.status.as_str()).collect();
    assert_eq!(statuses, ["failed", "failed", "completed"]);
    for failed in &attempts[..2] {
        assert_eq!(failed.error.as_ref().unwrap()["kind"], "timeout");
    }
}

#[tokio::test]
async fn the_limit_is_each_attempts_own_and_the_last_failure_is_told_alike_in_replays() {
    let told = Log::new();
    let lines = told.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, ()| {
            let told = lines.clone();
            async move {
                let slow = wf.run("slow", pending::<Result<()>>);
                let once = RetryPolicy::attempts(2).initial_interval(Duration::ZERO);
                let error = slow.timeout("0.03 s").retry(once).await.unwrap_err();
                told.add(format!("{} {error}", error.error_type()));
                assert_eq!(error.kind(), ErrorKind::Timeout);
                assert_eq!(error.step_name(), Some("slow"));
                wf.sleep("pause", HOUR).await?;
                Ok(error.message().to_owned())
            }
        }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 2).await;
    harness.advance(HOUR).await;
    let message = "step \"slow\" took longer than its limit of 30ms";
    assert_eq!(harness.output(&run).await, message);
    assert_eq!(told.lines(), vec![format!("timeout {message}"); 2]);
    assert_eq!(harness.step(run.id(), "slow").await.len(), 2);
}

/// Writes down what came of each step.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Interceptor for Outcomes {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let name = Arc::clone(&call.name);
        let outcome = next.run(call).await;
        let what = match &outcome {
            Ok(_) => "done".to_owned(),
            Err(error) => format!("{}: {error}", error.error_type()),
        };
        self.0.lock().unwrap().push(format!("{name} {what}"));
        outcome
    }
}

#[tokio::test]
async fn hooks_see_the_time_out_and_their_own_time_does_not_count() {
    /// Holds each step up for longer than its limit.
    struct Slow;

    #[async_trait]
    impl Interceptor for Slow {
        async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
            tokio::time::sleep(2 * LIMIT).await;
            next.run(call).await
        }
    }

    let outcomes = Outcomes::default();
    let harness = Harness::new(|worker| {
        worker
            .interceptor(outcomes.clone())
            .interceptor(Slow)
            .workflow(W.implement(|wf: WorkflowContext, ()| async move {
                let quick = wf.run("quick", || async { Ok(()) });
                quick.timeout(LIMIT).await?;
                let slow = wf.run("slow", pending::<Result<String>>);
                slow.timeout(LIMIT).retry(RetryPolicy::none()).await
            }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.failure(&run).await;
    assert_eq!(
        *outcomes.0.lock().unwrap(),
        [
            "quick done",
            "slow timeout: step \"slow\" took longer than its limit of 30ms"
        ]
    );
}

#[tokio::test]
async fn what_blocks_its_thread_is_not_stopped_and_its_result_counts() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf, ()| async move {
            let blocking = wf.run("blocking", || async {
                std::thread::sleep(2 * LIMIT);
                Ok("done".to_owned())
            });
            blocking.timeout(LIMIT).retry(RetryPolicy::none()).await
        }))
    })
    .await;
    assert_eq!(harness.complete(&W, ()).await, "done");
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused_by_name() {
    type Limit = fn() -> When;
    let limits: [(Limit, &str); 4] = [
        (|| Duration::ZERO.into(), "it is zero; give a longer one"),
        (|| "0s".into(), "it is zero; give a longer one"),
        (|| "soon".into(), "\"soon\" is no duration"),
        (
            || SystemTime::now().into(),
            "it is an instant; give a duration",
        ),
    ];
    for (limit, problem) in limits {
        let log = Log::new();
        let lines = log.clone();
        let harness = Harness::new(|worker| {
            worker.workflow(W.implement(move |wf, ()| {
                let log = lines.clone();
                async move {
                    let step = wf.run("charge", || async {
                        log.add("charge");
                        Ok(String::new())
                    });
                    step.timeout(limit()).await
                }
            }))
        })
        .await;
        let run = harness.start(&W, ()).await;
        let row = harness.failure(&run).await;
        let message = row.error_message().unwrap_or_default().to_owned();
        let subject = "the time-out of step \"charge\": ";
        assert!(
            message.starts_with(&format!("{subject}{problem}")),
            "{message}"
        );
        assert!(log.lines().is_empty(), "the function did not begin");
        assert!(harness.steps(run.id()).await.is_empty());
    }
}
