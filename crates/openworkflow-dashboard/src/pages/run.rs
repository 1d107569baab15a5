//! One run: what it is, where its time went, what failed, and what happened, in several views.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Extension, Path, Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Page, data, events, head, waterfall};
use crate::Site;
use crate::problem::Problem;
use crate::request::{self, Visit};
use crate::story::{self, Story};
use crate::text::cut;

/// How it is shown; as the query of the URL has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Options {
    /// Empty for the picture.
    pub(super) view: String,
    children: String,
    all: String,
    scale: String,
    pub(super) after: String,
}

impl Options {
    /// Whether children are wanted; `None` where nobody said so.
    pub(crate) fn children(&self) -> Option<bool> {
        match &*self.children {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        }
    }

    /// Whether every row is wanted.
    pub(super) fn all(&self) -> bool {
        self.all == "1"
    }

    /// Whether time is to be folded.
    pub(super) fn folds(&self) -> bool {
        self.scale != "true"
    }

    /// With these parts in place of its own, as what follows `?`.
    pub(super) fn query(&self, replaced: &[(&str, &str)]) -> String {
        let own = [
            ("view", &*self.view),
            ("children", &*self.children),
            ("all", &*self.all),
            ("scale", &*self.scale),
        ];
        request::query(&own, replaced)
    }
}

pub(crate) async fn show(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Path(id): Path<String>,
    Query(options): Query<Options>,
) -> Result<Response, Problem> {
    let story = story::read(&site.client, &id, options.children()).await?;
    let now = SystemTime::now();
    let view = match &*options.view {
        "steps" => data::steps(&site, &visit, &story, &options).await?,
        "executions" => waterfall::executions(&story, &options),
        "events" => events::show(&site, &story).await?,
        "data" if site.payloads => data::payloads(&story),
        _ => waterfall::steps(&visit, &story, &options),
    };
    let body = html! {
        (head::title(&site, &visit, &story))
        (head::facts(&site, &visit, &story, now))
        (head::time(&story, now))
        (head::failures(&visit, &story, now))
        section.view aria-label="What happened" {
            (tabs(&site, &visit, &story, &options))
            (view)
        }
        (left_out(&story))
    };
    let name = cut(&story.run.workflow_name, 60);
    let mut page = Page::new(format!("{name}: {}", story.run.status), "runs", body);
    if !story.summary.status.is_terminal() {
        let seen = story::fingerprint(&story.summary).to_string();
        let query = options.query(&[("seen", &seen)]);
        page = page.live(visit.path(&format!("/live/runs/{}{query}", crate::text::encode(&id))));
    }
    Ok(page.show(&site, &visit))
}

fn tabs(site: &Site, visit: &Visit, story: &Story, options: &Options) -> Markup {
    let views = [
        ("", "By step"),
        ("executions", "By execution"),
        ("steps", "Attempts"),
        ("events", "Events"),
        ("data", "Input and output"),
    ];
    let shown = views
        .into_iter()
        .filter(|(view, _)| *view != "data" || site.payloads);
    let switch = |key: &str, value: &str, text: &str, id: &str| {
        let query = options.query(&[(key, value)]);
        html! { a id=(id) href=(visit.run(&story.run.id, &query)) { (text) } }
    };
    let is_timed = matches!(&*options.view, "" | "executions");
    html! {
        div.bar-of-tabs {
            nav.tabs aria-label="Views of this run" {
                @for (view, name) in shown {
                    @let is_here = options.view == view;
                    a href=(visit.run(&story.run.id, &options.query(&[("view", view)])))
                        aria-current=[is_here.then_some("true")]
                        data-view=(view) { (name) }
                }
            }
            @if is_timed {
                div.switches {
                    @if options.folds() { (switch("scale", "true", "True scale", "scale")) }
                    @else { (switch("scale", "", "Fold time", "scale")) }
                    @if !story.summary.children.is_empty() && options.view.is_empty() {
                        @if story.with_children { (switch("children", "0", "Without children", "children")) }
                        @else { (switch("children", "1", "With children", "children")) }
                    }
                }
            }
        }
    }
}

/// What is not on the page, and why.
fn left_out(story: &Story) -> Markup {
    let summary = &story.summary;
    let below = summary.descendants.iter().flat_map(|run| &run.unreadable);
    let unreadable: Vec<_> = summary.unreadable.iter().chain(below).take(5).collect();
    html! {
        @if summary.children_left_out > 0 {
            p.quiet { (summary.children_left_out) " runs below it are left out: there are too many." }
        }
        @for one in unreadable {
            p.notice.bad { "Cannot be read: " (cut(&one.problem, 600)) }
        }
    }
}
