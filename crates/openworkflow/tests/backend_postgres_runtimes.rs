//! The PostgreSQL backend on several runtimes: one after the other, side by side, and gone.

#[path = "support/postgres.rs"]
mod support;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openworkflow::Postgres;
use openworkflow::backend::{
    Backend, Claim, EndedStep, ExecutionEnd, NewRun, NewStepAttempt, Owner, StepAttemptKind,
};
use tokio::runtime::{Builder, Runtime};
use workflow_core::Payload;

const NS: &str = "default";
const PATIENCE: Duration = Duration::from_secs(60);
const POOL: usize = 4;

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn threads() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

async fn open(schema: &str) -> Postgres {
    let options = Postgres::options().url(support::url()).schema(schema);
    let options = options.application_name(schema).pool_size(POOL);
    options.connect().await.unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("{what} takes for ever"))
}

/// Runs from their creation to their end, `count` at the same time: every way of writing.
async fn work(backend: &Postgres, count: usize) {
    let ids: Vec<String> = (0..count)
        .map(|_| uuid::Uuid::new_v4().to_string())
        .collect();
    let workers: Vec<Arc<str>> = ids.iter().map(|id| format!("w-{id}").into()).collect();
    let all = async {
        for id in &ids {
            let run = NewRun::new(NS, id.as_str(), "order", Payload::NULL);
            backend.create_run(run).await.unwrap();
        }
        let claim = Claim::new(NS.into(), workers, None, Duration::from_secs(600));
        let claimed = backend.claim_runs(claim).await.unwrap();
        assert!(!claimed.is_empty());
        let writes = claimed.iter().map(|run| async move {
            let owner = Owner::new(NS, run.id.as_str(), run.worker_id.as_str(), run.attempts);
            let id = format!("s-{}", run.id);
            let kind = StepAttemptKind::Function;
            let attempt = NewStepAttempt::new(id.into(), "s".into(), kind, None);
            let ended = EndedStep::new(attempt, Ok(Payload::NULL));
            backend.end_step(&owner, ended).await.unwrap();
            let output = Payload::NULL;
            let end = ExecutionEnd::Complete { output };
            backend.end_execution(&owner, end).await.unwrap();
        });
        futures_util::future::join_all(writes).await;
    };
    within("work", all).await;
}

async fn sessions(schema: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    let row = support::client().await.query_one(sql, &[&schema]).await;
    row.unwrap().get(0)
}

#[test]
fn a_backend_outlives_the_runtime_that_it_was_opened_on() {
    let schema = support::schema();
    let first = threads();
    let backend = first.block_on(async {
        let backend = open(&schema).await;
        work(&backend, 20).await;
        backend
    });
    drop(first);
    for runtime in [threads(), one_thread(), threads()] {
        runtime.block_on(work(&backend, 20));
    }
    threads().block_on(async {
        // Those of the other runtimes went with them.
        work(&backend, 20).await;
        let few = async {
            while sessions(&schema).await > POOL as i64 + 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("closing the others' connections", few).await;
        backend.close();
        let error = backend.get_run(NS, "r").await.unwrap_err();
        assert!(matches!(error, openworkflow::backend::BackendError::Closed));
    });
    // Also on one that never saw it.
    let error = one_thread().block_on(backend.get_run(NS, "r")).unwrap_err();
    assert!(matches!(error, openworkflow::backend::BackendError::Closed));
}

#[test]
fn a_runtime_that_nobody_polls_holds_nobody_up() {
    let schema = support::schema();
    let first = one_thread();
    let backend = first.block_on(async {
        let backend = open(&schema).await;
        work(&backend, 20).await;
        // Left in the middle of writes, with more of them in the queue.
        let _ = tokio::time::timeout(Duration::from_millis(3), work(&backend, 200)).await;
        backend
    });
    let second = one_thread();
    for _ in 0..3 {
        second.block_on(work(&backend, 20));
        first.block_on(work(&backend, 20));
    }
}

#[test]
fn runtimes_may_end_while_others_are_at_work() {
    let schema = support::schema();
    let steady = threads();
    let backend = steady.block_on(open(&schema));
    let stop = Arc::new(AtomicBool::new(false));
    let worker = {
        let (backend, stop) = (backend.clone(), Arc::clone(&stop));
        steady.spawn(async move {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                work(&backend, 10).await;
                rounds += 1;
            }
            rounds
        })
    };
    for n in 0..20 {
        let passing = if n % 2 == 0 { threads() } else { one_thread() };
        passing.block_on(async {
            for _ in 0..4 {
                let backend = backend.clone();
                // Dropped with the runtime, wherever it is by then.
                tokio::spawn(async move { work(&backend, 10).await });
            }
            backend.count_runs(NS).await.unwrap();
        });
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = steady.block_on(worker).unwrap();
    assert!(rounds > 0, "it was never done");
}

#[test]
fn outside_of_a_runtime_it_says_so() {
    let schema = support::schema();
    let runtime = threads();
    let backend = runtime.block_on(open(&schema));
    // With a runtime at work there is somebody who polls the connections.
    let run = futures::executor::block_on(backend.get_run(NS, "r")).unwrap();
    assert!(run.is_none());
    drop(runtime);
    let error = futures_util::FutureExt::now_or_never(backend.get_run(NS, "r"));
    let error = error.expect("an answer at once").unwrap_err().to_string();
    assert!(error.contains("Tokio runtime"), "{error}");
}
