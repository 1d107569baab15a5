//! What operations read where there are many rows: no more than where there are few.

mod indexes;
mod plans;
mod signals;
