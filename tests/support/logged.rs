//! What is logged, as lines that a test can look at.

use std::io;

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

use crate::Log;

/// Collects what this thread logs, at `debug` and above, until the guard is dropped. For tests on a
/// runtime of one thread.
#[must_use]
pub fn collect() -> (Log, DefaultGuard) {
    let log = Log::new();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .without_time()
        .with_ansi(false)
        .with_writer(Lines(log.clone()))
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
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
