//! What can be asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::postgres::PostgresTarget;
use crate::sqlite::SqliteTarget;
use crate::target::Target;

pub(crate) const HELP: &str = "\
Drains queued 10-step runs with one worker, beside the database's bare commits (pgbench's, on
PostgreSQL) and beside OpenWorkflow for TypeScript (npm), all in one run; on PostgreSQL also with
several worker processes.

usage: cargo bench -p openworkflow-tests --bench drain -- [OPTIONS]

  --backend LIST      kinds of database (sqlite,postgres)
  --concurrency LIST  runs at a time, separated by commas (1,10,100)
  --runs N            runs per drain (600 at concurrency 1, 2000 at 10, 4000 at 100)
  --npm-runs N        runs per drain with npm's package (40 at concurrency 1, else 300)
  --repetitions N     how often everything is measured; medians are reported (5)
  --without-npm       leave npm's package out
  --latency N         samples of the time from start to first step (200; 0 leaves them out)
  --backlog N         new runs behind which runs nap for 100 ms (3000; 0 leaves them out)
  --dir PATH          where SQLite's files and npm's package are kept (the target folder)
  --json              print JSON, with every measurement, instead of a table
  --help              print this

PostgreSQL is a throw-away server in the folder for temporary files, set up as it comes, or the one
that OPENWORKFLOW_TEST_POSTGRES_URL names.

Without --bench, which cargo bench passes, everything happens once and small, and without npm: that
is how cargo test --all-targets sees that the benchmark works.
";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) backends: Vec<String>,
    pub(crate) concurrencies: Vec<u32>,
    runs: Option<u32>,
    npm_runs: Option<u32>,
    pub(crate) repetitions: u32,
    pub(crate) npm: bool,
    pub(crate) latency_samples: u32,
    pub(crate) backlog: u32,
    /// For how long bare commits are counted.
    pub(crate) bare: Duration,
    pub(crate) folder: PathBuf,
    pub(crate) json: bool,
}

impl Options {
    /// `None` where help is asked for.
    pub(crate) fn parse(arguments: Vec<String>) -> Result<Option<Self>, String> {
        let mut options = match arguments.iter().any(|argument| argument == "--bench") {
            true => Self::full(),
            false => Self::small(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--bench" => {}
                "--concurrency" => {
                    options.concurrencies = value()?
                        .split(',')
                        .map(|number| positive(&argument, number))
                        .collect::<Result<_, _>>()?;
                }
                "--backend" => {
                    options.backends = value()?.split(',').map(str::to_owned).collect();
                }
                "--runs" => options.runs = Some(positive(&argument, &value()?)?),
                "--npm-runs" => options.npm_runs = Some(positive(&argument, &value()?)?),
                "--repetitions" => options.repetitions = positive(&argument, &value()?)?,
                "--without-npm" => options.npm = false,
                "--latency" => options.latency_samples = number(&argument, &value()?)?,
                "--backlog" => options.backlog = number(&argument, &value()?)?,
                "--dir" => options.folder = value()?.into(),
                "--json" => options.json = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("{argument} is no option of this benchmark")),
            }
        }
        Ok(Some(options))
    }

    fn full() -> Self {
        Self {
            backends: vec![
                SqliteTarget::NAME.to_owned(),
                PostgresTarget::NAME.to_owned(),
            ],
            concurrencies: vec![1, 10, 100],
            runs: None,
            npm_runs: None,
            repetitions: 5,
            npm: true,
            latency_samples: 200,
            backlog: 3000,
            bare: Duration::from_millis(500),
            folder: env!("CARGO_TARGET_TMPDIR").into(),
            json: false,
        }
    }

    fn small() -> Self {
        Self {
            concurrencies: vec![1, 4],
            runs: Some(5),
            repetitions: 1,
            npm: false,
            latency_samples: 2,
            backlog: 5,
            bare: Duration::from_millis(5),
            ..Self::full()
        }
    }

    pub(crate) fn runs(&self, concurrency: u32) -> u32 {
        self.runs.unwrap_or(match concurrency {
            0..5 => 600,
            5..50 => 2000,
            _ => 4000,
        })
    }

    pub(crate) fn npm_runs(&self, concurrency: u32) -> u32 {
        self.npm_runs.unwrap_or(match concurrency {
            0..5 => 40,
            _ => 300,
        })
    }
}

fn number(option: &str, text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("{option} needs a number, not {text:?}"))
}

fn positive(option: &str, text: &str) -> Result<u32, String> {
    match number(option, text)? {
        0 => Err(format!("{option} needs at least 1")),
        number => Ok(number),
    }
}
