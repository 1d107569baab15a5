//! A SQLite file, opened once for each actor.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use openworkflow::backend::{
    Backend, BackendResult, Cancellation, Claim, ClaimedRun, EndedStep, ExecutionEnd, History,
    ListRuns, ListSteps, NewRun, NewSignal, NewStepAttempt, OrphanSearch, Orphans, Owner, Page,
    RunCounts, RunRecord, StepAttempt, Wakeups, WorkflowRun,
};
use openworkflow::{Clock, Sqlite};
use openworkflow_tests::RawSqlite;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::gate::Gate;
use super::peer::Peer;
use super::stage::{ACTORS, Stage};

/// A file of its own.
pub(crate) struct File {
    path: PathBuf,
    clock: Clock,
    backend: Arc<dyn Backend>,
    gates: Vec<Arc<Gate>>,
    actors: Vec<Arc<dyn Backend>>,
    moved: Arc<Notify>,
    _folder: TempDir,
}

#[async_trait]
impl Stage for File {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("test.db");
        let clock = Clock::manual(SystemTime::now());
        let open = async || {
            let options = Sqlite::options().clock(clock.clone());
            options.open(&path).await.expect("the database opens")
        };
        let backend = Arc::new(open().await);
        let moved = Arc::default();
        let mut gates = Vec::new();
        let mut actors = Vec::<Arc<dyn Backend>>::new();
        for _ in 0..ACTORS {
            let gate = Gate::new(&moved);
            gates.push(Arc::clone(&gate));
            let store = open().await;
            actors.push(Arc::new(Gated { store, gate }));
        }
        Self {
            path,
            clock,
            backend,
            gates,
            actors,
            moved,
            _folder: folder,
        }
    }

    fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    fn gates(&self) -> &[Arc<Gate>] {
        &self.gates
    }

    fn actor(&self, actor: usize) -> Arc<dyn Backend> {
        Arc::clone(&self.actors[actor])
    }

    async fn peer(&self, actor: usize, namespace: &str) -> Peer {
        Peer::on_sqlite(&self.path, &self.gates[actor], self.clock.now(), namespace)
    }

    async fn moved(&self) {
        let _ = tokio::time::timeout(Duration::from_millis(2), self.moved.notified()).await;
    }

    /// A transaction is let through when no other is under way.
    async fn are_blocked(&self, actors: &[usize]) -> bool {
        actors.is_empty()
    }

    async fn execute(&self, sql: &str) {
        let sql = sql.replace("PAST", "'2020-01-01T00:00:00.000Z'");
        RawSqlite(&self.path).execute(&sql);
    }
}

/// A backend whose operations wait at a gate.
struct Gated {
    store: Sqlite,
    gate: Arc<Gate>,
}

/// An operation of the store, held at the gate under its name.
macro_rules! held {
    ($self:ident.$operation:ident($($argument:ident),*)) => {{
        let _step = $self.gate.pass(stringify!($operation)).await;
        $self.store.$operation($($argument),*).await
    }};
}

#[async_trait]
impl Backend for Gated {
    fn clock(&self) -> &Clock {
        self.store.clock()
    }

    fn wakeups(&self) -> &Wakeups {
        self.store.wakeups()
    }

    async fn create_run(&self, run: NewRun) -> BackendResult<(WorkflowRun, bool)> {
        held!(self.create_run(run))
    }

    async fn get_run(&self, namespace_id: &str, id: &str) -> BackendResult<Option<WorkflowRun>> {
        held!(self.get_run(namespace_id, id))
    }

    async fn list_runs(&self, query: ListRuns) -> BackendResult<Page<WorkflowRun>> {
        held!(self.list_runs(query))
    }

    async fn count_runs(&self, namespace_id: &str) -> BackendResult<RunCounts> {
        held!(self.count_runs(namespace_id))
    }

    async fn list_step_attempts(&self, query: ListSteps) -> BackendResult<Page<StepAttempt>> {
        held!(self.list_step_attempts(query))
    }

    async fn load_record(
        &self,
        namespace_id: &str,
        run_id: &str,
    ) -> BackendResult<Option<RunRecord>> {
        held!(self.load_record(namespace_id, run_id))
    }

    async fn cancel_run(&self, namespace_id: &str, id: &str) -> BackendResult<Cancellation> {
        held!(self.cancel_run(namespace_id, id))
    }

    async fn send_signal(&self, signal: NewSignal) -> BackendResult<Vec<String>> {
        held!(self.send_signal(signal))
    }

    async fn claim_runs(&self, claim: Claim) -> BackendResult<Vec<ClaimedRun>> {
        held!(self.claim_runs(claim))
    }

    async fn find_orphans(&self, search: OrphanSearch) -> BackendResult<Vec<Orphans>> {
        held!(self.find_orphans(search))
    }

    async fn load_history(&self, namespace_id: &str, run_id: &str) -> BackendResult<History> {
        held!(self.load_history(namespace_id, run_id))
    }

    async fn extend_lease(&self, owner: &Owner, lease: Duration) -> BackendResult<()> {
        held!(self.extend_lease(owner, lease))
    }

    async fn begin_step(&self, owner: &Owner, attempt: NewStepAttempt) -> BackendResult<()> {
        held!(self.begin_step(owner, attempt))
    }

    async fn begin_child(
        &self,
        owner: &Owner,
        attempt: NewStepAttempt,
        child: NewRun,
    ) -> BackendResult<WorkflowRun> {
        held!(self.begin_child(owner, attempt, child))
    }

    async fn end_step(&self, owner: &Owner, ended: EndedStep) -> BackendResult<()> {
        held!(self.end_step(owner, ended))
    }

    async fn end_execution(&self, owner: &Owner, end: ExecutionEnd) -> BackendResult<()> {
        held!(self.end_execution(owner, end))
    }
}
