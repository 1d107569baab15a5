//! What the pages show, as JSON.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Response};
use openworkflow::Payload;
use openworkflow::backend::{StepAttempt, StoredError, WorkflowRun};
use openworkflow::trace::picture::Picture;
use openworkflow::trace::{TraceEvents, TraceSummary};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use crate::Site;
use crate::figures::{self, Figures};
use crate::pages::runs::Filter;
use crate::pages::workflow::missing;
use crate::pages::{actions, again};
use crate::problem::Problem;
use crate::request::Visit;
use crate::story;
use crate::text::timestamp;
use crate::workflow::{self, Workflow};

pub(crate) fn problem(problem: &Problem) -> Response {
    let body = json!({ "error": problem.text, "remedy": problem.remedy });
    (problem.status, Json(body)).into_response()
}

#[derive(Serialize)]
pub(crate) struct Runs {
    runs: Vec<Run>,
    next: Option<String>,
    prev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    searched: Option<usize>,
}

#[derive(Serialize)]
struct Run {
    id: String,
    workflow_name: String,
    workflow_version: Option<String>,
    status: String,
    idempotency_key: Option<String>,
    continued_as: Option<String>,
    attempts: u32,
    worker_id: Option<String>,
    error: Option<StoredError>,
    #[serde(serialize_with = "time")]
    created_at: SystemTime,
    #[serde(serialize_with = "optional_time")]
    available_at: Option<SystemTime>,
    #[serde(serialize_with = "optional_time")]
    deadline_at: Option<SystemTime>,
    #[serde(serialize_with = "optional_time")]
    started_at: Option<SystemTime>,
    #[serde(serialize_with = "optional_time")]
    finished_at: Option<SystemTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
}

fn time<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&timestamp(*time))
}

fn optional_time<S: Serializer>(at: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, to),
        None => to.serialize_none(),
    }
}

/// A payload as it is, numbers and all.
fn payload(payload: &Payload) -> Option<Box<RawValue>> {
    let text = payload.expose();
    RawValue::from_string(text.to_owned())
        // What is no JSON is shown as the text that it is.
        .or_else(|_| to_raw_value(text))
        .ok()
}

impl Run {
    fn new(run: WorkflowRun, payloads: bool) -> Self {
        let payload = |of: &Payload| payloads.then(|| payload(of)).flatten();
        Self {
            input: payload(&run.input),
            output: payload(&run.output),
            id: run.id,
            workflow_name: run.workflow_name,
            workflow_version: run.version,
            status: run.status.as_str().to_owned(),
            idempotency_key: run.idempotency_key,
            continued_as: run.continued_as,
            attempts: run.attempts,
            worker_id: run.worker_id,
            error: run.error,
            created_at: run.created_at,
            available_at: run.available_at,
            deadline_at: run.deadline_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
        }
    }
}

pub(crate) async fn overview(State(site): State<Arc<Site>>) -> Result<Json<Figures>, Problem> {
    Ok(Json(figures::figures(&site).await?))
}

pub(crate) async fn workflow(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
) -> Result<Json<Workflow>, Problem> {
    let found = workflow::read(&site.client, &name).await?;
    found.map(Json).ok_or_else(|| missing(&name))
}

pub(crate) async fn runs(
    State(site): State<Arc<Site>>,
    Query(filter): Query<Filter>,
) -> Result<Json<Runs>, Problem> {
    let list = filter.read(&site.client).await?;
    // A search has not kept the payloads, so that it may look at many runs.
    let payloads = site.payloads && list.searched.is_none();
    let runs = list.runs.into_iter().map(|run| Run::new(run, payloads));
    Ok(Json(Runs {
        runs: runs.collect(),
        next: list.next,
        prev: list.prev,
        searched: list.searched,
    }))
}

/// Whether children are told of, too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct With {
    children: bool,
    internal: bool,
    after: String,
}

pub(crate) async fn run(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(with): Query<With>,
) -> Result<Json<TraceSummary>, Problem> {
    let (summary, _) = story::summary(&site.client, &id, Some(with.children)).await?;
    Ok(Json(summary))
}

pub(crate) async fn picture(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(with): Query<With>,
) -> Result<Json<Picture>, Problem> {
    let story = story::read(&site.client, &id, Some(with.children)).await?;
    Ok(Json(story.picture))
}

pub(crate) async fn events(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(with): Query<With>,
) -> Result<Json<TraceEvents>, Problem> {
    let request = site.client.trace_events(id).children(with.children);
    Ok(Json(request.include_internal(with.internal).await?))
}

#[derive(Serialize)]
pub(crate) struct Steps {
    attempts: Vec<Attempt>,
    next: Option<String>,
    prev: Option<String>,
}

#[derive(Serialize)]
struct Attempt {
    id: String,
    step_name: String,
    kind: String,
    status: String,
    error: Option<StoredError>,
    child_run_id: Option<String>,
    #[serde(serialize_with = "optional_time")]
    started_at: Option<SystemTime>,
    #[serde(serialize_with = "optional_time")]
    finished_at: Option<SystemTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
}

impl Attempt {
    fn new(attempt: StepAttempt, payloads: bool) -> Self {
        Self {
            output: payloads.then(|| payload(&attempt.output)).flatten(),
            id: attempt.id,
            step_name: attempt.step_name,
            kind: attempt.kind.as_str().to_owned(),
            status: attempt.status.as_str().to_owned(),
            error: attempt.error,
            child_run_id: attempt.child_workflow_run_id,
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
        }
    }
}

pub(crate) async fn steps(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(with): Query<With>,
) -> Result<Json<Steps>, Problem> {
    let mut request = site.client.list_steps(id);
    if !with.after.is_empty() {
        request = request.after(with.after);
    }
    let page = request.await?;
    let attempts = page.items.into_iter();
    Ok(Json(Steps {
        attempts: attempts.map(|of| Attempt::new(of, site.payloads)).collect(),
        next: page.next,
        prev: page.prev,
    }))
}

#[derive(Deserialize)]
pub(crate) struct Start {
    workflow: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    input: Option<Box<RawValue>>,
}

pub(crate) async fn start(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Json(asked): Json<Start>,
) -> Result<Response, Problem> {
    let start = actions::Start {
        workflow: asked.workflow,
        version: asked.version,
        key: asked.key,
        input: String::new(),
    };
    let run = actions::start_run(&site.client, &start, &asked.input).await?;
    actions::told(&visit, "started", run.id());
    Ok(Json(json!({ "id": run.id() })).into_response())
}

pub(crate) async fn cancel(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    site.client.cancel(&id).await?;
    actions::told(&visit, "canceled", &id);
    Ok(Json(json!({ "id": id, "status": "canceled" })).into_response())
}

pub(crate) async fn again(
    State(site): State<Arc<Site>>,
    Extension(visit): Extension<Visit>,
    Path(id): Path<String>,
    Json(asked): Json<again::Again>,
) -> Result<Response, Problem> {
    let new = asked.make(&site.client, &id).await?;
    actions::told(&visit, "made of another", &new);
    Ok(Json(json!({ "id": new })).into_response())
}

#[derive(Deserialize)]
pub(crate) struct Signal {
    signal: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

pub(crate) async fn signal(
    State(site): State<Arc<Site>>,
    Json(asked): Json<Signal>,
) -> Result<Response, Problem> {
    let run_ids = actions::send(&site.client, &asked.signal, &asked.key, &asked.data).await?;
    Ok(Json(json!({ "run_ids": run_ids })).into_response())
}
