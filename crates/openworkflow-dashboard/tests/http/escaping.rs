use axum::Router;
use axum::http::StatusCode;

use crate::site::{Site, ask, get};

const HOSTILE: &str =
    "\"><script>alert(1)</script><img src=x onerror=alert(2)>\u{1b}[31m\u{202e}'&";

#[tokio::test]
async fn names_and_errors_are_text() {
    let (site, [echo, fails, waits]) = Site::with_runs(HOSTILE).await;
    let router: Router = site.dashboard().router();
    let mut paths = vec![
        "/".to_owned(),
        "/runs".to_owned(),
        "/runs?status=failed".to_owned(),
        "/workflows/fails".to_owned(),
        "/workflows/%3Cscript%3E".to_owned(),
    ];
    for id in [&echo, &fails, &waits] {
        for view in ["", "executions", "steps", "events", "data"] {
            paths.push(format!("/runs/{id}?view={view}"));
        }
    }
    paths.push(format!("/runs/{waits}/signal"));
    paths.push(format!("/runs/{waits}/cancel"));
    let query = "/runs?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&workflow=%3Cscript%3E";
    paths.push(query.to_owned());
    paths.push("/runs?status=%3Cscript%3Ealert(1)%3C/script%3E".to_owned());
    paths.push("/runs/%3Cscript%3Ealert(1)%3C%2Fscript%3E".to_owned());
    let mut told = 0;
    for path in paths {
        let answer = ask(&router, get(&path)).await;
        let page = &answer.text;
        assert!(
            !page.contains("<script>") && !page.contains("<img"),
            "{path}"
        );
        for c in ['\u{1b}', '\u{202e}'] {
            // What is sent back has to be what it was.
            let is_field = path.ends_with("/signal");
            assert!(is_field || !page.contains(c), "{path} has {c:?}");
        }
        told += usize::from(page.contains("&lt;script&gt;alert(1)"));
    }
    assert!(told >= 8, "they are shown, on {told} pages");
}

#[tokio::test]
async fn payloads_are_shown_where_they_are_switched_on_only() {
    let secret = "4242-secret";
    let (site, [echo, ..]) = Site::with_runs(secret).await;
    let output = "echo of";
    let shown = |router: Router| {
        let echo = echo.clone();
        async move {
            let mut shown = Vec::new();
            for path in [
                format!("/runs/{echo}?view=data"),
                format!("/runs/{echo}?view=steps"),
                format!("/api/runs/{echo}/steps"),
                "/api/runs?workflow=echo".to_owned(),
            ] {
                let answer = ask(&router, get(&path)).await;
                assert_eq!(answer.status, StatusCode::OK, "{path}");
                shown.push(answer.text.contains(output));
            }
            shown
        }
    };
    assert_eq!(shown(site.dashboard().router()).await, [false; 4]);
    assert_eq!(
        shown(site.dashboard().payloads(true).router()).await,
        [true; 4]
    );
}

#[tokio::test]
async fn what_is_large_is_cut() {
    let large = "x".repeat(1 << 20);
    let (site, [_, fails, _]) = {
        let site = Site::new().await;
        let run = site.client.start(&crate::site::FAILS, &large).await;
        let id = run.expect("it starts").id().to_owned();
        site.work().await;
        (site, [String::new(), id, String::new()])
    };
    let router: Router = site.dashboard().router();
    for path in [
        "/",
        "/runs",
        &format!("/runs/{fails}"),
        &format!("/runs/{fails}?view=events"),
    ] {
        let answer = ask(&router, get(path)).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert!(
            answer.text.len() < 64 << 10,
            "{path}: {} bytes",
            answer.text.len()
        );
    }
}
