//! `steps`: the attempts at a run's steps.

use std::time::SystemTime;

use anstyle::Style;
use openworkflow::backend::{StepAttempt, StepStatus, StoredError};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::StepsArgs;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::json;
use crate::screen::Screen;
use crate::table::{Table, styles};
use crate::text::{between, duration, moment};

const PAGE: u32 = 1000;
/// From here on errors are shown.
const WIDE: usize = 110;

#[derive(Serialize)]
struct StepJson<'a> {
    id: &'a str,
    run_id: &'a str,
    step_name: &'a str,
    kind: &'a str,
    status: &'a str,
    child_run_id: Option<&'a str>,
    error: Option<&'a StoredError>,
    #[serde(serialize_with = "json::time")]
    created_at: SystemTime,
    #[serde(serialize_with = "json::optional_time")]
    started_at: Option<SystemTime>,
    #[serde(serialize_with = "json::optional_time")]
    finished_at: Option<SystemTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
}

impl<'a> StepJson<'a> {
    fn new(attempt: &'a StepAttempt, payloads: bool) -> Self {
        Self {
            id: &attempt.id,
            run_id: &attempt.workflow_run_id,
            step_name: &attempt.step_name,
            kind: attempt.kind.as_str(),
            status: attempt.status.as_str(),
            child_run_id: attempt.child_workflow_run_id.as_deref(),
            error: attempt.error.as_ref(),
            created_at: attempt.created_at,
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
            output: payloads.then(|| json::payload(&attempt.output)).flatten(),
        }
    }
}

pub(crate) async fn list(
    connection: &Connection,
    args: &StepsArgs,
    screen: &mut Screen,
) -> Result<(), Failure> {
    // A list of the steps of a run that is not there would be empty.
    connection.client.describe(&args.id).await?;
    let mut attempts = Vec::new();
    let mut after = None;
    loop {
        let mut request = connection.client.list_steps(&*args.id).limit(PAGE);
        if let Some(cursor) = after {
            request = request.after(cursor);
        }
        let page = request.await?;
        attempts.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if screen.json {
        for attempt in &attempts {
            screen.object(&StepJson::new(attempt, screen.payloads))?;
        }
        return Ok(());
    }
    if attempts.is_empty() {
        return screen.note("the run has no steps yet");
    }
    table(&attempts, screen);
    Ok(())
}

fn table(attempts: &[StepAttempt], screen: &mut Screen) {
    let wide = screen.width >= WIDE;
    let mut titles = vec!["STATUS", "KIND", "BEGAN (UTC)", "TOOK", "STEP"];
    if wide {
        titles.push("ERROR");
    }
    if screen.payloads {
        titles.push("OUTPUT");
    }
    let mut table = Table::new(&titles);
    for attempt in attempts {
        let began_at = attempt.started_at.unwrap_or(attempt.created_at);
        let began = moment(began_at, 23);
        let took = attempt
            .finished_at
            .map(|ended| duration(between(began_at, ended)))
            .unwrap_or_default();
        let mut cells = vec![
            (attempt.status.as_str(), style(&attempt.status)),
            (attempt.kind.as_str(), styles::DIM),
            (&*began, styles::DIM),
            (&*took, styles::PLAIN),
            (&*attempt.step_name, styles::BOLD),
        ];
        let error = attempt.error.as_ref().map(ToString::to_string);
        if wide {
            cells.push((error.as_deref().unwrap_or(""), styles::BAD));
        }
        if screen.payloads {
            cells.push((attempt.output.expose(), styles::PLAIN));
        }
        table.row(cells);
    }
    table.show(screen);
}

fn style(status: &StepStatus) -> Style {
    match status {
        StepStatus::Completed | StepStatus::Succeeded => styles::GOOD,
        StepStatus::Failed => styles::BAD,
        _ => styles::WAITING,
    }
}
