//! What can be asked for on the command line.

use std::path::PathBuf;

use crate::measure::{Measurement, Variant};

pub(crate) const HELP: &str = "\
Drains queued 10-step runs on SQLite with telemetry off, with traces alone and with all three signals,
exported over OTLP/HTTP to a receiver of its own on this machine, in turn.

usage: cargo bench -p openworkflow-tests --bench telemetry -- [OPTIONS]

  --concurrency LIST  runs at a time, separated by commas (1,10,100)
  --runs N            runs per drain (600 at concurrency 1, 2000 at 10, 4000 at 100)
  --rounds N          how often everything is measured twice; medians are reported (4)
  --dir PATH          where SQLite's files are kept (the target folder)
  --json              print JSON, with every measurement, instead of a table
  --help              print this

Without --bench, which cargo bench passes, everything happens once and small.
";

/// As the first argument, makes this program the receiver.
pub(crate) const RECEIVE: &str = "--receive";
/// As the first argument, makes this program one measurement.
pub(crate) const MEASURE: &str = "--measure";

pub(crate) enum Task {
    Help,
    Receive,
    Measure(Measurement),
    Compare(Options),
}

pub(crate) struct Options {
    pub(crate) concurrencies: Vec<u32>,
    runs: Option<u32>,
    pub(crate) rounds: u32,
    pub(crate) folder: PathBuf,
    pub(crate) json: bool,
}

impl Options {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Task, String> {
        let arguments: Vec<_> = arguments.collect();
        match arguments.as_slice() {
            [task] if task == RECEIVE => return Ok(Task::Receive),
            [task, variant, concurrency, runs, endpoint, folder] if task == MEASURE => {
                return Ok(Task::Measure(Measurement {
                    variant: Variant::parse(variant)?,
                    concurrency: positive(MEASURE, concurrency)?,
                    runs: positive(MEASURE, runs)?,
                    endpoint: endpoint.clone(),
                    folder: folder.into(),
                }));
            }
            _ => {}
        }
        let full = arguments.iter().any(|argument| argument == "--bench");
        let mut options = Self {
            concurrencies: if full { vec![1, 10, 100] } else { vec![4] },
            runs: (!full).then_some(5),
            rounds: if full { 4 } else { 1 },
            folder: env!("CARGO_TARGET_TMPDIR").into(),
            json: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let value = arguments.next();
                value.ok_or_else(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--bench" => {}
                "--concurrency" => {
                    let list = value()?;
                    let numbers = list.split(',').map(|number| positive(&argument, number));
                    options.concurrencies = numbers.collect::<Result<_, _>>()?;
                }
                "--runs" => options.runs = Some(positive(&argument, &value()?)?),
                "--rounds" => options.rounds = positive(&argument, &value()?)?,
                "--dir" => options.folder = value()?.into(),
                "--json" => options.json = true,
                "--help" | "-h" => return Ok(Task::Help),
                _ => return Err(format!("{argument} is no option of this benchmark")),
            }
        }
        Ok(Task::Compare(options))
    }

    pub(crate) fn runs(&self, concurrency: u32) -> u32 {
        self.runs.unwrap_or(match concurrency {
            0..5 => 600,
            5..50 => 2000,
            _ => 4000,
        })
    }
}

fn positive(option: &str, text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(format!("{option} needs a number from 1, not {text:?}")),
    }
}
