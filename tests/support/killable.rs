//! A worker that is meant to be killed, and the log in which its step bodies leave a trace.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openworkflow::backend::Backend;
use openworkflow::{Error, Result, RetryPolicy, Worker, WorkflowContext, WorkflowSpec};

/// How long a killed worker's runs stay its own.
pub const LEASE: Duration = Duration::from_millis(250);

/// Takes steps of every kind. Its output is the sum of what its steps returned.
pub static PARENT: WorkflowSpec<u64, u64> = WorkflowSpec::new("parent");
/// Takes two steps.
pub static CHILD: WorkflowSpec<u64, u64> = WorkflowSpec::new("child");

/// What [`PARENT`] returns for an input.
pub fn expected(input: u64) -> u64 {
    4 * input + 2 * (input + 1)
}

/// A worker whose step bodies append a line, `run id` and `step name`, to the file at `log`.
///
/// # Errors
///
/// If the file cannot be opened or the worker not be built.
pub fn worker(
    store: impl Backend,
    log: impl AsRef<Path>,
) -> std::result::Result<Worker, Box<dyn std::error::Error>> {
    let log = Arc::new(OpenOptions::new().create(true).append(true).open(log)?);
    let child_log = Arc::clone(&log);
    let parent = PARENT.implement(move |wf, input| {
        let log = Arc::clone(&log);
        async move {
            let log = &log;
            let first = step(&wf, log, "first", input).await?;
            let (left, child, ()) = tokio::try_join!(
                async {
                    let left = step(&wf, log, "left", input).await?;
                    Ok::<_, Error>(left + step(&wf, log, "left-again", input).await?)
                },
                wf.run_workflow(&CHILD, &(input + 1)),
                wf.sleep("nap", Duration::from_millis(50)),
            )?;
            let heard: Option<u64> = wf.wait_for_signal(format!("go:{input}")).await?;
            let flaky = flaky(&wf, log, input).await?;
            Ok(first + left + child + flaky + heard.unwrap_or_default())
        }
    });
    let child = CHILD.implement(move |wf, input| {
        let log = Arc::clone(&child_log);
        async move {
            let one = step(&wf, &log, "one", input).await?;
            wf.sleep("nap", Duration::from_millis(20)).await?;
            Ok(one + step(&wf, &log, "two", input).await?)
        }
    });
    let builder = Worker::builder(store).workflow(parent).workflow(child);
    Ok(builder.lease(LEASE).concurrency(6).build()?)
}

async fn step(wf: &WorkflowContext, log: &File, name: &str, value: u64) -> Result<u64> {
    let body = || async {
        append(log, wf, name)?;
        // Some are recorded as running first, some are not.
        tokio::time::sleep(Duration::from_millis(value % 3 * 8)).await;
        Ok(value)
    };
    wf.run(name, body).await
}

/// Fails in every other execution.
async fn flaky(wf: &WorkflowContext, log: &File, value: u64) -> Result<u64> {
    let attempt = wf.attempt();
    let body = || async move {
        append(log, wf, "flaky")?;
        if attempt.is_multiple_of(2) {
            return Err(Error::new("Flaky", "not this time"));
        }
        Ok(value)
    };
    let policy = RetryPolicy::unlimited().initial_interval(Duration::from_millis(10));
    wf.run("flaky", body).retry(policy).await
}

fn append(mut log: &File, wf: &WorkflowContext, name: &str) -> std::io::Result<()> {
    // One write, so that a line is there as a whole or not at all.
    log.write_all(format!("{} {name}\n", wf.run_id()).as_bytes())
}
