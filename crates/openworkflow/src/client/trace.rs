//! What happened to a run, as its client asks.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::outage::ride_out;
use super::{ClientError, ClientResult, Shared};
use crate::step::{Lazy, lazy_future};
use crate::trace::{self, Story, TraceEvents, TraceSummary, Unreadable};

/// How many runs one answer is about at most.
const MOST_RUNS: usize = 1000;

struct Config {
    client: Arc<Shared>,
    run_id: String,
    include_internal: bool,
    children: bool,
}

/// The events of a run to be read; a future that does so. See
/// [`Client::trace_events`](super::Client::trace_events).
#[must_use = "events are read when the request is awaited"]
pub struct TraceEventsRequest(Lazy<'static, Config, ClientResult<TraceEvents>>);

/// The summary of a run to be made; a future that does so. See
/// [`Client::trace_summary`](super::Client::trace_summary).
#[must_use = "a summary is made when the request is awaited"]
pub struct TraceSummaryRequest(Lazy<'static, Config, ClientResult<TraceSummary>>);

impl TraceEventsRequest {
    pub(super) fn new(client: Arc<Shared>, run_id: String) -> Self {
        Self(Lazy::Configured(Config::new(client, run_id)))
    }

    /// Whether to tell, too, how the engine carried the run out: claims, parks and resumptions. By default it
    /// does not.
    pub fn include_internal(mut self, include: bool) -> Self {
        if let Some(config) = self.0.config() {
            config.include_internal = include;
        }
        self
    }

    /// Whether to tell of the run's children, too, and of theirs, 1000 runs at most. By default it does not.
    pub fn children(mut self, include: bool) -> Self {
        if let Some(config) = self.0.config() {
            config.children = include;
        }
        self
    }
}

impl TraceSummaryRequest {
    pub(super) fn new(client: Arc<Shared>, run_id: String) -> Self {
        Self(Lazy::Configured(Config::new(client, run_id)))
    }

    /// Whether to summarize the run's children, too, and theirs, 1000 runs at most. By default it does not.
    pub fn children(mut self, include: bool) -> Self {
        if let Some(config) = self.0.config() {
            config.children = include;
        }
        self
    }
}

/// A run and its descendants, those of one generation after the other.
struct Family {
    stories: Vec<Story>,
    unreadable: Vec<Unreadable>,
    left_out: usize,
}

impl Config {
    fn new(client: Arc<Shared>, run_id: String) -> Self {
        Self {
            client,
            run_id,
            include_internal: false,
            children: false,
        }
    }

    async fn read(&self, run_id: &str) -> ClientResult<Option<Story>> {
        let client = &self.client;
        let read = || client.backend.load_record(&client.namespace_id, run_id);
        let record = ride_out(client.retry_for, read).await?;
        Ok(record.map(|record| Story::new(record, client.backend.clock().now())))
    }

    async fn read_all(&self) -> ClientResult<Family> {
        self.client
            .check_lookup(&[("the run's id", &*self.run_id)])?;
        let story = self.read(&self.run_id).await?;
        let story = story.ok_or_else(|| ClientError::RunNotFound {
            run_id: self.run_id.clone(),
        })?;
        let mut family = Family {
            stories: vec![story],
            unreadable: Vec::new(),
            left_out: 0,
        };
        if !self.children {
            return Ok(family);
        }
        // Whoever wrote the links may have made a circle of them.
        let mut met = HashSet::from([self.run_id.clone()]);
        let mut next = 0;
        while let Some(story) = family.stories.get(next) {
            let children: Vec<String> = story.children().map(str::to_owned).collect();
            for child in children {
                if !met.insert(child.clone()) {
                    continue;
                }
                if family.stories.len() >= MOST_RUNS {
                    family.left_out += 1;
                    continue;
                }
                match self.read(&child).await {
                    Ok(Some(story)) => family.stories.push(story),
                    // Deleted meanwhile.
                    Ok(None) => {}
                    Err(ClientError::Backend(error)) if !error.is_transient() => {
                        family.unreadable.push(Unreadable::new(&child, &error));
                    }
                    Err(error) => return Err(error),
                }
            }
            next += 1;
        }
        Ok(family)
    }

    async fn events(self) -> ClientResult<TraceEvents> {
        let family = self.read_all().await?;
        let mut answer = TraceEvents::new(&self.run_id);
        answer.children_left_out = family.left_out;
        for story in &family.stories {
            answer
                .events
                .extend(trace::events(story, self.include_internal));
            answer.unreadable.extend(story.unreadable.iter().cloned());
        }
        answer.unreadable.extend(family.unreadable);
        if family.stories.len() > 1 {
            // Each run's are in order; of those at the same time, the parent's come first.
            answer.events.sort_by_key(|event| event.at);
        }
        Ok(answer)
    }

    async fn summary(self) -> ClientResult<TraceSummary> {
        let family = self.read_all().await?;
        let mut summaries = family.stories.iter().map(trace::summarize);
        let mut summary = summaries.next().ok_or_else(|| ClientError::RunNotFound {
            run_id: self.run_id.clone(),
        })?;
        summary.descendants = summaries.collect();
        summary.unreadable.extend(family.unreadable);
        summary.children_left_out = family.left_out;
        Ok(summary)
    }
}

lazy_future! {
    [] TraceEventsRequest => ClientResult<TraceEvents>,
    |config| Box::pin(config.events())
}

lazy_future! {
    [] TraceSummaryRequest => ClientResult<TraceSummary>,
    |config| Box::pin(config.summary())
}

impl fmt::Debug for TraceEventsRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceEventsRequest").finish_non_exhaustive()
    }
}

impl fmt::Debug for TraceSummaryRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceSummaryRequest")
            .finish_non_exhaustive()
    }
}
