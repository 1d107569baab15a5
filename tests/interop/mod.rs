//! Both languages on one database: the checks of `docs/interop.md`, against openworkflow from the npm
//! registry. The test binary says which database (`crate::Db`).

mod abandoned;
mod children;
mod continued;
mod copies;
mod history;
mod lists;
mod load;
mod migrations;
mod peer;
#[allow(dead_code, reason = "each test binary uses one of the databases")]
pub(crate) mod postgres;
mod runs;
mod signals;
mod site;
#[allow(dead_code, reason = "each test binary uses one of the databases")]
pub(crate) mod sqlite;
mod steps;
mod traces;
mod workflows;

use std::future::Future;

use openworkflow::Workflow;
use openworkflow::backend::BackendResult;
use openworkflow_tests::Database;
use serde_json::Value;

use peer::{Peer, Sdk};
use site::{By, Hold, Site};

/// A database that processes in two languages share.
pub(crate) trait SharedDatabase: Database {
    /// Whether a process of the other language finds the database locked while another writes.
    const HAS_ONE_WRITER: bool;

    /// A place for a database that nobody has opened yet.
    fn unopened() -> Self;

    /// Opens it from Rust.
    fn try_open(&self) -> impl Future<Output = BackendResult<Self::Store>> + Send;

    /// How `peer.mjs` opens it.
    fn peer(&self) -> Value;

    /// Its tables' columns, indexes and foreign keys, for comparison.
    fn structure(&self) -> impl Future<Output = Vec<Vec<Option<String>>>> + Send;

    /// Asserts that a time in a column has the form that others can read and compare.
    #[track_caller]
    fn assert_time_text(&self, table: &str, column: &str, text: &str);
}

/// What everybody has of a database: not the tables that this library keeps beside.
fn without_own_tables(structure: Vec<Vec<Option<String>>>) -> Vec<Vec<Option<String>>> {
    let own = ["openworkflow_executions", "openworkflow_rust_migrations"];
    let is_own = |row: &Vec<Option<String>>| {
        let mut names = row.iter().flatten();
        names.any(|name| own.iter().any(|own| name.contains(own)))
    };
    structure.into_iter().filter(|row| !is_own(row)).collect()
}

/// The Rust workflow with this name.
fn named(name: &str) -> Workflow {
    let found = workflows::all()
        .into_iter()
        .find(|workflow| workflow.name() == name);
    found.unwrap_or_else(|| panic!("no workflow is called {name}"))
}

/// Makes tests of checks: `both` with either release of the SDK, `current` with the newer one only.
macro_rules! checks {
    (both: $($both:ident),* $(,)?; current: $($current:ident),* $(,)?) => {
        mod with_0_10 {
            $(#[tokio::test]
            async fn $both() {
                super::$both(super::Sdk::Current).await;
            })*
            $(#[tokio::test]
            async fn $current() {
                super::$current(super::Sdk::Current).await;
            })*
        }
        mod with_0_9 {
            $(#[tokio::test]
            async fn $both() {
                super::$both(super::Sdk::Previous).await;
            })*
        }
    };
}
use checks;

/// Whether a text is a time as SQLite compares it: `2026-01-31T12:00:00.000Z`.
fn is_time_text(text: &str) -> bool {
    let pattern = b"0000-00-00T00:00:00.000Z";
    text.len() == pattern.len()
        && text
            .bytes()
            .zip(pattern)
            .all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                _ => byte == *wanted,
            })
}
