//! A nap that is taken before a backlog: how long it lasts until the run goes on.

use std::time::{Duration, Instant};

use openworkflow::{Client, Worker, Workflow, WorkflowSpec};
use tokio::sync::mpsc;

use crate::Result;
use crate::engine::{fill, runtime, ten_steps};
use crate::target::Target;

static NAP: WorkflowSpec<u32, ()> = WorkflowSpec::new("nap");

/// How long a nap is to last, at least.
pub(crate) const LENGTH: Duration = Duration::from_millis(100);
/// How many runs take one.
const NAPS: u32 = 20;
/// How many runs are executed at a time.
const CONCURRENCY: usize = 10;

/// How long naps took, and all that was before and behind them.
pub(crate) struct Naps {
    pub(crate) backend: &'static str,
    /// The new runs behind them.
    pub(crate) backlog: u32,
    pub(crate) lengths: Vec<Duration>,
    pub(crate) drained: Duration,
}

impl Naps {
    /// The median length, and the greatest.
    pub(crate) fn summary(&self) -> (Duration, Duration) {
        let mut lengths = self.lengths.clone();
        lengths.sort();
        let at = |index: usize| lengths.get(index).copied().unwrap_or_default();
        (at(lengths.len() / 2), at(lengths.len().saturating_sub(1)))
    }
}

/// Sleeps, and says when it began to and when it went on.
fn nap(moments: mpsc::UnboundedSender<(u32, Instant)>) -> Workflow {
    NAP.implement(move |wf, n: u32| {
        let moments = moments.clone();
        async move {
            // Nobody listens any more once the benchmark has failed.
            let _ = moments.send((n, Instant::now()));
            wf.sleep("nap", LENGTH).await?;
            let _ = moments.send((n, Instant::now()));
            Ok(())
        }
    })
}

/// Starts a worker on runs that nap, and on runs of ten steps that were started after them.
pub(crate) fn naps<T: Target>(target: &T, backlog: u32) -> Result<Naps> {
    let database = target.create()?;
    runtime()?.block_on(async {
        let store = T::open(&database.address).await?;
        let client = Client::new(store.clone());
        let mut runs = Vec::new();
        for n in 0..NAPS {
            runs.push(client.start(&NAP, &n).await?);
        }
        let behind = fill(&client, backlog).await?;
        let (moments, mut told) = mpsc::unbounded_channel();
        let begin = Instant::now();
        let mut worker = Worker::builder(store.clone())
            .workflow(ten_steps(|| ()))
            .workflow(nap(moments))
            .concurrency(CONCURRENCY)
            .build()?
            .start();
        while client.count_runs().await?.completed < u64::from(NAPS + backlog) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let drained = begin.elapsed();
        worker.stop().await?;
        drop((runs, behind, client));
        T::close(store).await;
        let mut moments = Vec::new();
        while let Ok(moment) = told.try_recv() {
            moments.push(moment);
        }
        // Each run's first moment is when it began to sleep, and its last when it went on.
        let length = |n| {
            let of_run = |moment: &&(u32, Instant)| moment.0 == n;
            let first = moments.iter().find(of_run)?.1;
            Some(moments.iter().rfind(of_run)?.1 - first)
        };
        let lengths: Option<Vec<_>> = (0..NAPS).map(length).collect();
        Ok(Naps {
            backend: T::NAME,
            backlog,
            lengths: lengths.ok_or("a run is completed and did not nap")?,
            drained,
        })
    })
}
