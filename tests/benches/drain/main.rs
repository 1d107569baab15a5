//! How fast one worker drains a queue of runs of ten steps, beside what the database can do at all
//! and beside OpenWorkflow for TypeScript. `docs/benchmarks.md` tells how to read the figures.

mod engine;
mod npm;
mod options;
mod report;
mod sqlite;
mod target;

use std::error::Error;
use std::process::ExitCode;

use npm::Npm;
use options::Options;
use report::{Cell, Latency, Report};
use target::Target;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How many steps a run has.
const STEPS: u32 = 10;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n\n{}", options::HELP);
            return ExitCode::from(2);
        }
    };
    match measure_all(&options) {
        Ok(report) => {
            if options.json {
                println!("{}", report.json());
            } else {
                print!("{}", report.table());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(options: &Options) -> Result<Report> {
    let npm = match options.npm {
        true => Some(Npm::install(&options.folder)?),
        false => None,
    };
    let sqlite = sqlite::SqliteTarget::new(&options.folder)?;
    let mut report = Report::default();
    measure(&sqlite, options, npm.as_ref(), &mut report)?;
    Ok(report)
}

/// Measures one kind of database. What is compared is measured in turn, again and again, because a
/// machine's speed changes from minute to minute.
fn measure<T: Target>(
    target: &T,
    options: &Options,
    npm: Option<&Npm>,
    report: &mut Report,
) -> Result<()> {
    for repetition in 1..=options.repetitions {
        for &concurrency in &options.concurrencies {
            eprintln!(
                "{}, concurrency {concurrency}, repetition {repetition} of {}",
                T::NAME,
                options.repetitions
            );
            let runs = options.runs(concurrency);
            let before = target.bare_commits(concurrency, options.bare)?;
            let engine = engine::drain(target, runs, concurrency)?;
            let after = target.bare_commits(concurrency, options.bare)?;
            let npm = match npm {
                Some(npm) => {
                    let runs = options.npm_runs(concurrency);
                    let database = target.create()?;
                    let seconds = npm.drain(T::NAME, &database.address, runs, concurrency)?;
                    Some(f64::from(runs) / seconds)
                }
                None => None,
            };
            report.cells.push(Cell {
                backend: T::NAME,
                concurrency,
                bare_commits: (before + after) / 2.0,
                runs: engine,
                npm_runs: npm,
            });
        }
    }
    if options.latency_samples > 0 {
        eprintln!("{}, latency", T::NAME);
        let samples = engine::first_step_latency(target, options.latency_samples)?;
        report.latencies.push(Latency::new(T::NAME, samples));
    }
    Ok(())
}
