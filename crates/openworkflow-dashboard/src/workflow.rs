//! How a workflow fares: where its runs spend their time, and what fails in them; of its newest runs.

use std::collections::BTreeMap;
use std::time::Duration;

use openworkflow::backend::WorkflowRun;
use openworkflow::trace::TraceSummary;
use openworkflow::{Client, Payload};
use serde::Serialize;

use crate::figures::{ended, percentile, took};
use crate::problem::Problem;

/// So many of the newest runs are looked at.
const RUNS: u32 = 100;
/// Of so many, the steps too: that takes two statements each.
const READ: usize = 30;
/// So many steps, and so many errors, are told of.
const MOST: usize = 60;

#[derive(Debug, Serialize)]
pub(crate) struct Workflow {
    pub(crate) workflow: String,
    /// Shares and durations are of so many of its newest runs.
    pub(crate) sampled: usize,
    pub(crate) is_all: bool,
    /// Steps and errors are of so many.
    pub(crate) read: usize,
    pub(crate) versions: Vec<Version>,
    pub(crate) steps: Vec<Step>,
    pub(crate) errors: Vec<Failing>,
    pub(crate) left_out: usize,
}

#[derive(Debug, Serialize)]
pub(crate) struct Version {
    pub(crate) version: Option<String>,
    pub(crate) runs: usize,
    pub(crate) active: usize,
    pub(crate) ended: usize,
    pub(crate) failed: usize,
    pub(crate) p50_seconds: Option<f64>,
    pub(crate) p95_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) count: usize,
    pub(crate) attempts: u32,
    pub(crate) p50_seconds: Option<f64>,
    pub(crate) p95_seconds: Option<f64>,
    /// All of it together.
    pub(crate) seconds: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Failing {
    pub(crate) step: Option<String>,
    pub(crate) error_type: Option<String>,
    pub(crate) count: usize,
    /// Of the newest.
    pub(crate) message: String,
    pub(crate) run_id: String,
}

pub(crate) async fn read(client: &Client, name: &str) -> Result<Option<Workflow>, Problem> {
    let page = client.list_runs().workflow(name).limit(RUNS).await?;
    if page.items.is_empty() {
        return Ok(None);
    }
    let is_all = page.next.is_none();
    let runs: Vec<WorkflowRun> = page
        .items
        .into_iter()
        .map(|mut run| {
            run.input = Payload::NULL;
            run.output = Payload::NULL;
            run
        })
        .collect();
    let mut summaries = Vec::new();
    for run in runs.iter().take(READ) {
        // Where one cannot be read, its page says why.
        if let Ok(summary) = client.trace_summary(&*run.id).await {
            summaries.push(summary);
        }
    }
    let (steps, errors) = (steps(&summaries), errors(&summaries));
    Ok(Some(Workflow {
        workflow: name.to_owned(),
        sampled: runs.len(),
        is_all,
        read: summaries.len(),
        versions: versions(&runs),
        left_out: steps.len().saturating_sub(MOST) + errors.len().saturating_sub(MOST),
        steps: steps.into_iter().take(MOST).collect(),
        errors: errors.into_iter().take(MOST).collect(),
    }))
}

fn versions(runs: &[WorkflowRun]) -> Vec<Version> {
    let mut by_version: BTreeMap<Option<&str>, Vec<&WorkflowRun>> = BTreeMap::new();
    for run in runs {
        by_version
            .entry(run.version.as_deref())
            .or_default()
            .push(run);
    }
    let versions = by_version.into_iter().rev();
    versions
        .map(|(version, runs)| {
            let mut durations: Vec<f64> = runs.iter().filter_map(|run| took(run)).collect();
            let (ended, failed) = ended(runs.iter().copied());
            Version {
                version: version.map(str::to_owned),
                runs: runs.len(),
                active: runs.iter().filter(|run| !run.status.is_terminal()).count(),
                ended,
                failed,
                p50_seconds: percentile(&mut durations, 0.5),
                p95_seconds: percentile(&mut durations, 0.95),
            }
        })
        .collect()
}

/// By name and kind, those first on which most time is spent.
fn steps(summaries: &[TraceSummary]) -> Vec<Step> {
    type Seen = (Vec<Duration>, usize, u32);
    let mut by_name: BTreeMap<(&str, &str), Seen> = BTreeMap::new();
    for step in summaries.iter().flat_map(|run| &run.steps) {
        // Numbers at the end tell steps of one kind apart.
        let key = (
            openworkflow::trace::picture::stem(&step.name),
            step.kind.as_str(),
        );
        let (durations, count, attempts) = by_name.entry(key).or_default();
        durations.extend(step.duration);
        *count += 1;
        *attempts += step.attempts;
    }
    let mut steps: Vec<Step> = by_name
        .into_iter()
        .map(|((name, kind), (durations, count, attempts))| {
            let mut seconds: Vec<f64> = durations.iter().map(Duration::as_secs_f64).collect();
            Step {
                name: name.to_owned(),
                kind: kind.to_owned(),
                count,
                attempts,
                p50_seconds: percentile(&mut seconds, 0.5),
                p95_seconds: percentile(&mut seconds, 0.95),
                seconds: seconds.iter().sum(),
            }
        })
        .collect();
    steps.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
    steps
}

/// By step and type, the most frequent first.
fn errors(summaries: &[TraceSummary]) -> Vec<Failing> {
    let mut failing: Vec<Failing> = Vec::new();
    let mut known: BTreeMap<(Option<&str>, Option<&str>), usize> = BTreeMap::new();
    for run in summaries {
        for failure in &run.errors {
            let step = failure.step.as_ref();
            let step = step.map(|step| openworkflow::trace::picture::stem(&step.name));
            let key = (step, failure.error.name.as_deref());
            let at = *known.entry(key).or_insert_with(|| {
                failing.push(Failing {
                    step: step.map(str::to_owned),
                    error_type: failure.error.name.clone(),
                    count: 0,
                    message: crate::text::cut(&failure.error.message, 300),
                    run_id: run.run_id.clone(),
                });
                failing.len() - 1
            });
            if let Some(one) = failing.get_mut(at) {
                one.count += 1;
            }
        }
    }
    failing.sort_by_key(|one| std::cmp::Reverse(one.count));
    failing
}
