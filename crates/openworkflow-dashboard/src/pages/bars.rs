//! Drawings: where time went, and what is where on an axis. Everything is told by shape as well as by color.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};
use openworkflow::trace::TraceSummary;
use openworkflow::trace::picture::{Axis, Segment, SegmentKind, duration};

use crate::text::between;

/// The height of a row's drawing.
const HIGH: f64 = 18.0;

/// Part, class and word.
fn part(name: &str) -> (&'static str, &'static str) {
    match name {
        "executing" => ("work", "executing"),
        "queued" => ("queued", "queued"),
        "parked" => ("wait", "parked"),
        "backing_off" => ("backoff", "backing off"),
        "delayed" => ("delayed", "delayed"),
        "lost" => ("lost", "lost with a worker"),
        _ => ("unknown", "not recorded"),
    }
}

/// Where the time of a run went.
pub(super) fn spent(summary: &TraceSummary) -> Markup {
    let mut parts: Vec<(&str, Duration, bool)> = summary
        .time
        .parts()
        .map(|(name, spent)| (name, spent.duration, spent.estimated))
        .collect();
    parts.push(("unaccounted", summary.time.unaccounted, false));
    parts.retain(|(_, spent, _)| !spent.is_zero());
    if parts.is_empty() {
        return html! {};
    }
    // However little it is, it is seen.
    let total: f64 = parts.iter().map(|(_, spent, _)| spent.as_secs_f64()).sum();
    let shares: Vec<f64> = parts
        .iter()
        .map(|(_, spent, _)| (spent.as_secs_f64() / total.max(1e-12)).max(0.008))
        .collect();
    let whole: f64 = shares.iter().sum();
    let mut at = 0.0;
    let told = parts
        .iter()
        .map(|(name, spent, _)| format!("{} {}", part(name).1, duration(*spent)));
    let label = told.collect::<Vec<_>>().join(", ");
    html! {
        svg.spent role="img" aria-label={ "Where the time went: " (label) } width="100%" height="14" {
            @for ((name, _, _), share) in parts.iter().zip(&shares) {
                @let width = share / whole * 100.0;
                rect class=(part(name).0) x=(percent(at)) y="1" width=(percent(width)) height="12" {}
                @if part(name).0 == "backoff" {
                    line class="dots" x1=(percent(at)) x2=(percent(at + width)) y1="7" y2="7" {}
                }
                ({ at += width; "" })
            }
        }
        ul.legend {
            @for (name, spent, estimated) in &parts {
                @let (class, word) = part(name);
                li {
                    svg.key aria-hidden="true" width="12" height="12" {
                        rect class=(class) x="0.5" y="0.5" width="11" height="11" {}
                        @if class == "backoff" { line class="dots" x1="0" x2="12" y1="6" y2="6" {} }
                    }
                    (word) " "
                    b { @if *estimated { "about " } (duration(*spent)) }
                }
            }
        }
    }
}

fn percent(value: f64) -> String {
    format!("{value:.3}%")
}

fn place(axis: &Axis, at: SystemTime) -> f64 {
    axis.column(at) / axis.columns().max(1) as f64 * 100.0
}

/// The scale above the rows.
pub(super) fn scale(axis: &Axis) -> Markup {
    let columns = axis.columns().max(1) as f64;
    let Some(begin) = axis.pieces().first().map(|piece| piece.from) else {
        return html! {};
    };
    // A time is written where there is room for it.
    let mut used = -1.0;
    let mut times: Vec<(f64, String)> = Vec::new();
    for piece in axis.pieces().iter().filter(|piece| piece.band.is_none()) {
        let text = duration(between(begin, piece.from));
        let long = text.chars().count() as f64 + 1.0;
        let is_last = times.last().is_some_and(|(_, last)| *last == text);
        if piece.column >= used && !is_last && long <= piece.columns + 0.5 {
            used = piece.column + long;
            times.push((piece.column / columns * 100.0, text));
        }
    }
    let last = axis.pieces().last();
    let end = last.and_then(|piece| {
        let text = duration(between(begin, piece.to));
        let band = if piece.band.is_some() {
            columns
        } else {
            piece.column
        };
        let room = columns - used.max(band);
        (room > text.chars().count() as f64 + 1.0).then_some(text)
    });
    html! {
        svg.scale aria-hidden="true" width="100%" height="20" {
            @for piece in axis.pieces() {
                @if let Some(band) = &piece.band {
                    @let from = piece.column / columns * 100.0;
                    @let width = piece.columns / columns * 100.0;
                    rect.band x=(percent(from)) y="-40" width=(percent(width)) height="100" {}
                    @if piece.columns >= piece.label_columns() {
                        text.band x=(percent(from + width / 2.0)) y="14" text-anchor="middle" { (band) }
                    }
                }
            }
            @for (at, text) in &times { text x=(percent(*at)) dx="3" y="14" { (text) } }
            @if let Some(end) = end { text x="100%" dx="-3" y="14" text-anchor="end" { (end) } }
        }
    }
}

/// A row over time.
pub(super) fn row(axis: &Axis, segments: &[Segment], is_going: bool, label: &str) -> Markup {
    let columns = axis.columns().max(1) as f64;
    let mut sorted: Vec<&Segment> = segments.iter().collect();
    sorted.sort_by_key(|segment| segment.kind);
    let last = segments.last().filter(|_| is_going);
    html! {
        svg.row role="img" aria-label=(label) width="100%" height=(HIGH) {
            @for piece in axis.pieces().iter().filter(|piece| piece.band.is_some()) {
                rect.band x=(percent(piece.column / columns * 100.0)) y="-40"
                    width=(percent(piece.columns / columns * 100.0)) height="100" {}
            }
            @for segment in sorted { (shape(axis, segment)) }
            @if let Some(last) = last {
                svg x=(percent(place(axis, last.to))) overflow="visible" {
                    line.now x1="0" x2="0" y1="1" y2="17" {}
                }
            }
        }
    }
}

fn shape(axis: &Axis, segment: &Segment) -> Markup {
    let from = place(axis, segment.from);
    let to = place(axis, segment.to);
    // However short it was, it is seen.
    let width = (to - from).max(0.35);
    let from = from.min(100.0 - width);
    // For whoever points at it.
    let begin = axis
        .pieces()
        .first()
        .map_or(segment.from, |piece| piece.from);
    let after = duration(between(begin, segment.from));
    let told = format!(
        "{}, after {after}",
        duration(between(segment.from, segment.to))
    );
    html! {
        @match segment.kind {
            SegmentKind::Waiting => {
                rect.wait x=(percent(from)) y="5.5" width=(percent(width)) height="7" rx="3.5" { title { "waits " (told) } }
            }
            SegmentKind::BackingOff => {
                line.dots x1=(percent(from)) x2=(percent(from + width)) y1="9" y2="9" { title { "until the next try " (told) } }
            }
            SegmentKind::Working => {
                rect.work x=(percent(from)) y="3" width=(percent(width)) height="12" rx="2" { title { "work " (told) } }
            }
            SegmentKind::Failed => {
                svg x=(percent(to.clamp(0.6, 99.4))) overflow="visible" {
                    path.failed d="M-4 5l8 8M4 5l-8 8" {}
                }
            }
            _ => {
                svg x=(percent(from.clamp(0.6, 99.4))) overflow="visible" {
                    text.lost x="0" y="14" text-anchor="middle" { "?" }
                }
            }
        }
    }
}

/// An execution over time: when it was due, and when it was carried out.
pub(super) fn execution(
    axis: &Axis,
    due: Option<SystemTime>,
    began: SystemTime,
    ended: SystemTime,
    label: &str,
) -> Markup {
    let columns = axis.columns().max(1) as f64;
    let queued = due.filter(|due| *due < began);
    let (from, to) = (place(axis, began), place(axis, ended));
    html! {
        svg.row role="img" aria-label=(label) width="100%" height=(HIGH) {
            @for piece in axis.pieces().iter().filter(|piece| piece.band.is_some()) {
                rect.band x=(percent(piece.column / columns * 100.0)) y="-40"
                    width=(percent(piece.columns / columns * 100.0)) height="100" {}
            }
            @if let Some(due) = queued {
                @let due = place(axis, due);
                rect.queued x=(percent(due)) y="6" width=(percent((from - due).max(0.2))) height="6" {}
            }
            rect.work x=(percent(from.min(99.65))) y="3" width=(percent((to - from).max(0.35))) height="12" rx="2" {}
        }
    }
}
