//! How the runs of a namespace fare, from reads that stay small however many runs there are: a count that
//! stops at a limit, and the newest runs.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, SystemTime};

use openworkflow::backend::{QueueCounts, WorkflowRun};
use openworkflow::{Client, RunStatus};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Site;
use crate::problem::Problem;
use crate::text::between;

/// Each kind is counted up to this.
pub(crate) const COUNTED: u32 = 10_001;
/// So many of the newest runs are looked at, fewer where they are large.
const SAMPLE: usize = 500;
const PAGE: u32 = 100;
const MOST_BYTES: usize = 16 << 20;
/// For how long figures are shown again, to everybody who asks.
const FRESH: Duration = Duration::from_secs(2);
/// The time of which throughput is told.
pub(crate) const LATELY: Duration = Duration::from_secs(600);
const BARS: usize = 48;

/// From here on something is wrong: as the alerts in `docs/observability` have it.
pub(crate) mod limits {
    use std::time::Duration;

    pub(crate) const ERROR_SHARE: f64 = 0.05;
    pub(crate) const P95: Duration = Duration::from_secs(60);
    pub(crate) const ACTIVE: u64 = 1_000;
    pub(crate) const QUEUE: u64 = 10_000;
    pub(crate) const OLDEST_DUE: Duration = Duration::from_secs(300);
}

#[derive(Default)]
pub(crate) struct Cache(Mutex<Option<(Instant, Figures)>>);

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    #[serde(skip)]
    pub(crate) now: SystemTime,
    /// Each number is counted up to `counted_up_to`.
    pub(crate) counted_up_to: u32,
    pub(crate) due: u64,
    pub(crate) oldest_due_seconds: Option<f64>,
    pub(crate) scheduled: u64,
    pub(crate) waiting: u64,
    pub(crate) executing: u64,
    pub(crate) pending: u64,
    pub(crate) running: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) canceled: u64,
    /// What follows is about so many of the newest runs.
    pub(crate) sampled: usize,
    pub(crate) is_all: bool,
    /// How many ended per minute lately.
    pub(crate) ended_per_minute: Option<f64>,
    pub(crate) error_share: Option<f64>,
    pub(crate) p50_seconds: Option<f64>,
    pub(crate) p95_seconds: Option<f64>,
    pub(crate) queued_p95_seconds: Option<f64>,
    pub(crate) workflows: Vec<Fares>,
    #[serde(skip)]
    pub(crate) bars: Bars,
    pub(crate) attention: Vec<Attention>,
}

/// How the runs of a workflow fare.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fares {
    pub(crate) workflow: String,
    pub(crate) runs: usize,
    pub(crate) active: usize,
    /// Of these, those that could be claimed now.
    pub(crate) due: usize,
    pub(crate) oldest_due_seconds: Option<f64>,
    pub(crate) ended: usize,
    pub(crate) failed: usize,
    pub(crate) p50_seconds: Option<f64>,
    pub(crate) p95_seconds: Option<f64>,
}

/// When runs were created, and what became of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bars {
    pub(crate) span: Duration,
    /// From the oldest to the newest: well or under way, and failed.
    pub(crate) counts: Vec<(usize, usize)>,
}

/// What somebody has to look at.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Attention {
    pub(crate) what: &'static str,
    pub(crate) text: String,
    pub(crate) remedy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workflow: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_id: Option<String>,
}

impl Figures {
    pub(crate) fn active(&self) -> u64 {
        self.due + self.scheduled + self.waiting + self.executing
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let counts = [
            self.due,
            self.scheduled,
            self.waiting,
            self.executing,
            self.completed,
            self.failed,
            self.canceled,
        ];
        counts.hash(&mut hasher);
        for attention in &self.attention {
            attention.text.hash(&mut hasher);
        }
        for fares in &self.workflows {
            (fares.runs, fares.ended, fares.failed).hash(&mut hasher);
        }
        hasher.finish()
    }
}

pub(crate) async fn figures(site: &Site) -> Result<Figures, Problem> {
    let mut cached = site.figures.0.lock().await;
    if let Some((at, figures)) = &*cached
        && at.elapsed() < FRESH
    {
        return Ok(figures.clone());
    }
    let figures = read(&site.client).await?;
    *cached = Some((Instant::now(), figures.clone()));
    Ok(figures)
}

async fn read(client: &Client) -> Result<Figures, Problem> {
    let counts = client.count_queue(COUNTED).await?.unwrap_or_default();
    let (sample, is_all) = newest(client).await?;
    // Those that wait for a worker may be older than the sample.
    let pending = client.list_runs().status(RunStatus::Pending).limit(PAGE);
    let pending = pending.await?.items;
    let running = client.list_runs().status(RunStatus::Running).limit(PAGE);
    let running = running.await?.items;
    Ok(figure(&counts, &sample, is_all, &pending, &running))
}

async fn newest(client: &Client) -> Result<(Vec<WorkflowRun>, bool), Problem> {
    let mut runs = Vec::new();
    let mut after = None;
    let mut bytes = 0;
    loop {
        let mut request = client.list_runs().limit(PAGE);
        if let Some(cursor) = after {
            request = request.after(cursor);
        }
        let page = request.await?;
        for mut run in page.items {
            bytes += run.input.size() + run.output.size();
            run.input = openworkflow::Payload::NULL;
            run.output = openworkflow::Payload::NULL;
            runs.push(run);
        }
        after = page.next;
        if after.is_none() {
            return Ok((runs, true));
        }
        if runs.len() >= SAMPLE || bytes >= MOST_BYTES {
            return Ok((runs, false));
        }
    }
}

fn figure(
    counts: &QueueCounts,
    sample: &[WorkflowRun],
    is_all: bool,
    pending: &[WorkflowRun],
    running: &[WorkflowRun],
) -> Figures {
    let now = SystemTime::now();
    let mut durations: Vec<f64> = sample.iter().filter_map(took).collect();
    let mut queued: Vec<f64> = sample.iter().filter_map(queueing).collect();
    let (ended, failed) = ended(sample.iter());
    let mut figures = Figures {
        now,
        counted_up_to: COUNTED - 1,
        due: counts.due,
        oldest_due_seconds: counts.oldest_due.map(|age| age.as_secs_f64()),
        scheduled: counts.scheduled,
        waiting: counts.waiting,
        executing: counts.running,
        pending: counts.runs.pending,
        running: counts.runs.running,
        completed: counts.runs.completed,
        failed: counts.runs.failed,
        canceled: counts.runs.canceled,
        sampled: sample.len(),
        is_all,
        ended_per_minute: throughput(sample, is_all, now),
        error_share: (ended > 0).then(|| failed as f64 / ended as f64),
        p50_seconds: percentile(&mut durations, 0.5),
        p95_seconds: percentile(&mut durations, 0.95),
        queued_p95_seconds: percentile(&mut queued, 0.95),
        workflows: fares(sample, pending, now),
        bars: bars(sample, now),
        attention: Vec::new(),
    };
    figures.attention = attention(&figures, sample, pending, running);
    figures
}

pub(crate) fn took(run: &WorkflowRun) -> Option<f64> {
    let ended = run.finished_at?;
    let is_counted = run.status.is_terminal() && run.status != RunStatus::Canceled;
    is_counted.then(|| between(run.created_at, ended).as_secs_f64())
}

/// The rows tell it of runs that were claimed once.
fn queueing(run: &WorkflowRun) -> Option<f64> {
    let began = run.started_at.filter(|_| run.attempts == 1)?;
    Some(between(run.created_at, began).as_secs_f64())
}

/// How many ended by themselves, and how many of them failed.
pub(crate) fn ended<'a>(runs: impl Iterator<Item = &'a WorkflowRun>) -> (usize, usize) {
    runs.fold((0, 0), |(ended, failed), run| match run.status {
        RunStatus::Failed => (ended + 1, failed + 1),
        RunStatus::Completed | RunStatus::Succeeded => (ended + 1, failed),
        _ => (ended, failed),
    })
}

/// Of the last minutes, or of the time that the sample goes back to where that is less.
fn throughput(sample: &[WorkflowRun], is_all: bool, now: SystemTime) -> Option<f64> {
    let oldest = sample.last().map(|run| between(run.created_at, now))?;
    let span = if is_all { LATELY } else { oldest.min(LATELY) };
    let ended = sample.iter().filter(|run| {
        run.finished_at
            .is_some_and(|ended| between(ended, now) <= span)
    });
    let minutes = span.as_secs_f64() / 60.0;
    (minutes > 0.0).then(|| ended.count() as f64 / minutes)
}

pub(crate) fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((last as f64 * share).round() as usize).copied()
}

/// Since when it could be claimed.
fn due_since(run: &WorkflowRun, now: SystemTime) -> Option<SystemTime> {
    let at = run.available_at.unwrap_or(run.created_at);
    (run.status == RunStatus::Pending && at <= now).then_some(at)
}

fn fares(sample: &[WorkflowRun], pending: &[WorkflowRun], now: SystemTime) -> Vec<Fares> {
    let mut by_name: BTreeMap<&str, Vec<&WorkflowRun>> = BTreeMap::new();
    let oldest = sample.last().map(|run| run.created_at);
    let older = pending
        .iter()
        .filter(|run| oldest.is_some_and(|oldest| run.created_at < oldest));
    for run in sample.iter().chain(older) {
        by_name.entry(&run.workflow_name).or_default().push(run);
    }
    let mut fares: Vec<Fares> = by_name
        .into_iter()
        .map(|(workflow, runs)| {
            let mut durations: Vec<f64> = runs.iter().filter_map(|run| took(run)).collect();
            let due: Vec<SystemTime> = runs.iter().filter_map(|run| due_since(run, now)).collect();
            let oldest = due.iter().min();
            let (ended, failed) = ended(runs.iter().copied());
            Fares {
                workflow: workflow.to_owned(),
                runs: runs.len(),
                active: runs.iter().filter(|run| !run.status.is_terminal()).count(),
                due: due.len(),
                oldest_due_seconds: oldest.map(|at| between(*at, now).as_secs_f64()),
                ended,
                failed,
                p50_seconds: percentile(&mut durations, 0.5),
                p95_seconds: percentile(&mut durations, 0.95),
            }
        })
        .collect();
    fares.sort_by_key(|fares| std::cmp::Reverse(fares.runs));
    fares
}

fn bars(sample: &[WorkflowRun], now: SystemTime) -> Bars {
    const SPANS: [u64; 5] = [600, 3_600, 86_400, 30 * 86_400, 365 * 86_400];
    let ages: Vec<Duration> = sample
        .iter()
        .map(|run| between(run.created_at, now))
        .collect();
    let spans = SPANS.map(Duration::from_secs);
    // The shortest that shows most of them.
    let fitting = spans.into_iter().find(|span| {
        let within = ages.iter().filter(|age| *age < span).count();
        2 * within >= ages.len().max(1)
    });
    let span = fitting.unwrap_or(Duration::from_secs(365 * 86_400));
    let mut counts = vec![(0, 0); BARS];
    for (run, age) in sample.iter().zip(ages) {
        let from_end = (age.as_secs_f64() / span.as_secs_f64() * BARS as f64) as usize;
        let at = BARS.checked_sub(1 + from_end);
        if let Some((well, failed)) = at.and_then(|at| counts.get_mut(at)) {
            match run.status {
                RunStatus::Failed => *failed += 1,
                _ => *well += 1,
            }
        }
    }
    Bars { span, counts }
}

fn attention(
    figures: &Figures,
    sample: &[WorkflowRun],
    pending: &[WorkflowRun],
    running: &[WorkflowRun],
) -> Vec<Attention> {
    let now = figures.now;
    let mut list = Vec::new();
    // Workflows whose runs nobody claims, by version: workers of another may be all that there are.
    let mut unclaimed: BTreeMap<(&str, Option<&str>), (usize, SystemTime)> = BTreeMap::new();
    for run in pending {
        let Some(since) = due_since(run, now) else {
            continue;
        };
        if between(since, now) < limits::OLDEST_DUE {
            continue;
        }
        let key = (&*run.workflow_name, run.version.as_deref());
        let (count, oldest) = unclaimed.entry(key).or_insert((0, since));
        *count += 1;
        *oldest = since.min(*oldest);
    }
    for ((workflow, version), (count, oldest)) in unclaimed {
        let of = match version {
            Some(version) => format!("version {}", crate::text::cut(version, 40)),
            None => "no version".to_owned(),
        };
        let age = openworkflow::trace::picture::duration(between(oldest, now));
        let runs = crate::text::count(count, "run is", "runs are");
        list.push(Attention {
            what: "unclaimed",
            text: format!("{runs} due since {age} at most, and no worker claims them ({of})"),
            remedy: "Start a worker that has this workflow, in this version.",
            workflow: Some(workflow.to_owned()),
            run_id: None,
        });
    }
    for fares in &figures.workflows {
        let share = fares.failed as f64 / fares.ended.max(1) as f64;
        if share <= limits::ERROR_SHARE {
            continue;
        }
        let (failed, ended) = (fares.failed, fares.ended);
        let first = sample
            .iter()
            .find(|run| run.status == RunStatus::Failed && run.workflow_name == fares.workflow);
        let error = first.and_then(|run| run.error.as_ref());
        let error = error.map(|error| crate::text::cut(&error.to_string(), 160));
        let last = error.map_or_else(String::new, |error| format!("; the last: {error}"));
        list.push(Attention {
            what: "failing",
            text: format!("{failed} of {ended} runs that ended failed{last}"),
            remedy: "See what failed, and where.",
            workflow: Some(fares.workflow.clone()),
            run_id: first.map(|run| run.id.clone()),
        });
    }
    for run in running {
        let Some(lease) = run.available_at.filter(|_| run.worker_id.is_some()) else {
            continue;
        };
        if between(lease, now) < limits::OLDEST_DUE {
            continue;
        }
        let age = openworkflow::trace::picture::duration(between(lease, now));
        list.push(Attention {
            what: "lost",
            text: format!(
                "its worker has not been heard of since {age}, and no other takes the run over"
            ),
            remedy: "Start a worker that has this workflow.",
            workflow: Some(run.workflow_name.clone()),
            run_id: Some(run.id.clone()),
        });
    }
    list
}
