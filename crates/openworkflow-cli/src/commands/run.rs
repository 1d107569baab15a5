//! `run`: one run is shown, started, canceled, awaited.

use openworkflow::WorkflowSpec;
use serde::Serialize;
use serde_json::value::RawValue;

use super::input;
use super::runs::RunJson;
use crate::args::{AwaitArgs, RunCommand, StartArgs};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::json;
use crate::screen::Screen;
use crate::standing;
use crate::table::styles;
use crate::text::{between, duration, fit, moment, safe};

type Input = Option<Box<RawValue>>;

#[derive(Serialize)]
struct Done<'a> {
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Input,
}

pub(crate) async fn run(
    connection: &Connection,
    command: RunCommand,
    screen: &mut Screen,
) -> Result<(), Failure> {
    match command {
        RunCommand::Show { id } => show(connection, &id, screen).await,
        RunCommand::Start(args) => start(connection, args, screen).await,
        RunCommand::Cancel { id } => {
            connection.client.cancel(&id).await?;
            done(&id, "canceled", None, screen)
        }
        RunCommand::Retry { id } => {
            let new = connection.client.retry(&id).await?;
            made(connection, &new, screen).await
        }
        RunCommand::Resume { id } => {
            let new = connection.client.resume(&id).await?;
            made(connection, &new, screen).await
        }
        RunCommand::Fork { id, from } => {
            let new = connection.client.fork(&id, &from).await?;
            made(connection, &new, screen).await
        }
        RunCommand::Await(args) => wait(connection, args, screen).await,
    }
}

fn done(id: &str, status: &str, output: Input, screen: &mut Screen) -> Result<(), Failure> {
    if screen.json {
        return screen.object(&Done { id, status, output });
    }
    screen.line(format!("{} {status}", safe(id)));
    if let Some(output) = output {
        screen.line(json::plain(output.get()));
    }
    Ok(())
}

async fn made(connection: &Connection, id: &str, screen: &mut Screen) -> Result<(), Failure> {
    if screen.json {
        let run = connection.client.describe(id).await?;
        return screen.object(&RunJson::new(&run, screen.payloads));
    }
    screen.line(safe(id));
    Ok(())
}

async fn start(
    connection: &Connection,
    args: StartArgs,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let input = input::read("the input", args.input.as_deref())?;
    // A declaration keeps names for the life of a program, and this one has one run to start.
    let mut workflow = WorkflowSpec::<Input, Input>::new(args.workflow.leak());
    if let Some(version) = args.workflow_version {
        workflow = workflow.version(version.leak());
    }
    let mut request = connection.client.start(&workflow, &input);
    if let Some(key) = args.key {
        request = request.idempotency_key(key);
    }
    let run = request.await?;
    if screen.json {
        // One that its key found may have got further.
        let run = connection.client.describe(run.id()).await?;
        return screen.object(&RunJson::new(&run, screen.payloads));
    }
    screen.line(safe(run.id()));
    Ok(())
}

async fn wait(
    connection: &Connection,
    args: AwaitArgs,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let handle = connection.client.handle::<Box<RawValue>>(&*args.id);
    let output = match args.timeout {
        Some(limit) => handle.result_within(limit).await?,
        None => handle.result().await?,
    };
    let output = openworkflow::Payload::from_json(output.get());
    let output = screen.payloads.then(|| json::payload(&output)).flatten();
    done(&args.id, "completed", output, screen)
}

async fn show(connection: &Connection, id: &str, screen: &mut Screen) -> Result<(), Failure> {
    let run = connection.client.describe(id).await?;
    if screen.json {
        return screen.object(&RunJson::new(&run, screen.payloads));
    }
    let summary = connection.client.trace_summary(id).await?;
    let related = connection.client.related_runs(id).await?;
    let bold = styles::BOLD;
    let columns = screen.width.saturating_sub(12);
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            screen.line(format!("{name:<12}{value}"));
        }
    };
    let time = |at: Option<std::time::SystemTime>| at.map(|at| format!("{}Z", moment(at, 23)));
    let data = |text: &Option<String>| text.as_deref().map(|text| fit(text, columns));
    field(
        "workflow",
        Some(format!(
            "{bold}{}{bold:#}",
            fit(&run.workflow_name, columns)
        )),
    );
    field("version", data(&run.version));
    field("id", Some(safe(&run.id).into_owned()));
    let style = styles::of_run(&run.status);
    field(
        "status",
        Some(format!("{style}{}{style:#}", safe(run.status.as_str()))),
    );
    field("now", standing::words(&summary.standing));
    field("created", time(Some(run.created_at)));
    field("deadline", time(run.deadline_at));
    let ended = run.finished_at.map(|ended| {
        let took = duration(between(run.created_at, ended));
        format!("{}Z, after {took}", moment(ended, 23))
    });
    field("ended", ended);
    field("executions", Some(run.attempts.to_string()));
    field("steps", Some(summary.steps.len().to_string()));
    field("worker", data(&run.worker_id));
    field("key", data(&run.idempotency_key));
    field("parent", data(&summary.parent_run_id));
    field(
        "continued as",
        data(&run.continued_as).map(|id| format!(" {id}")),
    );
    if let Some(of) = &related.made_of {
        let id = safe(&of.run_id);
        field("made of", Some(format!("{id}, {}", of.kind)));
    }
    for new in related.made_into.iter().rev().take(10) {
        field(
            "made into",
            Some(format!("{}, {}", safe(&new.run_id), new.kind)),
        );
    }
    let more = related.made_into.len().saturating_sub(10);
    field("", (more > 0).then(|| format!("and {more} earlier ones")));
    for child in summary.children.iter().take(10) {
        let name = child.workflow_name.as_deref().unwrap_or("?");
        let (id, status) = (safe(&child.run_id), safe(child.status.as_str()));
        field("child", Some(format!("{id} {status} {}", fit(name, 40))));
    }
    let more = summary.children.len().saturating_sub(10);
    field("", (more > 0).then(|| format!("and {more} more children")));
    if let Some(error) = &run.error {
        let bad = styles::BAD;
        let text = safe(&error.to_string()).into_owned();
        field("error", Some(format!("{bad}{}{bad:#}", fit(&text, 4000))));
    }
    if screen.payloads {
        for (name, payload) in [("input", &run.input), ("output", &run.output)] {
            let json = json::payload(payload);
            let json = json.as_ref().map_or("null", |json| json.get());
            screen.line(format!("{name:<12}{}", json::plain(json)));
        }
    }
    let id = safe(&run.id);
    let dim = styles::DIM;
    screen.line(format!(
        "{dim}what happened: openworkflow trace {id}{dim:#}"
    ));
    Ok(())
}
