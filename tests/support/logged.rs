//! What is logged, as lines that a test can look at.

use std::io;

use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::MakeWriter;

use crate::Log;

/// Collects what this thread logs, at `debug` and above, until the guard is dropped. For tests on a
/// runtime of one thread.
#[must_use]
pub fn collect() -> (Log, DefaultGuard) {
    let log = Log::new();
    let collecting = tracing::dispatcher::set_default(&collector(&log, Level::DEBUG));
    (log, collecting)
}

/// Adds to `log` what is logged at `level` and above, wherever this is the default.
pub(crate) fn collector(log: &Log, level: Level) -> Dispatch {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .without_time()
        .with_ansi(false)
        .with_writer(Lines(log.clone()))
        .finish();
    subscriber.into()
}

#[derive(Clone)]
struct Lines(Log);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(String::from_utf8_lossy(line).trim_end());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
