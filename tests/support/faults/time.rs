//! What a worker process takes for the time, and how it is told.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use openworkflow::{Clock, ClockOffset};

/// What a process takes for the time.
#[derive(Debug, Clone, Copy, Default)]
pub enum Time {
    /// What it is.
    #[default]
    Right,
    /// What a clock shows that is off, and that its backend is given.
    Given(ClockOffset),
    /// What libfaketime has every clock of the process show, but the monotonic one.
    Faked(ClockOffset),
    /// The same, and it is [set](set) while the process works. Its log of bodies has wrong times.
    Set,
}

/// How far clocks are off in the suites: less than a retry's delay, more than a sleep, more than a lease.
pub const OFFSETS: [ClockOffset; 6] = [
    ClockOffset::Behind(Duration::from_millis(30)),
    ClockOffset::Ahead(Duration::from_millis(30)),
    ClockOffset::Behind(Duration::from_secs(2)),
    ClockOffset::Ahead(Duration::from_secs(2)),
    ClockOffset::Behind(Duration::from_secs(3600)),
    ClockOffset::Ahead(Duration::from_secs(3600)),
];

/// The environment variables that name what is given and what is faked, in milliseconds.
const GIVEN: &str = "OPENWORKFLOW_TEST_CLOCK_GIVEN";
const FAKED: &str = "OPENWORKFLOW_TEST_CLOCK_FAKED";

/// The file that says what a clock that is set shows.
const SET: &str = "clock";

impl Time {
    pub(super) fn tell(self, command: &mut Command, folder: &Path) {
        match self {
            Self::Right => {}
            Self::Set => {
                set(folder, ClockOffset::NONE);
                fake(command)
                    .env("FAKETIME_TIMESTAMP_FILE", folder.join(SET))
                    .env("FAKETIME_NO_CACHE", "1");
            }
            Self::Given(offset) => {
                command.env(GIVEN, millis(offset).to_string());
            }
            Self::Faked(offset) => {
                fake(command)
                    .env(FAKED, millis(offset).to_string())
                    .env("FAKETIME", relative(offset));
            }
        }
    }
}

/// Sets the clock of the processes whose folder this is.
///
/// # Panics
///
/// Where that folder takes no file.
pub fn set(folder: &Path, offset: ClockOffset) {
    // As a whole, or not yet.
    let new = folder.join(format!("{SET}-{}", uuid::Uuid::new_v4()));
    std::fs::write(&new, relative(offset)).expect("the file is written");
    std::fs::rename(new, folder.join(SET)).expect("the file is there");
}

fn fake(command: &mut Command) -> &mut Command {
    command
        .env("LD_PRELOAD", library())
        // By its older name, too.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
}

/// As libfaketime is told.
fn relative(offset: ClockOffset) -> String {
    let sign = if millis(offset) < 0 { '-' } else { '+' };
    format!("{sign}{:.3}", offset.by().as_secs_f64())
}

/// The clock that this process gives its backend.
pub(crate) fn given() -> Clock {
    told(GIVEN).map_or_else(Clock::system, Clock::off_by)
}

/// What time it is, whatever this process takes for it.
pub(crate) fn right_now() -> SystemTime {
    match told(FAKED) {
        None => SystemTime::now(),
        Some(ClockOffset::Behind(by)) => SystemTime::now() + by,
        Some(ClockOffset::Ahead(by)) => SystemTime::now() - by,
    }
}

fn millis(offset: ClockOffset) -> i64 {
    let by = i64::try_from(offset.by().as_millis()).expect("no more than some hours");
    match offset {
        ClockOffset::Behind(_) => -by,
        ClockOffset::Ahead(_) => by,
    }
}

fn told(name: &str) -> Option<ClockOffset> {
    let millis: i64 = std::env::var(name).ok()?.parse().expect("milliseconds");
    let by = Duration::from_millis(millis.unsigned_abs());
    Some(match millis {
        ..0 => ClockOffset::Behind(by),
        _ => ClockOffset::Ahead(by),
    })
}

fn library() -> String {
    let folders = [
        format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH),
        "/usr/lib".to_owned(),
        "/usr/lib64".to_owned(),
        "/usr/local/lib".to_owned(),
    ];
    let paths = folders.map(|folder| format!("{folder}/faketime/libfaketime.so.1"));
    let found = paths.iter().find(|path| Path::new(path).exists());
    found.cloned().unwrap_or_else(|| {
        panic!("the long form needs libfaketime (Debian's package faketime): none of {paths:?} is there")
    })
}
