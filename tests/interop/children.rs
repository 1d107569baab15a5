//! Parents in one language, children in the other.

use std::time::Duration;

use async_trait::async_trait;
use openworkflow::{Interceptor, Next, Result, StepCall, StepKind, StepOutcome, StepPhase};
use openworkflow_tests::{Database, Gate};
use serde_json::{Value, json};

use super::workflows::PARENT;
use super::{By, Sdk, Site};

super::checks! {
    both:
        a_parent_gets_the_output_of_a_child_in_the_other_language,
        a_parent_learns_how_a_child_in_the_other_language_failed;
    current:
        a_child_that_does_not_end_in_time_goes_on,
        a_child_that_ends_before_its_parent_parks_wakes_it,
        a_child_that_was_not_linked_is_found
}

const HOUR: Duration = Duration::from_secs(3600);

/// The id of the child that a parked parent waits for.
async fn child_of(site: &Site, parent: &str) -> String {
    let wait = site.step(parent, "child").await.remove(0);
    assert_eq!(wait.summary(), "child workflow running");
    let child = wait.child_workflow_run_id.expect("the child is linked");
    let row = site.db.run(&child).await;
    assert_eq!(row.parent_step_attempt_id.as_deref(), Some(&*wait.id));
    assert_eq!(
        row.idempotency_key,
        Some(format!("__workflow:default:{}", wait.id))
    );
    child
}

async fn a_parent_gets_the_output_of_a_child_in_the_other_language(sdk: Sdk) {
    for (parents, children) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let input = json!({"child": {"mode": "ok"}});
        let parent = site.start_by(children, &PARENT, input).await;
        site.park_on(parents, &["parent"], &parent).await;
        let child = child_of(&site, &parent).await;

        let worker = site.work_on(children, &["child"]).await;
        site.ended(&child).await;
        site.rest(worker).await;
        if children == By::Rust {
            // The end of the child makes the parent due at once. A worker in TypeScript does not
            // leave it like that: it claims the parent, whose workflow it has not.
            let row = site.db.run(&parent).await;
            assert_eq!(
                (row.status.as_str(), row.worker_id.as_ref()),
                ("running", None)
            );
            assert!(row.available_at.unwrap() <= site.now(), "{row:#?}");
        }
        site.forgive().await;

        let output = site.complete_by(parents, &parent).await;
        let child_output = json!({"by": children.name(), "mode": "ok", "baggage": null});
        assert_eq!(output, json!({"by": parents.name(), "child": child_output}));
        let wait = site.step(&parent, "child").await.remove(0);
        assert_eq!(
            (wait.status.as_str(), wait.output),
            ("completed", Some(child_output))
        );
    }
}

async fn a_parent_learns_how_a_child_in_the_other_language_failed(sdk: Sdk) {
    for (parents, children) in By::BOTH_WAYS {
        let mut failures_here = Vec::new();
        for (mode, catches) in [
            ("fail", true),
            ("fail", false),
            ("wait", true),
            ("wait", false),
        ] {
            let site = Site::new(sdk).await;
            let input = json!({"child": {"mode": mode, "signal": "s"}, "catches": catches});
            let parent = site.start_by(parents, &PARENT, input).await;
            site.park_on(parents, &["parent"], &parent).await;
            let child = child_of(&site, &parent).await;
            if mode == "fail" {
                let worker = site.work_on(children, &["child"]).await;
                site.ended(&child).await;
                site.rest(worker).await;
                site.forgive().await;
            } else {
                site.cancel_by(children, &child).await.unwrap();
            }
            let mut failure = if catches {
                site.complete_by(parents, &parent).await["failure"].take()
            } else {
                site.fail_by(parents, &parent).await
            };
            let members = failure.as_object_mut().unwrap();
            members.remove("stack");
            members.remove("step");
            let message = members["message"]
                .as_str()
                .unwrap()
                .replace(&child, "CHILD");
            members["message"] = json!(message);
            failures_here.push(failure);
            let wait = site.step(&parent, "child").await;
            assert_eq!(wait.len(), 1);
            assert_eq!(wait[0].status, "failed");
        }
        // What user code sees of an error that it catches is named differently in either language;
        // what is stored is not.
        assert_eq!(failures_here[0]["message"], "the child broke");
        assert_eq!(
            failures_here[1],
            json!({"name": "ChildBroke", "message": "the child broke"}),
            "{parents:?}"
        );
        let canceled =
            "Workflow step \"child\" failed because child workflow run \"CHILD\" was canceled";
        assert_eq!(failures_here[2]["message"], canceled, "{parents:?}");
        assert_eq!(failures_here[3]["message"], canceled, "{parents:?}");
    }
}

async fn a_child_that_does_not_end_in_time_goes_on(sdk: Sdk) {
    for (parents, children) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let input = json!({
            "child": {"mode": "wait", "signal": "s"}, "timeout": "1h", "catches": true,
        });
        let parent = site.start_by(children, &PARENT, input).await;
        site.park_on(parents, &["parent"], &parent).await;
        let child = child_of(&site, &parent).await;
        let worker = site.work_on(children, &["child"]).await;
        site.parked(&child, 1).await;
        site.rest(worker).await;
        site.advance(HOUR + Duration::from_secs(1)).await;
        // It ends all the same, but too late.
        assert_eq!(
            site.signal_by(parents, "s", Value::Null).await,
            [child.as_str()]
        );
        let worker = site.work_on(children, &["child"]).await;
        assert_eq!(site.ended(&child).await.status, "completed");
        site.rest(worker).await;
        let output = site.complete_by(parents, &parent).await;
        assert_eq!(
            output["failure"]["message"],
            "Timed out waiting for child workflow to complete"
        );
    }
}

/// Holds up a parent between the creation of its child and its park.
struct HoldUp(Gate);

#[async_trait]
impl Interceptor for HoldUp {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let set_up =
            matches!(call.kind, StepKind::RunWorkflow { .. }) && call.phase == StepPhase::Start;
        let outcome = next.run(call).await;
        if set_up {
            self.0.pass().await;
        }
        outcome
    }
}

async fn a_child_that_ends_before_its_parent_parks_wakes_it(sdk: Sdk) {
    // The parent is Rust's.
    let site = Site::new(sdk).await;
    let gate = Gate::closed();
    let hold_up = HoldUp(gate.clone());
    let mut worker = openworkflow::Worker::builder(site.db.store())
        .workflow(super::named("parent"))
        .interceptor(hold_up)
        .build()
        .unwrap()
        .start();
    let parent = site
        .peer
        .start("parent", json!({"child": {"mode": "ok"}}))
        .await;
    gate.reached_by(1).await;
    let child = child_of(&site, &parent).await;
    site.peer.work_on(&["child"]).await;
    site.ended(&child).await;
    site.peer.rest().await;
    let row = site.db.run(&parent).await;
    assert!(
        row.worker_id.is_some() && row.available_at.unwrap() > site.now(),
        "{row:#?}"
    );
    gate.open();
    assert_eq!(site.ended(&parent).await.output.unwrap()["by"], "rust");
    worker.stop().await.unwrap();

    // The parent is TypeScript's; each of its writes is made by hand.
    let site = Site::new(sdk).await;
    let parent = site.start(&PARENT, json!({"child": {"mode": "ok"}})).await;
    let parent = parent.id();
    let attempt = by_hand(&site, parent).await;
    let child = child_by_hand(&site, &attempt).await;
    let link = json!({
        "workflowRunId": parent, "stepAttemptId": attempt, "workerId": "by-hand",
        "childWorkflowRunNamespaceId": "default", "childWorkflowRunId": child,
    });
    site.peer
        .backend("setStepAttemptChildWorkflowRun", link)
        .await;
    let worker = site.work_on(By::Rust, &["child"]).await;
    site.ended(&child).await;
    site.rest(worker).await;
    let park = json!({
        "workflowRunId": parent, "workerId": "by-hand", "availableAt": "2099-01-01T00:00:00.000Z",
    });
    site.peer.backend("sleepWorkflowRun", park).await;
    assert!(site.db.run(parent).await.available_at.unwrap() <= site.now());
    let output = site.complete_by(By::Rust, parent).await;
    assert_eq!(output["child"]["by"], "rust");
}

/// Has the TypeScript SDK claim the parent and write the attempt at its child; returns the
/// attempt's id.
async fn by_hand(site: &Site, parent: &str) -> String {
    let claim = json!({"workerId": "by-hand", "leaseDurationMs": 30_000});
    let claimed = site.peer.backend("claimWorkflowRun", claim).await;
    assert_eq!(claimed["id"], parent);
    let attempt = json!({
        "workflowRunId": parent, "workerId": "by-hand", "stepName": "child", "kind": "workflow",
        "config": {}, "context": {"kind": "workflow", "timeoutAt": "2099-01-01T00:00:00.000Z"},
    });
    let attempt = site.peer.backend("createStepAttempt", attempt).await;
    attempt["id"].as_str().unwrap().to_owned()
}

/// Has the TypeScript SDK create the child of an attempt; returns the child's id.
async fn child_by_hand(site: &Site, attempt: &str) -> String {
    let child = json!({
        "workflowName": "child", "version": null,
        "idempotencyKey": format!("__workflow:default:{attempt}"),
        "config": {}, "context": null, "input": {"mode": "ok"},
        "parentStepAttemptNamespaceId": "default", "parentStepAttemptId": attempt,
        "availableAt": null, "deadlineAt": null,
    });
    let child = site.peer.backend("createWorkflowRun", child).await;
    child["id"].as_str().unwrap().to_owned()
}

async fn a_child_that_was_not_linked_is_found(sdk: Sdk) {
    // A TypeScript worker dies between the creation of the child and the link.
    let site = Site::new(sdk).await;
    let parent = site.start(&PARENT, json!({"child": {"mode": "ok"}})).await;
    let parent = parent.id();
    let attempt = by_hand(&site, parent).await;
    let child = child_by_hand(&site, &attempt).await;
    site.advance(Duration::from_secs(31)).await;
    let output = site.complete_by(By::Rust, parent).await;
    assert_eq!(output["child"]["by"], "rust");
    assert_eq!(site.runs().await.len(), 2);
    let waits = site.step(parent, "child").await;
    assert_eq!(waits.len(), 1);
    assert_eq!(waits[0].id, attempt);
    assert_eq!(waits[0].child_workflow_run_id.as_deref(), Some(&*child));

    // One dies even before the child.
    let site = Site::new(sdk).await;
    let parent = site.start(&PARENT, json!({"child": {"mode": "ok"}})).await;
    let attempt = by_hand(&site, parent.id()).await;
    site.advance(Duration::from_secs(31)).await;
    site.complete_by(By::Rust, parent.id()).await;
    let waits = site.step(parent.id(), "child").await;
    assert_eq!((waits.len(), &waits[0].id), (1, &attempt));
    assert_eq!(site.runs().await.len(), 2);

    // Rust writes the child and the link in one transaction. A link that is lost all the same is
    // repaired by TypeScript.
    let site = Site::new(sdk).await;
    let parent = site
        .peer
        .start("parent", json!({"child": {"mode": "ok"}}))
        .await;
    let worker = site.work_on(By::Rust, &["parent"]).await;
    site.parked(&parent, 1).await;
    site.rest(worker).await;
    let child = child_of(&site, &parent).await;
    site.db
        .execute(&format!(
            "UPDATE step_attempts SET child_workflow_run_id = NULL,
                 child_workflow_run_namespace_id = NULL WHERE workflow_run_id = '{parent}'"
        ))
        .await;
    let worker = site.work_on(By::Rust, &["child"]).await;
    site.ended(&child).await;
    site.rest(worker).await;
    site.db
        .execute(&format!(
            "UPDATE workflow_runs SET available_at = created_at WHERE id = '{parent}'"
        ))
        .await;
    let output = site.complete_by(By::TypeScript, &parent).await;
    assert_eq!(output["child"]["by"], "rust");
    assert_eq!(site.runs().await.len(), 2);
}
