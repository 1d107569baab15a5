//! The command as a program, on real databases: what it prints, and how it ends.

mod connection;
mod dashboard;
mod hostile;
mod looks;
mod pages;
mod postgres;
#[path = "../../../openworkflow/tests/support/postgres.rs"]
mod postgres_server;
mod program;
mod site;
mod traces;
