//! What every request passes before anything else is done, and what every answer carries.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{NestedPath, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use crate::Site;
use crate::access::{Refusal, host, same};
use crate::pages;
use crate::problem::Problem;
use crate::request::{Visit, cookie};

/// The cookie that forms must repeat, which other sites can neither read nor set.
const CSRF: &str = "openworkflow_csrf";
/// What can be sent at most.
const MOST_BYTES: usize = 8 << 20;
/// Nothing from elsewhere, and nothing that stands in the page itself: whatever data gets into a page, it is
/// never executed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=()",
    ),
];

pub(crate) async fn guard(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let known = cookie(&parts.headers, CSRF).filter(|token| is_token(token));
    let csrf = known.map_or_else(new_token, str::to_owned);
    let is_new = known.is_none();
    let mut visit = Visit {
        base: base(&site, &parts),
        csrf,
        who: None,
    };
    let path = parts.uri.path().to_owned();
    let is_api = path.starts_with("/api/");
    let wants_page = !is_api && parts.method == Method::GET;
    let answered = answer(&site, &mut visit, parts, body, next).await;
    let mut response = match answered {
        Ok(response) => response,
        Err(refused) => *refused,
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = match is_api {
            true => crate::api::problem(&problem),
            false => pages::problem(&site, &visit, &problem),
        };
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Assets say otherwise of themselves.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    if wants_page && is_new {
        let path = if visit.base.is_empty() {
            "/"
        } else {
            &visit.base
        };
        let csrf = &visit.csrf;
        let cookie = format!("{CSRF}={csrf}; Path={path}; HttpOnly; SameSite=Strict");
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
    response
}

async fn answer(
    site: &Site,
    visit: &mut Visit,
    parts: Parts,
    body: Body,
    next: Next,
) -> Result<Response, Box<Response>> {
    let path = parts.uri.path();
    let is_asset = path.starts_with("/assets/");
    let is_login = path == "/login" && site.access.is_for_networks();
    match site.access.admit(&parts) {
        Ok(who) => visit.who = who,
        // Without data, and asked for by the page on which one logs in.
        Err(_) if is_asset => {}
        Err(Refusal::Token) if is_login => {}
        Err(Refusal::Token) if parts.method == Method::GET && !path.starts_with("/api/") => {
            return Err(Box::new(
                Redirect::to(&visit.path("/login")).into_response(),
            ));
        }
        Err(Refusal::Token) => {
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "The token is missing or wrong.");
            let problem = problem.remedy("Send it as `Authorization: Bearer TOKEN`, or log in.");
            let mut response = problem.into_response();
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
            return Err(Box::new(response));
        }
        Err(Refusal::Forbidden(text)) => {
            return Err(refused(Problem::new(StatusCode::FORBIDDEN, text)));
        }
    }
    let mut request = match parts.method {
        Method::GET | Method::HEAD => Request::from_parts(parts, body),
        _ if site.read_only && !is_login => {
            let problem = Problem::new(StatusCode::FORBIDDEN, "This page is read-only.");
            return Err(refused(problem));
        }
        _ => checked(visit, parts, body).await.map_err(refused)?,
    };
    request.extensions_mut().insert(visit.clone());
    Ok(next.run(request).await)
}

fn refused(problem: Problem) -> Box<Response> {
    Box::new(problem.into_response())
}

/// Lets through what a page of this site sends, and what only a program can send.
async fn checked(visit: &Visit, parts: Parts, body: Body) -> Result<Request, Problem> {
    if is_foreign(&parts) {
        let text = "This was sent by a page of another site, so it is not done.";
        return Err(Problem::new(StatusCode::FORBIDDEN, text));
    }
    let kind = parts.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") && parts.uri.path().starts_with("/api/") {
        // Which pages of other sites can send only where they are allowed to, and they are not.
        return Ok(Request::from_parts(parts, body));
    }
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let problem = Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("What was sent is neither a form nor JSON: {kind:?}."),
        );
        return Err(
            problem.remedy("Send it as `Content-Type: application/json` to a path of /api.")
        );
    }
    let bytes = to_bytes(body, MOST_BYTES).await.map_err(|_| {
        let text = format!("What was sent has more than {} MB.", MOST_BYTES >> 20);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    })?;
    let sent = form_urlencoded::parse(&bytes).find(|(key, _)| key == "csrf");
    let is_own = sent.is_some_and(|(_, token)| same(&token, &visit.csrf));
    if !is_own {
        let text =
            "This was sent by a page that is out of date, or of another site; nothing was done.";
        let problem = Problem::new(StatusCode::FORBIDDEN, text);
        return Err(problem.remedy("Go back, reload the page and try again."));
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Whether the browser says that a page of another site sent it.
fn is_foreign(parts: &Parts) -> bool {
    let text = |name: &str| {
        let value: Option<&HeaderValue> = HeaderMap::get(&parts.headers, name);
        value.and_then(|value| value.to_str().ok())
    };
    if let Some(from) = text("sec-fetch-site") {
        return !matches!(from, "same-origin" | "none");
    }
    // `null` comes from pages that tell nobody where they are, of which this one is one.
    let Some(origin) = text("origin").filter(|origin| *origin != "null") else {
        return false;
    };
    let origin = origin.split_once("://").map(|(_, host)| host);
    origin != host(&parts.headers, &parts.uri)
}

fn base(site: &Site, parts: &Parts) -> String {
    if let Some(base) = &site.base_path {
        return base.clone();
    }
    let nested = parts.extensions.get::<NestedPath>();
    let nested = nested.map(NestedPath::as_str).unwrap_or_default();
    nested.trim_end_matches('/').to_owned()
}

fn new_token() -> String {
    // 122 random bits each.
    let (one, two) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    format!("{}{}", one.simple(), two.simple())
}

fn is_token(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
