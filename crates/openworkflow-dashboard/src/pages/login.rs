//! The page on which one gives the token.

use std::sync::Arc;

use axum::extract::{Extension, Form, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::{Page, csrf};
use crate::Site;
use crate::access::{COOKIE, encode};
use crate::request::Visit;

#[derive(Deserialize)]
pub(crate) struct Given {
    token: String,
}

pub(crate) async fn ask(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
) -> Response {
    Page::new("Sign in", "", form(&visit, None)).show(&site, &visit)
}

pub(crate) async fn enter(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Form(given): Form<Given>,
) -> Response {
    let token = given.token.trim();
    if !site.access.is_token(token) {
        let body = form(&visit, Some("This is not the token."));
        let mut response = Page::new("Sign in", "", body).show(&site, &visit);
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return response;
    }
    let path = visit.path("/");
    let cookie = format!(
        "{COOKIE}={}; Path={path}; HttpOnly; SameSite=Strict; Max-Age=2592000",
        encode(token)
    );
    let mut response = Redirect::to(&path).into_response();
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

fn form(visit: &Visit, problem: Option<&str>) -> Markup {
    html! {
        section.card.narrow {
            h1 { "Sign in" }
            @if let Some(problem) = problem { p.notice.bad role="alert" { (problem) } }
            form.fields method="post" action=(visit.path("/login")) {
                (csrf(visit))
                label for="token" { "Token" }
                input #token type="password" name="token" required autocomplete="current-password";
                div.buttons { button.primary { "Sign in" } }
            }
        }
    }
}
