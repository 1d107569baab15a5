//! Durable workflows.

// So that the support of the integration tests serves unit tests too.
#[cfg(all(test, feature = "postgres"))]
extern crate self as openworkflow;

pub mod backend;
mod clock;

#[cfg(feature = "postgres")]
pub use backend::Postgres;
pub use clock::Clock;
