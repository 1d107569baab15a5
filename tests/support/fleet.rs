//! What the worker processes of the fault suites execute, and the log that their step bodies write.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openworkflow::{Error, Result, RetryPolicy, WorkerBuilder, WorkflowContext, WorkflowSpec};
use serde::{Deserialize, Serialize};

use crate::{faults, timely};

/// Takes steps of every kind, and waits for its client's signal, [`go`].
pub static ORDER: WorkflowSpec<u64, u64> = WorkflowSpec::new("order");
/// Its child, which tells it by a signal that it got so far.
pub static PACK: WorkflowSpec<Pack, u64> = WorkflowSpec::new("pack");

/// The input of [`PACK`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pack {
    /// What to calculate with.
    pub value: u64,
    /// Whom to tell.
    pub signal: String,
}

/// How long each execution of a body takes: some are recorded as running first, some are not.
const PACE: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(3),
    Duration::from_millis(14),
];

/// The signal that the run of an order waits for. Its data are a number.
#[must_use]
pub fn go(run_id: &str) -> String {
    format!("go:{run_id}")
}

/// Adds both workflows to a worker, and those of [`timely`]. Their bodies write to files in `folder`.
///
/// # Errors
///
/// If the log cannot be opened.
pub fn register(worker: WorkerBuilder, folder: &Path) -> std::io::Result<WorkerBuilder> {
    let bodies = Arc::new(Bodies {
        log: OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("log"))?,
        folder: folder.to_owned(),
    });
    let packing = Arc::clone(&bodies);
    let order = ORDER.implement(move |wf, value| {
        let bodies = Arc::clone(&bodies);
        async move { bodies.order(&wf, value).await }
    });
    let pack = PACK.implement(move |wf, input| {
        let bodies = Arc::clone(&packing);
        async move { bodies.pack(&wf, &input).await }
    });
    Ok(timely::register(
        worker.workflow(order).workflow(pack),
        folder,
    ))
}

/// The file that tells that a process listens to signals.
#[must_use]
pub fn ready(folder: &Path, process: u32) -> PathBuf {
    folder.join(format!("ready-{process}"))
}

struct Bodies {
    log: File,
    folder: PathBuf,
}

impl Bodies {
    async fn order(&self, wf: &WorkflowContext, value: u64) -> Result<u64> {
        let checked = self.step(wf, "check", value).await?;
        let packed = format!("packed:{}", wf.run_id());
        let pack = Pack {
            value,
            signal: packed.clone(),
        };
        let (price, pack, told) = tokio::try_join!(
            self.step(wf, "price", value + 1),
            wf.run_workflow(&PACK, &pack),
            wf.wait_for_signal::<u64>(packed),
        )?;
        wf.sleep("cool", Duration::from_millis(20)).await?;
        let go: Option<u64> = wf.wait_for_signal(go(wf.run_id())).await?;
        let flaky = self.flaky(wf, value).await?;
        let last = self.step(wf, "notify", value + 2).await?;
        let told = told.ok_or_else(|| Error::new("Untold", "the signal never came"))?;
        let go = go.ok_or_else(|| Error::new("Untold", "nobody let the order go"))?;
        Ok(checked + price + pack + told + go + flaky + last)
    }

    async fn pack(&self, wf: &WorkflowContext, input: &Pack) -> Result<u64> {
        // The second one begins when a timer says so, whatever the database does.
        let weigh = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.step(wf, "weigh", input.value).await
        };
        let (picked, weighed) = tokio::try_join!(self.step(wf, "pick", input.value + 1), weigh)?;
        // A signal reaches those who wait, so it is sent until somebody does.
        for attempt in 0.. {
            let send = wf.send_signal(input.signal.as_str(), &input.value);
            let heard = send.name(format!("tell-{attempt}")).await?;
            if !heard.is_empty() {
                break;
            }
            let pause = Duration::from_millis(20);
            wf.sleep(format!("pause-{attempt}"), pause).await?;
        }
        Ok(picked + weighed + self.step(wf, "seal", input.value).await?)
    }

    async fn step(&self, wf: &WorkflowContext, name: &str, value: u64) -> Result<u64> {
        let body = || async {
            self.begin(wf, name)?;
            tokio::time::sleep(PACE[value as usize % PACE.len()]).await;
            self.end(wf, name)?;
            Ok(value)
        };
        wf.run(name, body).await
    }

    /// Fails the first time.
    async fn flaky(&self, wf: &WorkflowContext, value: u64) -> Result<u64> {
        let body = || async {
            self.begin(wf, "flaky")?;
            let first = File::create_new(self.folder.join(wf.run_id()));
            self.end(wf, "flaky")?;
            match first {
                Ok(_) => Err(Error::new("Flaky", "not this time")),
                Err(_) => Ok(value),
            }
        };
        let policy = RetryPolicy::attempts(10).initial_interval(Duration::from_millis(10));
        wf.run("flaky", body).retry(policy).await
    }

    fn begin(&self, wf: &WorkflowContext, step: &str) -> std::io::Result<()> {
        self.write("begin", wf, step)
    }

    fn end(&self, wf: &WorkflowContext, step: &str) -> std::io::Result<()> {
        self.write("end", wf, step)
    }

    fn write(&self, what: &str, wf: &WorkflowContext, step: &str) -> std::io::Result<()> {
        let at = micros(faults::right_now());
        let process = std::process::id();
        let run_id = wf.run_id();
        // One write, so that a line is there as a whole or not at all.
        (&self.log).write_all(format!("{what} {at} {process} {run_id} {step}\n").as_bytes())
    }
}

/// An execution of a step's body.
#[derive(Debug, Clone)]
pub struct Body {
    /// The run.
    pub run_id: String,
    /// The step's name.
    pub step: String,
    /// The id of the process.
    pub process: u32,
    /// When it began, in microseconds since 1970.
    pub began: u64,
    /// When it ended; `None` if it did not.
    pub ended: Option<u64>,
}

/// Microseconds since 1970.
#[must_use]
pub fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// Every execution of a body that the log in `folder` tells of, in order of their beginning.
///
/// # Panics
///
/// If there is no log, or it has other lines.
#[must_use]
pub fn bodies(folder: &Path) -> Vec<Body> {
    let log = fs::read_to_string(folder.join("log")).expect("the log is there");
    let mut bodies: Vec<Body> = Vec::new();
    let mut open: HashMap<(u32, String, String), usize> = HashMap::new();
    for line in log.lines() {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("a line has five words");
        let what = word();
        let at = word().parse().expect("a time");
        let process = word().parse().expect("a process id");
        let (run_id, step) = (word().to_owned(), word().to_owned());
        let key = (process, run_id.clone(), step.clone());
        if what == "begin" {
            open.insert(key, bodies.len());
            bodies.push(Body {
                run_id,
                step,
                process,
                began: at,
                ended: None,
            });
        } else if let Some(index) = open.remove(&key) {
            bodies[index].ended = Some(at);
        }
    }
    bodies
}
