//! A run as a picture: a row per step, over time. What the command prints and the page shows is this model.
//!
//! [`Picture::new`] makes it of a [`TraceSummary`] and of [`TraceEvents`] of the same run, both with its
//! children or both without. [`Picture::folded`] is what of it can be read at a glance, and [`Picture::axis`]
//! turns times into places: stretches in which nothing works become narrow bands, so that work stays readable
//! in a run that waits for a month.
//!
//! ```
//! # use openworkflow::{Client, Sqlite, Worker, WorkflowSpec};
//! use openworkflow::trace::picture::{Line, Picture};
//!
//! # static GREET: WorkflowSpec<String, String> = WorkflowSpec::new("greet");
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Sqlite::open_in_memory().await?;
//! # let greet = GREET.implement(|wf, name: String| async move {
//! #     wf.run("compose", || async { Ok(format!("Hello, {name}!")) }).await
//! # });
//! # let client = Client::new(store.clone());
//! # let run = client.start(&GREET, &"Ada".to_owned()).await?;
//! # Worker::builder(store).workflow(greet).build()?.tick().await?;
//! let summary = client.trace_summary(run.id()).await?;
//! let events = client.trace_events(run.id()).await?;
//! let picture = Picture::new(&summary, &events);
//! let axis = picture.axis(60, true);
//! for line in picture.folded() {
//!     let Line::Row(row) = line else { continue };
//!     let begin = axis.column(row.began_at) as usize;
//!     println!("{:<12} {:begin$}█ {} {}", row.name, "", row.took(), row.outcome());
//! }
//! # Ok(()) }
//! ```

mod axis;
mod fold;
mod rows;
mod words;

use std::time::SystemTime;

use serde::Serialize;

use super::{TraceEvents, TraceSummary, json};

pub use axis::{Axis, Piece};
pub use fold::{Line, MOST_ROWS, stem};
pub use rows::{Group, Row, Segment, SegmentKind};
pub use words::{duration, is_hostile};

/// A run, and its children where the summary has them, as rows over time.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Picture {
    /// The run.
    pub run_id: String,
    /// Where time begins: the run was created.
    #[serde(serialize_with = "json::time")]
    pub from: SystemTime,
    /// Where it ends: with the last of what is shown, or now.
    #[serde(serialize_with = "json::time")]
    pub to: SystemTime,
    /// One per step, in the order in which they began, the steps of children below the ones that created them.
    pub rows: Vec<Row>,
    /// When something of it is at work.
    #[serde(skip)]
    busy: Vec<(SystemTime, SystemTime)>,
}

impl Picture {
    /// The picture of a run. Attempts that are not among the events are shown as the summary tells of them.
    #[must_use]
    pub fn new(summary: &TraceSummary, events: &TraceEvents) -> Self {
        let rows = rows::rows(summary, events);
        let ends = rows.iter().flat_map(|row| &row.segments).map(|of| of.to);
        Self {
            run_id: summary.run_id.clone(),
            from: summary.created_at,
            to: ends.fold(rows::horizon(summary), Ord::max),
            busy: rows::busy(summary, &rows),
            rows,
        }
    }

    /// The rows, where there are [few](MOST_ROWS). Of more than that, steps whose names differ in a number at
    /// the end become one row; where that is not enough, what went well in the middle is left out.
    #[must_use]
    pub fn folded(&self) -> Vec<Line> {
        fold::fold(&self.rows)
    }

    /// Time in so many columns. Where `fold` is set, long stretches in which nothing works become bands.
    #[must_use]
    pub fn axis(&self, columns: usize, fold: bool) -> Axis {
        Axis::new(self.from, self.to, &self.busy, columns, fold)
    }
}
