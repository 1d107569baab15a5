//! What stands above every picture of a run: what it is, where its time went, where it stands, what failed.

use std::fmt::Write as _;
use std::time::Duration;

use anstyle::Style;
use openworkflow::trace::{TraceFailure, TraceSummary};

use crate::args::TraceArgs;
use crate::screen::Screen;
use crate::standing;
use crate::table::styles;
use crate::text::{between, duration, fit, moment, safe, width};

/// How many failures are told without `--all`: the first ones, and the last.
const FAILURES: usize = 3;
/// How much of an error's causes or stack is told.
const CAUSES: usize = 4;

pub(super) fn show(summary: &TraceSummary, all: bool, screen: &mut Screen) {
    title(summary, screen);
    spent(summary, screen);
    if let Some(words) = standing::words(&summary.standing) {
        let style = styles::WAITING;
        screen.line(format!("{style}now:{style:#} {words}"));
    }
    failures(summary, all, screen);
}

fn title(summary: &TraceSummary, screen: &mut Screen) {
    let (bold, dim) = (styles::BOLD, styles::DIM);
    let style = styles::of_run(&summary.status);
    let name = fit(&summary.workflow_name, screen.width / 2 - 4);
    let version = match &summary.workflow_version {
        Some(version) => format!(" version {}", fit(version, 12)),
        None => String::new(),
    };
    screen.line(format!(
        "{bold}{name}{bold:#}{version}  {style}{}{style:#} · {}",
        fit(summary.status.as_str(), 12),
        duration(summary.total)
    ));
    let mut line = format!(
        "{dim}{}  created {}Z{dim:#}",
        safe(&summary.run_id),
        moment(summary.created_at, 23)
    );
    if let Some(parent) = &summary.parent_run_id {
        let _ = write!(line, "\n{dim}child of {}{dim:#}", safe(parent));
    }
    if let Some(next) = &summary.continued_as {
        let _ = write!(line, "\n{dim}continued as {}{dim:#}", safe(next));
    }
    screen.line(line);
}

/// Glyph, style and word of a part of the time.
fn part(name: &str) -> (char, Style, &'static str) {
    match name {
        "executing" => ('█', styles::GOOD, "executing"),
        "queued" => ('▒', styles::WARNING, "queued"),
        "parked" => ('░', styles::WAITING, "parked"),
        "backing_off" => ('┈', styles::WARNING, "backing off"),
        "delayed" => ('-', styles::DIM, "delayed"),
        "lost" => ('?', styles::BAD, "lost"),
        _ => ('·', styles::DIM, "not recorded"),
    }
}

fn spent(summary: &TraceSummary, screen: &mut Screen) {
    let mut parts: Vec<(&str, Duration, bool)> = summary
        .time
        .parts()
        .map(|(name, spent)| (name, spent.duration, spent.estimated))
        .collect();
    parts.push(("unaccounted", summary.time.unaccounted, false));
    parts.retain(|(_, spent, _)| !spent.is_zero());
    let total: Duration = parts.iter().map(|(_, spent, _)| spent).sum();
    let mut words: Vec<(String, usize)> = Vec::new();
    let mut bar = String::new();
    let columns = screen.width.saturating_sub(parts.len()).min(120);
    for (name, spent, estimated) in &parts {
        let (glyph, style, word) = part(name);
        let share = spent.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
        // However little it is, it is seen.
        let long = 1 + (share * columns as f64) as usize;
        let glyphs = String::from(glyph).repeat(long);
        let _ = write!(bar, "{style}{glyphs}{style:#}");
        let about = if *estimated { "about " } else { "" };
        let word = format!("{word} {about}{}", duration(*spent));
        let columns = 2 + width(&word);
        words.push((format!("{style}{glyph}{style:#} {word}"), columns));
    }
    if !parts.is_empty() {
        screen.line(bar);
        flow(&words, screen);
    }
    let count = |count: usize, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {more}"),
    };
    let mut counts = vec![
        count(summary.steps.len(), "step", "steps"),
        count(summary.attempts as usize, "execution", "executions"),
        count(summary.retries as usize, "retry", "retries"),
    ];
    if !summary.worker_ids.is_empty() {
        counts.push(count(
            summary.worker_ids.len(),
            "worker slot",
            "worker slots",
        ));
    }
    if !summary.children.is_empty() {
        counts.push(count(summary.children.len(), "child", "children"));
    }
    screen.line(counts.join(" · "));
}

/// As many on a line as fit.
fn flow(words: &[(String, usize)], screen: &mut Screen) {
    let (mut line, mut used) = (String::new(), 0);
    for (word, columns) in words {
        if used > 0 && used + 2 + columns > screen.width {
            screen.line(std::mem::take(&mut line));
            used = 0;
        }
        if used > 0 {
            line.push_str("  ");
            used += 2;
        }
        line.push_str(word);
        used += columns;
    }
    screen.line(line);
}

fn failures(summary: &TraceSummary, all: bool, screen: &mut Screen) {
    let count = summary.errors.len();
    let shown: Vec<usize> = match all || count <= FAILURES {
        true => (0..count).collect(),
        // How it began, and how it ended.
        false => (0..FAILURES - 1).chain([count - 1]).collect(),
    };
    let mut before = None;
    for index in shown {
        if before.is_some_and(|before| before + 1 < index) {
            let left_out = count - FAILURES;
            screen.line(format!("  … {left_out} more failures, with --all"));
        }
        if let Some(failure) = summary.errors.get(index) {
            one(failure, screen);
        }
        before = Some(index);
    }
}

fn one(failure: &TraceFailure, screen: &mut Screen) {
    let (bad, dim) = (styles::BAD, styles::DIM);
    let columns = screen.width;
    let who = match &failure.step {
        Some(step) => format!("{}, attempt {}", fit(&step.name, columns / 3), step.attempt),
        None => "the run".to_owned(),
    };
    screen.line(format!("{bad}✗ {who}{bad:#}"));
    let mut error = failure.error.clone();
    // It is said already.
    error.step_name = None;
    for line in wrap(&error.to_string(), columns.saturating_sub(4)) {
        screen.line(format!("    {line}"));
    }
    let stack = error.stack.as_deref().unwrap_or_default();
    let lines = stack.lines().filter(|line| !line.trim().is_empty());
    for line in lines.take(CAUSES) {
        let line = fit(line.trim_end(), columns.saturating_sub(6));
        screen.line(format!("      {dim}{line}{dim:#}"));
    }
    let next = match failure.next_try_at {
        Some(next) => format!("next try {} later", duration(between(failure.at, next))),
        None => "not tried again".to_owned(),
    };
    screen.line(format!("    {dim}{next}{dim:#}"));
}

/// Three lines at most.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    const LINES: usize = 3;
    let text = fit(text, columns * LINES);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for c in text.chars() {
        let wide = crate::text::width(c.encode_utf8(&mut [0; 4]));
        if used + wide > columns {
            lines.push(String::new());
            used = 0;
        }
        used += wide;
        if let Some(line) = lines.last_mut() {
            line.push(c);
        }
    }
    lines
}

/// What stands below every picture: what is not in it, and how to see it.
pub(super) fn end(summary: &TraceSummary, args: &TraceArgs, screen: &mut Screen) {
    let dim = styles::DIM;
    if !args.children && !summary.children.is_empty() {
        screen.line(format!("{dim}with its children: --children{dim:#}"));
    }
    if summary.children_left_out > 0 {
        let count = summary.children_left_out;
        screen.line(format!(
            "{count} runs below it are left out: there are too many"
        ));
    }
    let below = summary.descendants.iter().flat_map(|run| &run.unreadable);
    for unreadable in summary.unreadable.iter().chain(below).take(5) {
        let bad = styles::BAD;
        let problem = fit(&unreadable.problem, 4 * screen.width);
        screen.line(format!("{bad}cannot be read:{bad:#} {problem}"));
    }
}
