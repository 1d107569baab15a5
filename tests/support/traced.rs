//! A worker that is killed at a certain point of a run, and the file in which its spans are, each from the
//! moment it ends.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::ids::DerivedIds;
use openworkflow::otel::opentelemetry::Context;
use openworkflow::otel::opentelemetry::trace::{SpanId, Status};
use openworkflow::{Worker, WorkerBuilder, WorkflowSpec};
use serde::{Deserialize, Serialize};

/// How long a killed worker's run stays its own.
pub const LEASE: Duration = Duration::from_secs(2);

/// Takes a step, and then what the [`Point`] says.
pub static TRACED: WorkflowSpec<Point, ()> = WorkflowSpec::new("traced");

/// Where the worker that executes a run for the first time is killed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Point {
    /// In a step's body.
    Step,
    /// When a step's result is about to be committed.
    Commit,
    /// When the run is about to be parked.
    Park,
}

/// The folder that a test shares with its workers.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Folder {
    /// Exists once the worker is where it is to be killed.
    #[must_use]
    pub fn there(&self) -> PathBuf {
        self.0.join("there")
    }

    /// Lets the worker go on.
    #[must_use]
    pub fn go(&self) -> PathBuf {
        self.0.join("go")
    }

    /// Exists once the worker writes that the run waits.
    #[must_use]
    pub fn parks(&self) -> PathBuf {
        self.0.join("parks")
    }

    /// The spans that have ended so far.
    ///
    /// # Panics
    ///
    /// Where the file cannot be read.
    #[must_use]
    pub fn spans(&self) -> Vec<WrittenSpan> {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        let spans: Result<Vec<WrittenSpan>, _> = lines.collect();
        let mut spans = spans.expect("each line is a span");
        spans.sort_by_key(|span| span.began_at);
        spans
    }

    /// An interceptor of which every span is in the file once it has ended.
    ///
    /// # Panics
    ///
    /// Where the file does not open.
    #[must_use]
    pub fn interceptor(&self) -> OtelInterceptor {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file());
        let provider = SdkTracerProvider::builder()
            .with_id_generator(DerivedIds::default())
            .with_span_processor(ToFile(file.expect("the file opens")))
            .build();
        OtelInterceptor::builder()
            .tracer_provider(&provider)
            .build()
    }

    fn file(&self) -> PathBuf {
        self.0.join("spans")
    }
}

/// Sets a worker up that is killed, or that goes on afterwards.
///
/// # Errors
///
/// As of [`WorkerBuilder::build`].
pub fn worker(worker: WorkerBuilder, folder: &Path) -> Result<Worker, Box<dyn std::error::Error>> {
    let folder = Arc::new(Folder(folder.to_owned()));
    let otel = folder.interceptor();
    let traced = TRACED.implement(move |wf, point| {
        let folder = Arc::clone(&folder);
        async move {
            let folder = &*folder;
            wf.run("first", || async { Ok(()) }).await?;
            let is_killed = wf.attempt() == 1;
            match point {
                Point::Step | Point::Commit => {
                    let body = || async {
                        if is_killed {
                            File::create(folder.there())?;
                            while matches!(point, Point::Step) || !folder.go().exists() {
                                tokio::time::sleep(Duration::from_millis(1)).await;
                            }
                        }
                        Ok(())
                    };
                    wf.run("second", body).await
                }
                Point::Park => {
                    if is_killed {
                        File::create(folder.there())?;
                        // In the workflow's own code: a wait for anything else would be a park.
                        while !folder.go().exists() {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                    let mut nap = pin!(wf.sleep("nap", Duration::from_millis(50)).into_future());
                    match futures::poll!(nap.as_mut()) {
                        Poll::Ready(slept) => slept,
                        Poll::Pending => {
                            File::create(folder.parks())?;
                            nap.await
                        }
                    }
                }
            }
        }
    });
    let worker = worker.interceptor(otel).workflow(traced).lease(LEASE);
    Ok(worker.build()?)
}

/// A span, as far as it is in the file.
#[derive(Debug, Serialize, Deserialize)]
pub struct WrittenSpan {
    /// Its trace.
    pub trace: String,
    /// Its id.
    pub id: String,
    /// Its parent's, if it has one.
    pub parent: Option<String>,
    /// What it is called.
    pub name: String,
    /// Whether it has the status Error.
    pub failed: bool,
    /// When it began, in nanoseconds since 1970.
    pub began_at: u64,
    /// When it ended.
    pub ended_at: u64,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
}

/// Spans as a tree, with the number and the outcome of what each is about; those without a parent among
/// them are at the margin.
#[must_use]
pub fn tree(spans: &[WrittenSpan]) -> String {
    let ids: HashMap<&str, &WrittenSpan> = spans.iter().map(|span| (&*span.id, span)).collect();
    let depth = |span: &WrittenSpan| {
        let above = |span: &&WrittenSpan| {
            let parent = span.parent.as_deref()?;
            ids.get(parent).copied()
        };
        std::iter::successors(Some(span), above).skip(1).count()
    };
    let mut lines = Vec::new();
    let mut todo: Vec<&WrittenSpan> = spans.iter().filter(|span| depth(span) == 0).collect();
    todo.reverse();
    while let Some(span) = todo.pop() {
        let mut line = format!("{}{}", "  ".repeat(depth(span)), span.name);
        for key in ["workflow_run.attempt", "workflow.outcome", "step.outcome"] {
            if let Some(value) = span.attributes.get(key) {
                line.push(' ');
                line.push_str(value);
            }
        }
        if span.parent.is_some() && depth(span) == 0 {
            line.push_str(" (orphan)");
        }
        lines.push(line);
        let children = spans
            .iter()
            .filter(|child| child.parent.as_ref() == Some(&span.id));
        todo.extend(children.rev());
    }
    lines.join("\n")
}

#[derive(Debug)]
struct ToFile(File);

impl SpanProcessor for ToFile {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let nanos = |at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH);
            u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
        };
        let attributes = span.attributes.iter();
        let written = WrittenSpan {
            trace: span.span_context.trace_id().to_string(),
            id: span.span_context.span_id().to_string(),
            parent: (span.parent_span_id != SpanId::INVALID)
                .then(|| span.parent_span_id.to_string()),
            name: span.name.to_string(),
            failed: matches!(span.status, Status::Error { .. }),
            began_at: nanos(span.start_time),
            ended_at: nanos(span.end_time),
            attributes: attributes
                .map(|kv| (kv.key.to_string(), kv.value.to_string()))
                .collect(),
        };
        let mut line = serde_json::to_vec(&written).expect("a span is JSON");
        line.push(b'\n');
        // One write, so that a line is there as a whole or not at all.
        (&self.0).write_all(&line).expect("the file takes it");
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
