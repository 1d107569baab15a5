//! How fast workers drain a queue of runs of ten steps, beside what the database can do at all and
//! beside OpenWorkflow for TypeScript. `docs/benchmarks.md` tells how to read the figures.

mod backlog;
mod engine;
mod fleet;
mod npm;
mod options;
mod postgres;
mod report;
mod sqlite;
mod target;

use std::error::Error;
use std::process::ExitCode;

use npm::Npm;
use options::Options;
use postgres::PostgresTarget;
use report::{Cell, Fleet, Latency, Report};
use sqlite::SqliteTarget;
use target::Target;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How many steps a run has.
const STEPS: u32 = 10;

/// How many worker processes are compared with one.
const PROCESSES: u32 = 4;

/// As the first argument, makes this program a worker of [`fleet`].
const WORKER: &str = "--worker";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [role, backend, address, concurrency] = arguments.as_slice()
        && role == WORKER
    {
        return match work(backend, address, concurrency) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("a worker process failed: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let options = match Options::parse(arguments) {
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

fn work(backend: &str, address: &str, concurrency: &str) -> Result<()> {
    let concurrency = concurrency.parse()?;
    match backend {
        SqliteTarget::NAME => fleet::work::<SqliteTarget>(address, concurrency),
        PostgresTarget::NAME => fleet::work::<PostgresTarget>(address, concurrency),
        _ => Err(unknown(backend)),
    }
}

fn unknown(backend: &str) -> Box<dyn Error + Send + Sync> {
    format!("{backend:?} is no backend; sqlite and postgres are").into()
}

fn measure_all(options: &Options) -> Result<Report> {
    let npm = match options.npm {
        true => Some(Npm::install(&options.folder)),
        false => None,
    };
    let npm = npm.as_ref();
    let mut report = Report::default();
    for backend in &options.backends {
        match backend.as_str() {
            SqliteTarget::NAME => {
                let sqlite = SqliteTarget::new(&options.folder)?;
                measure(&sqlite, options, npm, &mut report)?;
            }
            PostgresTarget::NAME => {
                measure(&PostgresTarget::new(), options, npm, &mut report)?;
            }
            _ => return Err(unknown(backend)),
        }
    }
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
            let connections = T::connections(concurrency);
            let before = target.bare_commits(connections, options.bare)?;
            let engine = engine::drain(target, runs, concurrency)?;
            let after = target.bare_commits(connections, options.bare)?;
            let npm = match npm {
                Some(npm) => {
                    let runs = options.npm_runs(concurrency);
                    let database = target.create()?;
                    let seconds = npm.drain(T::NAME, &database.address, runs, concurrency)?;
                    Some(f64::from(runs) / seconds)
                }
                None => None,
            };
            let fleet = match T::FLEETS {
                true => {
                    let one = fleet::drain(target, runs, concurrency, 1)?;
                    let many = fleet::drain(target, runs, concurrency, PROCESSES)?;
                    Some(Fleet { one, many })
                }
                false => None,
            };
            report.cells.push(Cell {
                backend: T::NAME,
                concurrency,
                connections,
                bare_commits: (before + after) / 2.0,
                runs: engine,
                npm_runs: npm,
                fleet,
            });
        }
    }
    if options.backlog > 0 {
        eprintln!("{}, naps before a backlog", T::NAME);
        report.naps.push(backlog::naps(target, options.backlog)?);
    }
    if options.latency_samples > 0 {
        eprintln!("{}, latency", T::NAME);
        let samples = engine::first_step_latency(target, options.latency_samples)?;
        let latency = Latency::new(T::NAME, "same process", samples);
        report.latencies.push(latency);
        if T::FLEETS {
            let samples = fleet::first_step_latency(target, options.latency_samples)?;
            let latency = Latency::new(T::NAME, "another process", samples);
            report.latencies.push(latency);
        }
    }
    Ok(())
}
