//! The good forms of the slips beside this file.

use std::sync::Arc;
use std::time::Duration;

use openworkflow::{
    CancelRun, Error, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result, StepCall,
    StepOutcome, WorkerBuilder, Workflow, WorkflowSpec, async_trait, from_fn, from_fn_with_state,
};

static COUNT: WorkflowSpec<u32, u32> = WorkflowSpec::new("count");

struct Db;

impl Db {
    async fn count(&self) -> std::io::Result<u32> {
        Ok(1)
    }
}

fn shares(db: Arc<Db>) -> Workflow {
    COUNT.state(db).implement(|wf, db, more| async move {
        let count = wf.run("count", async || Ok(db.count().await?)).await?;
        Ok(count + more)
    })
}

fn sends() -> Workflow {
    COUNT.implement(|wf, count| async move {
        let shared = Arc::new(count);
        wf.sleep("pause", "1s").await?;
        Ok(*shared)
    })
}

struct Audit;

#[async_trait]
impl Interceptor for Audit {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        next.run(call).await
    }
}

async fn executes(call: ExecuteRun, next: Next<'_, ExecuteRun>) -> Result<ExecutionOutcome> {
    next.run(call).await
}

fn wraps(worker: WorkerBuilder, db: Arc<Db>) -> WorkerBuilder {
    let limits = tower::ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(8)
        .timeout(Duration::from_secs(60));
    let counts = async |db: Arc<Db>, call: CancelRun, next: Next<'_, CancelRun>| {
        db.count().await?;
        next.run(call).await
    };
    worker
        .layer(limits)
        .interceptor(Audit)
        .interceptor(from_fn(executes))
        .interceptor(from_fn_with_state(db, counts))
}

#[derive(Debug)]
struct Failed(Error);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failed {}

impl Unpin for Failed {}

fn converts(failed: Failed) -> Result<()> {
    Err(failed)?
}

fn main() {
    let _ = (shares, sends, wraps, converts);
}
