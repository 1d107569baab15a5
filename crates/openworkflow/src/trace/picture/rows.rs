//! From a run to rows: one per step, in the order in which they began, children below the steps that created
//! them. The attempts at a step are segments of its row.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::super::{StepState, TraceEventKind, TraceEvents, TraceStepSummary, TraceSummary, json};
use super::duration;
use crate::backend::StepAttemptKind;

/// How children are indented at most.
const DEEPEST: usize = 8;

/// What a part of a row means, the least important first: where two meet in one place, the last one is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SegmentKind {
    /// It waits: for a time, a signal or a child.
    Waiting,
    /// The time until the next attempt.
    BackingOff,
    /// An attempt.
    Working,
    /// An attempt that never ended.
    Unfinished,
    /// The end of an attempt that failed. It takes no time.
    Failed,
}

/// A part of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Segment {
    /// When it begins.
    #[serde(serialize_with = "json::time")]
    pub from: SystemTime,
    /// When it ends. Not before it begins.
    #[serde(serialize_with = "json::time")]
    pub to: SystemTime,
    /// What it means.
    pub kind: SegmentKind,
}

/// A step, or several of one name.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The run that the step is of.
    pub run_id: String,
    /// How far below the run that was asked about: 0 for its own steps, 1 for those of its children, 8 at most.
    pub depth: usize,
    /// The step's name. Of several steps, what their names have in common.
    pub name: String,
    /// Its kind.
    pub kind: StepAttemptKind,
    /// What became of it. Of several, the worst.
    pub state: StepState,
    /// How many attempts there were.
    pub attempts: u32,
    /// When the first attempt began.
    #[serde(serialize_with = "json::time")]
    pub began_at: SystemTime,
    /// From there to the end of the last one, where that has ended. Of several steps, `None`.
    #[serde(serialize_with = "json::optional_seconds")]
    pub duration: Option<Duration>,
    /// The child that it created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child_run_id: Option<String>,
    /// Where the row stands for several steps, how they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// Attempts, and what lies between them.
    pub segments: Vec<Segment>,
}

/// How several steps are that are shown as one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Group {
    /// How many there are.
    pub count: usize,
    /// How many failed, or ran out of time.
    pub failed: usize,
    /// How many neither failed nor are completed.
    pub not_over: usize,
}

impl Row {
    /// Whether somebody who looks for trouble wants to see it.
    #[must_use]
    pub fn is_notable(&self) -> bool {
        self.state != StepState::Completed
            || self
                .segments
                .iter()
                .any(|of| of.kind == SegmentKind::Failed)
    }

    /// How long it took, or how many steps it stands for, in words: `1.2 ms`, `×312`. Empty where it has not
    /// ended.
    #[must_use]
    pub fn took(&self) -> String {
        match self.group {
            Some(group) => format!("×{}", group.count),
            None => self.duration.map(duration).unwrap_or_default(),
        }
    }

    /// What became of it, in words: `ok, 2 tries`, `3 failed`.
    #[must_use]
    pub fn outcome(&self) -> String {
        match self.group {
            None => {}
            Some(group) if group.failed > 0 => return format!("{} failed", group.failed),
            Some(group) if group.not_over > 0 => return format!("{} not over", group.not_over),
            Some(_) => return "ok".to_owned(),
        }
        let word = match self.state {
            StepState::Completed => "ok",
            state => state.label(),
        };
        match self.attempts {
            0 | 1 => word.to_owned(),
            tries => format!("{word}, {tries} tries"),
        }
    }
}

/// A run is over, or it is now.
pub(super) fn horizon(summary: &TraceSummary) -> SystemTime {
    let end = summary.created_at.checked_add(summary.total);
    end.unwrap_or(summary.created_at)
}

pub(super) fn rows(summary: &TraceSummary, trace: &TraceEvents) -> Vec<Row> {
    let runs = std::iter::once(summary).chain(&summary.descendants);
    let mut attempts = attempts(trace);
    let indexes: HashMap<&str, usize> = runs
        .clone()
        .enumerate()
        .map(|(index, run)| (&*run.run_id, index))
        .collect();
    let runs: Vec<&TraceSummary> = runs.collect();
    let mut rows = Vec::new();
    // What is still to be told: steps of runs, those that come first last.
    let mut told = HashSet::from([0]);
    let mut stack: Vec<(usize, usize, &TraceStepSummary)> = Vec::new();
    push(&mut stack, 0, 0, summary);
    while let Some((run, depth, step)) = stack.pop() {
        let Some(of) = runs.get(run) else { continue };
        let key = (&*of.run_id, &*step.name);
        let segments = segments(step, attempts.remove(&key).unwrap_or_default(), horizon(of));
        rows.push(row(&of.run_id, depth, step, segments));
        let child = step.child_run_id.as_deref().and_then(|id| indexes.get(id));
        // Rows may lead in a circle.
        if let Some(&child) = child
            && told.insert(child)
            && let Some(of) = runs.get(child)
        {
            push(&mut stack, child, (depth + 1).min(DEEPEST), of);
        }
    }
    rows
}

fn push<'a>(
    stack: &mut Vec<(usize, usize, &'a TraceStepSummary)>,
    run: usize,
    depth: usize,
    of: &'a TraceSummary,
) {
    stack.extend(of.steps.iter().rev().map(|step| (run, depth, step)));
}

/// One attempt: when it began, when it ended, and whether it failed.
#[derive(Debug)]
struct Attempt {
    began_at: SystemTime,
    ended_at: Option<SystemTime>,
    failed: bool,
}

/// The attempts by run and step, in order.
fn attempts(trace: &TraceEvents) -> HashMap<(&str, &str), Vec<Attempt>> {
    let mut attempts: HashMap<(&str, &str), Vec<Attempt>> = HashMap::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    for event in &trace.events {
        let Some(step) = event.kind.step() else {
            continue;
        };
        let of_step = attempts.entry((&event.run_id, &step.name)).or_default();
        match &event.kind {
            TraceEventKind::StepStarted { .. } => {
                open.insert(&step.attempt_id, of_step.len());
                of_step.push(Attempt {
                    began_at: event.at,
                    ended_at: None,
                    failed: false,
                });
            }
            TraceEventKind::SignalReceived { .. } | TraceEventKind::ChildEnded { .. } => {}
            kind => {
                let begun = open.get(&*step.attempt_id);
                if let Some(attempt) = begun.and_then(|at| of_step.get_mut(*at)) {
                    attempt.ended_at = Some(event.at);
                    attempt.failed = matches!(kind, TraceEventKind::StepFailed { .. });
                }
            }
        }
    }
    attempts
}

fn segments(step: &TraceStepSummary, attempts: Vec<Attempt>, horizon: SystemTime) -> Vec<Segment> {
    use StepAttemptKind as K;
    let kind = match step.kind {
        K::Sleep | K::SignalWait | K::Workflow => SegmentKind::Waiting,
        _ => SegmentKind::Working,
    };
    let mut segments = Vec::with_capacity(attempts.len());
    let mut failed_at = None;
    let is_over = !matches!(
        step.state,
        StepState::Running | StepState::Waiting | StepState::Retrying
    );
    for Attempt {
        began_at,
        ended_at,
        failed,
    } in attempts
    {
        let mut add = |from, to, kind| segments.push(Segment { from, to, kind });
        if let Some(before) = failed_at.take() {
            add(before, began_at, SegmentKind::BackingOff);
        }
        match ended_at {
            Some(at) => add(began_at, at, kind),
            None if is_over => add(began_at, began_at, SegmentKind::Unfinished),
            None => add(began_at, horizon, kind),
        }
        if failed {
            let at = ended_at.unwrap_or(began_at);
            add(at, at, SegmentKind::Failed);
            failed_at = Some(at);
        }
    }
    if let (Some(from), StepState::Retrying) = (failed_at, step.state) {
        segments.push(Segment {
            from,
            to: horizon,
            kind: SegmentKind::BackingOff,
        });
    }
    if segments.is_empty() {
        // No attempt is among the events: what the summary says of it.
        segments.push(Segment {
            from: step.began_at,
            to: step.ended_at.unwrap_or(step.began_at),
            kind,
        });
    }
    segments
}

fn row(run_id: &str, depth: usize, step: &TraceStepSummary, segments: Vec<Segment>) -> Row {
    Row {
        run_id: run_id.to_owned(),
        depth,
        name: step.name.clone(),
        kind: step.kind.clone(),
        state: step.state,
        attempts: step.attempts,
        began_at: step.began_at,
        duration: step.duration,
        child_run_id: step.child_run_id.clone(),
        group: None,
        segments,
    }
}

/// When something of the run, or of its children, is at work.
pub(super) fn busy(summary: &TraceSummary, rows: &[Row]) -> Vec<(SystemTime, SystemTime)> {
    use SegmentKind as K;
    let is_work = |kind| matches!(kind, K::Working | K::Unfinished | K::Failed);
    let segments = rows.iter().flat_map(|row| &row.segments);
    let of_steps = segments.flat_map(|segment| match is_work(segment.kind) {
        true => [(segment.from, segment.to), (segment.to, segment.to)],
        // Something set the wait up, and something went on after it.
        false => [(segment.from, segment.from), (segment.to, segment.to)],
    });
    let runs = std::iter::once(summary).chain(&summary.descendants);
    let executions = runs.flat_map(|run| {
        let recorded = run.executions.iter().filter(|one| !one.estimated);
        let end = horizon(run);
        recorded.filter_map(move |one| Some((one.began_at?, one.ended_at.unwrap_or(end))))
    });
    of_steps.chain(executions).collect()
}
