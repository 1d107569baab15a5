//! All that is shown of a run, read at once.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use openworkflow::Client;
use openworkflow::backend::{RelatedRuns, WorkflowRun};
use openworkflow::trace::TraceSummary;
use openworkflow::trace::picture::Picture;

use crate::problem::Problem;

/// So many children are shown without being asked for.
pub(crate) const CHILDREN: usize = 25;

pub(crate) struct Story {
    pub(crate) run: WorkflowRun,
    pub(crate) summary: TraceSummary,
    pub(crate) picture: Picture,
    pub(crate) related: RelatedRuns,
    /// Whether its children are in it.
    pub(crate) with_children: bool,
}

/// Reads a summary, with the children where there are few, or as asked for.
pub(crate) async fn summary(
    client: &Client,
    id: &str,
    children: Option<bool>,
) -> Result<(TraceSummary, bool), Problem> {
    if children == Some(true) {
        return Ok((client.trace_summary(id).children(true).await?, true));
    }
    let summary = client.trace_summary(id).await?;
    let are_few = (1..=CHILDREN).contains(&summary.children.len());
    if children == Some(false) || !are_few {
        return Ok((summary, false));
    }
    Ok((client.trace_summary(id).children(true).await?, true))
}

pub(crate) async fn read(
    client: &Client,
    id: &str,
    children: Option<bool>,
) -> Result<Story, Problem> {
    let run = client.describe(id).await?;
    let (summary, with_children) = summary(client, id, children).await?;
    let events = client.trace_events(id).children(with_children).await?;
    let picture = Picture::new(&summary, &events);
    let related = client.related_runs(id).await?;
    Ok(Story {
        run,
        summary,
        picture,
        related,
        with_children,
    })
}

/// Changes whenever something happens to the run or its children, but not with time alone.
pub(crate) fn fingerprint(summary: &TraceSummary) -> u64 {
    let mut hasher = DefaultHasher::new();
    let runs = std::iter::once(summary).chain(&summary.descendants);
    for run in runs {
        run.run_id.hash(&mut hasher);
        run.status.as_str().hash(&mut hasher);
        format!("{:?}", run.standing).hash(&mut hasher);
        (run.attempts, run.executions.len(), run.errors.len()).hash(&mut hasher);
        for step in &run.steps {
            (&step.name, step.state, step.attempts).hash(&mut hasher);
        }
        for child in &run.children {
            (&child.run_id, child.status.as_str()).hash(&mut hasher);
        }
    }
    hasher.finish()
}
