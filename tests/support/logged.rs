//! What is logged, as lines that a test can look at.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

use crate::Log;

thread_local! {
    static COLLECTING: RefCell<Option<(Log, Level)>> = const { RefCell::new(None) };
}

/// Collects what this thread logs, at `debug` and above, until the guard is dropped. For tests on a
/// runtime of one thread.
#[must_use]
pub fn collect() -> (Log, Collecting) {
    let log = Log::new();
    let collecting = collect_to(&log, Level::DEBUG);
    (log, collecting)
}

/// Adds to `log` what this thread logs at `level` and above, until the guard is dropped.
///
/// The process has one subscriber, which goes by the thread. A subscriber for each thread would lose
/// lines: what the first thread that comes by an event thinks of it is kept for all of them.
pub(crate) fn collect_to(log: &Log, level: Level) -> Collecting {
    install_once(|| {
        let subscriber = tracing_subscriber::registry().with(layer());
        let installed = subscriber.try_init();
        installed.expect("nobody else installs a subscriber in this test program");
    });
    COLLECTING.set(Some((log.clone(), level)));
    Collecting(())
}

/// Installs the process's subscriber, which has the [`layer`], unless that was done.
pub(crate) fn install_once(install: impl FnOnce()) {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(install);
}

/// Hands what is logged to the thread's collection.
pub(crate) fn layer<S>() -> impl tracing_subscriber::Layer<S> + Send + Sync
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_subscriber::fmt::layer()
        .without_time()
        .with_ansi(false)
        .with_writer(ByThread)
        .with_filter(LevelFilter::DEBUG)
}

/// What this thread logs is collected while this lives.
#[derive(Debug)]
pub struct Collecting(());

impl Drop for Collecting {
    fn drop(&mut self) {
        // A thread that is at its end has dropped it already.
        let _ = COLLECTING.try_with(|collecting| collecting.take());
    }
}

struct ByThread;

impl MakeWriter<'_> for ByThread {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        Lines(None)
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> Lines {
        let log = COLLECTING.try_with(|collecting| match &*collecting.borrow() {
            Some((log, level)) if event.level() <= level => Some(log.clone()),
            _ => None,
        });
        Lines(log.ok().flatten())
    }
}

struct Lines(Option<Log>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(log) = &self.0 {
            log.add(String::from_utf8_lossy(line).trim_end());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
