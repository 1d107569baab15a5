//! Crashes: where they can happen, and a look at what must not happen after one.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, future, sync::Arc};

use openworkflow::backend::{
    Backend, BackendResult, Cancellation, Claim, ClaimedRun, EndedStep, ExecutionEnd, History,
    ListRuns, ListSteps, NewRun, NewSignal, NewStepAttempt, Owner, Page, RunCounts, StepAttempt,
    Wakeups, WorkflowRun,
};
use openworkflow::{Clock, async_trait};
use serde_json::Value;
use tokio::sync::Notify;

/// What lies outside of the workflows: the effects of step bodies, and fate.
#[derive(Default)]
pub struct World {
    /// How many more points are passed before the crash; none where 0.
    points_left: AtomicU32,
    crashed: Notify,
    effects: Mutex<Effects>,
}

#[derive(Default)]
struct Effects {
    executions: HashMap<(String, String), u32>,
    completed: HashSet<(String, String)>,
    told: HashMap<(String, u32), Value>,
    violations: Vec<String>,
}

impl World {
    fn effects(&self) -> MutexGuard<'_, Effects> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the process crash at the `points`-th point from now; never where 0.
    pub fn crash_after(&self, points: u32) {
        self.points_left.store(points, Ordering::SeqCst);
    }

    /// A place at which the process may crash. Then nothing gets past it, nor past any other.
    pub async fn point(&self) {
        let left = self
            .points_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                0 | CRASHED => None,
                1 => Some(CRASHED),
                more => Some(more - 1),
            });
        match left {
            Ok(1) => self.crashed.notify_one(),
            Ok(_) | Err(0) => return,
            Err(_) => {}
        }
        future::pending::<()>().await;
    }

    /// Resolves when the process crashes.
    pub async fn crashed(&self) {
        self.crashed.notified().await;
    }

    /// Whether it has crashed.
    pub fn has_crashed(&self) -> bool {
        self.points_left.load(Ordering::SeqCst) == CRASHED
    }

    /// Counts an execution of a step's body, and returns how many there were with this one.
    pub fn begin_body(&self, run_id: &str, step: &str) -> u32 {
        let key = (run_id.to_owned(), step.to_owned());
        let mut effects = self.effects();
        if effects.completed.contains(&key) {
            let violation = format!("completed step {step} of run {run_id} ran again");
            effects.violations.push(violation);
        }
        let count = effects.executions.entry(key).or_default();
        *count += 1;
        *count
    }

    /// Remembers that a step is completed: from here on its body must not run.
    pub fn step_completed(&self, run_id: &str, step: &str) {
        let key = (run_id.to_owned(), step.to_owned());
        self.effects().completed.insert(key);
    }

    /// What a workflow's code was told of a node, in one execution: any other must be told the same.
    pub fn tell(&self, run_id: &str, node: u32, outcome: &Value) {
        let key = (run_id.to_owned(), node);
        let mut effects = self.effects();
        let first = effects.told.entry(key).or_insert_with(|| outcome.clone());
        if first != outcome {
            let violation = format!("run {run_id} was told {first}, and in a replay {outcome}");
            effects.violations.push(violation);
        }
    }

    /// How often the body of a step ran.
    pub fn executions(&self, run_id: &str, step: &str) -> u32 {
        let key = (run_id.to_owned(), step.to_owned());
        self.effects().executions.get(&key).copied().unwrap_or(0)
    }

    /// What happened that must not happen.
    pub fn violations(&self) -> Vec<String> {
        self.effects().violations.clone()
    }
}

const CRASHED: u32 = u32::MAX;

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// A database whose user may crash before and after each of a worker's operations.
#[derive(Debug, Clone)]
pub struct CrashingBackend<B> {
    inner: B,
    world: Arc<World>,
}

impl<B> CrashingBackend<B> {
    /// `inner`, in a world where crashes happen.
    pub fn new(inner: B, world: Arc<World>) -> Self {
        Self { inner, world }
    }
}

macro_rules! between_points {
    ($self:ident, $operation:expr) => {{
        $self.world.point().await;
        let result = $operation.await;
        $self.world.point().await;
        result
    }};
}

#[async_trait]
impl<B: Backend> Backend for CrashingBackend<B> {
    fn clock(&self) -> &Clock {
        self.inner.clock()
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

    async fn cancel_run(&self, namespace_id: &str, id: &str) -> BackendResult<Cancellation> {
        self.inner.cancel_run(namespace_id, id).await
    }

    async fn send_signal(&self, signal: NewSignal) -> BackendResult<Vec<String>> {
        between_points!(self, self.inner.send_signal(signal))
    }

    async fn claim_runs(&self, claim: Claim) -> BackendResult<Vec<ClaimedRun>> {
        let claimed = self.inner.claim_runs(claim).await;
        if claimed.as_ref().is_ok_and(|runs| !runs.is_empty()) {
            // Claims that find nothing come in any number.
            self.world.point().await;
        }
        claimed
    }

    async fn load_history(&self, namespace_id: &str, run_id: &str) -> BackendResult<History> {
        self.inner.load_history(namespace_id, run_id).await
    }

    async fn extend_lease(&self, owner: &Owner, lease: Duration) -> BackendResult<()> {
        self.inner.extend_lease(owner, lease).await
    }

    async fn begin_step(&self, owner: &Owner, attempt: NewStepAttempt) -> BackendResult<()> {
        between_points!(self, self.inner.begin_step(owner, attempt))
    }

    async fn begin_child(
        &self,
        owner: &Owner,
        attempt: NewStepAttempt,
        child: NewRun,
    ) -> BackendResult<WorkflowRun> {
        between_points!(self, self.inner.begin_child(owner, attempt, child))
    }

    async fn end_step(&self, owner: &Owner, ended: EndedStep) -> BackendResult<()> {
        let step = ended.attempt.step_name.clone();
        let completes = ended.result.is_ok();
        self.world.point().await;
        let result = self.inner.end_step(owner, ended).await;
        if completes && result.is_ok() {
            self.world.step_completed(&owner.run_id, &step);
        }
        self.world.point().await;
        result
    }

    async fn end_execution(&self, owner: &Owner, end: ExecutionEnd) -> BackendResult<()> {
        between_points!(self, self.inner.end_execution(owner, end))
    }
}
