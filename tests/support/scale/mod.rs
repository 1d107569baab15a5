//! Databases with many rows, what workers and clients do on them, and what that takes.

mod explained;
mod fill;
mod operations;
mod pages;
mod readings;
mod times;

pub use explained::{Explained, server};
pub use fill::{
    ABANDONED, Dialect, MINE, OTHERS, STATES, State, VERSION, abandon, expire, fill, fill_some,
};
pub use operations::{Meter, claim_of, operate, signal_the_abandoned};
pub use pages::PagesRead;
pub use readings::{Amount, Readings};
pub use times::Times;
