//! One database, and both languages at it.

use std::ops::Deref;
use std::path::Path;
use std::process::Stdio;

use openworkflow::{Worker, WorkerBuilder, WorkerHandle};
use openworkflow_tests::{Database, Harness, StepRow, wait_for};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};

use super::peer::{Peer, PeerError, Sdk};
use super::workflows;
use crate::Db;

/// A language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Rust,
    TypeScript,
}

impl By {
    /// Each language, beside the other.
    pub(crate) const BOTH_WAYS: [(Self, Self); 2] = [
        (Self::Rust, Self::TypeScript),
        (Self::TypeScript, Self::Rust),
    ];

    /// What a step that ran in this language returns.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::TypeScript => "typescript",
        }
    }
}

/// A worker in either language.
pub(crate) enum AtWork {
    Rust(WorkerHandle),
    TypeScript,
}

/// Holds up the step `slow` in either language until it is dropped.
pub(crate) struct Hold(NamedTempFile);

impl Hold {
    pub(crate) fn new() -> Self {
        Self(NamedTempFile::new().expect("there is room for a file"))
    }

    /// What the workflow is to be told.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A database with a client in either language. Dereferences to the Rust side.
pub(crate) struct Site {
    rust: Harness<Db>,
    pub(crate) peer: Peer,
}

impl Site {
    /// A fresh database, with nobody at work.
    pub(crate) async fn new(sdk: Sdk) -> Self {
        let rust = Harness::idle().await;
        let peer = Peer::connected(&rust.db, sdk).await;
        Self { rust, peer }
    }

    /// A fresh database, and a peer that records its spans.
    pub(crate) async fn traced() -> Self {
        let rust = Harness::idle().await;
        let peer = Peer::traced(&rust.db).await;
        Self { rust, peer }
    }

    /// Puts a worker with all workflows to work.
    pub(crate) async fn work(&self, by: By) -> AtWork {
        match by {
            By::Rust => AtWork::Rust(self.rust_works(|worker| worker)),
            By::TypeScript => {
                self.peer.work().await;
                AtWork::TypeScript
            }
        }
    }

    /// Puts a worker with some of the workflows to work.
    pub(crate) async fn work_on(&self, by: By, names: &[&str]) -> AtWork {
        match by {
            By::Rust => {
                let mut worker = Worker::builder(self.db.store());
                for name in names {
                    worker = worker.workflow(super::named(name));
                }
                AtWork::Rust(worker.build().expect("the worker is set up well").start())
            }
            By::TypeScript => {
                self.peer.work_on(names).await;
                AtWork::TypeScript
            }
        }
    }

    /// Puts a Rust worker with all workflows to work.
    pub(crate) fn rust_works(
        &self,
        configure: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> WorkerHandle {
        self.another_worker(|worker| {
            let worker = workflows::all()
                .into_iter()
                .fold(worker, WorkerBuilder::workflow);
            configure(worker)
        })
    }

    /// A Rust worker with all workflows, in a process of its own. Killed when dropped.
    pub(crate) fn rust_process(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_interop_worker"))
            .arg(self.db.url())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the worker starts")
    }

    /// Stops a worker gracefully.
    pub(crate) async fn rest(&self, worker: AtWork) {
        match worker {
            AtWork::Rust(mut worker) => worker.stop().await.expect("the worker stops"),
            AtWork::TypeScript => self.peer.rest().await,
        }
    }

    /// Starts a run and returns its id.
    pub(crate) async fn start_by(&self, by: By, spec: &workflows::Spec, input: Value) -> String {
        match by {
            By::Rust => self.start(spec, input).await.id().to_owned(),
            By::TypeScript => self.peer.start(spec.name(), input).await,
        }
    }

    /// Sends a signal and returns who got it.
    pub(crate) async fn signal_by(&self, by: By, signal: &str, data: Value) -> Vec<String> {
        match by {
            By::Rust => {
                let sent = self.client.send_signal(signal, &data).await;
                sent.expect("the signal is sent")
            }
            By::TypeScript => self.peer.signal(signal, data).await,
        }
    }

    /// Cancels a run, or says why not.
    pub(crate) async fn cancel_by(&self, by: By, run: &str) -> Result<(), String> {
        match by {
            By::Rust => {
                let canceled = self.client.cancel(run).await;
                canceled.map_err(|error| error.to_string())
            }
            By::TypeScript => {
                let canceled = self.peer.try_call("cancel", json!({ "run": run })).await;
                canceled.map(drop).map_err(|PeerError { message }| message)
            }
        }
    }

    /// Has a run executed in one language until it parks, and stops the worker again.
    pub(crate) async fn park_by(&self, by: By, run: &str, attempts: u32) {
        let worker = self.work(by).await;
        self.parked(run, attempts).await;
        self.rest(worker).await;
    }

    /// As [`park_by`](Self::park_by), with a worker that has only some of the workflows.
    pub(crate) async fn park_on(&self, by: By, names: &[&str], run: &str) {
        let worker = self.work_on(by, names).await;
        self.parked(run, 1).await;
        self.rest(worker).await;
        if by == By::TypeScript {
            self.forgive().await;
        }
    }

    /// Lets pass what a TypeScript worker waits after it claimed a run whose workflow it has not.
    pub(crate) async fn forgive(&self) {
        self.db
            .execute(
                "UPDATE workflow_runs SET available_at = created_at, attempts = attempts - 1
                 WHERE status = 'pending' AND error IS NOT NULL",
            )
            .await;
    }

    /// Has a run executed in one language until it is over, and returns its output.
    pub(crate) async fn complete_by(&self, by: By, run: &str) -> Value {
        let worker = self.work(by).await;
        let row = self.ended(run).await;
        self.rest(worker).await;
        assert_eq!(row.status, "completed", "{row:#?}");
        row.output.unwrap_or_default()
    }

    /// Has a run executed in one language until it has failed, and returns its error.
    pub(crate) async fn fail_by(&self, by: By, run: &str) -> Value {
        let worker = self.work(by).await;
        let row = self.ended(run).await;
        self.rest(worker).await;
        assert_eq!(row.status, "failed", "{row:#?}");
        row.error.unwrap_or_default()
    }

    /// Waits for an attempt at a step to be there with this status.
    pub(crate) async fn step_is(&self, run: &str, name: &str, status: &str) -> StepRow {
        wait_for(&format!("step {name} is {status}"), || async {
            let mut steps = self.step(run, name).await;
            steps.retain(|step| step.status == status);
            steps.pop()
        })
        .await
    }
}

impl Deref for Site {
    type Target = Harness<Db>;

    fn deref(&self) -> &Harness<Db> {
        &self.rust
    }
}
