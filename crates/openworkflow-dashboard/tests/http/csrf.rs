use axum::Router;
use axum::http::{HeaderValue, Request, StatusCode};
use openworkflow::RunStatus;

use crate::site::{FORM, Site, ask, get, post};

async fn csrf(router: &Router) -> String {
    let answer = ask(router, get("/start")).await;
    let cookie = answer.header("set-cookie").split(';').next();
    let token = cookie
        .and_then(|cookie| cookie.split_once('='))
        .expect("it is set")
        .1;
    assert!(answer.text.contains(token), "the form has it");
    token.to_owned()
}

fn with<B>(mut request: Request<B>, headers: &[(&'static str, &str)]) -> Request<B> {
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).expect("it is fit");
        request.headers_mut().insert(*name, value);
    }
    request
}

#[tokio::test]
async fn a_form_of_this_page_does_what_it_says() {
    let (site, [_, _, waiting]) = Site::with_runs("x").await;
    let router: Router = site.dashboard().router();
    let token = csrf(&router).await;
    let cookie = format!("openworkflow_csrf={token}");
    let request = post(
        &format!("/runs/{waiting}/cancel"),
        FORM,
        format!("csrf={token}"),
    );
    // As browsers send it from a page that does not say where it is.
    let headers = [
        ("cookie", &*cookie),
        ("origin", "null"),
        ("sec-fetch-site", "same-origin"),
    ];
    let answer = ask(&router, with(request, &headers)).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    let run = site.client.describe(&waiting).await.expect("it is there");
    assert_eq!(run.status, RunStatus::Canceled);
}

#[tokio::test]
async fn a_form_of_another_page_does_nothing() {
    let (site, [_, _, waiting]) = Site::with_runs("x").await;
    let router: Router = site.dashboard().router();
    let token = csrf(&router).await;
    let cookie = format!("openworkflow_csrf={token}");
    let path = format!("/runs/{waiting}/cancel");
    let right = format!("csrf={token}");
    let wrong = format!("csrf={}", "0".repeat(64));
    let attempts: [(&str, &[(&str, &str)]); 7] = [
        ("", &[("cookie", &cookie)]),
        (&wrong, &[("cookie", &cookie)]),
        (&right, &[]),
        // A cookie that no page of this site was given.
        ("csrf=", &[("cookie", "openworkflow_csrf=")]),
        ("csrf=x", &[("cookie", "openworkflow_csrf=x")]),
        (
            &right,
            &[("cookie", &cookie), ("sec-fetch-site", "cross-site")],
        ),
        (
            &right,
            &[("cookie", &cookie), ("origin", "http://evil.example")],
        ),
    ];
    for (body, headers) in attempts {
        let answer = ask(&router, with(post(&path, FORM, body), headers)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{body} {headers:?}");
    }
    let run = site.client.describe(&waiting).await.expect("it is there");
    assert_eq!(run.status, RunStatus::Running);
}

#[tokio::test]
async fn programs_send_json_and_pages_cannot() {
    let (site, [_, _, waiting]) = Site::with_runs("x").await;
    let router: Router = site.dashboard().router();
    let path = format!("/api/runs/{waiting}/cancel");
    for kind in ["text/plain", "multipart/form-data", ""] {
        let answer = ask(&router, post(&path, kind, "{}")).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
    }
    let request = post(&path, "application/json", "{}");
    let foreign = with(request, &[("origin", "http://evil.example")]);
    assert_eq!(ask(&router, foreign).await.status, StatusCode::FORBIDDEN);
    // A page cannot be posted to as JSON.
    let page = post(&format!("/runs/{waiting}/cancel"), "application/json", "{}");
    assert_eq!(
        ask(&router, page).await.status,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    let answer = ask(&router, post(&path, "application/json", "{}")).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn read_only_is_read_only() {
    let (site, [_, _, waiting]) = Site::with_runs("x").await;
    let router: Router = site.dashboard().read_only(true).router();
    let run = ask(&router, get(&format!("/runs/{waiting}"))).await;
    assert!(!run.text.contains("/cancel"), "nothing offers it");
    for path in [
        "/start",
        "/signal",
        &format!("/runs/{waiting}/cancel"),
        &format!("/runs/{waiting}/again"),
    ] {
        assert_eq!(
            ask(&router, get(path)).await.status,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
    let posts = [
        "/api/runs",
        "/api/signals",
        &format!("/api/runs/{waiting}/cancel"),
    ];
    for path in posts {
        let answer = ask(&router, post(path, "application/json", "{}")).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
    let run = site.client.describe(&waiting).await.expect("it is there");
    assert_eq!(run.status, RunStatus::Running);
}
