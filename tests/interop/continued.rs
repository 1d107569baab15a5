//! Runs that continue as new ones, which only Rust's do, and what TypeScript sees of them.

use openworkflow::Worker;
use openworkflow_tests::Database;
use serde_json::{Value, json};

use super::{By, Sdk, Site};

super::checks! {
    both:
        a_run_that_continued_is_one_without_an_output_and_its_successor_one_of_its_own;
    current:
}

/// Executes what is due, but not what comes of it.
async fn rust_works_once(site: &Site) {
    let worker = Worker::builder(site.db.store()).workflow(super::named("rounds"));
    let executed = worker.build().unwrap().tick().await.unwrap();
    assert_eq!(executed, 1);
}

async fn run_as_seen_by_typescript(site: &Site, run: &str) -> Value {
    let params = json!({ "workflowRunId": run });
    site.peer.backend("getWorkflowRun", params).await
}

async fn a_run_that_continued_is_one_without_an_output_and_its_successor_one_of_its_own(sdk: Sdk) {
    for begins in [By::Rust, By::TypeScript] {
        let site = Site::new(sdk).await;
        let run = site
            .peer
            .start("rounds", json!({"left": 1, "signal": "go"}))
            .await;
        site.park_by(begins, &run, 1).await;
        assert_eq!(
            site.signal_by(By::TypeScript, "go", json!(1)).await,
            [&*run]
        );
        let (seen, ()) = tokio::join!(site.peer.result(&run), rust_works_once(&site));
        // Whoever waits for the first run hears that it is over, not how the work goes on.
        assert_eq!(seen.unwrap(), Value::Null);

        let first = run_as_seen_by_typescript(&site, &run).await;
        assert_eq!(
            (&first["status"], &first["output"], &first["error"]),
            (&json!("completed"), &Value::Null, &Value::Null)
        );
        let described = site.client.describe(&run).await.unwrap();
        let successor = described.continued_as.expect("it has a successor");
        assert_eq!(first["config"]["continuedAs"], json!(successor));
        let second = run_as_seen_by_typescript(&site, &successor).await;
        let members = ["workflowName", "status", "input", "attempts", "config"];
        assert_eq!(
            json!(members.map(|member| &second[member])),
            json!(["rounds", "pending", {"left": 0}, 0, {}])
        );
        for member in ["idempotencyKey", "parentStepAttemptId", "workerId"] {
            assert_eq!(second[member], Value::Null, "{member}");
        }

        // It can only cancel the run that is over.
        let refused = site.cancel_by(By::TypeScript, &run).await.unwrap_err();
        assert!(refused.contains("completed"), "{refused}");
        let output = site.complete_by(By::TypeScript, &successor).await;
        assert_eq!(output, json!({"by": "typescript", "left": 0}));
        // Nothing of this is lost on Rust.
        assert_eq!(
            site.output(&site.client.handle::<Value>(&*run)).await,
            output
        );
        let first = run_as_seen_by_typescript(&site, &run).await;
        assert_eq!(first["config"]["continuedAs"], json!(successor));
    }
}
