//! Which events of runs are logged.

use tracing::Metadata;
use tracing::subscriber::{Interest, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter};
use workflow_core::replay::is_replaying;

use crate::config::LogSelection;
use crate::context::scope::LogScope;
use crate::names::attribute;

/// What becomes of the events that workflow code logs again, because a replay repeats what was done in an
/// earlier execution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayedEvents {
    /// They are left out.
    #[default]
    LeftOut,
    /// They are there, marked
    /// [`workflow_run.replaying`](crate::attribute::WORKFLOW_RUN_REPLAYING) by whatever adds ids.
    Shown,
}

/// Leaves out what is not to be logged of runs: what workflow code logs between steps while it replays, so
/// that it is logged once, and what an interceptor is told to leave out of
/// [a workflow](crate::OtelInterceptorBuilder::logs_of).
///
/// A filter for one layer, or a layer that holds for all of them. Spans pass. What is logged inside a step,
/// by the engine or by an interceptor is never a replay's. Where replaying ends is told in `docs/logs.md`.
/// Costs a look at two variables for each event, and no allocation.
///
/// ```
/// use tracing_subscriber::filter::{FilterExt, LevelFilter};
/// use tracing_subscriber::prelude::*;
/// use workflow_otel::logs::{ReplayedEvents, RunFilter};
///
/// // One layer's, with a filter of your own.
/// let filter = LevelFilter::INFO.and(RunFilter::new());
/// let lines = tracing_subscriber::fmt::layer().with_filter(filter);
/// let subscriber = tracing_subscriber::registry().with(lines);
///
/// // Everybody's.
/// let lines = tracing_subscriber::fmt::layer();
/// let subscriber = tracing_subscriber::registry().with(lines).with(RunFilter::new());
///
/// // To see what a replay does.
/// let filter = RunFilter::new().replayed(ReplayedEvents::Shown);
/// ```
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    replayed: ReplayedEvents,
}

impl RunFilter {
    /// One that leaves out what replays repeat.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What becomes of what replays repeat. Otherwise it is left out.
    #[must_use]
    pub fn replayed(mut self, events: ReplayedEvents) -> Self {
        self.replayed = events;
        self
    }

    fn passes(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.is_span() {
            return true;
        }
        if self.replayed == ReplayedEvents::LeftOut && is_replaying() {
            return false;
        }
        match LogScope::current() {
            LogSelection::All => true,
            // In the steps themselves it is none.
            LogSelection::RunsOnly => !is_about_step(metadata),
            LogSelection::None => false,
        }
    }
}

/// Whether an event says that it is about a step.
fn is_about_step(metadata: &Metadata<'_>) -> bool {
    metadata.fields().field(attribute::STEP_NAME).is_some()
}

fn interest(metadata: &Metadata<'_>) -> Interest {
    if metadata.is_span() {
        Interest::always()
    } else {
        Interest::sometimes()
    }
}

impl<S> Filter<S> for RunFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.passes(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        interest(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // `None` would hide the hint of a filter beside this one.
        Some(LevelFilter::TRACE)
    }
}

impl<S: Subscriber> Layer<S> for RunFilter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        interest(metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.passes(metadata)
    }
}
