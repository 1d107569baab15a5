//! What the suites share.

pub mod killable;
pub mod random;
