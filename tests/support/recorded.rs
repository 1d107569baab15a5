//! A backend that keeps a record of the claims and the sendings of signals that are made through it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use openworkflow::backend::{
    Backend, BackendResult, Cancellation, Claim, ClaimedRun, EndedStep, ExecutionEnd, History,
    ListRuns, ListSteps, NewRun, NewSignal, NewStepAttempt, OrphanSearch, Orphans, Owner, Page,
    RunCounts, RunRecord, StepAttempt, Wakeups, WorkflowRun,
};
use openworkflow::{Clock, ClockOffset};
use tokio::sync::watch;
use tokio::time::Instant;

/// A claim that was answered.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRecord {
    /// When it was asked.
    pub asked: Instant,
    /// How many runs it gave; `None` where it failed.
    pub found: Option<usize>,
}

/// Another backend, with a record of what it was asked for. Clones share it.
#[derive(Clone)]
pub struct Recorded<B> {
    inner: B,
    claims: Arc<Mutex<Vec<ClaimRecord>>>,
    count: Arc<watch::Sender<usize>>,
    sendings: Arc<watch::Sender<Vec<Instant>>>,
    begun: Arc<watch::Sender<usize>>,
    looks: Arc<watch::Sender<usize>>,
}

impl<B> Recorded<B> {
    /// `inner`, with nothing recorded.
    pub fn new(inner: B) -> Self {
        Self {
            inner,
            claims: Arc::default(),
            count: Arc::default(),
            sendings: Arc::default(),
            begun: Arc::default(),
            looks: Arc::default(),
        }
    }

    /// All claims so far.
    #[must_use]
    pub fn claims(&self) -> Vec<ClaimRecord> {
        let claims = self.claims.lock();
        claims.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often somebody has looked for orphans.
    #[must_use]
    pub fn looks(&self) -> usize {
        *self.looks.borrow()
    }

    /// Waits until somebody has looked for orphans so many times. No timer is involved.
    pub async fn looked(&self, looks: usize) {
        let mut count = self.looks.subscribe();
        // The sender lives as long as `self`.
        let _ = count.wait_for(|count| *count >= looks).await;
    }

    /// Waits until there were so many claims. No timer is involved.
    pub async fn reached(&self, claims: usize) {
        let mut count = self.count.subscribe();
        // The sender lives as long as `self`.
        let _ = count.wait_for(|count| *count >= claims).await;
    }

    /// When each sending of a signal was asked for that was answered, or failed, so far.
    #[must_use]
    pub fn sendings(&self) -> Vec<Instant> {
        self.sendings.borrow().clone()
    }

    /// Waits until so many sendings of signals were answered. No timer is involved.
    pub async fn sent(&self, sendings: usize) {
        let mut sent = self.sendings.subscribe();
        let _ = sent.wait_for(|sent| sent.len() >= sendings).await;
    }

    /// How many step attempts were recorded while they ran.
    #[must_use]
    pub fn begun(&self) -> usize {
        *self.begun.borrow()
    }
}

impl<B> fmt::Debug for Recorded<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recorded").field(&self.claims()).finish()
    }
}

#[async_trait]
impl<B: Backend> Backend for Recorded<B> {
    fn clock(&self) -> &Clock {
        self.inner.clock()
    }

    fn clock_offset(&self) -> ClockOffset {
        self.inner.clock_offset()
    }

    fn label(&self) -> String {
        self.inner.label()
    }

    fn wakeups(&self) -> &Wakeups {
        self.inner.wakeups()
    }

    async fn create_run(&self, run: NewRun) -> BackendResult<(WorkflowRun, bool)> {
        self.inner.create_run(run).await
    }

    async fn get_run(&self, namespace_id: &str, id: &str) -> BackendResult<Option<WorkflowRun>> {
        self.inner.get_run(namespace_id, id).await
    }

    async fn list_runs(&self, query: ListRuns) -> BackendResult<Page<WorkflowRun>> {
        self.inner.list_runs(query).await
    }

    async fn count_runs(&self, namespace_id: &str) -> BackendResult<RunCounts> {
        self.inner.count_runs(namespace_id).await
    }

    async fn list_step_attempts(&self, query: ListSteps) -> BackendResult<Page<StepAttempt>> {
        self.inner.list_step_attempts(query).await
    }

    async fn load_record(
        &self,
        namespace_id: &str,
        run_id: &str,
    ) -> BackendResult<Option<RunRecord>> {
        self.inner.load_record(namespace_id, run_id).await
    }

    async fn cancel_run(&self, namespace_id: &str, id: &str) -> BackendResult<Cancellation> {
        self.inner.cancel_run(namespace_id, id).await
    }

    async fn send_signal(&self, signal: NewSignal) -> BackendResult<Vec<String>> {
        let asked = Instant::now();
        let sent = self.inner.send_signal(signal).await;
        self.sendings.send_modify(|sendings| sendings.push(asked));
        sent
    }

    async fn claim_runs(&self, claim: Claim) -> BackendResult<Vec<ClaimedRun>> {
        let asked = Instant::now();
        let claimed = self.inner.claim_runs(claim).await;
        let found = claimed.as_ref().ok().map(Vec::len);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.push(ClaimRecord { asked, found });
        self.count.send_replace(claims.len());
        drop(claims);
        claimed
    }

    async fn find_orphans(&self, search: OrphanSearch) -> BackendResult<Vec<Orphans>> {
        let found = self.inner.find_orphans(search).await;
        self.looks.send_modify(|looks| *looks += 1);
        found
    }

    async fn load_history(&self, namespace_id: &str, run_id: &str) -> BackendResult<History> {
        self.inner.load_history(namespace_id, run_id).await
    }

    async fn extend_lease(&self, owner: &Owner, lease: Duration) -> BackendResult<()> {
        self.inner.extend_lease(owner, lease).await
    }

    async fn begin_step(&self, owner: &Owner, attempt: NewStepAttempt) -> BackendResult<()> {
        self.begun.send_modify(|begun| *begun += 1);
        self.inner.begin_step(owner, attempt).await
    }

    async fn begin_child(
        &self,
        owner: &Owner,
        attempt: NewStepAttempt,
        child: NewRun,
    ) -> BackendResult<WorkflowRun> {
        self.inner.begin_child(owner, attempt, child).await
    }

    async fn end_step(&self, owner: &Owner, ended: EndedStep) -> BackendResult<()> {
        self.inner.end_step(owner, ended).await
    }

    async fn end_execution(&self, owner: &Owner, end: ExecutionEnd) -> BackendResult<()> {
        self.inner.end_execution(owner, end).await
    }
}
