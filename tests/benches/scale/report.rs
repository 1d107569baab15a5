//! A table of operations: how long they took, and how much they read.

use std::fmt::Write as _;
use std::time::Duration;

use openworkflow_tests::scale::{Amount, Readings, Times};

use crate::Sweep;
use crate::options::Options;

pub(crate) struct Report {
    backend: &'static str,
    rows: u32,
    states: String,
    operations: Vec<Operation>,
    pub(crate) sweep: Option<Sweep>,
    pub(crate) excessive: Vec<String>,
}

struct Operation {
    name: String,
    /// The median and the worst: before the database has counted its rows, and after.
    times: Vec<(Duration, Duration)>,
    read: Option<Amount>,
}

impl Report {
    pub(crate) fn new(backend: &'static str, options: &Options) -> Self {
        Self {
            backend,
            rows: options.rows,
            states: match options.only.as_slice() {
                [] => "each state".to_owned(),
                only => format!("each of: {}", only.join(", ")),
            },
            operations: Vec::new(),
            sweep: None,
            excessive: Vec::new(),
        }
    }

    pub(crate) fn timed(&mut self, times: &Times) {
        for (name, median, worst) in times.summary() {
            let known = self.operations.iter_mut().find(|known| known.name == name);
            match known {
                Some(operation) => operation.times.push((median, worst)),
                None => self.operations.push(Operation {
                    name: name.to_owned(),
                    times: vec![(median, worst)],
                    read: None,
                }),
            }
        }
    }

    pub(crate) fn read(&mut self, readings: &Readings) {
        for operation in &mut self.operations {
            if let Some(amount) = readings.of(&operation.name) {
                let read = operation.read.get_or_insert_default();
                read.rows = read.rows.max(amount.rows);
                read.blocks = read.blocks.max(amount.blocks);
            }
        }
        let excessive = readings.excessive().iter();
        let backend = self.backend;
        self.excessive
            .extend(excessive.map(|excessive| format!("{backend}: {excessive}")));
    }

    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "\n{}, {} runs in {}; milliseconds before ANALYZE and after, and the most that was read\n\n",
            self.backend, self.rows, self.states
        );
        table.push_str("| operation | p50 | worst | p50 | worst | rows | blocks |\n");
        table.push_str("|---|---:|---:|---:|---:|---:|---:|\n");
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        for operation in &self.operations {
            // Writing to a string does not fail.
            let _ = write!(table, "| {} |", operation.name);
            for (median, worst) in &operation.times {
                let _ = write!(table, " {:.2} | {:.2} |", ms(*median), ms(*worst));
            }
            let _ = match operation.read {
                Some(read) => writeln!(table, " {} | {} |", read.rows, read.blocks),
                None => writeln!(table, " | |"),
            };
        }
        if let Some(sweep) = &self.sweep {
            let _ = writeln!(
                table,
                "\n{} deadlines pass at once: the next claim takes {:.2} ms, the slowest {:.2} ms; all runs have failed after {:.1?}",
                sweep.runs,
                ms(sweep.first_claim),
                ms(sweep.worst_claim),
                sweep.all
            );
        }
        table
    }
}
