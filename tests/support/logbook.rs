//! What a whole process logs, as JSON lines and as OpenTelemetry log records, by the layers that
//! applications use.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use opentelemetry_sdk::logs::{InMemoryLogExporter, SdkLogRecord, SdkLoggerProvider};
use openworkflow::otel::logs::{
    ReplayedEvents, RunFilter, RunIdsProcessor, appender_layer, json_layer,
};
use openworkflow::otel::tracing_layer;
use serde_json::Value;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use openworkflow::otel::testing::SpanCollector;

use crate::logged;

/// Everything that is logged in the process since [`open`](Self::open) was called first.
///
/// There is one for all tests of a program, which know their own events by the ids of their runs. A
/// subscriber for each would lose events: what the first thread that comes by one thinks of it is kept.
#[derive(Debug)]
pub struct Logbook {
    lines: Mutex<Vec<u8>>,
    with_replays: Mutex<Vec<u8>>,
    records: InMemoryLogExporter,
    _provider: SdkLoggerProvider,
    /// The spans of the process: those of `tracing`, and those of interceptors that are made with its
    /// provider.
    pub spans: SpanCollector,
}

struct To(fn(&Logbook) -> &Mutex<Vec<u8>>);

impl io::Write for To {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nobody logs before the book is open.
        if let Some(book) = BOOK.get() {
            lock(self.0(book)).extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static BOOK: OnceLock<Logbook> = OnceLock::new();

impl Logbook {
    /// The process's.
    ///
    /// What threads [collect](crate::logged) is collected all the same, from then on.
    ///
    /// # Panics
    ///
    /// Where there is a subscriber already.
    pub fn open() -> &'static Self {
        static INSTALLED: OnceLock<()> = OnceLock::new();
        let book = BOOK.get_or_init(|| {
            let records = InMemoryLogExporter::default();
            let provider = SdkLoggerProvider::builder()
                .with_log_processor(RunIdsProcessor::new())
                .with_simple_exporter(records.clone())
                .build();
            Self {
                lines: Mutex::default(),
                with_replays: Mutex::default(),
                records,
                _provider: provider,
                spans: SpanCollector::new(),
            }
        });
        logged::install_once(|| {
            let levels = || {
                let ours = Targets::new().with_default(LevelFilter::INFO);
                ours.with_target("openworkflow", LevelFilter::DEBUG)
            };
            let shown = RunFilter::new().replayed(ReplayedEvents::Shown);
            tracing_subscriber::registry()
                .with(tracing_layer(&book.spans.provider()))
                .with(json_layer(|| To(|book| &book.lines), RunFilter::new()).with_filter(levels()))
                .with(json_layer(|| To(|book| &book.with_replays), shown).with_filter(levels()))
                .with(appender_layer(&book._provider, RunFilter::new()).with_filter(levels()))
                .with(logged::layer())
                .try_init()
                .expect("nobody else installs a subscriber in this test program");
            let _ = INSTALLED.set(());
        });
        assert!(
            INSTALLED.get().is_some(),
            "it is opened before anything is collected"
        );
        book
    }

    /// The JSON lines of a run, in order.
    #[must_use]
    pub fn lines(&self, run_id: &str) -> Vec<Value> {
        of_run(&self.lines, run_id)
    }

    /// The same, with what replays repeat.
    #[must_use]
    pub fn lines_with_replays(&self, run_id: &str) -> Vec<Value> {
        of_run(&self.with_replays, run_id)
    }

    /// Where this text is, in any line or log record: that is, those which have it.
    ///
    /// # Panics
    ///
    /// Where the exporter is broken.
    #[must_use]
    pub fn mentions(&self, text: &str) -> Vec<String> {
        let all = self.text();
        let lines = all.lines().map(str::to_owned);
        let records = self
            .records()
            .into_iter()
            .map(|record| format!("{record:?}"));
        lines
            .chain(records)
            .filter(|one| one.contains(text))
            .collect()
    }

    /// Every JSON line, of whatever run, with what replays repeat.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.with_replays)).into_owned()
    }

    /// The log records, in order.
    ///
    /// # Panics
    ///
    /// Where the exporter is broken.
    #[must_use]
    pub fn records(&self) -> Vec<SdkLogRecord> {
        let records = self.records.get_emitted_logs();
        let records = records.expect("they are in memory").into_iter();
        records.map(|emitted| emitted.record).collect()
    }

    /// The name of the span that a line belongs to; `none` where it belongs to none.
    #[must_use]
    pub fn span_of(&self, line: &Value) -> String {
        let spans = self.spans.spans();
        let found = spans.iter().find(|span| {
            let context = &span.span_context;
            line["trace_id"] == *context.trace_id().to_string()
                && line["span_id"] == *context.span_id().to_string()
        });
        found.map_or_else(|| "none".to_owned(), |span| span.name.to_string())
    }
}

fn of_run(lines: &Mutex<Vec<u8>>, run_id: &str) -> Vec<Value> {
    let text = String::from_utf8_lossy(&lock(lines)).into_owned();
    let lines = text.lines().map(|line| {
        let read: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        read
    });
    lines
        .filter(|line| line["workflow_run.id"] == run_id)
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
