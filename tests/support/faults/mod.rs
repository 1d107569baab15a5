//! Sites where worker processes work and things go wrong, on either database: the suites that kill, stop
//! and cut off are written against them.

mod ground;
mod process;
mod site;
mod time;
mod verdict;

pub use ground::{Ground, PostgresGround, Rows, SqliteGround};
pub use process::Process;
pub use site::{INPUTS, Site, Started};
pub use time::{OFFSETS, Time, set};
pub(crate) use time::{given, right_now};
pub use verdict::{Verdict, check};

use std::time::Duration;

/// A duration that is different every time, in milliseconds.
#[must_use]
pub fn any(from: u64, to: u64) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() % u128::from(to - from);
    Duration::from_millis(from + u64::try_from(random).unwrap_or(0))
}
