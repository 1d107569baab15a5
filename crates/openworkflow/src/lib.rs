//! Durable workflows.

pub mod backend;
mod clock;

#[cfg(feature = "postgres")]
pub use backend::Postgres;
pub use clock::Clock;
