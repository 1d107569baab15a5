//! From times to columns. Stretches in which nothing works become narrow bands, so that work stays readable
//! in a run that waits for a month.

use std::time::{Duration, SystemTime};

use crate::text::{between, duration};

/// Columns of a stretch that is not folded, at least.
const LEAST: f64 = 2.0;
/// A stretch is folded where it would take more than this share of what is not folded yet.
const SHARE: f64 = 0.25;
/// Bands take this share of the columns at most.
const BANDS: f64 = 0.5;
/// A band without room for its duration.
const NARROW: usize = 3;

#[derive(Debug)]
struct Piece {
    from: SystemTime,
    to: SystemTime,
    /// The duration, where it is folded.
    band: Option<String>,
    column: f64,
    columns: f64,
}

#[derive(Debug)]
pub(super) struct Axis {
    pieces: Vec<Piece>,
    columns: usize,
}

impl Axis {
    /// From `from` to `to` in so many columns, where work is done in `busy`.
    pub(super) fn new(
        from: SystemTime,
        to: SystemTime,
        busy: Vec<(SystemTime, SystemTime)>,
        columns: usize,
        fold: bool,
    ) -> Self {
        let gaps = if fold {
            gaps(from, to, busy)
        } else {
            Vec::new()
        };
        let folded = choose(gaps, between(from, to), columns);
        let mut pieces = Vec::new();
        let piece = |from, to, band| Piece {
            from,
            to,
            band,
            column: 0.0,
            columns: 0.0,
        };
        let mut at = from;
        for (begin, end) in folded {
            pieces.push(piece(at, begin, None));
            pieces.push(piece(begin, end, Some(duration(between(begin, end)))));
            at = end;
        }
        pieces.push(piece(at, to, None));
        let mut axis = Self { pieces, columns };
        axis.lay_out();
        axis
    }

    fn lay_out(&mut self) {
        let total = self.columns as f64;
        // The longest bands are told first, as long as there is room.
        let mut bands: Vec<&mut Piece> = self
            .pieces
            .iter_mut()
            .filter(|piece| piece.band.is_some())
            .collect();
        bands.sort_by_key(|piece| std::cmp::Reverse(piece.time()));
        let mut folded = (NARROW * bands.len()) as f64;
        for piece in bands {
            let labeled = piece.label_columns();
            let is_labeled = folded + labeled - NARROW as f64 <= total * BANDS;
            piece.columns = if is_labeled { labeled } else { NARROW as f64 };
            folded += piece.columns - NARROW as f64;
        }
        let live = self.pieces.iter().filter(|piece| piece.band.is_none());
        let (count, time) = live.fold((0.0, 0.0), |(count, time), piece| {
            (count + 1.0, time + piece.time().as_secs_f64())
        });
        let room = (total - folded).max(1.0);
        let least = LEAST.min(room / count);
        let spare = room - least * count;
        let mut column = 0.0;
        for piece in &mut self.pieces {
            piece.column = column;
            if piece.band.is_none() {
                piece.columns = match time > 0.0 {
                    true => least + spare * piece.time().as_secs_f64() / time,
                    false => room / count,
                };
            }
            column += piece.columns;
        }
    }

    /// The column of a time, from 0 to the number of columns.
    pub(super) fn column(&self, at: SystemTime) -> f64 {
        let within = |piece: &&Piece| at < piece.to;
        let Some(piece) = self.pieces.iter().find(within) else {
            return self.columns as f64;
        };
        let share = between(piece.from, at).as_secs_f64() / piece.time().as_secs_f64();
        piece.column + piece.columns * share.clamp(0.0, 1.0)
    }

    /// The cells of a segment, one at least.
    pub(super) fn cells(&self, from: SystemTime, to: SystemTime) -> std::ops::Range<usize> {
        let last = self.columns.saturating_sub(1);
        let begin = (self.column(from) as usize).min(last);
        let end = (self.column(to).ceil() as usize).min(self.columns);
        begin..end.max(begin + 1)
    }

    /// Where bands begin.
    pub(super) fn band_cells(&self) -> impl Iterator<Item = usize> {
        let bands = self.pieces.iter().filter(|piece| piece.band.is_some());
        bands.map(|piece| piece.column as usize)
    }

    /// What is written above: times since the begin, and the durations of bands.
    pub(super) fn labels(&self) -> String {
        let Some(begin) = self.pieces.first().map(|piece| piece.from) else {
            return String::new();
        };
        let mut cells = vec![' '; self.columns];
        let (mut used, mut last) = (0, String::new());
        // Bands first: a time of the run can be told from others, a folded one cannot.
        for piece in &self.pieces {
            let Some(label) = &piece.band else { continue };
            let at = piece.column as usize;
            match piece.columns >= piece.label_columns() {
                true => write(&mut cells, at, &format!("┊{label}┊")),
                false => write(&mut cells, at, "┊"),
            }
        }
        for piece in self.pieces.iter().filter(|piece| piece.band.is_none()) {
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
        let end = self.pieces.last().map(|piece| between(begin, piece.to));
        let end = duration(end.unwrap_or_default());
        let at = self.columns.saturating_sub(end.chars().count());
        let free = cells.get(at.saturating_sub(1)..).unwrap_or_default();
        if end != last && free.iter().all(|cell| *cell == ' ') {
            write(&mut cells, at, &end);
        }
        cells.into_iter().collect()
    }
}

impl Piece {
    /// What a band takes that is told how long it is.
    fn label_columns(&self) -> f64 {
        self.band
            .as_ref()
            .map_or(0, |label| label.chars().count() + 2) as f64
    }

    fn time(&self) -> Duration {
        between(self.from, self.to)
    }
}

fn write(cells: &mut [char], at: usize, text: &str) {
    for (cell, c) in cells.iter_mut().skip(at).zip(text.chars()) {
        *cell = c;
    }
}

/// What lies between the stretches that are busy.
fn gaps(
    from: SystemTime,
    to: SystemTime,
    mut busy: Vec<(SystemTime, SystemTime)>,
) -> Vec<(SystemTime, SystemTime)> {
    busy.sort();
    let mut gaps = Vec::new();
    let mut at = from;
    for (begin, end) in busy {
        if begin > at {
            gaps.push((at, begin.min(to)));
        }
        at = at.max(end);
    }
    if to > at {
        gaps.push((at, to));
    }
    gaps
}

/// The gaps that are folded, in order: the longest ones, as long as they would take much of the room.
fn choose(
    mut gaps: Vec<(SystemTime, SystemTime)>,
    total: Duration,
    columns: usize,
) -> Vec<(SystemTime, SystemTime)> {
    gaps.sort_by_key(|(begin, end)| std::cmp::Reverse(between(*begin, *end)));
    let most = (columns as f64 * BANDS) as usize / NARROW;
    let mut left = total.as_secs_f64();
    let mut folded = Vec::new();
    for (begin, end) in gaps.into_iter().take(most) {
        let gap = between(begin, end).as_secs_f64();
        if gap == 0.0 || gap < left * SHARE {
            break;
        }
        left -= gap;
        folded.push((begin, end));
    }
    folded.sort();
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn a_month_without_work_is_a_band() {
        let month = 30 * 86_400_000;
        let busy = vec![(at(0), at(10)), (at(month), at(month + 10))];
        let axis = Axis::new(at(0), at(month + 10), busy, 60, true);
        assert_eq!(
            axis.labels().trim_end(),
            "0 ms                       ┊30 d┊30 d"
        );
        assert_eq!(axis.cells(at(0), at(10)), 0..27);
        assert_eq!(axis.cells(at(month), at(month + 10)), 33..60);
    }

    #[test]
    fn nothing_that_took_no_time_is_lost() {
        let axis = Axis::new(at(5), at(5), vec![(at(5), at(5))], 40, true);
        assert_eq!(axis.cells(at(5), at(5)).len(), 1);
        let many = (0..2000)
            .map(|n| (at(n * 1000), at(n * 1000 + 1)))
            .collect();
        let axis = Axis::new(at(0), at(2_000_000), many, 40, true);
        for n in 0..2000 {
            let cells = axis.cells(at(n * 1000), at(n * 1000 + 1));
            assert!(!cells.is_empty() && cells.end <= 40, "{cells:?}");
        }
    }
}
