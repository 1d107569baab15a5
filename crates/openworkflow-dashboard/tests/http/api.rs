use axum::Router;
use axum::http::StatusCode;
use openworkflow::RunStatus;
use serde_json::{Value, json};

use crate::site::{Site, ask, get, post};

const JSON: &str = "application/json";

async fn read(router: &Router, path: &str) -> Value {
    let answer = ask(router, get(path)).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
    serde_json::from_str(&answer.text).expect("it is JSON")
}

#[tokio::test]
async fn it_says_what_the_pages_show() {
    let (site, [echo, fails, waits]) = Site::with_runs("x").await;
    let router: Router = site.dashboard().router();
    let runs = read(&router, "/api/runs").await;
    assert_eq!(runs["runs"].as_array().map(Vec::len), Some(3));
    let failed = read(&router, "/api/runs?status=failed").await;
    assert_eq!(failed["runs"][0]["id"], json!(fails));
    for text in ["CANNOT READ", &fails] {
        let text = text.replace(' ', "+");
        let found = read(&router, &format!("/api/runs?q={text}")).await;
        assert_eq!(found["runs"][0]["id"], json!(fails), "{text}");
        assert_eq!(found["runs"].as_array().map(Vec::len), Some(1), "{text}");
    }
    let run = read(&router, &format!("/api/runs/{echo}")).await;
    assert_eq!(run["status"], "completed");
    let picture = read(&router, &format!("/api/runs/{waits}/picture")).await;
    assert_eq!(picture["rows"][0]["name"], "go:x");
    assert_eq!(picture["rows"][0]["segments"][0]["kind"], "waiting");
    let events = read(&router, &format!("/api/runs/{fails}/events")).await;
    assert_eq!(events["events"][0]["event"], "run_created");
    let steps = read(&router, &format!("/api/runs/{fails}/steps")).await;
    assert_eq!(steps["attempts"][0]["status"], "failed");
    let workflow = read(&router, "/api/workflows/fails").await;
    assert_eq!(workflow["versions"][0]["failed"], 1);
    assert_eq!(workflow["steps"][0]["name"], "break");
    let errors = &workflow["errors"][0];
    assert_eq!(
        (&errors["step"], &errors["error_type"]),
        (&json!("break"), &json!("Unreadable"))
    );
    let overview = read(&router, "/api/overview").await;
    assert_eq!(
        (&overview["completed"], &overview["failed"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(overview["error_share"], json!(0.5));
    assert_eq!(overview["attention"][0]["what"], "failing");
}

#[tokio::test]
async fn runs_are_started_signaled_and_canceled() {
    let site = Site::new().await;
    let router: Router = site.dashboard().router();
    let body = json!({ "workflow": "waits", "input": "api", "key": "1" }).to_string();
    let started = ask(&router, post("/api/runs", JSON, &*body)).await;
    assert_eq!(started.status, StatusCode::OK, "{}", started.text);
    let again = ask(&router, post("/api/runs", JSON, &*body)).await;
    assert_eq!(again.text, started.text, "the key finds the same run");
    let id: Value = serde_json::from_str(&started.text).expect("it is JSON");
    let id = id["id"].as_str().expect("it has an id");
    site.work().await;

    let body = json!({ "signal": "go:api", "data": "now" }).to_string();
    let sent = ask(&router, post("/api/signals", JSON, body)).await;
    assert_eq!(sent.text, json!({ "run_ids": [id] }).to_string());
    site.work().await;
    let run = site.client.describe(id).await.expect("it is there");
    assert_eq!(
        (run.status, run.output.expose()),
        (RunStatus::Completed, "\"now\"")
    );

    let path = format!("/api/runs/{id}/cancel");
    let late = ask(&router, post(&path, JSON, "")).await;
    assert_eq!(late.status, StatusCode::CONFLICT);
    assert!(late.text.contains("\"remedy\""), "{}", late.text);
}

#[tokio::test]
async fn runs_that_are_over_are_run_again() {
    let (site, [echo, fails, waits]) = Site::with_runs("once").await;
    let router: Router = site.dashboard().router();
    let again = async |id: &str, body: &str| {
        let path = format!("/api/runs/{id}/again");
        ask(&router, post(&path, JSON, body)).await
    };
    for (id, body, kind) in [
        (&echo, r#"{"way":"retry"}"#, "retried"),
        (&fails, r#"{"way":"resume"}"#, "resumed"),
        (&echo, r#"{"way":"fork","step":"once"}"#, "forked"),
    ] {
        let made = again(id, body).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.text);
        let new: Value = serde_json::from_str(&made.text).expect("it is JSON");
        let new = new["id"].as_str().expect("it has an id");
        let related = site.client.related_runs(new).await.expect("it is there");
        let of = related.made_of.expect("it was made of one");
        assert_eq!((&of.run_id, of.kind.as_str()), (id, kind));
        site.work().await;
        let ended = site.client.describe(new).await.expect("it is there");
        let old = site.client.describe(id).await.expect("it is there");
        assert_eq!((ended.status, ended.input), (old.status, old.input));
    }
    let page = ask(&router, get(&format!("/runs/{echo}"))).await;
    assert!(page.text.contains("Run again as"), "{}", page.text);
    let page = ask(&router, get(&format!("/runs/{echo}/again"))).await;
    assert!(page.text.contains("Start over") && !page.text.contains("Resume"));

    for (id, body, status) in [
        (&waits, r#"{"way":"retry"}"#, StatusCode::CONFLICT),
        (&echo, r#"{"way":"resume"}"#, StatusCode::CONFLICT),
        (
            &echo,
            r#"{"way":"fork","step":"none"}"#,
            StatusCode::NOT_FOUND,
        ),
    ] {
        let refused = again(id, body).await;
        assert_eq!(refused.status, status, "{}", refused.text);
        assert!(refused.text.contains("\"remedy\":\""), "{}", refused.text);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let site = Site::new().await;
    let router: Router = site.dashboard().router();
    let cases = [
        ("/api/runs/none", StatusCode::NOT_FOUND),
        ("/api/workflows/none", StatusCode::NOT_FOUND),
        ("/api/none", StatusCode::NOT_FOUND),
        ("/api/runs?status=happy", StatusCode::BAD_REQUEST),
        ("/api/runs?since=ever", StatusCode::BAD_REQUEST),
        ("/api/runs?after=x", StatusCode::BAD_REQUEST),
        ("/runs/none", StatusCode::NOT_FOUND),
    ];
    let long = json!({ "workflow": "x".repeat(5_000) }).to_string();
    let refused = ask(&router, post("/api/runs", JSON, long)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
    for (path, status) in cases {
        let answer = ask(&router, get(path)).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
}
