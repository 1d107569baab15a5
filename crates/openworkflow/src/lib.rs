//! Durable workflows.

pub mod backend;
mod clock;

#[cfg(feature = "sqlite")]
pub use backend::{Sqlite, SqliteOptions};
pub use clock::Clock;
