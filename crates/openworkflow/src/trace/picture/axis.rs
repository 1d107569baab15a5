//! From times to columns. Stretches in which nothing works become narrow bands, so that work stays readable
//! in a run that waits for a month.

use std::time::{Duration, SystemTime};

use super::duration;

/// Columns of a stretch that is not folded, at least.
const LEAST: f64 = 2.0;
/// A stretch is folded where it would take more than this share of what is not folded yet.
const SHARE: f64 = 0.25;
/// Bands take this share of the columns at most.
const BANDS: f64 = 0.5;
/// A band without room for its duration.
const NARROW: usize = 3;

/// A stretch of time on an [`Axis`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Piece {
    /// When it begins.
    pub from: SystemTime,
    /// When it ends.
    pub to: SystemTime,
    /// Of a band, how long it is, in words. `None` where it is drawn to scale.
    pub band: Option<String>,
    /// Where it begins.
    pub column: f64,
    /// How many columns it takes.
    pub columns: f64,
}

/// From times to columns; made by [`Picture::axis`](super::Picture::axis).
///
/// A band is so wide that its duration fits into it, with a column on each side, or 3 columns where there is
/// no room for all of them.
#[derive(Debug, Clone)]
pub struct Axis {
    pieces: Vec<Piece>,
    columns: usize,
}

impl Axis {
    /// From `from` to `to` in so many columns, where work is done in `busy`.
    pub(super) fn new(
        from: SystemTime,
        to: SystemTime,
        busy: &[(SystemTime, SystemTime)],
        columns: usize,
        fold: bool,
    ) -> Self {
        let gaps = if fold {
            gaps(from, to, busy.to_vec())
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
    #[must_use]
    pub fn column(&self, at: SystemTime) -> f64 {
        let within = |piece: &&Piece| at < piece.to;
        let Some(piece) = self.pieces.iter().find(within) else {
            return self.columns as f64;
        };
        let share = between(piece.from, at).as_secs_f64() / piece.time().as_secs_f64();
        piece.column + piece.columns * share.clamp(0.0, 1.0)
    }

    /// How many columns there are.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The stretches, in order, without gaps.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

impl Piece {
    /// What a band takes that is told how long it is.
    #[must_use]
    pub fn label_columns(&self) -> f64 {
        self.band
            .as_ref()
            .map_or(0, |label| label.chars().count() + 2) as f64
    }

    fn time(&self) -> Duration {
        between(self.from, self.to)
    }
}

fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
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
        let busy = [(at(0), at(10)), (at(month), at(month + 10))];
        let axis = Axis::new(at(0), at(month + 10), &busy, 60, true);
        let bands: Vec<_> = axis.pieces().iter().map(|of| of.band.as_deref()).collect();
        assert_eq!(bands, [None, Some("30 d"), None]);
        let columns = [0, 10, month, month + 10].map(|millis| axis.column(at(millis)));
        assert_eq!(columns, [0.0, 27.0, 33.0, 60.0]);
    }

    #[test]
    fn nothing_that_took_no_time_is_out_of_the_picture() {
        let axis = Axis::new(at(5), at(5), &[(at(5), at(5))], 40, true);
        assert_eq!(axis.column(at(5)), 40.0);
        let many: Vec<_> = (0..2000)
            .map(|n| (at(n * 1000), at(n * 1000 + 1)))
            .collect();
        let axis = Axis::new(at(0), at(2_000_000), &many, 40, true);
        for (from, to) in many {
            let (from, to) = (axis.column(from), axis.column(to));
            assert!(0.0 <= from && from <= to && to <= 40.0, "{from}..{to}");
        }
    }
}
