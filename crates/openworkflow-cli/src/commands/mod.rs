//! One file per command, but for the trace of a run.

pub(crate) mod dashboard;
pub(crate) mod input;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod shell;
pub(crate) mod signal;
pub(crate) mod stats;
pub(crate) mod steps;
