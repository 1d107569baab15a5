//! What can be made of a run that is over: the same again, from where it failed, or from a step.

use std::sync::Arc;

use axum::extract::{Extension, Form, Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use openworkflow::{Client, ClientResult, RunStatus};
use serde::Deserialize;

use super::actions::{told, writable};
use super::{Page, csrf, status};
use crate::Site;
use crate::problem::Problem;
use crate::request::Visit;
use crate::text::{NAME, cut};

/// So many steps can be chosen from. Others are named by whoever asks in JSON, or by the command.
const STEPS: usize = 1_000;

/// How a new run is made.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    Retry,
    Resume,
    Fork,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Again {
    way: Way,
    /// Where a fork begins.
    #[serde(default)]
    step: String,
}

impl Again {
    /// Makes the new run of a run, and gives its id.
    pub(crate) async fn make(&self, client: &Client, run_id: &str) -> ClientResult<String> {
        match self.way {
            Way::Retry => client.retry(run_id).await,
            Way::Resume => client.resume(run_id).await,
            Way::Fork => client.fork(run_id, &self.step).await,
        }
    }
}

pub(crate) async fn ask(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    writable(&site)?;
    let summary = site.client.trace_summary(&*id).await?;
    let is_over = summary.status.is_terminal();
    let failed = matches!(summary.status, RunStatus::Failed | RunStatus::Canceled);
    let steps: Vec<&str> = summary.steps.iter().map(|step| &*step.name).collect();
    let body = html! {
        section.card.narrow {
            h1 { "Run this again?" }
            p {
                (status(&summary.status)) " "
                b { (cut(&summary.workflow_name, NAME)) } " "
                code { (cut(&id, NAME)) }
            }
            @if is_over {
                p { "A new run is made, with the same input and version. This one stays as it is." }
                (choice(&visit, &id, "retry", &html! {
                    p { b { "From the start. " } "Nothing that this run did is taken over: every step is done again." }
                    div.buttons { button { "Start over" } }
                }))
                @if failed {
                    (choice(&visit, &id, "resume", &html! {
                        p { b { "From where it failed. " } "The results of all completed steps are taken over." }
                        div.buttons { button.primary { "Resume" } }
                    }))
                }
                @if !steps.is_empty() {
                    (choice(&visit, &id, "fork", &html! {
                        p { b { "From a step. " } "The results from before it are taken over; it and what came after are done again." }
                        label for="step" { "Step" }
                        select #step name="step" {
                            @for step in steps.iter().take(STEPS) { option value=(step) { (cut(step, NAME)) } }
                        }
                        div.buttons { button { "Fork" } }
                    }))
                }
            } @else {
                p { "It still goes on. Wait for its end, or cancel it first." }
            }
            p { a href=(visit.run(&id, "")) { "Back" } }
        }
    };
    Ok(Page::new("Run again", "runs", body).show(&site, &visit))
}

fn choice(visit: &Visit, id: &str, way: &str, inside: &Markup) -> Markup {
    html! {
        form.fields method="post" action=(visit.run(id, "/again")) {
            (csrf(visit))
            input type="hidden" name="way" value=(way);
            (inside)
        }
    }
}

pub(crate) async fn make(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Path(id): Path<String>,
    Form(again): Form<Again>,
) -> Result<Response, Problem> {
    let new = again.make(&site.client, &id).await?;
    told(&visit, "made of another", &new);
    Ok(Redirect::to(&visit.run(&new, "")).into_response())
}
