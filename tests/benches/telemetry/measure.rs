//! One drain with so much telemetry.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use openworkflow::otel::export::{Protocol, Signal, Telemetry};
use openworkflow::{Client, RunHandle, Sqlite, Worker, Workflow, WorkflowSpec};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

use crate::options::MEASURE;
use crate::receiver::Received;
use crate::{Result, STEPS};

static TEN_STEPS: WorkflowSpec<u32, u32> = WorkflowSpec::new("ten-steps");

/// How many runs are started at the same time while the queue is filled.
const FILLING: u32 = 100;

/// How much telemetry there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    Off,
    Traces,
    All,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Off, Self::Traces, Self::All];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Traces => "traces",
            Self::All => "all three",
        }
    }

    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|variant| variant.name() == text);
        found.ok_or_else(|| format!("{text:?} is no variant"))
    }
}

pub(crate) struct Measurement {
    pub(crate) variant: Variant,
    pub(crate) concurrency: u32,
    pub(crate) runs: u32,
    pub(crate) endpoint: String,
    pub(crate) folder: PathBuf,
}

/// What came of it. As text, what the process of a measurement prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Runs per second: from the worker's start on a full queue until every run is completed.
    pub(crate) rate: f64,
    /// Spans, data points and log records.
    pub(crate) exported: [u64; 3],
    pub(crate) lost: u64,
    pub(crate) received: Received,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [spans, points, records] = self.exported;
        write!(f, "{} {spans} {points} {records} {}", self.rate, self.lost)
    }
}

impl Measured {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let rate = words.next()?.parse().ok()?;
        let mut number = || words.next()?.parse().ok();
        Some(Self {
            rate,
            exported: [number()?, number()?, number()?],
            lost: number()?,
            received: Received::default(),
        })
    }
}

impl Measurement {
    pub(crate) fn make_in_a_process(&self) -> Result<Measured> {
        let made = Command::new(std::env::current_exe()?)
            .arg(MEASURE)
            .arg(self.variant.name())
            .arg(self.concurrency.to_string())
            .arg(self.runs.to_string())
            .arg(&self.endpoint)
            .arg(&self.folder)
            .stderr(std::process::Stdio::inherit())
            .output()?;
        let told = String::from_utf8(made.stdout)?;
        let measured = Measured::parse(&told).filter(|_| made.status.success());
        Ok(measured.ok_or("the process of a measurement failed")?)
    }

    pub(crate) fn make(&self) -> Result<Measured> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.drain())
    }

    fn telemetry(&self) -> Result<Option<Telemetry>> {
        let builder = Telemetry::builder()
            .protocol(Protocol::HttpProtobuf)
            .endpoint(&*self.endpoint);
        let builder = match self.variant {
            Variant::Off => return Ok(None),
            Variant::Traces => builder.without(Signal::Metrics).without(Signal::Logs),
            Variant::All => builder.metric_interval(Duration::from_secs(1)),
        };
        let telemetry = builder.build()?;
        if self.variant == Variant::All {
            let info = LevelFilter::INFO;
            let log = tracing_subscriber::registry()
                .with(telemetry.log_layer().with_filter(info))
                .with(telemetry.tracing_layer().with_filter(info));
            tracing::subscriber::set_global_default(log)?;
        }
        Ok(Some(telemetry))
    }

    async fn drain(&self) -> Result<Measured> {
        std::fs::create_dir_all(&self.folder)?;
        let folder = tempfile::Builder::new()
            .prefix("telemetry-")
            .tempdir_in(&self.folder)?;
        let store = Sqlite::open(folder.path().join("runs.db")).await?;
        let telemetry = self.telemetry()?;
        let mut client = Client::builder(store.clone());
        let mut worker = Worker::builder(store.clone())
            .workflow(ten_steps())
            .concurrency(self.concurrency as usize);
        if let Some(telemetry) = &telemetry {
            client = client.interceptor(telemetry.interceptor());
            worker = worker.interceptor(telemetry.interceptor());
        }
        let client = client.build();
        let runs = fill(&client, self.runs).await?;
        if let Some(telemetry) = &telemetry {
            telemetry.flush(Duration::from_secs(10)).await;
        }
        let begin = Instant::now();
        let mut worker = worker.build()?.start();
        // The queue is first in, first out, so the last run's end is nearly the end of all.
        for run in runs.iter().rev().take(self.concurrency as usize) {
            run.result().await?;
        }
        while client.count_runs().await?.completed < u64::from(self.runs) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rate = f64::from(self.runs) / begin.elapsed().as_secs_f64();
        worker.stop().await?;
        let mut measured = Measured {
            rate,
            exported: [0; 3],
            lost: 0,
            received: Received::default(),
        };
        if let Some(telemetry) = telemetry {
            let report = telemetry.shutdown(Duration::from_secs(30)).await;
            let signals = [Signal::Traces, Signal::Metrics, Signal::Logs];
            measured.exported = signals.map(|signal| report.of(signal).stats.exported);
            measured.lost = signals
                .map(|signal| report.of(signal).stats.lost())
                .iter()
                .sum();
        }
        Ok(measured)
    }
}

fn ten_steps() -> Workflow {
    TEN_STEPS.implement(|wf, input: u32| async move {
        let mut sum = input;
        for step in 0..STEPS {
            sum += wf
                .run(format!("step-{step}"), || async move { Ok(step) })
                .await?;
        }
        Ok(sum)
    })
}

/// Starts runs of ten steps, which nobody executes yet.
async fn fill(client: &Client, runs: u32) -> Result<Vec<RunHandle<u32>>> {
    let mut handles = Vec::new();
    for first in (0..runs).step_by(FILLING as usize) {
        let starts = (first..runs.min(first + FILLING)).map(|input| {
            let client = client.clone();
            tokio::spawn(async move { client.start(&TEN_STEPS, &input).await })
        });
        for start in starts.collect::<Vec<_>>() {
            handles.push(start.await??);
        }
    }
    Ok(handles)
}
