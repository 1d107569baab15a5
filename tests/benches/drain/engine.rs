//! The engine at work: draining a queue, and beginning a run at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openworkflow::{Client, RunHandle, Worker, Workflow, WorkflowSpec};
use tokio::sync::mpsc;

use crate::target::Target;
use crate::{Result, STEPS};

pub(crate) static TEN_STEPS: WorkflowSpec<u32, u32> = WorkflowSpec::new("ten-steps");
pub(crate) static ONE_STEP: WorkflowSpec<u32, ()> = WorkflowSpec::new("one-step");

/// How many runs are started at the same time while the queue is filled.
const FILLING: u32 = 100;
/// How long after a run's end the worker is taken to be idle. Not a divisor of its poll interval.
pub(crate) const IDLE: Duration = Duration::from_millis(37);

/// Adds up in ten steps, and calls `ended` when it has.
pub(crate) fn ten_steps(ended: impl Fn() + Clone + Send + Sync + 'static) -> Workflow {
    TEN_STEPS.implement(move |wf, input: u32| {
        let ended = ended.clone();
        async move {
            let mut sum = input;
            for step in 0..STEPS {
                sum += wf
                    .run(format!("step-{step}"), || async move { Ok(step) })
                    .await?;
            }
            ended();
            Ok(sum)
        }
    })
}

/// Calls `begun` in its only step.
pub(crate) fn one_step(begun: impl Fn() + Clone + Send + Sync + 'static) -> Workflow {
    ONE_STEP.implement(move |wf, _: u32| {
        let begun = begun.clone();
        async move {
            wf.run("first", || async move {
                begun();
                Ok(())
            })
            .await
        }
    })
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

/// Starts runs of ten steps, which nobody executes yet.
pub(crate) async fn fill(client: &Client, runs: u32) -> Result<Vec<RunHandle<u32>>> {
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
    Ok(ids)
}

/// Waits until every run is completed, of which so many are executed at a time.
pub(crate) async fn all_completed(
    client: &Client,
    runs: &[RunHandle<u32>],
    at_a_time: u32,
) -> Result<()> {
    // The queue is first in, first out, so the last run's end is nearly the end of all.
    for run in runs.iter().rev().take(at_a_time as usize) {
        run.result().await?;
    }
    while client.count_runs().await?.completed < runs.len() as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let last = runs.last().ok_or("no runs")?;
    let steps = client.list_steps(last.id()).await?.items.len();
    if steps != STEPS as usize {
        return Err(format!("a run has {steps} step rows instead of {STEPS}").into());
    }
    Ok(())
}

/// Runs per second: from the worker's start on a full queue until every run is completed.
pub(crate) fn drain<T: Target>(target: &T, runs: u32, concurrency: u32) -> Result<f64> {
    let database = target.create()?;
    runtime()?.block_on(async {
        let store = T::open(&database.address).await?;
        let client = Client::new(store.clone());
        let ids = fill(&client, runs).await?;
        let begin = Instant::now();
        let mut worker = Worker::builder(store.clone())
            .workflow(ten_steps(|| ()))
            .concurrency(concurrency as usize)
            .build()?
            .start();
        all_completed(&client, &ids, concurrency).await?;
        let seconds = begin.elapsed().as_secs_f64();
        worker.stop().await?;
        drop(ids);
        drop(client);
        T::close(store).await;
        Ok(f64::from(runs) / seconds)
    })
}

/// How long after `client.start` is called the run's first step begins, where the worker is in the
/// same process and has nothing to do.
pub(crate) fn first_step_latency<T: Target>(target: &T, samples: u32) -> Result<Vec<Duration>> {
    let database = target.create()?;
    runtime()?.block_on(async {
        let store = T::open(&database.address).await?;
        let client = Client::new(store.clone());
        let (begun, mut begins) = mpsc::unbounded_channel();
        let begun = Arc::new(begun);
        let mut worker = Worker::builder(store.clone())
            .workflow(one_step(move || {
                // Nobody listens any more once the benchmark has failed.
                let _ = begun.send(Instant::now());
            }))
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
        T::close(store).await;
        Ok(latencies)
    })
}
