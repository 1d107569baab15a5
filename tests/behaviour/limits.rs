//! The limit on step attempts, and runs of workflows that a worker does not have.

use futures::future::join_all;
use openworkflow::{Workflow, WorkflowSpec};
use openworkflow_tests::Database;
use serde_json::json;

use super::{Harness, SECOND};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");

/// As many steps as the input says, whose failure the code tries to ignore.
fn many_steps() -> Workflow {
    W.implement(|wf, steps: u32| async move {
        let steps = (0..steps).map(|n| wf.run(format!("s{n}"), move || async move { Ok(n) }));
        Ok(join_all(steps)
            .await
            .into_iter()
            .filter_map(Result::ok)
            .sum())
    })
}

#[tokio::test]
async fn a_thousand_attempts_are_the_limit() {
    let harness = Harness::new(|worker| worker.workflow(many_steps())).await;
    let run = harness.start(&W, 1000).await;
    assert_eq!(harness.output(&run).await, 499_500);

    let run = harness.start(&W, 1001).await;
    let row = harness.failure(&run).await;
    assert_eq!(
        row.error,
        Some(json!({
            "code": "STEP_LIMIT_EXCEEDED",
            "name": "StepLimitExceededError",
            "limit": 1000,
            "stepCount": 1000,
            "message": "Exceeded the step limit of 1000 attempts (current count: 1000)",
        }))
    );
    assert_eq!(row.attempts, 1);
    let steps = harness.steps(run.id()).await;
    assert_eq!(steps.len(), 1000);
    assert!(steps.iter().all(|step| step.status == "completed"));
}

#[tokio::test]
async fn attempts_of_all_kinds_and_earlier_executions_count() {
    static KINDS: WorkflowSpec<(), ()> = WorkflowSpec::new("kinds");
    let harness = Harness::new(|worker| {
        worker.workflow(KINDS.implement(|wf, ()| async move {
            wf.sleep("nap", "1h").await?;
            let _ = wf.send_signal("ping", &()).await;
            Ok(())
        }))
    })
    .await;
    for (rows, fails) in [(998, false), (999, true)] {
        let run = harness.start(&KINDS, ()).await;
        harness.parked(run.id(), 1).await;
        harness
            .execute(&format!(
                "INSERT INTO step_attempts (namespace_id, id, workflow_run_id, step_name, kind, \
                     status, config, created_at, updated_at) \
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
                 SELECT 'default', workflow_run_id || '-' || i, workflow_run_id, 'old-' || i, \
                     'function', 'failed', config, created_at, updated_at \
                 FROM n, step_attempts WHERE workflow_run_id = '{}'",
                run.id()
            ))
            .await;
        harness.advance(super::HOUR).await;
        let row = harness.ended(run.id()).await;
        if fails {
            assert_eq!(row.error.unwrap()["code"], "STEP_LIMIT_EXCEEDED");
        } else {
            assert_eq!(row.status, "completed");
        }
        assert_eq!(harness.steps(run.id()).await.len(), 1000);
    }
}

#[tokio::test]
async fn a_worker_that_claims_everything_puts_back_what_it_does_not_know() {
    static V2: WorkflowSpec<u32, u32> = WorkflowSpec::new("w").version("v2");
    let harness = Harness::new(|worker| worker.claim_unregistered(true)).await;
    let plain = harness.start(&W, 1).await;
    let versioned = harness.start(&V2, 1).await;
    for (run, message) in [
        (plain.id(), "Workflow \"w\" is not registered"),
        (
            versioned.id(),
            "Workflow \"w\" (version: v2) is not registered",
        ),
    ] {
        let row = harness.retrying(run, 1).await;
        assert_eq!(row.error, Some(json!({"message": message})));
        assert_eq!((row.worker_id, row.started_at), (None, None));
        harness.assert_after_now(row.available_at, 5 * SECOND);
    }
    let mut delay = 5;
    for attempt in 2..=9 {
        harness.advance(delay * SECOND).await;
        delay = (delay * 2).min(300);
        for run in [plain.id(), versioned.id()] {
            let row = harness.retrying(run, attempt).await;
            harness.assert_after_now(row.available_at, delay * SECOND);
        }
    }
}

#[tokio::test]
async fn a_run_that_nobody_knows_fails_before_its_deadline() {
    let harness = Harness::new(|worker| worker.claim_unregistered(true)).await;
    let run = harness
        .client
        .start(&W, &1)
        .deadline(12 * SECOND)
        .await
        .unwrap();
    harness.retrying(run.id(), 1).await;
    harness.advance(5 * SECOND).await;
    // The next look would be at 15 s.
    let row = harness.failure(&run).await;
    assert_eq!(
        row.error,
        Some(json!({"message": "Workflow \"w\" is not registered"}))
    );
    assert_eq!(row.attempts, 2);
}

#[tokio::test]
async fn a_worker_that_comes_later_with_the_workflow_completes_the_run() {
    let mut harness = Harness::new(|worker| worker.claim_unregistered(true)).await;
    let run = harness.start(&W, 3).await;
    harness.retrying(run.id(), 1).await;
    // Beside it, whoever looks first would have the run, each time that it is due.
    harness.stop().await;
    harness.start_worker(|worker| worker.workflow(many_steps()));
    harness.advance(5 * SECOND).await;
    assert_eq!(harness.output(&run).await, 3);
    assert_eq!(harness.run(run.id()).await.attempts, 2);
}

#[tokio::test]
async fn names_and_versions_match_exactly_and_nothing_else_is_touched() {
    static V1: WorkflowSpec<u32, u32> = WorkflowSpec::new("w").version("v1");
    static V2: WorkflowSpec<u32, u32> = WorkflowSpec::new("w").version("v2");
    static UPPER: WorkflowSpec<u32, u32> = WorkflowSpec::new("W");
    let harness =
        Harness::new(|worker| worker.workflow(V1.implement(|_, n: u32| async move { Ok(n) })))
            .await;
    let others = [
        harness.start(&W, 0).await,
        harness.start(&V2, 0).await,
        harness.start(&UPPER, 0).await,
    ];
    assert_eq!(harness.complete(&V1, 7).await, 7);
    for run in others {
        let row = harness.run(run.id()).await;
        assert_eq!(
            (row.status.as_str(), row.attempts, row.error),
            ("pending", 0, None)
        );
    }
}

#[tokio::test]
async fn other_peoples_runs_do_not_hide_ones_own() {
    static MINE: WorkflowSpec<u32, u32> = WorkflowSpec::new("mine");
    let mut harness = Harness::idle().await;
    let starts = (0..300).map(|n| harness.start(&W, n));
    join_all(starts).await;
    let mine = harness.start(&MINE, 7).await;
    harness
        .start_worker(|worker| worker.workflow(MINE.implement(|_, n: u32| async move { Ok(n) })));
    assert_eq!(harness.output(&mine).await, 7);
}
