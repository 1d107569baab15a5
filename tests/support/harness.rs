//! A client and a worker on a database of their own.

use std::ops::Deref;
use std::time::Duration;

use openworkflow::{Client, ClientBuilder, RunHandle, Worker, WorkerBuilder, WorkerHandle};
use openworkflow::{ClientError, WorkflowSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Database, RunRow, wait_for};

/// How long a result may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database with a client and, mostly, a worker at work. Dereferences to the database.
#[derive(Debug)]
pub struct Harness<D> {
    /// The database.
    pub db: D,
    /// The client.
    pub client: Client,
    /// The worker. It stops hard when the harness is dropped.
    pub worker: Option<WorkerHandle>,
}

impl<D: Database> Harness<D> {
    /// A fresh database, a client, and a worker at work that is set up by `configure`.
    pub async fn new(configure: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Self {
        Self::with_client(|client| client, configure).await
    }

    /// As [`new`](Self::new), with a client that is set up by `client`.
    pub async fn with_client(
        client: impl FnOnce(ClientBuilder) -> ClientBuilder,
        worker: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> Self {
        let mut harness = Self::idle_with(client).await;
        harness.start_worker(worker);
        harness
    }

    /// A fresh database and a client. No worker.
    pub async fn idle() -> Self {
        Self::idle_with(|client| client).await
    }

    /// As [`idle`](Self::idle), with a client that is set up by `client`.
    pub async fn idle_with(client: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Self {
        let db = D::create().await;
        let client = client(Client::builder(db.store())).build();
        Self {
            db,
            client,
            worker: None,
        }
    }

    /// Starts the harness's worker.
    pub fn start_worker(&mut self, configure: impl FnOnce(WorkerBuilder) -> WorkerBuilder) {
        self.worker = Some(self.another_worker(configure));
    }

    /// Starts a worker beside the harness's own.
    #[must_use]
    pub fn another_worker(
        &self,
        configure: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> WorkerHandle {
        let worker = configure(Worker::builder(self.db.store()));
        worker.build().expect("the worker is set up well").start()
    }

    /// Stops the worker gracefully.
    pub async fn stop(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.stop().await.expect("the worker stops");
        }
        self.worker = None;
    }

    /// Starts a run.
    pub async fn start<I, O>(&self, workflow: &WorkflowSpec<I, O>, input: I) -> RunHandle<O>
    where
        I: Serialize,
        O: DeserializeOwned + 'static,
    {
        let started = self.client.start(workflow, &input).await;
        started.expect("the run starts")
    }

    /// Starts a run and waits for its output.
    pub async fn complete<I, O>(&self, workflow: &WorkflowSpec<I, O>, input: I) -> O
    where
        I: Serialize,
        O: DeserializeOwned + 'static,
    {
        let run = self.start(workflow, input).await;
        self.output(&run).await
    }

    /// Waits for a run's output.
    pub async fn output<O: DeserializeOwned>(&self, run: &RunHandle<O>) -> O {
        let result = run.result_within(PATIENCE).await;
        result.expect("the run completes")
    }

    /// Waits for a run to fail and returns its row.
    pub async fn failure<O: DeserializeOwned + std::fmt::Debug>(
        &self,
        run: &RunHandle<O>,
    ) -> RunRow {
        match run.result_within(PATIENCE).await {
            Err(ClientError::RunFailed { .. }) => self.db.run(run.id()).await,
            other => panic!("the run was to fail, and gave {other:?}"),
        }
    }

    /// Waits until the run's row is as wanted, and returns it.
    pub async fn run_where(
        &self,
        what: &str,
        run_id: &str,
        wanted: impl Fn(&RunRow) -> bool,
    ) -> RunRow {
        wait_for(&format!("run {run_id} {what}"), || async {
            Some(self.db.run(run_id).await).filter(|row| wanted(row))
        })
        .await
    }

    /// Waits until the run is put away after `attempts` executions, and returns its row.
    pub async fn parked(&self, run_id: &str, attempts: u32) -> RunRow {
        let what = format!("is parked by execution {attempts}");
        self.run_where(&what, run_id, |row| {
            row.attempts == attempts && row.is_parked(self.db.now())
        })
        .await
    }

    /// Waits until the run waits for its retry after `attempts` executions, and returns its row.
    pub async fn retrying(&self, run_id: &str, attempts: u32) -> RunRow {
        let what = format!("waits for a retry after execution {attempts}");
        self.run_where(&what, run_id, |row| {
            row.attempts == attempts && row.status == "pending" && row.error.is_some()
        })
        .await
    }

    /// Waits until the run has ended, and returns its row.
    pub async fn ended(&self, run_id: &str) -> RunRow {
        self.run_where("has ended", run_id, |row| {
            matches!(row.status.as_str(), "completed" | "failed" | "canceled")
        })
        .await
    }

    /// `name kind status` of the run's step attempts: by name, then the oldest first.
    pub async fn step_summary(&self, run_id: &str) -> Vec<String> {
        let mut steps = self.db.steps(run_id).await;
        steps.sort_by(|one, other| one.name.cmp(&other.name));
        steps.iter().map(crate::StepRow::summary).collect()
    }
}

impl<D> Deref for Harness<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.db
    }
}
