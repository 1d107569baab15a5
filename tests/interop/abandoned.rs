//! Runs whose worker abandons them: processes that die, that are slow, and that come too late.

use std::time::Duration;

use async_trait::async_trait;
use openworkflow::{Interceptor, Next, Result, StepCall, StepOutcome};
use openworkflow_tests::{Database, Gate, wait_until};
use serde_json::{Value, json};

use super::workflows::{ECHO, SLOW};
use super::{By, Hold, Sdk, Site};

super::checks! {
    both: a_killed_process_is_taken_over;
    current:
        a_lease_lasts_thirty_seconds_and_is_renewed,
        a_former_owner_writes_nothing
}

const LEASE: Duration = Duration::from_secs(30);

/// A run whose executing process was killed in the middle of its second step.
async fn killed(site: &mut Site, by: By) -> String {
    // Only the process that dies is held up.
    let hold = Hold::new();
    let input = json!({"hold": hold.path(), "by": by.name()});
    let run = site.start_by(By::Rust, &SLOW, input).await;
    match by {
        By::Rust => {
            let mut process = site.rust_process();
            site.step_is(&run, "slow", "running").await;
            process.kill().await.unwrap();
        }
        By::TypeScript => {
            site.peer.work().await;
            site.step_is(&run, "slow", "running").await;
            site.peer.kill().await;
        }
    }
    run
}

/// Waits, for longer than others do, until a run is completed.
async fn completed_in_the_end(site: &Site, run: &str) {
    let completed = async {
        while site.db.run(run).await.status != "completed" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(3 * LEASE, completed).await;
    assert!(in_time.is_ok(), "run {run} does not end");
}

async fn a_killed_process_is_taken_over(sdk: Sdk) {
    for (dies, takes_over) in By::BOTH_WAYS {
        let mut site = Site::new(sdk).await;
        let run = killed(&mut site, dies).await;
        if dies == By::TypeScript {
            site.peer = super::Peer::connected(&site.db, sdk).await;
        }
        let worker = site.work(takes_over).await;
        // Not before the lease is over.
        let other = site.start_by(takes_over, &ECHO, Value::Null).await;
        site.ended(&other).await;
        let row = site.db.run(&run).await;
        assert_eq!((row.status.as_str(), row.attempts), ("running", 1));
        site.advance(LEASE + Duration::from_secs(1)).await;
        let row = site.ended(&run).await;
        site.rest(worker).await;
        assert_eq!(
            row.output,
            Some(json!({"first": dies.name(), "slow": takes_over.name()}))
        );
        assert_eq!(row.attempts, 2);
        // The attempt of the dead stays as it was, with what it saved of its progress, of which TypeScript
        // knows nothing; the first step did not run again.
        let mut slow = site.step(&run, "slow").await;
        slow.sort_by(|one, other| one.status.cmp(&other.status));
        let statuses: Vec<_> = slow.iter().map(|step| step.status.as_str()).collect();
        assert_eq!(statuses, ["completed", "running"]);
        let saved = |by: By| match by {
            By::Rust => json!([{"by": "rust", "before": null}]),
            By::TypeScript => Value::Null,
        };
        for (step, by) in slow.iter().zip([takes_over, dies]) {
            assert_eq!(step.config.as_ref().unwrap()["progress"], saved(by));
        }
        assert_eq!(site.step(&run, "first").await.len(), 1);
    }
}

/// One process of each language dies, and one is slow; time passes by itself. All at once, because
/// it takes half a minute.
async fn a_lease_lasts_thirty_seconds_and_is_renewed(sdk: Sdk) {
    let dies = async |dies: By, takes_over: By| {
        let mut site = Site::new(sdk).await;
        let run = killed(&mut site, dies).await;
        let claimed_at = site.db.run(&run).await.started_at.unwrap();
        if dies == By::TypeScript {
            site.peer = super::Peer::connected(&site.db, sdk).await;
        }
        let worker = match takes_over {
            By::Rust => site.work(By::Rust).await,
            By::TypeScript => {
                let args = json!({"concurrency": 4, "polling": true});
                site.peer.call("work", args).await;
                super::site::AtWork::TypeScript
            }
        };
        completed_in_the_end(&site, &run).await;
        site.rest(worker).await;
        let taken_over = site
            .step_is(&run, "slow", "completed")
            .await
            .started_at
            .unwrap();
        let after = taken_over.duration_since(claimed_at).unwrap();
        // A sign of life of the process that was killed would have made it half a lease later.
        assert!(
            (LEASE - Duration::from_millis(50)..LEASE + LEASE / 3).contains(&after),
            "{takes_over:?} took over after {after:?}"
        );
    };
    let slow = async |works: By, watches: By| {
        let site = Site::new(sdk).await;
        let hold = Hold::new();
        let input = json!({"hold": hold.path(), "by": works.name()});
        let run = site.start_by(watches, &SLOW, input).await;
        let first = site.work(works).await;
        site.step_is(&run, "slow", "running").await;
        let second = site.work(watches).await;
        let lease_end = site.db.run(&run).await.available_at;
        wait_until("the lease is renewed", || async {
            let row = site.db.run(&run).await;
            row.status == "running" && row.available_at > lease_end
        })
        .await;
        drop(hold);
        completed_in_the_end(&site, &run).await;
        site.rest(first).await;
        site.rest(second).await;
        let row = site.db.run(&run).await;
        assert_eq!(row.attempts, 1);
        assert_eq!(
            row.output,
            Some(json!({"first": works.name(), "slow": works.name()}))
        );
    };
    let ways = By::BOTH_WAYS;
    tokio::join!(
        dies(ways[0].0, ways[0].1),
        dies(ways[1].0, ways[1].1),
        slow(ways[0].0, ways[0].1),
        slow(ways[1].0, ways[1].1),
    );
}

/// Holds up a step's body at its end.
struct HoldUp(Gate);

#[async_trait]
impl Interceptor for HoldUp {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let outcome = next.run(call).await;
        self.0.pass().await;
        outcome
    }
}

async fn a_former_owner_writes_nothing(sdk: Sdk) {
    // Rust is late.
    let site = Site::new(sdk).await;
    let gate = Gate::closed();
    let hold_up = HoldUp(gate.clone());
    let mut worker = site.rust_works(|worker| worker.concurrency(1).interceptor(hold_up));
    let run = site.peer.start("slow", json!({})).await;
    gate.reached_by(1).await;
    let claimed = site.db.run(&run).await.worker_id;
    site.peer.work().await;
    site.advance(LEASE + Duration::from_secs(1)).await;
    wait_until("TypeScript takes over", || async {
        site.db.run(&run).await.worker_id != claimed
    })
    .await;
    let row = site.ended(&run).await;
    let steps = site.step_summary(&run).await;
    gate.open();
    worker.stop().await.unwrap();
    site.peer.rest().await;
    let after = site.db.run(&run).await;
    assert_eq!(
        after.output,
        Some(json!({"first": "typescript", "slow": "typescript"}))
    );
    assert_eq!((after.updated_at, after.attempts), (row.updated_at, 2));
    assert_eq!(site.step_summary(&run).await, steps);

    // TypeScript is late; each of its writes is made by hand.
    let site = Site::new(sdk).await;
    let run = site.start(&ECHO, json!("x")).await;
    let run = run.id();
    let claim = json!({"workerId": "by-hand", "leaseDurationMs": 30_000});
    assert_eq!(
        site.peer.backend("claimWorkflowRun", claim).await["id"],
        run
    );
    let owner = json!({"workflowRunId": run, "workerId": "by-hand"});
    let with = |more: Value| {
        let mut params = owner.clone();
        params
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        params
    };
    let attempt = with(json!({
        "stepName": "echo", "kind": "function", "config": {}, "context": null,
    }));
    let attempt = site.peer.backend("createStepAttempt", attempt).await;
    let attempt = attempt["id"].as_str().unwrap();
    site.advance(LEASE + Duration::from_secs(1)).await;
    let output = site.complete_by(By::Rust, run).await;
    assert_eq!(output, json!({"by": "rust", "value": "x"}));
    let (row, steps) = (site.db.run(run).await, site.step_summary(run).await);
    let error = json!({"message": "late"});
    let retry_policy = json!({
        "initialInterval": "1s", "backoffCoefficient": 2, "maximumInterval": "100s",
        "maximumAttempts": 1,
    });
    for (method, more) in [
        (
            "completeStepAttempt",
            json!({"stepAttemptId": attempt, "output": "late"}),
        ),
        (
            "failStepAttempt",
            json!({"stepAttemptId": attempt, "error": error}),
        ),
        ("completeWorkflowRun", json!({"output": "late"})),
        (
            "failWorkflowRun",
            json!({"error": error, "retryPolicy": retry_policy}),
        ),
        (
            "sleepWorkflowRun",
            json!({"availableAt": "2099-01-01T00:00:00.000Z"}),
        ),
        ("extendWorkflowRunLease", json!({"leaseDurationMs": 30_000})),
    ] {
        let refused = site.peer.try_backend(method, with(more)).await;
        assert!(refused.is_err(), "{method}: {refused:?}");
    }
    let after = site.db.run(run).await;
    assert_eq!(
        (after.updated_at, after.output),
        (row.updated_at, row.output)
    );
    assert_eq!(site.step_summary(run).await, steps);
    assert_eq!(steps, ["echo function running", "echo function completed"]);
}
