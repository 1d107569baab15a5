//! Columns of time as cells of a terminal.

use std::ops::Range;
use std::time::SystemTime;

use openworkflow::trace::picture::Axis;

use crate::text::{between, duration};

/// The cells of a segment, one at least.
pub(super) fn cells(axis: &Axis, from: SystemTime, to: SystemTime) -> Range<usize> {
    let last = axis.columns().saturating_sub(1);
    let begin = (axis.column(from) as usize).min(last);
    let end = (axis.column(to).ceil() as usize).min(axis.columns());
    begin..end.max(begin + 1)
}

/// Where bands begin.
pub(super) fn band_cells(axis: &Axis) -> impl Iterator<Item = usize> {
    let bands = axis.pieces().iter().filter(|piece| piece.band.is_some());
    bands.map(|piece| piece.column as usize)
}

/// What is written above: times since the begin, and the durations of bands.
pub(super) fn labels(axis: &Axis) -> String {
    let pieces = axis.pieces();
    let Some(begin) = pieces.first().map(|piece| piece.from) else {
        return String::new();
    };
    let mut cells = vec![' '; axis.columns()];
    let (mut used, mut last) = (0, String::new());
    // Bands first: a time of the run can be told from others, a folded one cannot.
    for piece in pieces {
        let Some(label) = &piece.band else { continue };
        let at = piece.column as usize;
        match piece.columns >= piece.label_columns() {
            true => write(&mut cells, at, &format!("┊{label}┊")),
            false => write(&mut cells, at, "┊"),
        }
    }
    for piece in pieces.iter().filter(|piece| piece.band.is_none()) {
        let label = duration(between(begin, piece.from));
        let at = piece.column.ceil() as usize;
        let end = at + label.chars().count();
        let is_free = cells
            .get(at.saturating_sub(1)..=end)
            .is_some_and(|cells| cells.iter().skip(1).all(|cell| *cell == ' '));
        if at >= used && is_free {
            write(&mut cells, at, &label);
            (used, last) = (end + 1, label);
        }
    }
    let end = pieces.last().map(|piece| between(begin, piece.to));
    let end = duration(end.unwrap_or_default());
    let at = axis.columns().saturating_sub(end.chars().count());
    let free = cells.get(at.saturating_sub(1)..).unwrap_or_default();
    if end != last && free.iter().all(|cell| *cell == ' ') {
        write(&mut cells, at, &end);
    }
    cells.into_iter().collect()
}

fn write(cells: &mut [char], at: usize, text: &str) {
    for (cell, c) in cells.iter_mut().skip(at).zip(text.chars()) {
        *cell = c;
    }
}
