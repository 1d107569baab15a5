//! The pages: each reads what it shows, and is written by the server as a whole.

pub(crate) mod actions;
pub(crate) mod again;
mod bars;
mod data;
mod events;
mod head;
pub(crate) mod login;
pub(crate) mod overview;
pub(crate) mod run;
pub(crate) mod runs;
mod waterfall;
pub(crate) mod workflow;

use std::time::SystemTime;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use openworkflow::RunStatus;

use crate::Site;
use crate::assets::{ICON, SCRIPT, STYLE};
use crate::problem::Problem;
use crate::request::Visit;
use crate::text::{cut, moment, relative, timestamp};

/// A page, without what is the same on all of them.
pub(crate) struct Page {
    pub(crate) title: String,
    /// Which part of the navigation it belongs to.
    pub(crate) part: &'static str,
    pub(crate) body: Markup,
    /// Where it is followed live.
    pub(crate) live: Option<String>,
    /// Whether it has a search of its own.
    pub(crate) searches: bool,
}

impl Page {
    pub(crate) fn new(title: impl Into<String>, part: &'static str, body: Markup) -> Self {
        Self {
            title: title.into(),
            part,
            body,
            live: None,
            searches: false,
        }
    }

    pub(crate) fn live(mut self, path: String) -> Self {
        self.live = Some(path);
        self
    }

    pub(crate) fn show(&self, site: &Site, visit: &Visit) -> Response {
        let page = layout(site, visit, self);
        let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
        (kind, page.into_string()).into_response()
    }
}

fn layout(site: &Site, visit: &Visit, page: &Page) -> Markup {
    let link = |part: &str, path: &str, name: &str| {
        html! {
            a href=(visit.path(path)) aria-current=[(page.part == part).then_some("page")] { (name) }
        }
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (page.title) " · OpenWorkflow" }
                link rel="icon" type="image/svg+xml" href=(visit.path(&ICON.path()));
                link rel="stylesheet" href=(visit.path(&STYLE.path()));
                script defer src=(visit.path(&SCRIPT.path())) {}
            }
            body data-live=[page.live.as_deref()] {
                a.skip href="#main" { "Skip to content" }
                header.top {
                    div.inner {
                        a.brand href=(visit.path("/")) { (mark()) span { "OpenWorkflow" } }
                        nav aria-label="Pages" {
                            (link("overview", "/", "Overview"))
                            (link("runs", "/runs", "Runs"))
                            @if !site.read_only {
                                (link("start", "/start", "Start"))
                                (link("signal", "/signal", "Signal"))
                            }
                        }
                        @if !page.searches {
                            form.search role="search" method="get" action=(visit.path("/runs")) {
                                input #search type="search" name="q" autocomplete="off"
                                    placeholder="Id, key or error" aria-label="Search runs by id, key or error";
                            }
                        }
                    }
                }
                main #main tabindex="-1" {
                    div #live { (page.body) }
                }
                footer.bottom {
                    div.inner {
                        span #pulse role="status" {}
                        @if let Some(who) = &visit.who { span { "Signed in as " (cut(who, 60)) } }
                        @if site.read_only { span { "Read-only" } }
                        span.keys { kbd { "?" } " keys" }
                    }
                }
                dialog #keys aria-labelledby="keys-title" {
                    h2 #keys-title { "Keys" }
                    dl {
                        @for (key, what) in KEYS {
                            div { dt { kbd { (key) } } dd { (what) } }
                        }
                    }
                    form method="dialog" { button { "Close" } }
                }
            }
        }
    }
}

const KEYS: [(&str, &str); 8] = [
    ("j", "next row"),
    ("k", "previous row"),
    ("enter", "open the row"),
    ("/", "search"),
    ("e", "by step or by execution"),
    ("t", "true scale or folded"),
    ("+ −", "zoom"),
    ("?", "these keys"),
];

fn mark() -> Markup {
    PreEscaped(
        r#"<svg class="mark" viewBox="0 0 16 16" aria-hidden="true"><rect x="1" y="2" width="8" height="3" rx="1.5"/><rect x="5" y="6.5" width="7" height="3" rx="1.5"/><rect x="9" y="11" width="6" height="3" rx="1.5"/></svg>"#
            .to_owned(),
    )
}

/// The page of what cannot be shown or done.
pub(crate) fn problem(site: &Site, visit: &Visit, problem: &Problem) -> Response {
    let status = problem.status;
    let title = status.canonical_reason().unwrap_or("Problem");
    let body = html! {
        section.card.problem {
            p.eyebrow { (status.as_u16()) }
            h1 { (title) }
            p { (cut(&problem.text, 2_000)) }
            @if let Some(remedy) = &problem.remedy { p.quiet { (remedy) } }
            p { a href=(visit.path("/runs")) { "All runs" } }
        }
    };
    let mut response = Page::new(title, "", body).show(site, visit);
    *response.status_mut() = status;
    response
}

/// A status, as shape, color and word.
fn status(status: &RunStatus) -> Markup {
    let (class, glyph) = match status {
        RunStatus::Completed | RunStatus::Succeeded => ("good", "✓"),
        RunStatus::Failed => ("bad", "✗"),
        RunStatus::Canceled => ("over", "⊘"),
        RunStatus::Running => ("going", "●"),
        RunStatus::Pending => ("waiting", "○"),
        RunStatus::Sleeping => ("waiting", "◐"),
        _ => ("over", "?"),
    };
    html! {
        span class={ "status " (class) } {
            span.glyph aria-hidden="true" { (glyph) } " " (cut(status.as_str(), 20))
        }
    }
}

/// A time as how long ago it is, with the time itself for whoever points at it.
fn ago(at: SystemTime, now: SystemTime) -> Markup {
    html! {
        time datetime=(timestamp(at)) title={ (moment(at)) " UTC" } data-relative { (relative(at, now)) }
    }
}

/// A time as it is.
fn exactly(at: SystemTime) -> Markup {
    html! { time datetime=(timestamp(at)) { (moment(at)) } }
}

fn csrf(visit: &Visit) -> Markup {
    html! { input type="hidden" name="csrf" value=(visit.csrf); }
}
