//! Lists: pages that one language begins and the other goes on with.

use std::collections::HashSet;

use openworkflow_tests::Database;
use serde_json::{Value, json};

use super::workflows::{BUSY, ECHO};
use super::{By, Sdk, Site};

super::checks! {
    both: cursors_are_good_in_either_language;
    current: filters_and_rows_look_alike
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
            .status(status)
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
