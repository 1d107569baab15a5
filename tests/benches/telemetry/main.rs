//! What telemetry costs in throughput: a queue of runs of ten steps is drained with everything off, with
//! traces alone and with all three signals, exported to a receiver on the same machine. In turn, each in a
//! process of its own, because a process has one log and a machine's speed changes from minute to minute.
//! `docs/benchmarks-tracing.md` tells how to read the figures.

mod measure;
mod options;
mod receiver;
mod report;

use std::error::Error;
use std::process::ExitCode;

use measure::{Measurement, Variant};
use options::{Options, Task};
use receiver::Receiver;
use report::Report;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How many steps a run has.
const STEPS: u32 = 10;

fn main() -> ExitCode {
    let task = match Options::parse(std::env::args().skip(1)) {
        Ok(task) => task,
        Err(problem) => {
            eprintln!("{problem}\n\n{}", options::HELP);
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Help => {
            print!("{}", options::HELP);
            Ok(())
        }
        Task::Receive => receiver::receive(),
        Task::Measure(measurement) => measurement.make().map(|made| println!("{made}")),
        Task::Compare(options) => compare(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<()> {
    let mut report = Report::default();
    for &concurrency in &options.concurrencies {
        for round in 1..=options.rounds {
            eprintln!(
                "concurrency {concurrency}, round {round} of {}",
                options.rounds
            );
            // There and back again: what drifts falls on all of them alike.
            let there = Variant::ALL.into_iter();
            let order: Vec<_> = there.clone().chain(there.rev()).collect();
            for variant in order {
                let receiver = Receiver::start()?;
                let measurement = Measurement {
                    variant,
                    concurrency,
                    runs: options.runs(concurrency),
                    endpoint: receiver.endpoint().to_owned(),
                    folder: options.folder.clone(),
                };
                let mut made = measurement.make_in_a_process()?;
                made.received = receiver.stop()?;
                report.add(concurrency, round, variant, made);
            }
        }
    }
    if options.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.table());
    }
    Ok(())
}
