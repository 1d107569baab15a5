//! Lists: pages that one language begins and the other goes on with.

use std::collections::HashSet;

use openworkflow::RunStatus;
use openworkflow_tests::Database;
use serde_json::{Value, json};

use super::workflows::{BUSY, ECHO, EXHAUSTED, PARENT, PHASES};
use super::{By, Sdk, Site};

super::checks! {
    both: cursors_are_good_in_either_language;
    current:
        filters_and_rows_look_alike,
        the_calls_of_the_dashboard_show_rust_runs
}

/// Ids of a page, and its cursors.
struct Ids {
    ids: Vec<String>,
    next: Option<String>,
    prev: Option<String>,
}

fn cursor(page: &Value, name: &str) -> Option<String> {
    page["pagination"][name].as_str().map(str::to_owned)
}

/// Lists runs, or the steps of a run.
async fn page(site: &Site, by: By, run: Option<&str>, limit: u32, from: (&str, &str)) -> Ids {
    let (edge, from) = from;
    if by == By::TypeScript {
        let mut params = json!({"limit": limit});
        if !from.is_empty() {
            params[edge] = json!(from);
        }
        let page = match run {
            None => site.peer.backend("listWorkflowRuns", params).await,
            Some(run) => {
                params["workflowRunId"] = json!(run);
                site.peer.backend("listStepAttempts", params).await
            }
        };
        let items = page["data"].as_array().unwrap();
        return Ids {
            ids: items
                .iter()
                .map(|item| item["id"].as_str().unwrap().to_owned())
                .collect(),
            next: cursor(&page, "next"),
            prev: cursor(&page, "prev"),
        };
    }
    macro_rules! list {
        ($list:expr) => {{
            let list = $list.limit(limit);
            let page = match (edge, from) {
                (_, "") => list.await,
                ("after", from) => list.after(from).await,
                (_, from) => list.before(from).await,
            };
            let page = page.unwrap();
            Ids {
                ids: page.items.into_iter().map(|item| item.id).collect(),
                next: page.next,
                prev: page.prev,
            }
        }};
    }
    match run {
        None => list!(site.client.list_runs()),
        Some(run) => list!(site.client.list_steps(run)),
    }
}

/// Pages through everything, forth and back, with another language for each page.
async fn page_through(site: &Site, run: Option<&str>, all: usize) {
    let mut whole = Vec::new();
    for by in [By::Rust, By::TypeScript] {
        let page = page(site, by, run, 1000, ("after", "")).await;
        assert_eq!(
            (page.next, page.prev, page.ids.len()),
            (None, None, all),
            "{by:?}"
        );
        whole.push(page.ids);
    }
    assert_eq!(whole[0], whole[1]);
    for (first, second) in By::BOTH_WAYS {
        let mut languages = [first, second].into_iter().cycle();
        let mut seen = Vec::new();
        let mut from = String::new();
        let mut last = loop {
            let by = languages.next().unwrap();
            let page = page(site, by, run, 4, ("after", &from)).await;
            seen.extend(page.ids.clone());
            match page.next.clone() {
                Some(next) => from = next,
                None => break page,
            }
        };
        assert_eq!(seen, whole[0]);
        let mut back: Vec<Vec<String>> = Vec::new();
        while let Some(prev) = last.prev {
            let by = languages.next().unwrap();
            last = page(site, by, run, 4, ("before", &prev)).await;
            back.push(last.ids.clone());
        }
        let back: Vec<_> = back.into_iter().rev().flatten().collect();
        assert_eq!(back, whole[0][..back.len()]);
        assert!(back.len() >= all - 4);
    }
    let distinct: HashSet<_> = whole[0].iter().collect();
    assert_eq!(distinct.len(), all);
}

async fn cursors_are_good_in_either_language(sdk: Sdk) {
    let site = Site::new(sdk).await;
    for _ in 0..9 {
        site.start_by(By::Rust, &ECHO, Value::Null).await;
        site.start_by(By::TypeScript, &ECHO, Value::Null).await;
    }
    let busy = site.start(&BUSY, json!({"run": 1, "steps": 15})).await;
    let worker = site.work(By::Rust).await;
    site.output(&busy).await;
    site.rest(worker).await;
    page_through(&site, None, 19).await;
    page_through(&site, Some(busy.id()), 17).await;
    // As many as can be in the same millisecond.
    site.db
        .execute(
            "UPDATE workflow_runs SET created_at = (SELECT min(created_at) FROM workflow_runs);
             UPDATE step_attempts SET created_at = (SELECT min(created_at) FROM step_attempts)",
        )
        .await;
    page_through(&site, None, 19).await;
    page_through(&site, Some(busy.id()), 17).await;
}

async fn filters_and_rows_look_alike(sdk: Sdk) {
    let site = Site::new(sdk).await;
    for by in [By::Rust, By::TypeScript] {
        let run = site.start_by(by, &ECHO, json!({"n": 1})).await;
        let worker = site.work_on(by, &["echo"]).await;
        site.ended(&run).await;
        site.rest(worker).await;
        site.start_by(by, &BUSY, json!({"run": 1, "steps": 1}))
            .await;
    }
    for (status, workflow, count) in [
        ("completed", "echo", 2),
        ("pending", "echo", 0),
        ("pending", "busy", 2),
    ] {
        let rust = site
            .client
            .list_runs()
            .status(RunStatus::from_stored(status))
            .workflow(workflow)
            .await
            .unwrap();
        let params = json!({"status": status, "workflowName": workflow});
        let typescript = site.peer.backend("listWorkflowRuns", params).await;
        let typescript = typescript["data"].as_array().unwrap();
        assert_eq!((rust.items.len(), typescript.len()), (count, count));
        for (rust, typescript) in rust.items.iter().zip(typescript) {
            assert_eq!(typescript["id"], *rust.id);
            assert_eq!(typescript["status"], rust.status.as_str());
            assert_eq!(typescript["workflowName"], *rust.workflow_name);
            assert_eq!(typescript["attempts"], rust.attempts);
            let input: Value = serde_json::from_str(rust.input.expose()).unwrap();
            assert_eq!(typescript["input"], input);
            let output: Value = serde_json::from_str(rust.output.expose()).unwrap();
            assert_eq!(typescript["output"], output);
        }
    }
}

/// The dashboard is no more than these calls, and pages that show what they answer.
async fn the_calls_of_the_dashboard_show_rust_runs(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let echo = site.start_by(By::Rust, &ECHO, json!({"n": 1})).await;
    let exhausted = site.start_by(By::Rust, &EXHAUSTED, Value::Null).await;
    let waits = site
        .start_by(By::Rust, &PHASES, json!({"signal": "s"}))
        .await;
    let input = json!({"child": {"mode": "ok"}});
    let parent = site.start_by(By::Rust, &PARENT, input).await;
    let worker = site.work(By::Rust).await;
    for run in [&echo, &exhausted, &parent] {
        site.ended(run).await;
    }
    site.parked(&waits, 1).await;
    site.rest(worker).await;
    let get = async |run: &str| {
        let params = json!({"workflowRunId": run});
        site.peer.backend("getWorkflowRun", params).await
    };
    let steps = async |run: &str| {
        let params = json!({"workflowRunId": run});
        let page = site.peer.backend("listStepAttempts", params).await;
        page["data"].as_array().unwrap().clone()
    };

    // The list, with its counts.
    let counts = site.peer.backend("countWorkflowRuns", json!({})).await;
    let expected = json!({"pending": 0, "running": 1, "completed": 3, "failed": 1, "canceled": 0});
    assert_eq!(counts, expected);
    let page = site
        .peer
        .backend("listWorkflowRuns", json!({"limit": 3}))
        .await;
    assert_eq!(page["data"].as_array().unwrap().len(), 3);
    let next = json!({"limit": 3, "after": page["pagination"]["next"]});
    let page = site.peer.backend("listWorkflowRuns", next).await;
    assert_eq!(page["data"].as_array().unwrap().len(), 2);

    // A run, with its times, input, output and steps.
    let run = get(&echo).await;
    assert_eq!(
        (&run["status"], &run["input"]),
        (&json!("completed"), &json!({"n": 1}))
    );
    assert_eq!(run["output"]["by"], "rust");
    for time in ["createdAt", "startedAt", "finishedAt", "updatedAt"] {
        assert!(
            super::is_time_text(run[time].as_str().unwrap()),
            "{time}: {run}"
        );
    }
    let step = &steps(&echo).await[0];
    assert_eq!(
        (&step["kind"], &step["status"]),
        (&json!("function"), &json!("completed"))
    );
    assert_eq!(step["output"], run["output"]);

    // Errors of a run and of its steps.
    let run = get(&exhausted).await;
    assert_eq!(run["status"], "failed");
    assert_eq!(run["error"]["message"], "hopeless by rust");
    let attempts = steps(&exhausted).await;
    assert_eq!(attempts.len(), 2);
    for attempt in attempts {
        assert_eq!(
            (&attempt["status"], &attempt["stepName"]),
            (&json!("failed"), &json!("hopeless"))
        );
        assert_eq!(attempt["error"]["name"], "Hopeless");
    }

    // From a parent to its child, and back.
    let step = &steps(&parent).await[0];
    assert_eq!(step["kind"], "workflow");
    let child = get(step["childWorkflowRunId"].as_str().unwrap()).await;
    assert_eq!(child["workflowName"], "child");
    assert_eq!(child["parentStepAttemptId"], step["id"]);
    let params = json!({"stepAttemptId": step["id"]});
    let up = site.peer.backend("getStepAttempt", params).await;
    assert_eq!(up["workflowRunId"], *parent);

    // What waits, and what a click can do about it.
    let wait = &steps(&waits).await[1];
    assert_eq!(
        (&wait["kind"], &wait["context"]["signal"]),
        (&json!("signal-wait"), &json!("s"))
    );
    site.peer
        .backend("cancelWorkflowRun", json!({"workflowRunId": waits}))
        .await;
    assert_eq!(get(&waits).await["status"], "canceled");
    let started = json!({
        "workflowName": "echo", "version": null, "idempotencyKey": null, "config": {},
        "context": null, "input": {"n": 2}, "parentStepAttemptNamespaceId": null,
        "parentStepAttemptId": null, "availableAt": null, "deadlineAt": null,
    });
    let started = site.peer.backend("createWorkflowRun", started).await;
    let output = site
        .complete_by(By::Rust, started["id"].as_str().unwrap())
        .await;
    assert_eq!(output, json!({"by": "rust", "value": {"n": 2}}));
}
