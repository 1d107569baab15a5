//! A mixed fleet at work.

use std::time::{Duration, Instant};

use futures::future::join_all;
use openworkflow_tests::{Database, TIME_COLUMNS};
use serde_json::{Value, json};

use super::workflows::{BUSY, PHASES};
use super::{By, Sdk, SharedDatabase, Site};
use crate::Db;

super::checks! {
    both: a_mixed_fleet_does_every_step_once;
    current:
        rust_works_undisturbed_by_a_busy_client,
        rows_of_both_have_times_of_one_form
}

const RUNS: usize = 60;
const STEPS: usize = 15;

/// What `busy` returns.
fn made(index: usize) -> Value {
    let steps = (0..STEPS).map(|step| format!("{index}.{step}"));
    steps.chain([format!("{index}.last")]).collect()
}

/// A client and a reader in TypeScript, as an application and its dashboard are, beside a worker in
/// Rust under load.
async fn rust_works_undisturbed_by_a_busy_client(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let worker = site.work(By::Rust).await;
    let start = |index| {
        let site = &site;
        async move {
            let run = site
                .peer
                .start("busy", json!({"run": index, "steps": STEPS}))
                .await;
            site.peer.backend("listWorkflowRuns", json!({})).await;
            site.peer
                .backend("listStepAttempts", json!({"workflowRunId": run}))
                .await;
            site.peer.backend("countWorkflowRuns", json!({})).await;
            (index, run)
        }
    };
    for (index, run) in join_all((0..RUNS).map(start)).await {
        let row = site.ended(&run).await;
        assert_eq!(
            (row.status.as_str(), row.attempts),
            ("completed", 2),
            "{row:#?}"
        );
        assert_eq!(row.output, Some(made(index)));
        // With the sleep: one attempt at each step, none again.
        assert_eq!(site.steps(&run).await.len(), STEPS + 2);
    }
    site.rest(worker).await;
    assert_eq!(site.peer.stderr(), "");
    if !Db::HAS_ONE_WRITER {
        assert_eq!(site.peer.call("locked", json!({})).await, 0);
    }
}

/// Workers in both languages, under load.
async fn a_mixed_fleet_does_every_step_once(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let typescript = site.work(By::TypeScript).await;
    let rust = site.work(By::Rust).await;
    let start = |index| {
        let site = &site;
        let by = if index % 2 == 0 {
            By::Rust
        } else {
            By::TypeScript
        };
        async move {
            let run = site
                .start_by(by, &BUSY, json!({"run": index, "steps": STEPS}))
                .await;
            (index, run)
        }
    };
    let runs = join_all((0..RUNS).map(start)).await;
    all_end(&site).await;
    let mut failed = 0;
    for (index, run) in &runs {
        let row = site.db.run(run).await;
        let steps = site.steps(run).await;
        if Db::HAS_ONE_WRITER && row.error_message() == Some("database is locked") {
            // TypeScript does not wait for its turn to write, and fails the run instead. It does so
            // beside another process in TypeScript too.
            failed += 1;
            continue;
        }
        assert_eq!(row.status, "completed", "{row:#?}");
        assert_eq!(row.output, Some(made(*index)));
        let completed = steps.iter().filter(|step| step.status == "completed");
        assert_eq!(completed.count(), STEPS + 2, "{steps:#?}");
        if !Db::HAS_ONE_WRITER {
            assert_eq!(steps.len(), STEPS + 2, "a step ran again: {steps:#?}");
        }
    }
    site.rest(rust).await;
    site.rest(typescript).await;
    assert!(failed < RUNS / 2, "{failed} of {RUNS} runs failed");
    if !Db::HAS_ONE_WRITER {
        assert_eq!(site.peer.stderr(), "");
    }
}

/// Waits until all runs are over. Where nothing happens for a while, a worker in TypeScript lost a
/// run to the lock; its lease is then made to end.
async fn all_end(site: &Site) {
    const OPEN: &str = "SELECT count(*), max(updated_at) FROM workflow_runs
        WHERE status IN ('pending', 'running')";
    let begin = Instant::now();
    let mut last = Vec::new();
    let mut since = begin;
    loop {
        let open = site.db.query(OPEN).await;
        if open[0][0].as_deref() == Some("0") {
            return;
        }
        if last != open {
            last = open;
            since = Instant::now();
        } else if since.elapsed() > Duration::from_secs(2) {
            site.advance(Duration::from_secs(31)).await;
            since = Instant::now();
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "runs are left: {last:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn rows_of_both_have_times_of_one_form(sdk: Sdk) {
    let site = Site::new(sdk).await;
    for (first, second) in By::BOTH_WAYS {
        let deadline = json!({"workflow": "phases", "input": {"signal": first.name()},
            "options": {"deadlineAt": "2099-01-01T00:00:00.000Z", "availableAt": "1ms"}});
        let run = match first {
            By::Rust => {
                let input = json!({"signal": first.name()});
                let start = site
                    .client
                    .start(&PHASES, &input)
                    .deadline("9 days")
                    .delay("1ms");
                start.await.unwrap().id().to_owned()
            }
            By::TypeScript => site.peer.start_with(deadline).await,
        };
        site.park_by(first, &run, 1).await;
        site.signal_by(second, first.name(), Value::Null).await;
        site.complete_by(second, &run).await;
        let parked = site
            .start_by(second, &PHASES, json!({"signal": "other"}))
            .await;
        site.park_by(first, &parked, 1).await;
    }
    let mut times = 0;
    for (table, columns) in TIME_COLUMNS {
        for column in columns {
            let values = format!("SELECT {column} FROM {table} WHERE {column} IS NOT NULL");
            for row in site.db.query(&values).await {
                let text = row[0].as_deref().unwrap();
                site.db.assert_time_text(table, column, text);
                times += 1;
            }
        }
    }
    for step in site
        .db
        .query("SELECT context FROM step_attempts WHERE context IS NOT NULL")
        .await
    {
        let context: Value = serde_json::from_str(step[0].as_deref().unwrap()).unwrap();
        let at = context["timeoutAt"].as_str().unwrap();
        assert!(super::is_time_text(at), "{context}");
        times += 1;
    }
    assert!(times > 60, "{times} times");
}
