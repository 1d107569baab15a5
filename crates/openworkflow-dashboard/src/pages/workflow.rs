//! One workflow: where its runs spend their time, and what fails in them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use maud::{Markup, html};
use openworkflow::trace::picture::duration;

use super::Page;
use crate::Site;
use crate::problem::Problem;
use crate::request::Visit;
use crate::text::{NAME, count, cut, number};
use crate::workflow::{self, Workflow};

pub(crate) async fn show(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let workflow = workflow::read(&site.client, &name).await?;
    let workflow = workflow.ok_or_else(|| missing(&name))?;
    let runs = form_urlencoded::Serializer::new(String::new())
        .append_pair("workflow", &name)
        .finish();
    let body = html! {
        nav.crumbs aria-label="Where this is" { a href=(visit.path("/")) { "← Overview" } }
        div.title {
            h1 { (cut(&name, NAME)) }
            a.button href=(visit.path(&format!("/runs?{runs}"))) { "Its runs" }
        }
        (versions(&workflow))
        (steps(&workflow))
        (errors(&workflow, &visit))
        p.quiet.basis {
            "Of its "
            @if !workflow.is_all { "newest " }
            (count(workflow.sampled, "run", "runs"))
            @if workflow.read < workflow.sampled { "; steps and errors of the newest " (workflow.read) }
            "."
            @if workflow.left_out > 0 { " " (workflow.left_out) " rows are left out." }
        }
    };
    Ok(Page::new(cut(&name, 60), "overview", body).show(&site, &visit))
}

pub(crate) fn missing(name: &str) -> Problem {
    let text = format!("There is no run of the workflow {:?}.", cut(name, NAME));
    Problem::new(StatusCode::NOT_FOUND, text)
        .remedy("Check its name, the database and the namespace.")
}

fn seconds(value: Option<f64>) -> String {
    match value {
        Some(value) => duration(Duration::from_secs_f64(value.max(0.0))),
        None => "–".to_owned(),
    }
}

fn versions(workflow: &Workflow) -> Markup {
    html! {
        section aria-labelledby="versions" {
            h2 #versions { "Versions" }
            div.scroll tabindex="0" role="region" aria-label="Table of versions" {
                table {
                    thead { tr {
                        th scope="col" { "Version" }
                        th.number scope="col" { "Runs" }
                        th.number scope="col" { "Active" }
                        th.number scope="col" { "Failed" }
                        th.number scope="col" { "p50" }
                        th.number scope="col" { "p95" }
                    } }
                    tbody {
                        @for of in &workflow.versions {
                            tr {
                                td.name {
                                    @match &of.version {
                                        Some(version) => (cut(version, 60)),
                                        None => span.quiet { "none" },
                                    }
                                }
                                td.number { (number(of.runs as u64)) }
                                td.number { (number(of.active as u64)) }
                                td.number {
                                    @if of.ended == 0 { "–" }
                                    @else { (of.failed) " (" (format!("{:.1}", of.failed as f64 / of.ended as f64 * 100.0)) " %)" }
                                }
                                td.number { (seconds(of.p50_seconds)) }
                                td.number { (seconds(of.p95_seconds)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn steps(workflow: &Workflow) -> Markup {
    let most = workflow
        .steps
        .first()
        .map_or(0.0, |step| step.seconds)
        .max(1e-9);
    html! {
        section aria-labelledby="steps" {
            h2 #steps { "Where the time goes" }
            @if workflow.steps.is_empty() { div.empty { p { "None of these runs has a step." } } }
            @else {
                div.scroll tabindex="0" role="region" aria-label="Table of steps" {
                    table {
                        thead { tr {
                            th scope="col" { "Step" }
                            th.share scope="col" { "In all" }
                            th.number scope="col" { span.hidden { "Time in all" } }
                            th.number scope="col" { "Count" }
                            th.number scope="col" { "Attempts" }
                            th.number scope="col" { "p50" }
                            th.number scope="col" { "p95" }
                        } }
                        tbody {
                            @for step in &workflow.steps {
                                @let share = (step.seconds / most * 100.0).clamp(0.4, 100.0);
                                @let waits = matches!(&*step.kind, "sleep" | "signal-wait" | "workflow");
                                tr {
                                    td.name { span title=(cut(&step.name, NAME)) { (cut(&step.name, 60)) } " " span.kind { (cut(&step.kind, 20)) } }
                                    td.share {
                                        svg aria-hidden="true" width="100%" height="12" {
                                            rect class=(if waits { "wait" } else { "work" }) x="0.5" y="1.5"
                                                width={ (format!("{share:.1}")) "%" } height="9" rx="2" {}
                                        }
                                    }
                                    td.number { (seconds(Some(step.seconds))) }
                                    td.number { (number(step.count as u64)) }
                                    td.number { (number(u64::from(step.attempts))) }
                                    td.number { (seconds(step.p50_seconds)) }
                                    td.number { (seconds(step.p95_seconds)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn errors(workflow: &Workflow, visit: &Visit) -> Markup {
    html! {
        section aria-labelledby="errors" {
            h2 #errors { "What fails" }
            @if workflow.errors.is_empty() { p.calm { span.good aria-hidden="true" { "✓ " } "Nothing failed in these runs." } }
            @else {
                div.scroll tabindex="0" role="region" aria-label="Table of errors" {
                    table {
                        thead { tr {
                            th.number scope="col" { "Failures" }
                            th scope="col" { "Step" }
                            th scope="col" { "Error" }
                            th scope="col" { "Newest" }
                        } }
                        tbody {
                            @for failing in &workflow.errors {
                                tr data-row {
                                    td.number { (number(failing.count as u64)) }
                                    td.name { @match &failing.step { Some(step) => (cut(step, 60)), None => span.quiet { "the run" } } }
                                    td.name { @if let Some(name) = &failing.error_type { b { (cut(name, 60)) } ": " } (failing.message) }
                                    td.id { a href=(visit.run(&failing.run_id, "")) { (cut(&failing.run_id, 36)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
