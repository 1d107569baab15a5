//! The engine at work: draining a queue, and beginning a run at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openworkflow::{Client, Worker, Workflow, WorkflowSpec};
use tokio::sync::mpsc;

use crate::target::Target;
use crate::{Result, STEPS};

static TEN_STEPS: WorkflowSpec<u32, u32> = WorkflowSpec::new("ten-steps");
static ONE_STEP: WorkflowSpec<u32, ()> = WorkflowSpec::new("one-step");

/// How many runs are started at the same time while the queue is filled.
const FILLING: u32 = 100;
/// How long after a run's end the worker is taken to be idle. Not a divisor of its poll interval.
const IDLE: Duration = Duration::from_millis(37);

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

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// Runs per second: from the worker's start on a full queue until every run is completed.
pub(crate) fn drain<T: Target>(target: &T, runs: u32, concurrency: u32) -> Result<f64> {
    runtime()?.block_on(async {
        let database = target.create()?;
        let store = target.open(&database).await?;
        let client = Client::new(store.clone());
        let mut ids = Vec::new();
        for first in (0..runs).step_by(FILLING as usize) {
            let starts = (first..runs.min(first + FILLING)).map(|input| {
                let client = client.clone();
                tokio::spawn(async move { client.start(&TEN_STEPS, &input).await })
            });
            for start in starts.collect::<Vec<_>>() {
                ids.push(start.await??);
            }
        }

        let begin = Instant::now();
        let mut worker = Worker::builder(store.clone())
            .workflow(ten_steps())
            .concurrency(concurrency as usize)
            .build()?
            .start();
        // The queue is first in, first out, so the last run's end is nearly the end of all.
        for run in ids.iter().rev().take(concurrency as usize) {
            run.result().await?;
        }
        while client.count_runs().await?.completed < u64::from(runs) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let seconds = begin.elapsed().as_secs_f64();
        worker.stop().await?;

        let last = ids.last().ok_or("no runs")?;
        let steps = client.list_steps(last.id()).await?.items.len();
        if steps != STEPS as usize {
            return Err(format!("a run has {steps} step rows instead of {STEPS}").into());
        }
        drop(ids);
        drop(client);
        target.close(store).await;
        Ok(f64::from(runs) / seconds)
    })
}

/// How long after `client.start` is called the run's first step begins, where the worker is in the
/// same process and has nothing to do.
pub(crate) fn first_step_latency<T: Target>(target: &T, samples: u32) -> Result<Vec<Duration>> {
    runtime()?.block_on(async {
        let database = target.create()?;
        let store = target.open(&database).await?;
        let client = Client::new(store.clone());
        let (begun, mut begins) = mpsc::unbounded_channel();
        let begun = Arc::new(begun);
        let workflow = ONE_STEP.implement(move |wf, _: u32| {
            let begun = Arc::clone(&begun);
            async move {
                wf.run(
                    "first",
                    || async move { Ok(begun.send(Instant::now()).is_ok()) },
                )
                .await?;
                Ok(())
            }
        });
        let mut worker = Worker::builder(store.clone())
            .workflow(workflow)
            .build()?
            .start();
        let mut latencies = Vec::new();
        for sample in 0..samples {
            tokio::time::sleep(IDLE).await;
            let start = Instant::now();
            let run = client.start(&ONE_STEP, &sample).await?;
            let first = begins.recv().await.ok_or("the worker is gone")?;
            latencies.push(first.saturating_duration_since(start));
            run.result().await?;
        }
        worker.stop().await?;
        drop(client);
        target.close(store).await;
        Ok(latencies)
    })
}
