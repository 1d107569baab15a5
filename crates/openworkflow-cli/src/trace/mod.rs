//! `trace`: what happened to a run, as a waterfall, at a glance, as events, or as JSON.

mod axis;
mod events;
mod head;
mod rows;
mod summary;
mod waterfall;

use crate::args::{TraceArgs, TraceFormat};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::screen::Screen;

pub(crate) async fn show(
    connection: &Connection,
    args: &TraceArgs,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let client = &connection.client;
    let as_events = args.format == TraceFormat::Events;
    if args.internal && !as_events {
        return Err(
            Failure::usage("--internal is about events").remedy("give --format events with it")
        );
    }
    if as_events {
        let request = client.trace_events(&*args.id).children(args.children);
        let trace = request.include_internal(args.internal).await?;
        return events::show(&trace, screen);
    }
    let summary = client
        .trace_summary(&*args.id)
        .children(args.children)
        .await?;
    if screen.json || args.format == TraceFormat::Json {
        return screen.object(&summary);
    }
    head::show(&summary, args.all, screen);
    if args.format == TraceFormat::Summary {
        summary::show(&summary, screen);
    } else {
        // For the attempts at each step, which the summary counts.
        let request = client.trace_events(&*args.id).children(args.children);
        let trace = request.await?;
        waterfall::show(&summary, &trace, args, screen);
    }
    head::end(&summary, args, screen);
    Ok(())
}
