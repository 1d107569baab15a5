//! `runs`: a list of runs.

use std::time::SystemTime;

use openworkflow::backend::{StoredError, WorkflowRun};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::RunsArgs;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::json;
use crate::screen::Screen;
use crate::table::{Table, styles};
use crate::text::{between, duration, moment, safe};

/// From here on there is room for more than what one cannot do without.
const ROOMY: usize = 110;
/// From here on errors are shown.
const WIDE: usize = 150;

/// A run for scripts.
#[derive(Serialize)]
pub(crate) struct RunJson<'a> {
    id: &'a str,
    workflow_name: &'a str,
    workflow_version: Option<&'a str>,
    status: &'a str,
    idempotency_key: Option<&'a str>,
    continued_as: Option<&'a str>,
    attempts: u32,
    worker_id: Option<&'a str>,
    error: Option<&'a StoredError>,
    #[serde(serialize_with = "json::time")]
    created_at: SystemTime,
    #[serde(serialize_with = "json::optional_time")]
    available_at: Option<SystemTime>,
    #[serde(serialize_with = "json::optional_time")]
    deadline_at: Option<SystemTime>,
    #[serde(serialize_with = "json::optional_time")]
    started_at: Option<SystemTime>,
    #[serde(serialize_with = "json::optional_time")]
    finished_at: Option<SystemTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
}

impl<'a> RunJson<'a> {
    pub(crate) fn new(run: &'a WorkflowRun, payloads: bool) -> Self {
        let payload = |payload| payloads.then(|| json::payload(payload)).flatten();
        Self {
            id: &run.id,
            workflow_name: &run.workflow_name,
            workflow_version: run.version.as_deref(),
            status: run.status.as_str(),
            idempotency_key: run.idempotency_key.as_deref(),
            continued_as: run.continued_as.as_deref(),
            attempts: run.attempts,
            worker_id: run.worker_id.as_deref(),
            error: run.error.as_ref(),
            created_at: run.created_at,
            available_at: run.available_at,
            deadline_at: run.deadline_at,
            started_at: run.started_at,
            finished_at: run.finished_at,
            input: payload(&run.input),
            output: payload(&run.output),
        }
    }
}

pub(crate) async fn list(
    connection: &Connection,
    args: &RunsArgs,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let mut request = connection.client.list_runs().limit(args.limit);
    if let Some(workflow) = &args.workflow {
        request = request.workflow(workflow);
    }
    if let Some(status) = &args.status {
        request = request.status(status.clone());
    }
    if let Some(after) = &args.after {
        request = request.after(after);
    }
    let page = request.await?;
    if screen.json {
        for run in &page.items {
            screen.object(&RunJson::new(run, screen.payloads))?;
        }
    } else if page.items.is_empty() {
        let namespace = safe(&connection.namespace);
        return screen.note(&format!(
            "no runs in namespace {namespace} that this fits; `openworkflow run start WORKFLOW` starts one"
        ));
    } else {
        table(&page.items, screen);
    }
    match page.next {
        Some(cursor) => screen.note(&format!("there are more: --after {}", safe(&cursor))),
        None => Ok(()),
    }
}

fn table(runs: &[WorkflowRun], screen: &mut Screen) {
    let (roomy, wide) = (screen.width >= ROOMY, screen.width >= WIDE);
    let mut titles = vec!["STATUS", "ID", "CREATED (UTC)"];
    if roomy {
        titles.extend(["TOOK", "VERSION"]);
    }
    titles.push("WORKFLOW");
    if wide {
        titles.push("ERROR");
    }
    let mut table = Table::new(&titles);
    for run in runs {
        let created = moment(run.created_at, if roomy { 19 } else { 16 });
        let took = run
            .finished_at
            .map(|ended| duration(between(run.created_at, ended)))
            .unwrap_or_default();
        let mut cells = vec![
            (run.status.as_str(), styles::of_run(&run.status)),
            (&*run.id, styles::PLAIN),
            (&*created, styles::DIM),
        ];
        if roomy {
            cells.push((&took, styles::PLAIN));
            cells.push((run.version.as_deref().unwrap_or(""), styles::PLAIN));
        }
        cells.push((&run.workflow_name, styles::BOLD));
        let error = run.error.as_ref().map(ToString::to_string);
        if wide {
            cells.push((error.as_deref().unwrap_or(""), styles::BAD));
        }
        table.row(cells);
    }
    table.show(screen);
}
