//! The SQLite backend against real files, through its public interface.

#![cfg(feature = "sqlite")]

mod beside;
mod claims;
mod executions;
mod groups;
mod kit;
mod lists;
mod open;
mod runs;
mod signals;
mod steps;
