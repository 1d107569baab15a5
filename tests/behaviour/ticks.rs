//! A worker's tick: one claim, executed to its end.

use std::time::Duration;

use openworkflow::backend::{Backend, BackendError};
use openworkflow::{
    Error, Event, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result, RetryPolicy, Worker,
    WorkerBuilder, Workflow, WorkflowSpec, async_trait,
};
use openworkflow_tests::{Database, Gate, Log};

use super::{Harness, LEASE, MINUTE};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");

fn add_one() -> Workflow {
    W.implement(|wf, n: u32| async move { wf.run("add", || async { Ok(n + 1) }).await })
}

/// Waits at the gate in a step.
fn held(gate: &Gate) -> Workflow {
    let gate = gate.clone();
    W.implement(move |wf, n: u32| {
        let gate = gate.clone();
        async move {
            wf.run("wait", || async {
                gate.pass().await;
                Ok(n)
            })
            .await
        }
    })
}

fn worker(harness: &Harness, configure: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Worker {
    configure(Worker::builder(harness.store())).build().unwrap()
}

#[tokio::test]
async fn a_tick_executes_what_is_due_and_says_how_much_that_was() {
    let harness = Harness::idle().await;
    let worker = worker(&harness, |worker| worker.workflow(add_one()).concurrency(2));
    assert_eq!(worker.tick().await.unwrap(), 0);
    let mut runs = Vec::new();
    for n in 0..5 {
        runs.push(harness.start(&W, n).await);
    }
    for expected in [2, 2, 1, 0] {
        assert_eq!(worker.tick().await.unwrap(), expected);
        // Whatever was claimed is over when the tick is.
        let under_way = harness.runs().await.into_iter();
        assert!(!under_way.into_iter().any(|run| run.status == "running"));
    }
    for (n, run) in runs.iter().enumerate() {
        assert_eq!(harness.output(run).await, n as u32 + 1);
    }
}

#[tokio::test]
async fn a_tick_goes_on_with_runs_that_were_put_away() {
    let harness = Harness::idle().await;
    let workflow = W.implement(|wf, n: u32| async move {
        wf.sleep("nap", MINUTE).await?;
        let attempt = wf.attempt();
        let policy = RetryPolicy::attempts(2).initial_interval(MINUTE);
        wf.run("flaky", || async move {
            match attempt {
                2 => Err(Error::new("Flaky", "not this time")),
                _ => Ok(n + 1),
            }
        })
        .retry(policy)
        .await
    });
    let worker = worker(&harness, |worker| worker.workflow(workflow));
    let run = harness.start(&W, 1).await;
    for attempts in 1..=3 {
        assert_eq!(worker.tick().await.unwrap(), 1);
        assert_eq!(worker.tick().await.unwrap(), 0, "it is not due yet");
        assert_eq!(harness.run(run.id()).await.attempts, attempts);
        harness.advance(MINUTE).await;
    }
    assert_eq!(harness.output(&run).await, 2);
}

/// Says what it sees.
struct Witness(Log);

#[async_trait]
impl Interceptor for Witness {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        self.0.add("begin");
        let outcome = next.run(call).await;
        self.0.add("end");
        outcome
    }

    fn event(&self, event: &Event<'_>) {
        if let Event::ExecutionInterrupted { reason, .. } = event {
            self.0.add(format!("{reason:?}"));
        }
    }
}

#[tokio::test]
async fn a_tick_goes_through_the_interceptors_and_leaves_others_runs_alone() {
    static OTHER: WorkflowSpec<u32, u32> = WorkflowSpec::new("other");
    let harness = Harness::idle().await;
    let log = Log::new();
    let witness = Witness(log.clone());
    let worker = worker(&harness, |worker| {
        worker.workflow(add_one()).interceptor(witness)
    });
    let other = harness.start(&OTHER, 1).await;
    let run = harness.start(&W, 1).await;
    assert_eq!(worker.tick().await.unwrap(), 1);
    assert_eq!(log.lines(), ["begin", "end"]);
    assert_eq!(harness.output(&run).await, 2);
    assert_eq!(harness.run(other.id()).await.attempts, 0);
}

#[tokio::test]
async fn a_tick_that_is_dropped_leaves_its_runs_until_their_lease_ends() {
    let harness = Harness::idle().await;
    let gate = Gate::closed();
    let workflow = held(&gate);
    let worker = worker(&harness, |worker| worker.workflow(workflow));
    let run = harness.start(&W, 3).await;
    tokio::select! {
        ticked = worker.tick() => panic!("nobody opened the gate: {ticked:?}"),
        () = gate.reached_by(1) => {}
    }
    gate.open();
    assert_eq!(worker.tick().await.unwrap(), 0, "the run is claimed");
    let row = harness.run(run.id()).await;
    assert_eq!((row.status.as_str(), row.attempts), ("running", 1));
    harness.advance(LEASE).await;
    assert_eq!(worker.tick().await.unwrap(), 1);
    assert_eq!(harness.output(&run).await, 3);
}

#[tokio::test]
async fn ticks_side_by_side_share_the_work() {
    let harness = Harness::idle().await;
    let worker = worker(&harness, |worker| worker.workflow(add_one()).concurrency(3));
    let mut runs = Vec::new();
    for n in 0..20 {
        runs.push(harness.start(&W, n).await);
    }
    let mut done = 0;
    while done < runs.len() {
        let (one, other) = tokio::join!(worker.tick(), worker.tick());
        done += one.unwrap() + other.unwrap();
    }
    for run in harness.runs().await {
        assert_eq!((run.status.as_str(), run.attempts), ("completed", 1));
    }
}

#[tokio::test]
async fn a_lease_is_kept_while_a_tick_executes() {
    let harness = Harness::idle().await;
    let gate = Gate::closed();
    let workflow = held(&gate);
    // Long enough for a machine under load to show its sign of life at half time.
    let lease = Duration::from_secs(4);
    let worker = worker(&harness, |worker| worker.workflow(workflow).lease(lease));
    let run = harness.start(&W, 3).await;
    let extended = async {
        gate.reached_by(1).await;
        let first = harness.run(run.id()).await.available_at;
        harness.advance(Duration::from_millis(100)).await;
        let moved = Duration::from_millis(100);
        harness
            .run_where("has a new lease", run.id(), |row| {
                row.available_at > first.map(|at| at - moved / 2) && row.updated_at > row.started_at
            })
            .await;
        gate.open();
    };
    let (ticked, ()) = tokio::join!(worker.tick(), extended);
    assert_eq!(ticked.unwrap(), 1);
    assert_eq!(harness.run(run.id()).await.attempts, 1);
}

#[tokio::test]
async fn an_error_of_the_claim_is_the_ticks() {
    let store = openworkflow::Sqlite::options()
        .open_in_memory()
        .await
        .unwrap();
    let worker = Worker::builder(store.clone()).workflow(add_one());
    let worker = worker.build().unwrap();
    store.close().await;
    let error = worker.tick().await.unwrap_err();
    assert!(matches!(error, BackendError::Closed), "{error:?}");
    assert!(store.get_run("default", "r").await.is_err());
}
