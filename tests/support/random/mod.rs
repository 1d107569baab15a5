//! Random workflows, their interpretation on a real engine, and a driver that crashes it.
//!
//! A [`Program`] is data: the input of one workflow that interprets it. [`drive`] runs a program on
//! any database from start to end, with or without crashes, and tells what came of it.

use std::future::Future;

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError};
use tracing::Level;

use crate::{Log, logged};

mod branches;
mod crash;
mod drive;
mod observed;
mod postgres;
mod program;
mod sqlite;
mod strategy;
mod workflow;

pub use crash::{CrashingBackend, World};
pub use drive::{Database, Outcome, Setup, drive, mask_times};
pub use postgres::PostgresSchema;
pub use program::{
    Block, Body, DrainStyle, FirstStyle, JoinStyle, Node, Op, Pace, Program, Rendezvous, Turn,
};
pub use sqlite::SqliteFile;
pub use strategy::{programs, racing_programs};
pub use workflow::{PROGRAM, PROGRAM_V2, workflows};

/// How many programs are made up, unless `PROPTEST_CASES` says so, and where the seeds of failures go.
#[must_use]
pub fn config(cases: u32) -> Config {
    let mut config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_iters: 200,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config
}

/// What is logged of programs that are made to fail and to crash.
const PLANNED: [&str; 7] = [
    // A server may find that the statements of several sessions wait for each other.
    "trying again",
    "step failed, to be tried again",
    "step failed for good",
    "run put back, to be tried again",
    "run failed",
    "run taken over",
    "lease lost",
];

/// What a property says of one case.
pub type Checked = Result<(), TestCaseError>;

/// Checks one case on a runtime of its own. What the library warns of is a failure of the case.
///
/// # Errors
///
/// What the check finds wrong.
pub fn block_on(check: impl Future<Output = Checked>) -> Checked {
    let log = Log::new();
    let of_threads = log.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        // For as long as the thread lives.
        .on_thread_start(move || std::mem::forget(logged::collect_to(&of_threads, Level::WARN)))
        .build()?;
    let _collecting = logged::collect_to(&log, Level::WARN);
    runtime.block_on(check)?;
    let warnings = log.lines().into_iter().filter(|line| {
        let is_planned = PLANNED.iter().any(|planned| line.contains(planned));
        line.contains("openworkflow") && !is_planned
    });
    let warnings: Vec<_> = warnings.collect();
    if warnings.is_empty() {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("warnings: {warnings:#?}")))
}
