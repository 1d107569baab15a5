//! Runs that continue as new ones.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use openworkflow::{
    ClientError, CreateRun, CreatedRun, Error, Interceptor, Next, RunStatus, Workflow, WorkflowSpec,
};
use openworkflow_tests::{Database, Gate};
use serde::{Deserialize, Serialize};

use super::{HOUR, Harness, SECOND};

/// How far a loop has come: the rounds that are left, and the sum of all steps.
#[derive(Serialize, Deserialize, Clone, Copy)]
struct Round {
    left: u32,
    sum: u32,
}

impl Round {
    const fn of(left: u32) -> Self {
        Self { left, sum: 0 }
    }
}

static LOOP: WorkflowSpec<Round, u32> = WorkflowSpec::new("loop").version("v1");

/// Takes `steps` steps a run.
fn looping(steps: u32) -> Workflow {
    LOOP.implement(move |wf, mut round: Round| async move {
        for _ in 0..steps {
            round.sum += wf.run("count", || async { Ok(1_u32) }).await?;
        }
        if round.left == 0 {
            return Ok(round.sum);
        }
        round.left -= 1;
        wf.continue_as_new(&round).await
    })
}

/// The ids of the runs, from the first to the last.
async fn chain(harness: &Harness, first: &str) -> Vec<String> {
    let mut ids = vec![first.to_owned()];
    while let Some(next) = harness
        .client
        .describe(&ids[ids.len() - 1])
        .await
        .unwrap()
        .continued_as
    {
        ids.push(next);
    }
    ids
}

#[tokio::test]
async fn a_loop_goes_on_beyond_the_limit_of_steps() {
    let harness = Harness::new(|worker| worker.workflow(looping(400))).await;
    let request = harness.client.start(&LOOP, &Round::of(2));
    let request = request.deadline(HOUR).idempotency_key("k");
    let run = request.carrier_entry("tenant", "acme").await.unwrap();
    assert_eq!(harness.output(&run).await, 1200);

    let ids = chain(&harness, run.id()).await;
    assert_eq!(ids.len(), 3);
    let first = harness.client.describe(&ids[0]).await.unwrap();
    let row = harness.run(&ids[0]).await;
    assert_eq!(
        (row.status.as_str(), row.output, row.error),
        ("completed", None, None)
    );
    for id in &ids {
        let run = harness.client.describe(id).await.unwrap();
        assert_eq!(run.status, RunStatus::Completed);
        assert_eq!(
            (&*run.workflow_name, run.version.as_deref()),
            ("loop", Some("v1"))
        );
        assert_eq!(run.carrier.get("tenant"), Some("acme"));
        assert_eq!(run.deadline_at, first.deadline_at);
        assert_eq!(harness.steps(id).await.len(), 400);
    }
    let last = harness.client.describe(&ids[2]).await.unwrap();
    assert_eq!((last.output.expose(), last.idempotency_key), ("1200", None));
    assert_eq!(last.parent_step_attempt_id, None);
    assert_eq!(harness.client.count_runs().await.unwrap().completed, 3);

    // The key leads to the first run, and its handle to the end.
    let again = harness
        .client
        .start(&LOOP, &Round::of(0))
        .idempotency_key("k");
    let again = again.await.unwrap();
    assert_eq!(again.id(), run.id());
    assert_eq!(harness.output(&again).await, 1200);
}

static WAITING: WorkflowSpec<u32, u32> = WorkflowSpec::new("waiting");

/// Continues once, and waits for a signal then.
fn waiting() -> Workflow {
    WAITING.implement(|wf, n: u32| async move {
        if n == 0 {
            return wf.continue_as_new(&1_u32).await;
        }
        let more: Option<u32> = wf.wait_for_signal("more").await?;
        Ok(n + more.unwrap_or_default())
    })
}

#[tokio::test]
async fn a_handle_waits_for_and_cancels_the_last_run() {
    let harness = Harness::new(|worker| worker.workflow(waiting())).await;
    let run = harness.start(&WAITING, 0).await;
    harness.ended(run.id()).await;
    let ids = chain(&harness, run.id()).await;
    let waited = run.result_within(SECOND / 10).await;
    assert!(
        matches!(waited, Err(ClientError::TimedOut { .. })),
        "{waited:?}"
    );
    run.cancel().await.unwrap();
    assert_eq!(harness.run(&ids[1]).await.status, "canceled");
    assert_eq!(harness.run(&ids[0]).await.status, "completed");
    let canceled = run.result().await;
    assert!(
        matches!(&canceled, Err(ClientError::RunCanceled { run_id }) if *run_id == ids[1]),
        "{canceled:?}"
    );
    // One that is over for good is so by its own name.
    run.cancel().await.unwrap();
}

#[tokio::test]
async fn a_circle_of_runs_is_an_error_and_not_waited_for() {
    let harness = Harness::new(|worker| worker.workflow(looping(1))).await;
    let run = harness.start(&LOOP, Round::of(1)).await;
    harness.output(&run).await;
    let last = chain(&harness, run.id()).await.pop().unwrap();
    let circle = format!(
        r#"UPDATE workflow_runs SET config = '{{"continuedAs":"{}"}}' WHERE id = '{last}'"#,
        run.id()
    );
    harness.execute(&circle).await;
    let error = run.result().await.unwrap_err().to_string();
    assert!(
        error.contains("continuedAs") && error.contains(run.id()),
        "{error}"
    );
}

#[tokio::test]
async fn steps_at_work_end_before_the_run_does() {
    let gate = Gate::closed();
    let held = gate.clone();
    let workflow = WAITING.implement(move |wf, n: u32| {
        let gate = held.clone();
        async move {
            if n > 0 {
                return Ok(n);
            }
            let slow = wf.run("slow", || async {
                gate.pass().await;
                Ok(())
            });
            let next = wf.continue_as_new::<_, u32>(&7_u32);
            // Neither branch resolves: not the loser, and not the winner, who cannot be caught.
            let _ = futures_util::future::join(slow, next).await;
            Ok(0)
        }
    });
    let harness = Harness::new(|worker| worker.workflow(workflow)).await;
    let run = harness.start(&WAITING, 0).await;
    gate.reached_by(1).await;
    assert_eq!(harness.run(run.id()).await.status, "running");
    gate.open();
    assert_eq!(harness.output(&run).await, 7);
    assert_eq!(
        harness.step_summary(run.id()).await,
        ["slow function completed"]
    );
}

#[tokio::test]
async fn a_child_is_told_what_to_do_instead() {
    static PARENT: WorkflowSpec<(), u32> = WorkflowSpec::new("parent");
    let parent = PARENT.implement(|wf, ()| async move { wf.run_workflow(&WAITING, &0).await });
    let harness = Harness::new(|worker| worker.workflow(parent).workflow(waiting())).await;
    let run = harness.start(&PARENT, ()).await;
    let failed = harness.failure(&run).await;
    let error = failed.error.unwrap().to_string();
    assert!(
        error.contains("is a child and cannot continue as a new run"),
        "{error}"
    );
    assert!(error.contains("Return to the parent"), "{error}");
    assert_eq!(harness.runs().await.len(), 2, "nothing was created");
}

/// Answers creations that continue a run by `answer`, and remembers which there were.
struct Creations {
    answer: fn() -> Option<openworkflow::Result<CreatedRun>>,
    seen: Arc<Mutex<Vec<Option<String>>>>,
}

#[async_trait]
impl Interceptor for Creations {
    async fn create_run(
        &self,
        mut call: CreateRun,
        next: Next<'_, CreateRun>,
    ) -> openworkflow::Result<CreatedRun> {
        let continues = call.continues.as_ref();
        let continues = continues.map(|execution| execution.run.id.to_string());
        self.seen.lock().unwrap().push(continues.clone());
        if continues.is_some() {
            if let Some(answer) = (self.answer)() {
                return answer;
            }
            call.run.carrier.insert("round", "next");
        }
        next.run(call).await
    }
}

async fn with_creations(
    answer: fn() -> Option<openworkflow::Result<CreatedRun>>,
) -> (Harness, Arc<Mutex<Vec<Option<String>>>>) {
    let seen = Arc::default();
    let hook = Creations {
        answer,
        seen: Arc::clone(&seen),
    };
    let harness = Harness::new(|worker| worker.workflow(looping(1)).interceptor(hook)).await;
    (harness, seen)
}

#[tokio::test]
async fn interceptors_see_the_creation_and_what_it_continues() {
    let (harness, seen) = with_creations(|| None).await;
    let run = harness.start(&LOOP, Round::of(1)).await;
    assert_eq!(harness.output(&run).await, 2);
    assert_eq!(*seen.lock().unwrap(), [Some(run.id().to_owned())]);
    let last = chain(&harness, run.id()).await.pop().unwrap();
    let last = harness.client.describe(&last).await.unwrap();
    assert_eq!(last.carrier.get("round"), Some("next"));
}

#[tokio::test]
async fn an_interceptor_that_refuses_the_creation_fails_the_run() {
    let refuse = || Some(Err(Error::rejected("enough").non_retryable()));
    let (harness, _) = with_creations(refuse).await;
    let run = harness.start(&LOOP, Round::of(1)).await;
    let failed = harness.failure(&run).await;
    assert!(failed.error.unwrap().to_string().contains("enough"));
    assert_eq!(harness.runs().await.len(), 1);

    let (harness, _) = with_creations(|| Some(Ok(CreatedRun::new("elsewhere", false)))).await;
    let run = harness.start(&LOOP, Round::of(1)).await;
    let failed = harness.failure(&run).await;
    let error = failed.error.unwrap().to_string();
    assert!(error.contains("without creating it"), "{error}");
}
