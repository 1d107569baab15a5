//! What the suites share: databases to test on, a client and a worker on one of them, and ways to
//! wait for what happens.
//!
//! # One source of tests, several backends
//!
//! The behavioural suite (`tests/behaviour/`) is written against the trait [`Database`] and names
//! its database `crate::Db`. A test binary for a backend is that alias and the suite:
//!
//! ```ignore
//! type Db = openworkflow_tests::SqliteDatabase;
//! mod behaviour;
//! ```
//!
//! To add a backend, implement [`Database`] for it in a file beside `sqlite.rs`, add its URL to
//! [`store::worker`], and add such a binary. The golden traces (`tests/golden_traces/`) need a store
//! only, and random workflows (`tests/random_workflows/`) an implementation of
//! [`random::Database`]. What the trait asks for:
//!
//! - A **fresh** database (or schema) each time, so that tests can run side by side.
//! - **Time that can be made to pass.** SQLite goes by a manual [`Clock`](openworkflow::Clock) that
//!   stands still between calls of [`advance`](Database::advance). A server has its own clock, which
//!   nobody can move; there the rows are moved into the past instead: subtract the duration from
//!   every time in the three tables (`resumeAt` and `timeoutAt` in `step_attempts.context`
//!   included), then call `wakeups().work_due` so that workers look at once. Tests therefore never
//!   compare a time in a row with one that they remember from before an `advance`; they compare
//!   it with [`now`](Database::now), and allow for [`CLOCK_TOLERANCE`](Database::CLOCK_TOLERANCE).
//! - **Raw rows**, as text, without the library in between. The statements that the suite sends are
//!   in the SQL that all databases have in common, and name tables without a schema.

mod database;
pub mod faults;
pub mod fleet;
mod harness;
pub mod killable;
mod logbook;
pub mod logged;
pub mod npm;
pub mod pg_messages;
mod points;
mod postgres;
#[path = "../../crates/openworkflow/tests/support/postgres.rs"]
pub mod postgres_server;
mod probe;
pub mod prometheus;
pub mod python;
pub mod random;
mod recorded;
pub mod scale;
mod sqlite;
pub mod store;
pub mod timely;
pub mod traced;

pub use database::{Database, RunRow, SignalRow, StepRow, TIME_COLUMNS};
pub use harness::Harness;
pub use logbook::Logbook;
pub use points::Points;
pub use postgres::{PostgresDatabase, text_rows};
pub use probe::{Gate, Log, wait_for, wait_until};
pub use recorded::{ClaimRecord, Recorded};
pub use sqlite::{RawSqlite, SqliteDatabase};
