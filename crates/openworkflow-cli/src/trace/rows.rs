//! From a run to rows: one per step, in the order in which they began, children below the steps that created
//! them. The attempts at a step are segments of its row.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use openworkflow::backend::StepAttemptKind;
use openworkflow::trace::{StepState, TraceEventKind, TraceEvents, TraceStepSummary, TraceSummary};

use crate::text::duration;

/// How children are indented at most.
const DEEPEST: usize = 8;

/// What a part of a row means, the least important first: where two meet in one place, the last one is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Glyph {
    Waiting,
    BackingOff,
    Working,
    Unfinished,
    Failed,
}

#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) from: SystemTime,
    pub(super) to: SystemTime,
    pub(super) glyph: Glyph,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) run: usize,
    pub(super) depth: usize,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) state: StepState,
    pub(super) segments: Vec<Segment>,
    /// The duration and what became of it, in words.
    pub(super) took: String,
    pub(super) outcome: String,
}

impl Row {
    /// Whether somebody who looks for trouble wants to see it.
    pub(super) fn is_notable(&self) -> bool {
        self.state != StepState::Completed
            || self.segments.iter().any(|of| of.glyph == Glyph::Failed)
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
        rows.push(row(run, depth, step, segments));
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
    let glyph = match step.kind {
        K::Sleep | K::SignalWait | K::Workflow => Glyph::Waiting,
        _ => Glyph::Working,
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
        let mut add = |from, to, glyph| segments.push(Segment { from, to, glyph });
        if let Some(before) = failed_at.take() {
            add(before, began_at, Glyph::BackingOff);
        }
        match ended_at {
            Some(at) => add(began_at, at, glyph),
            None if is_over => add(began_at, began_at, Glyph::Unfinished),
            None => add(began_at, horizon, glyph),
        }
        if failed {
            let at = ended_at.unwrap_or(began_at);
            add(at, at, Glyph::Failed);
            failed_at = Some(at);
        }
    }
    if let (Some(from), StepState::Retrying) = (failed_at, step.state) {
        segments.push(Segment {
            from,
            to: horizon,
            glyph: Glyph::BackingOff,
        });
    }
    if segments.is_empty() {
        // No attempt is among the events: what the summary says of it.
        segments.push(Segment {
            from: step.began_at,
            to: step.ended_at.unwrap_or(step.began_at),
            glyph,
        });
    }
    segments
}

fn row(run: usize, depth: usize, step: &TraceStepSummary, segments: Vec<Segment>) -> Row {
    Row {
        run,
        depth,
        name: step.name.clone(),
        kind: step.kind.as_str().to_owned(),
        state: step.state,
        segments,
        took: step.duration.map(duration).unwrap_or_default(),
        outcome: outcome(step),
    }
}

fn outcome(step: &TraceStepSummary) -> String {
    let word = match step.state {
        StepState::Completed => "ok",
        state => word(state),
    };
    match step.attempts {
        0 | 1 => word.to_owned(),
        tries => format!("{word}, {tries} tries"),
    }
}

pub(super) fn word(state: StepState) -> &'static str {
    match state {
        StepState::Completed => "completed",
        StepState::Failed => "failed",
        StepState::TimedOut => "timed out",
        StepState::Withdrawn => "withdrawn",
        StepState::Retrying => "retrying",
        StepState::Waiting => "waiting",
        StepState::Running => "running",
        StepState::Abandoned => "abandoned",
        _ => "unknown",
    }
}
