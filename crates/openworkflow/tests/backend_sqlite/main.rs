//! The SQLite backend against real files, through its public interface.

#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used)]

mod claims;
mod kit;
mod runs;
