//! The picture of a run: a row per step, over time.

use anstyle::Style;
use openworkflow::trace::picture::{Axis, Line, Picture, Row, SegmentKind};
use openworkflow::trace::{StepState, TraceEvents, TraceSummary};

use super::axis;
use crate::args::TraceArgs;
use crate::screen::Screen;
use crate::table::styles;
use crate::text::{fit, pad, pad_left, width};

/// From here on there is room for the kinds of steps.
const ROOMY: usize = 100;
const OUTCOME: usize = 14;

/// Where what stands.
struct Columns {
    name: usize,
    kind: usize,
    bar: usize,
    took: usize,
    outcome: usize,
}

pub(super) fn show(
    summary: &TraceSummary,
    trace: &TraceEvents,
    args: &TraceArgs,
    screen: &mut Screen,
) {
    let picture = Picture::new(summary, trace);
    if picture.rows.is_empty() {
        screen.line("no steps yet");
        return;
    }
    let lines = match args.all {
        true => picture.rows.iter().cloned().map(Line::Row).collect(),
        false => picture.folded(),
    };
    let columns = columns(&lines, screen.width);
    let axis = picture.axis(columns.bar, !args.true_scale);
    let dim = styles::DIM;
    screen.line("");
    let indent = columns.name
        + 1
        + if columns.kind > 0 {
            columns.kind + 1
        } else {
            0
        };
    screen.line(format!(
        "{:indent$}{dim}{}{dim:#}",
        "",
        axis::labels(&axis).trim_end()
    ));
    let mut is_folded = false;
    for line in &lines {
        match line {
            Line::Row(row) => {
                is_folded |= row.group.is_some();
                screen.line(paint(row, &axis, &columns));
            }
            Line::LeftOut(count) => {
                is_folded = true;
                screen.line(format!("{dim}  … {count} more{dim:#}"));
            }
            _ => {}
        }
    }
    if is_folded {
        screen.line(format!("{dim}folded; every step: --all{dim:#}"));
    }
}

fn columns(lines: &[Line], total: usize) -> Columns {
    let rows = || {
        lines.iter().filter_map(|line| match line {
            Line::Row(row) => Some(row),
            _ => None,
        })
    };
    let most = |of: fn(&Row) -> usize| rows().map(of).max().unwrap_or(0);
    // Not more of a name than could be shown.
    let name = most(|row| 2 * row.depth + width(&fit(&row.name, 60)));
    let name = name.clamp(8, (total / 4).clamp(8, 48));
    let kind = if total >= ROOMY {
        most(|row| width(&fit(row.kind.as_str(), 12)))
    } else {
        0
    };
    let took = most(|row| width(&row.took())).max(4);
    let outcome = most(|row| width(&row.outcome())).min(OUTCOME);
    let used = name + 1 + kind + usize::from(kind > 0) + 1 + took + 2 + outcome;
    Columns {
        name,
        kind,
        bar: total.saturating_sub(used).max(8),
        took,
        outcome,
    }
}

fn paint(row: &Row, axis: &Axis, columns: &Columns) -> String {
    let mut cells: Vec<(char, Style)> = vec![(' ', styles::PLAIN); columns.bar];
    for at in axis::band_cells(axis) {
        if let Some(cell) = cells.get_mut(at) {
            *cell = ('┊', styles::DIM);
        }
    }
    let mut segments: Vec<_> = row.segments.iter().collect();
    segments.sort_by_key(|segment| segment.kind);
    for segment in segments {
        let mut range = axis::cells(axis, segment.from, segment.to);
        if segment.kind == SegmentKind::Failed {
            // At the end of what failed, not behind it.
            let end = (axis.column(segment.to).ceil() as usize).clamp(1, columns.bar);
            range = end - 1..end;
        }
        if let Some(cells) = cells.get_mut(range) {
            cells.fill(look(segment.kind));
        }
    }
    let mut bar = String::new();
    let mut rest = &*cells;
    while let Some((_, style)) = rest.first() {
        let same = rest.iter().take_while(|(_, other)| other == style).count();
        let (run, after) = rest.split_at(same);
        let text: String = run.iter().map(|(glyph, _)| glyph).collect();
        bar.push_str(&format!("{style}{text}{style:#}"));
        rest = after;
    }
    let indent = 2 * row.depth.min(columns.name / 4);
    let name = format!("{:indent$}{}", "", fit(&row.name, columns.name - indent));
    let name = pad(&name, columns.name);
    let dim = styles::DIM;
    let kind = match columns.kind {
        0 => String::new(),
        room => format!("{dim}{}{dim:#} ", pad(&fit(row.kind.as_str(), room), room)),
    };
    let took = pad_left(&row.took(), columns.took);
    let style = of_state(row.state);
    let outcome = fit(&row.outcome(), columns.outcome);
    format!("{name} {kind}{bar} {took}  {style}{outcome}{style:#}")
}

fn look(kind: SegmentKind) -> (char, Style) {
    match kind {
        SegmentKind::Working => ('█', styles::GOOD),
        SegmentKind::Waiting => ('░', styles::WAITING),
        SegmentKind::BackingOff => ('┈', styles::WARNING),
        SegmentKind::Unfinished => ('?', styles::WARNING),
        SegmentKind::Failed => ('✗', styles::BAD),
        _ => ('?', styles::DIM),
    }
}

fn of_state(state: StepState) -> Style {
    match state {
        StepState::Completed => styles::GOOD,
        StepState::Failed | StepState::TimedOut => styles::BAD,
        StepState::Retrying | StepState::Abandoned => styles::WARNING,
        StepState::Waiting | StepState::Running => styles::WAITING,
        _ => styles::DIM,
    }
}
