//! Two interceptors, one around the other: `Timing` measures every step, `Quota` refuses to start a
//! run for a tenant that has had its share. The tenant travels in the run's carrier.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use openworkflow::{
    Client, ClientError, CreateRun, CreatedRun, Error, Interceptor, Next, Result, Sqlite, StepCall,
    StepOutcome, Worker, WorkflowSpec,
};

static RENDER: WorkflowSpec<String, usize> = WorkflowSpec::new("render");

/// Remembers how long each step took.
#[derive(Clone, Default)]
struct Timing(Arc<Mutex<HashMap<String, Duration>>>);

#[async_trait]
impl Interceptor for Timing {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let name = call.name.to_string();
        let begin = Instant::now();
        let outcome = next.run(call).await;
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *times.entry(name).or_default() += begin.elapsed();
        outcome
    }
}

/// Stamps each run with a tenant, and refuses those beyond the tenant's quota.
#[derive(Clone)]
struct Quota {
    tenant: &'static str,
    left: Arc<Mutex<u32>>,
}

#[async_trait]
impl Interceptor for Quota {
    async fn create_run(
        &self,
        mut call: CreateRun,
        next: Next<'_, CreateRun>,
    ) -> Result<CreatedRun> {
        {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            *left = left.checked_sub(1).ok_or_else(|| {
                Error::rejected(format!("the quota of tenant {} is used up", self.tenant))
            })?;
        }
        call.run.carrier.insert("tenant", self.tenant);
        next.run(call).await
    }

    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let tenant = call.execution.run.carrier.get("tenant").unwrap_or("nobody");
        println!("step {} works for {tenant}", call.name);
        next.run(call).await
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let folder = tempfile::tempdir()?;
    let store = Sqlite::open(folder.path().join("render.db")).await?;
    let timing = Timing::default();
    let quota = Quota {
        tenant: "acme",
        left: Arc::new(Mutex::new(2)),
    };

    let client = Client::builder(store.clone())
        .interceptor(quota.clone())
        .build();
    let mut worker = Worker::builder(store)
        .workflow(RENDER.implement(|wf, text: String| async move {
            let words: Vec<String> = wf
                .run("split", || async {
                    Ok(text.split(' ').map(str::to_owned).collect())
                })
                .await?;
            wf.run("count", || async { Ok(words.len()) }).await
        }))
        .interceptor(timing.clone()) // outermost: its times include what Quota does
        .interceptor(quota)
        .build()?
        .start();

    for text in [
        "to be or not to be",
        "that is the question",
        "whether 'tis nobler",
    ] {
        match client.start(&RENDER, &text.to_owned()).await {
            Ok(run) => println!("{text:?} has {} words", run.result().await?),
            Err(ClientError::Refused { message, .. }) => println!("{text:?} refused: {message}"),
            Err(error) => return Err(error.into()),
        }
    }
    worker.stop().await?;
    for (step, time) in &*timing.0.lock().unwrap_or_else(PoisonError::into_inner) {
        println!("{step}: {time:?}");
    }
    Ok(())
}
