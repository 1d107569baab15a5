//! Medians and ratios, as a table or as JSON.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::backlog::{LENGTH, Naps};
use crate::fleet::Drained;
use crate::{PROCESSES, STEPS};

/// What was measured in one repetition at one concurrency.
pub(crate) struct Cell {
    pub(crate) backend: &'static str,
    pub(crate) concurrency: u32,
    /// Those of the bare commits.
    pub(crate) connections: u32,
    /// Per second, like all of them.
    pub(crate) bare_commits: f64,
    pub(crate) runs: f64,
    pub(crate) npm_runs: Option<f64>,
    pub(crate) fleet: Option<Fleet>,
}

/// The same runs, with workers in processes of their own.
pub(crate) struct Fleet {
    pub(crate) one: Drained,
    pub(crate) many: Drained,
}

impl Fleet {
    fn times_one(&self) -> f64 {
        self.many.rate / self.one.rate
    }

    fn smallest_share(&self) -> f64 {
        self.many.shares.iter().copied().fold(1.0, f64::min)
    }

    fn largest_share(&self) -> f64 {
        self.many.shares.iter().copied().fold(0.0, f64::max)
    }
}

impl Cell {
    fn steps(&self) -> f64 {
        self.runs * f64::from(STEPS)
    }
}

/// From the start of a run to its first step.
pub(crate) struct Latency {
    backend: &'static str,
    worker: &'static str,
    samples: usize,
    p50: Duration,
    p99: Duration,
}

impl Latency {
    pub(crate) fn new(
        backend: &'static str,
        worker: &'static str,
        mut samples: Vec<Duration>,
    ) -> Self {
        samples.sort();
        let at = |percent: usize| {
            let index = samples.len() * percent / 100;
            samples.get(index).copied().unwrap_or_default()
        };
        Self {
            backend,
            worker,
            samples: samples.len(),
            p50: at(50),
            p99: at(99),
        }
    }
}

#[derive(Default)]
pub(crate) struct Report {
    pub(crate) cells: Vec<Cell>,
    pub(crate) latencies: Vec<Latency>,
    pub(crate) naps: Vec<Naps>,
}

/// The medians of one backend at one concurrency. Each ratio is the median of the repetitions'
/// ratios: what changes from minute to minute cancels out.
struct Row {
    backend: &'static str,
    concurrency: u32,
    bare_commits: f64,
    runs: f64,
    steps: f64,
    npm_runs: Option<f64>,
    steps_per_commit: f64,
    times_npm: Option<f64>,
    connections: f64,
    many_processes: Option<f64>,
    many_times_one: Option<f64>,
    smallest_share: Option<f64>,
    largest_share: Option<f64>,
}

impl Report {
    fn rows(&self) -> Vec<Row> {
        let keys: BTreeSet<_> = self
            .cells
            .iter()
            .map(|cell| (cell.backend, cell.concurrency))
            .collect();
        let row = |(backend, concurrency)| {
            let median = |value: &dyn Fn(&Cell) -> Option<f64>| {
                let of_row =
                    |cell: &&Cell| (cell.backend, cell.concurrency) == (backend, concurrency);
                median(self.cells.iter().filter(of_row).filter_map(value).collect())
            };
            Row {
                backend,
                concurrency,
                bare_commits: median(&|cell| Some(cell.bare_commits)).unwrap_or_default(),
                runs: median(&|cell| Some(cell.runs)).unwrap_or_default(),
                steps: median(&|cell| Some(cell.steps())).unwrap_or_default(),
                npm_runs: median(&|cell| cell.npm_runs),
                steps_per_commit: median(&|cell| Some(cell.steps() / cell.bare_commits))
                    .unwrap_or_default(),
                times_npm: median(&|cell| cell.npm_runs.map(|npm| cell.runs / npm)),
                connections: median(&|cell| Some(f64::from(cell.connections))).unwrap_or_default(),
                many_processes: median(&|cell| cell.fleet.as_ref().map(|fleet| fleet.many.rate)),
                many_times_one: median(&|cell| cell.fleet.as_ref().map(Fleet::times_one)),
                smallest_share: median(&|cell| cell.fleet.as_ref().map(Fleet::smallest_share)),
                largest_share: median(&|cell| cell.fleet.as_ref().map(Fleet::largest_share)),
            }
        };
        keys.into_iter().map(row).collect()
    }

    pub(crate) fn table(&self) -> String {
        let mut table = String::from(
            "\nbackend   concurrency   runs/s   steps/s   bare commits/s   connections   steps per commit   npm runs/s   times npm\n",
        );
        let or_dash = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        for row in self.rows() {
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "{:<9} {:>11} {:>8.0} {:>9.0} {:>16.0} {:>13} {:>18.2} {:>12} {:>11}",
                row.backend,
                row.concurrency,
                row.runs,
                row.steps,
                row.bare_commits,
                row.connections,
                row.steps_per_commit,
                or_dash(row.npm_runs, 0),
                or_dash(row.times_npm, 1),
            );
        }
        for row in self.rows() {
            if let (Some(rate), Some(times_one), Some(smallest), Some(largest)) = (
                row.many_processes,
                row.many_times_one,
                row.smallest_share,
                row.largest_share,
            ) {
                let _ = writeln!(
                    table,
                    "\n{}: {PROCESSES} worker processes, each {} at a time: {rate:.0} runs/s, {times_one:.2} times one's; a process has {:.0} to {:.0} % of the runs",
                    row.backend,
                    row.concurrency,
                    100.0 * smallest,
                    100.0 * largest,
                );
            }
        }
        for latency in &self.latencies {
            let _ = writeln!(
                table,
                "\n{}: from start to first step in {:.2?} (p50), {:.2?} (p99) of {} runs; idle worker, {}",
                latency.backend, latency.p50, latency.p99, latency.samples, latency.worker
            );
        }
        for naps in &self.naps {
            let (p50, worst) = naps.summary();
            let _ = writeln!(
                table,
                "\n{}: naps of {LENGTH:.2?} before {} new runs last {p50:.2?} (p50), {worst:.2?} (worst); all is done in {:.2?}",
                naps.backend, naps.backlog, naps.drained
            );
        }
        table
    }

    pub(crate) fn json(&self) -> Value {
        let rows: Vec<_> = self
            .rows()
            .iter()
            .map(|row| {
                json!({
                    "backend": row.backend,
                    "concurrency": row.concurrency,
                    "runs_per_second": row.runs,
                    "steps_per_second": row.steps,
                    "bare_commits_per_second": row.bare_commits,
                    "steps_per_bare_commit": row.steps_per_commit,
                    "npm_runs_per_second": row.npm_runs,
                    "times_npm": row.times_npm,
                    "bare_commit_connections": row.connections,
                    "processes": row.many_processes.map(|rate| json!({
                        "count": PROCESSES,
                        "runs_per_second": rate,
                        "times_one_process": row.many_times_one,
                        "smallest_share": row.smallest_share,
                        "largest_share": row.largest_share,
                    })),
                })
            })
            .collect();
        let measurements: Vec<_> = self
            .cells
            .iter()
            .map(|cell| {
                json!({
                    "backend": cell.backend,
                    "concurrency": cell.concurrency,
                    "runs_per_second": cell.runs,
                    "bare_commits_per_second": cell.bare_commits,
                    "npm_runs_per_second": cell.npm_runs,
                    "processes": cell.fleet.as_ref().map(|fleet| json!({
                        "one_runs_per_second": fleet.one.rate,
                        "many_runs_per_second": fleet.many.rate,
                        "many_shares": fleet.many.shares,
                    })),
                })
            })
            .collect();
        let latencies: Vec<_> = self
            .latencies
            .iter()
            .map(|latency| {
                json!({
                    "backend": latency.backend,
                    "worker": latency.worker,
                    "samples": latency.samples,
                    "p50_microseconds": latency.p50.as_micros() as u64,
                    "p99_microseconds": latency.p99.as_micros() as u64,
                })
            })
            .collect();
        let naps: Vec<_> = self
            .naps
            .iter()
            .map(|naps| {
                let (p50, worst) = naps.summary();
                json!({
                    "backend": naps.backend,
                    "backlog": naps.backlog,
                    "p50_milliseconds": p50.as_millis() as u64,
                    "worst_milliseconds": worst.as_millis() as u64,
                    "drained_milliseconds": naps.drained.as_millis() as u64,
                })
            })
            .collect();
        json!({
            "medians": rows,
            "first_step_latency": latencies,
            "naps": naps,
            "measurements": measurements,
        })
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some((values[middle - 1] + upper) / 2.0)
}
