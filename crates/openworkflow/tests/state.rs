//! What the executions of a workflow share, and hooks made of functions.

#![cfg(feature = "sqlite")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openworkflow::{
    Client, ExecuteRun, ExecutionOutcome, Next, Sqlite, StepCall, StepOutcome, Worker, Workflow,
    WorkflowSpec, from_fn, from_fn_with_state,
};

type Fallible = Result<(), Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(60);

static WORKFLOW: WorkflowSpec<u64, u64> = WorkflowSpec::new("under-test").version("2");

/// Counts how often it was cloned.
#[derive(Debug, Default)]
struct Db(Arc<AtomicUsize>);

impl Clone for Db {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Db {
    async fn double(&self, amount: u64) -> std::io::Result<u64> {
        Ok(amount * 2)
    }
}

#[tokio::test]
async fn each_execution_gets_one_clone_of_the_state() -> Fallible {
    let db = Db::default();
    let clones = Arc::clone(&db.0);
    let workflow = WORKFLOW.state(db).implement(|wf, db, amount| async move {
        let once = wf
            .run("once", async || Ok(db.double(amount).await?))
            .await?;
        wf.sleep("pause", Duration::from_millis(1)).await?;
        wf.run("twice", async || Ok(db.double(once).await?)).await
    });
    let store = Sqlite::open_in_memory().await?;
    let worker = Worker::builder(store.clone()).workflow(workflow).build()?;
    let run = Client::new(store).start(&WORKFLOW, &3).await?;
    let _worker = worker.start();
    assert_eq!(run.result_within(PATIENCE).await?, 12);
    assert_eq!(run.describe().await?.attempts, 2);
    assert_eq!(clones.load(Ordering::Relaxed), 2);
    Ok(())
}

type Lines = Arc<Mutex<Vec<String>>>;

async fn note_steps(
    lines: Lines,
    call: StepCall,
    next: Next<'_, StepCall>,
) -> openworkflow::Result<StepOutcome> {
    let name = call.name.clone();
    let outcome = next.run(call).await;
    if let Ok(mut lines) = lines.lock() {
        lines.push(format!("{name}: {}", outcome.is_ok()));
    }
    outcome
}

#[tokio::test]
async fn a_function_is_a_hook_of_a_worker() -> Fallible {
    let lines = Lines::default();
    let workflow =
        Workflow::with_state("under-test", 7, |wf, seven: u64, amount: u64| async move {
            wf.run("add", async || Ok(amount + seven)).await
        });
    let store = Sqlite::open_in_memory().await?;
    let worker = Worker::builder(store.clone())
        .workflow(workflow.version("2"))
        .interceptor(from_fn_with_state(Arc::clone(&lines), note_steps))
        .interceptor(from_fn(
            async |call: ExecuteRun, next: Next<'_, ExecuteRun>| match next.run(call).await? {
                ExecutionOutcome::Completed { .. } => Ok(ExecutionOutcome::Completed {
                    output: openworkflow::Payload::from_json("40"),
                }),
                other => Ok(other),
            },
        ))
        .build()?;
    let run = Client::new(store).start(&WORKFLOW, &3).await?;
    let _worker = worker.start();
    assert_eq!(run.result_within(PATIENCE).await?, 40);
    assert_eq!(*lines.lock().map_err(|_| "poisoned")?, ["add: true"]);
    Ok(())
}
