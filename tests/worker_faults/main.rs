//! Worker processes on both databases that are killed, or stopped (SIGSTOP) for longer than their lease and
//! go on, and whose clocks are off.
#![cfg(target_os = "linux")]

mod clocks;
mod mixed;
mod orphans;
mod pauses;

/// The worker process.
const PROGRAM: &str = env!("CARGO_BIN_EXE_other_process");

/// Whether the long form of the suite is asked for: many rounds instead of a few.
fn is_long() -> bool {
    std::env::var_os("OPENWORKFLOW_TEST_LONG").is_some_and(|value| !value.is_empty())
}
