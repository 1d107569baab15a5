//! What the suites share.

pub mod random;
