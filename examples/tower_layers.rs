//! tower layers around steps: at most two at a time across all runs, and none for longer than a
//! second. A step that is cut off is tried again by its own policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openworkflow::{Client, RetryPolicy, Sqlite, Worker, WorkflowSpec};
use tower::limit::ConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;

static FETCH: WorkflowSpec<u32, u32> = WorkflowSpec::new("fetch");

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let folder = tempfile::tempdir()?;
    let store = Sqlite::open(folder.path().join("fetch.db")).await?;
    let client = Client::new(store.clone());

    let at_work = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let tries = Arc::new(AtomicUsize::new(0));
    let (seen, peak, calls) = (at_work, Arc::clone(&most), Arc::clone(&tries));
    let mut worker = Worker::builder(store)
        .workflow(FETCH.implement(move |wf, page| {
            let (seen, peak, calls) = (Arc::clone(&seen), Arc::clone(&peak), Arc::clone(&calls));
            async move {
                wf.run("download", || async {
                    peak.fetch_max(seen.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let stuck = page == 3 && calls.fetch_add(1, Ordering::SeqCst) == 0;
                    let time = if stuck { 3600 } else { 0 };
                    let body = tokio::time::sleep(Duration::from_secs(time));
                    // Counts down when the timeout drops the step, too.
                    let _leave = Leave(&seen);
                    body.await;
                    Ok(page * 100)
                })
                .retry(RetryPolicy::attempts(3).initial_interval(Duration::from_millis(100)))
                .await
            }
        }))
        .layer(ConcurrencyLimitLayer::new(2))
        .layer(TimeoutLayer::new(Duration::from_secs(1)))
        .concurrency(20)
        .build()?
        .start();

    let mut runs = Vec::new();
    for page in 1..=6 {
        runs.push(client.start(&FETCH, &page).await?);
    }
    for run in runs {
        println!("{} gave {}", run.id(), run.result().await?);
    }
    worker.stop().await?;
    println!("at most {} steps at a time", most.load(Ordering::SeqCst));
    println!("page 3 took {} tries", tries.load(Ordering::SeqCst));
    Ok(())
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
