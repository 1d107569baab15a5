//! Random workflows, their interpretation on a real engine, and a driver that crashes it.
//!
//! A [`Program`] is data: the input of one workflow that interprets it. [`drive`] runs a program on
//! any database from start to end, with or without crashes, and tells what came of it.

use std::future::Future;

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError};

mod crash;
mod drive;
mod postgres;
mod program;
mod sqlite;
mod workflow;

pub use crash::{CrashingBackend, World};
pub use drive::{Database, Outcome, Setup, drive, mask_times};
pub use postgres::PostgresSchema;
pub use program::{Block, Body, JoinStyle, Node, Op, Program, Rendezvous, programs};
pub use sqlite::SqliteFile;
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

/// What a property says of one case.
pub type Checked = Result<(), TestCaseError>;

/// Checks one case on a runtime of its own.
///
/// # Errors
///
/// What the check finds wrong.
pub fn block_on(check: impl Future<Output = Checked>) -> Checked {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(check)
}
