//! Bad input: each kind has a typed error that names the thing and the remedy, and loses nothing.

mod arguments;
mod database;
mod kit;
mod payloads;
mod rows;
