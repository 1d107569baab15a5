//! What can be done: start a run, cancel one, send a signal. Each asks on a page of its own, which says what
//! it is going to do.

use std::sync::Arc;

use axum::extract::{Extension, Form, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use openworkflow::trace::StepState;
use openworkflow::{Client, ClientError, ClientResult, RunHandle, WorkflowSpec};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Page, csrf, status};
use crate::Site;
use crate::problem::Problem;
use crate::request::Visit;
use crate::text::{NAME, count, cut};

/// No name is longer, in bytes.
const LONGEST: usize = 4_096;
/// So many names and versions runs are started under.
const MOST_NAMES: usize = 10_000;

/// JSON as it was typed.
type Json = Option<Box<RawValue>>;

/// What a run is started with.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Start {
    pub(crate) workflow: String,
    pub(crate) version: String,
    pub(crate) key: String,
    pub(crate) input: String,
}

/// What is sent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Signal {
    signal: String,
    data: String,
    key: String,
    /// The run from whose page it is sent.
    run: String,
}

fn json(what: &str, text: &str) -> Result<Json, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    match RawValue::from_string(text.trim().to_owned()) {
        Ok(json) => Ok(Some(json)),
        Err(error) => Err(format!(
            "{what} is no JSON, at line {}, column {}. Text stands in double quotes.",
            error.line(),
            error.column()
        )),
    }
}

/// Starts a run.
pub(crate) async fn start_run(
    client: &Client,
    start: &Start,
    input: &Json,
) -> ClientResult<RunHandle<Json>> {
    // A declaration keeps names for the life of a program. These come from outside, so each is kept once.
    let name = kept(start.workflow.trim())?;
    let mut workflow = WorkflowSpec::<Json, Json>::new(name);
    if !start.version.trim().is_empty() {
        workflow = workflow.version(kept(start.version.trim())?);
    }
    let mut request = client.start(&workflow, input);
    if !start.key.is_empty() {
        request = request.idempotency_key(&*start.key);
    }
    request.await
}

/// The same text for the life of the program, of a bounded number of texts.
fn kept(text: &str) -> ClientResult<&'static str> {
    use std::collections::HashSet;
    use std::sync::{LazyLock, Mutex, PoisonError};
    static KEPT: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.get(text) {
        return Ok(known);
    }
    if text.len() > LONGEST || kept.len() >= MOST_NAMES {
        let shown = cut(text, 40);
        return Err(ClientError::Invalid(format!(
            "{shown:?} is too long for a name, or this page has started runs under {MOST_NAMES} others already; start it by the command"
        )));
    }
    let new: &'static str = text.to_owned().leak();
    kept.insert(new);
    Ok(new)
}

pub(crate) async fn ask_start(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
) -> Result<Response, Problem> {
    writable(&site)?;
    let figures = crate::figures::figures(&site).await?;
    let names = figures.workflows.into_iter().map(|fares| fares.workflow);
    let names: Vec<String> = names.collect();
    let body = start_form(&visit, &Start::default(), &names, None);
    Ok(Page::new("Start a run", "start", body).show(&site, &visit))
}

pub(crate) async fn start(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Form(start): Form<Start>,
) -> Response {
    let again = |status: StatusCode, problem: &str| {
        let body = start_form(&visit, &start, &[], Some(problem));
        let mut response = Page::new("Start a run", "start", body).show(&site, &visit);
        *response.status_mut() = status;
        response
    };
    let input = match json("The input", &start.input) {
        Ok(input) => input,
        Err(problem) => return again(StatusCode::BAD_REQUEST, &problem),
    };
    match start_run(&site.client, &start, &input).await {
        Ok(run) => {
            told(&visit, "started", run.id());
            Redirect::to(&visit.run(run.id(), "")).into_response()
        }
        Err(error) => {
            let problem = Problem::from(error);
            again(problem.status, &problem.text)
        }
    }
}

fn start_form(visit: &Visit, start: &Start, names: &[String], problem: Option<&str>) -> Markup {
    html! {
        section.card.narrow {
            h1 { "Start a run" }
            (notice(problem))
            form.fields method="post" action=(visit.path("/start")) {
                (csrf(visit))
                label for="workflow" { "Workflow" }
                input #workflow name="workflow" value=(start.workflow) required list="workflows" autocomplete="off";
                datalist #workflows { @for name in names { option value=(name) {} } }
                label for="version" { "Version " span.quiet { "where the workflow has one" } }
                input #version name="version" value=(start.version) autocomplete="off";
                label for="input" { "Input " span.quiet { "JSON; nothing stands for null" } }
                textarea #input name="input" rows="8" spellcheck="false" { (start.input) }
                label for="key" { "Key " span.quiet { "for 24 hours, the same key finds the same run" } }
                input #key name="key" value=(start.key) autocomplete="off";
                div.buttons {
                    button.primary { "Start the run" }
                    a href=(visit.path("/runs")) { "Back" }
                }
            }
        }
    }
}

pub(crate) async fn ask_cancel(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    writable(&site)?;
    let summary = site.client.trace_summary(&*id).await?;
    let going = summary.children.iter();
    let going = going.filter(|child| !child.status.is_terminal()).count();
    let is_over = summary.status.is_terminal();
    let body = html! {
        section.card.narrow {
            h1 { "Cancel this run?" }
            p {
                (status(&summary.status)) " "
                b { (cut(&summary.workflow_name, NAME)) } " "
                code { (cut(&id, NAME)) }
            }
            @if is_over {
                p { "It is over, and stays as it is." }
            } @else {
                p { "It ends as canceled for good. Steps that are at work are dropped; what they have done already is not undone." }
                @if going > 0 {
                    p {
                        (count(going, "child is", "children are")) " not over. Those that are to be canceled with it are, the others go on."
                    }
                }
            }
            form.fields method="post" action=(visit.run(&id, "/cancel")) {
                (csrf(&visit))
                div.buttons {
                    @if !is_over { button.danger { "Cancel the run" } }
                    a href=(visit.run(&id, "")) { "Back" }
                }
            }
        }
    };
    Ok(Page::new("Cancel a run", "runs", body).show(&site, &visit))
}

pub(crate) async fn cancel(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    site.client.cancel(&id).await?;
    told(&visit, "canceled", &id);
    Ok(Redirect::to(&visit.run(&id, "")).into_response())
}

pub(crate) async fn ask_signal(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
) -> Result<Response, Problem> {
    writable(&site)?;
    let body = signal_form(&visit, &Signal::default(), &[], None);
    Ok(Page::new("Send a signal", "signal", body).show(&site, &visit))
}

/// With what the run waits for.
pub(crate) async fn ask_signal_run(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    writable(&site)?;
    let summary = site.client.trace_summary(&*id).await?;
    let waiting = summary.steps.into_iter();
    let waiting = waiting.filter(|step| step.state == StepState::Waiting);
    let signals: Vec<String> = waiting.filter_map(|step| step.signal).collect();
    let signal = Signal {
        signal: signals.first().cloned().unwrap_or_default(),
        run: id,
        ..Signal::default()
    };
    let problem = signals
        .is_empty()
        .then_some("This run waits for no signal right now.");
    let body = signal_form(&visit, &signal, &signals, problem);
    Ok(Page::new("Send a signal", "runs", body).show(&site, &visit))
}

pub(crate) async fn signal(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Form(signal): Form<Signal>,
) -> Response {
    let again = |status: StatusCode, problem: &str| {
        let body = signal_form(&visit, &signal, &[], Some(problem));
        let mut response = Page::new("Send a signal", "signal", body).show(&site, &visit);
        *response.status_mut() = status;
        response
    };
    let data = match json("The data", &signal.data) {
        Ok(data) => data,
        Err(problem) => return again(StatusCode::BAD_REQUEST, &problem),
    };
    match send(&site.client, &signal.signal, &signal.key, &data).await {
        Ok(run_ids) => {
            tracing::info!(
                recipients = run_ids.len(),
                who = visit.who,
                "signal sent from the dashboard"
            );
            sent(&site, &visit, &signal, &run_ids)
        }
        Err(error) => {
            let problem = Problem::from(error);
            again(problem.status, &problem.text)
        }
    }
}

/// Sends a signal, and answers who received it.
pub(crate) async fn send(
    client: &Client,
    signal: &str,
    key: &str,
    data: &Json,
) -> Result<Vec<String>, ClientError> {
    let mut request = client.send_signal(signal, data);
    if !key.is_empty() {
        request = request.idempotency_key(key);
    }
    request.await
}

fn sent(site: &Site, visit: &Visit, signal: &Signal, run_ids: &[String]) -> Response {
    if let [only] = run_ids
        && *only == signal.run
    {
        return Redirect::to(&visit.run(only, "")).into_response();
    }
    let body = html! {
        section.card.narrow {
            h1 { "Signal sent" }
            p { b { (cut(&signal.signal, NAME)) } }
            @if run_ids.is_empty() {
                p.notice { "Nobody waits for this signal, so it is gone." }
            } @else {
                p { (count(run_ids.len(), "run", "runs")) " received it:" }
                ul { @for id in run_ids.iter().take(100) { li { a href=(visit.run(id, "")) { code { (cut(id, NAME)) } } } } }
            }
            p { a href=(visit.path("/signal")) { "Send another" } }
        }
    };
    Page::new("Signal sent", "signal", body).show(site, visit)
}

fn signal_form(visit: &Visit, signal: &Signal, known: &[String], problem: Option<&str>) -> Markup {
    html! {
        section.card.narrow {
            h1 { "Send a signal" }
            p.quiet { "Every run that waits for it right now receives it. Where nobody does, it is gone." }
            (notice(problem))
            form.fields method="post" action=(visit.path("/signal")) {
                (csrf(visit))
                input type="hidden" name="run" value=(signal.run);
                label for="signal" { "Signal" }
                input #signal name="signal" value=(signal.signal) required list="signals" autocomplete="off";
                datalist #signals { @for name in known { option value=(name) {} } }
                label for="data" { "Data " span.quiet { "JSON; nothing stands for null" } }
                textarea #data name="data" rows="6" spellcheck="false" { (signal.data) }
                label for="key" { "Key " span.quiet { "with the same key it is delivered once" } }
                input #key name="key" value=(signal.key) autocomplete="off";
                div.buttons {
                    button.primary { "Send the signal" }
                    @if !signal.run.is_empty() { a href=(visit.run(&signal.run, "")) { "Back" } }
                }
            }
        }
    }
}

fn notice(problem: Option<&str>) -> Markup {
    html! { @if let Some(problem) = problem { p.notice.bad role="alert" { (cut(problem, 1_000)) } } }
}

pub(super) fn writable(site: &Site) -> Result<(), Problem> {
    match site.read_only {
        true => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "This page is read-only.",
        )),
        false => Ok(()),
    }
}

/// Who did what is in the log of whoever serves the page.
pub(crate) fn told(visit: &Visit, what: &'static str, run_id: &str) {
    tracing::info!(run_id, who = visit.who, "run {what} from the dashboard");
}
