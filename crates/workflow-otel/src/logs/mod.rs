//! Logs made with the `tracing` crate: which run, step and span they are about.

mod json;

pub use json::JsonRunFields;
