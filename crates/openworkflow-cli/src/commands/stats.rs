//! `stats`: how many runs there are, and what stands in the queue.

use serde::Serialize;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::table::styles;
use crate::text::{duration, safe};

/// The queue is counted up to this many runs of each kind: it may be long, and workers need the database.
const LIMIT: u32 = 100_000;

#[derive(Serialize)]
struct Stats<'a> {
    namespace_id: &'a str,
    pending: u64,
    running: u64,
    completed: u64,
    failed: u64,
    canceled: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Queue>,
}

#[derive(Serialize)]
struct Queue {
    due: u64,
    oldest_due_seconds: Option<f64>,
    scheduled: u64,
    waiting: u64,
    running: u64,
    counted_up_to: u32,
}

pub(crate) async fn show(connection: &Connection, screen: &mut Screen) -> Result<(), Failure> {
    let runs = connection.client.count_runs().await?;
    let queue = connection.count_queue(LIMIT).await?;
    let stats = Stats {
        namespace_id: &connection.namespace,
        pending: runs.pending,
        running: runs.running,
        completed: runs.completed,
        failed: runs.failed,
        canceled: runs.canceled,
        queue: queue.as_ref().map(|queue| Queue {
            due: queue.due,
            oldest_due_seconds: queue.oldest_due.map(|age| age.as_secs_f64()),
            scheduled: queue.scheduled,
            waiting: queue.waiting,
            running: queue.running,
            counted_up_to: LIMIT,
        }),
    };
    if screen.json {
        return screen.object(&stats);
    }
    let (bold, bad) = (styles::BOLD, styles::BAD);
    screen.line(format!(
        "{bold}runs{bold:#}, namespace {}",
        safe(&connection.namespace)
    ));
    let counts = [
        ("pending", stats.pending),
        ("running", stats.running),
        ("completed", stats.completed),
        ("failed", stats.failed),
        ("canceled", stats.canceled),
    ];
    for (status, count) in counts {
        let style = match status {
            "failed" if count > 0 => bad,
            _ => styles::PLAIN,
        };
        screen.line(format!("  {style}{status:<10}{count:>10}{style:#}"));
    }
    let (Some(counted), Some(queue)) = (queue, stats.queue) else {
        return Ok(());
    };
    screen.line(format!("{bold}not over{bold:#}"));
    let oldest = match counted.oldest_due {
        Some(age) => format!("the oldest since {}", duration(age)),
        None => String::new(),
    };
    let counts = [
        ("due", queue.due, &*oldest),
        (
            "scheduled",
            queue.scheduled,
            "start later, or are tried again",
        ),
        ("waiting", queue.waiting, "for a time, a signal or a child"),
        ("executing", queue.running, "a worker has them"),
    ];
    for (what, count, meaning) in counts {
        let more = if count >= u64::from(LIMIT) { "+" } else { " " };
        let dim = if meaning.is_empty() {
            styles::PLAIN
        } else {
            styles::DIM
        };
        screen.line(format!(
            "  {what:<10}{count:>10}{more} {dim}{meaning}{dim:#}"
        ));
    }
    Ok(())
}
