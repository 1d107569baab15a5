//! Databases with many rows, and what workers and clients do on them.

mod fill;
mod operations;

pub use fill::{Dialect, MINE, OTHERS, STATES, VERSION, fill};
pub use operations::{Meter, claim_of, operate};
