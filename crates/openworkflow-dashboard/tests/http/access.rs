use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, StatusCode};
use openworkflow_dashboard::Access;

use crate::site::{FORM, Site, ask, get, post};

const TOKEN: &str = "correct horse; battery=staple";

fn elsewhere() -> ConnectInfo<SocketAddr> {
    ConnectInfo(SocketAddr::from(([192, 0, 2, 7], 40_000)))
}

#[tokio::test]
async fn by_default_the_machine_itself_gets_in() {
    let router: Router = Site::new().await.dashboard().router();
    for host in ["127.0.0.1:4780", "localhost", "LOCALHOST:80", "[::1]:4780"] {
        let mut request = get("/runs");
        let host_header = HeaderValue::from_static(host);
        request.headers_mut().insert("host", host_header);
        assert_eq!(ask(&router, request).await.status, StatusCode::OK, "{host}");
    }
}

#[tokio::test]
async fn others_do_not() {
    let router: Router = Site::new().await.dashboard().router();
    let mut request = get("/runs");
    request.extensions_mut().insert(elsewhere());
    assert_eq!(ask(&router, request).await.status, StatusCode::FORBIDDEN);
    // Served without saying who asks.
    let mut request = get("/runs");
    request.extensions_mut().remove::<ConnectInfo<SocketAddr>>();
    let answer = ask(&router, request).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.text.contains("into_make_service_with_connect_info"));
}

#[tokio::test]
async fn a_name_that_somebody_pointed_here_does_not_get_in() {
    let router: Router = Site::new().await.dashboard().router();
    for host in [
        "evil.example",
        "evil.example:4780",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
    ] {
        for path in ["/runs", "/api/runs", "/live"] {
            let mut request = get(path);
            let value = HeaderValue::from_str(host).expect("it is fit");
            request.headers_mut().insert("host", value);
            let answer = ask(&router, request).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{host} {path}");
        }
    }
}

#[tokio::test]
async fn a_token_lets_in() {
    let access = Access::token(TOKEN).expect("it is long enough");
    let router: Router = Site::new().await.dashboard().access(access).router();
    let mut request = get("/runs");
    request.extensions_mut().insert(elsewhere());
    let answer = ask(&router, request).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER);
    assert_eq!(answer.header("location"), "/login");
    assert_eq!(
        ask(&router, get("/api/runs")).await.status,
        StatusCode::UNAUTHORIZED
    );

    let with = |value: &str| {
        let mut request = get("/api/runs");
        let value = HeaderValue::from_str(value).expect("it is fit");
        request.headers_mut().insert("authorization", value);
        request
    };
    let right = ask(&router, with(&format!("Bearer {TOKEN}"))).await;
    assert_eq!(right.status, StatusCode::OK);
    for wrong in [
        "",
        "correct",
        "correct horse; battery=stapl",
        "correct horse; battery=staplf",
    ] {
        let answer = ask(&router, with(&format!("Bearer {wrong}"))).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{wrong}");
    }
}

#[tokio::test]
async fn signing_in_sets_a_cookie_that_lets_in() {
    let access = Access::token(TOKEN).expect("it is long enough");
    let router: Router = Site::new().await.dashboard().access(access).router();
    let form = ask(&router, get("/login")).await;
    assert_eq!(form.status, StatusCode::OK);
    let csrf = form
        .header("set-cookie")
        .split(';')
        .next()
        .expect("it is set")
        .to_owned();
    let sent = csrf.split_once('=').expect("it has a value").1;

    let sign_in = |token: &str| {
        let token = token
            .replace(';', "%3B")
            .replace('=', "%3D")
            .replace(' ', "+");
        let mut request = post("/login", FORM, format!("csrf={sent}&token={token}"));
        let cookie = HeaderValue::from_str(&csrf).expect("it is fit");
        request.headers_mut().insert("cookie", cookie);
        request
    };
    let wrong = ask(&router, sign_in("somebody else's")).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let right = ask(&router, sign_in(TOKEN)).await;
    assert_eq!(right.status, StatusCode::SEE_OTHER);
    let cookie = right.header("set-cookie");
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );

    let mut request = get("/runs");
    let cookie = cookie.split(';').next().expect("it is set");
    let cookie = HeaderValue::from_str(cookie).expect("it is fit");
    request.headers_mut().insert("cookie", cookie);
    assert_eq!(ask(&router, request).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_token_that_can_be_guessed_is_refused() {
    let refused = Access::token("secret").expect_err("it is short");
    assert!(refused.to_string().contains("openssl rand"), "{refused}");
}

#[tokio::test]
async fn a_proxy_says_whom_it_has_let_in() {
    let proxy: IpAddr = [192, 0, 2, 7].into();
    let access = Access::proxy("x-forwarded-user", [proxy]).expect("the header is one");
    let router: Router = Site::new().await.dashboard().access(access).router();
    let with = |user: Option<&'static str>, from: ConnectInfo<SocketAddr>| {
        let mut request = get("/runs");
        request.extensions_mut().insert(from);
        if let Some(user) = user {
            let user = HeaderValue::from_static(user);
            request.headers_mut().insert("x-forwarded-user", user);
        }
        request
    };
    let let_in = ask(&router, with(Some("ada"), elsewhere())).await;
    assert_eq!(let_in.status, StatusCode::OK);
    assert!(let_in.text.contains("Signed in as ada"));
    let stranger = ConnectInfo(SocketAddr::from(([192, 0, 2, 8], 40_000)));
    for request in [
        with(None, elsewhere()),
        with(Some(""), elsewhere()),
        with(Some("ada"), stranger),
    ] {
        assert_eq!(ask(&router, request).await.status, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn every_answer_is_guarded() {
    let (site, [id, ..]) = Site::with_runs("x").await;
    let router: Router = site.dashboard().router();
    let run = format!("/runs/{id}");
    let paths = [
        "/",
        "/runs",
        "/start",
        "/signal",
        "/nothing",
        "/api/runs",
        "/api/nothing",
        &run,
    ];
    for path in paths {
        let answer = ask(&router, get(path)).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(
            !policy.contains("unsafe") && !policy.contains("data:"),
            "{path}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        let page = &answer.text;
        assert!(
            !page.contains("style=") && !page.contains("<style"),
            "{path}"
        );
        let scripts = page.matches("<script").count();
        assert_eq!(
            scripts,
            page.matches("<script defer src=\"/assets/").count(),
            "{path}"
        );
        assert!(
            !page.contains("http://") && !page.contains("https://"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn assets_may_be_kept() {
    let router: Router = Site::new().await.dashboard().router();
    let page = ask(&router, get("/")).await.text;
    for kind in ["css", "js", "svg"] {
        let path = page
            .split('"')
            .find(|text| text.starts_with("/assets/") && text.ends_with(kind))
            .expect("the page has it");
        let asset = ask(&router, get(path)).await;
        assert_eq!(asset.status, StatusCode::OK, "{path}");
        assert!(
            asset.header("cache-control").contains("immutable"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn nested_it_finds_itself() {
    let (site, [id, ..]) = Site::with_runs("x").await;
    let router: Router = Router::new().nest("/ops/workflows", site.dashboard().router());
    for path in [
        "/ops/workflows",
        "/ops/workflows/runs",
        &format!("/ops/workflows/runs/{id}"),
    ] {
        let answer = ask(&router, get(path)).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        for attribute in ["href=\"/", "src=\"/", "action=\"/", "data-live=\"/"] {
            for link in answer.text.split(attribute).skip(1) {
                assert!(link.starts_with("ops/workflows"), "{path}: {link:.40}");
            }
        }
    }
}
