//! Durable workflows.

pub mod backend;
mod clock;

pub use clock::Clock;
