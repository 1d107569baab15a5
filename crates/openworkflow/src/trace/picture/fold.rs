//! What is left of a long run's rows, so that it can be read: steps of one name become one row, and what went
//! well is left out where it is too much still.

use std::collections::HashMap;

use serde::Serialize;

use super::super::StepState;
use super::rows::{Group, Row};
use crate::backend::StepAttemptKind;

/// More rows than this are folded.
pub const MOST_ROWS: usize = 40;
const ROWS: usize = MOST_ROWS;

/// A line of a folded picture.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Line {
    /// A row.
    Row(Row),
    /// So many rows are not shown here.
    LeftOut(usize),
}

pub(super) fn fold(rows: &[Row]) -> Vec<Line> {
    if rows.len() <= ROWS {
        return rows.iter().cloned().map(Line::Row).collect();
    }
    let rows = by_name(rows);
    if rows.len() <= ROWS {
        return rows.into_iter().map(Line::Row).collect();
    }
    let count = rows.len();
    let (first, last) = (ROWS / 4, count - ROWS / 4);
    let mut notable = ROWS / 2;
    let mut lines = Vec::new();
    let mut left_out = 0;
    for (index, row) in rows.into_iter().enumerate() {
        let is_shown = index < first || index >= last;
        let is_notable = !is_shown && row.is_notable() && notable > 0;
        if !is_shown && !is_notable {
            left_out += 1;
            continue;
        }
        notable -= usize::from(is_notable);
        if left_out > 0 {
            lines.push(Line::LeftOut(left_out));
            left_out = 0;
        }
        lines.push(Line::Row(row));
    }
    lines
}

/// A step's name without the number at its end: `charge` of `charge:17` and `charge-4711`. Steps that differ in
/// it alone are folded.
///
/// ```
/// use openworkflow::trace::picture::stem;
///
/// assert_eq!(stem("charge:17"), "charge");
/// assert_eq!(stem("4711"), "4711");
/// ```
#[must_use]
pub fn stem(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() == name.len() {
        return name;
    }
    match stem.trim_end_matches([':', '-', '_', '#', '.', '/', ' ']) {
        "" => name,
        stem => stem,
    }
}

fn by_name(rows: &[Row]) -> Vec<Row> {
    let mut groups: Vec<(&str, Vec<&Row>)> = Vec::new();
    let mut known: HashMap<(&str, &StepAttemptKind, &str), usize> = HashMap::new();
    for row in rows {
        let stem = stem(&row.name);
        let key = (&*row.run_id, &row.kind, stem);
        let at = *known.entry(key).or_insert_with(|| {
            groups.push((stem, Vec::new()));
            groups.len() - 1
        });
        if let Some((_, group)) = groups.get_mut(at) {
            group.push(row);
        }
    }
    groups.into_iter().filter_map(one).collect()
}

/// A group as one row.
fn one((stem, rows): (&str, Vec<&Row>)) -> Option<Row> {
    let count = rows.len();
    let of = |states: &[StepState]| {
        rows.iter()
            .filter(|row| states.contains(&row.state))
            .count()
    };
    let failed = of(&[StepState::Failed, StepState::TimedOut]);
    let completed = of(&[StepState::Completed]);
    let worst = rows.iter().find(|row| row.state == StepState::Failed);
    let worst = worst.or_else(|| rows.iter().find(|row| row.state != StepState::Completed));
    let mut row = Row::clone(rows.first()?);
    if count == 1 {
        return Some(row);
    }
    row.name = stem.to_owned();
    row.state = worst.map_or(StepState::Completed, |row| row.state);
    row.segments = rows.iter().flat_map(|row| row.segments.clone()).collect();
    row.attempts = rows.iter().map(|row| row.attempts).sum();
    row.duration = None;
    row.child_run_id = None;
    row.group = Some(Group {
        count,
        failed,
        not_over: count - failed - completed,
    });
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_names_leave_those_that_failed() {
        let row = |n: usize| Row {
            run_id: "run".to_owned(),
            depth: 0,
            name: format!("{n}-th"),
            kind: StepAttemptKind::Function,
            state: match n {
                500 => StepState::Failed,
                _ => StepState::Completed,
            },
            attempts: 1,
            began_at: std::time::SystemTime::UNIX_EPOCH,
            duration: None,
            child_run_id: None,
            group: None,
            segments: Vec::new(),
        };
        let rows: Vec<Row> = (0..1000).map(row).collect();
        let lines = fold(&rows);
        let told: Vec<String> = lines
            .into_iter()
            .map(|line| match line {
                Line::Row(row) => row.name,
                Line::LeftOut(count) => format!("{count} left out"),
            })
            .collect();
        let middle = ["9-th", "490 left out", "500-th", "489 left out", "990-th"];
        assert_eq!(told[9..14], middle);
        assert_eq!(told.len(), 23);
    }

    #[test]
    fn numbers_at_the_end_are_no_part_of_a_name() {
        let stems = [
            ("charge:17", "charge"),
            ("charge-4711", "charge"),
            ("charge", "charge"),
            ("4711", "4711"),
        ];
        for (name, expected) in stems {
            assert_eq!(stem(name), expected);
        }
    }
}
