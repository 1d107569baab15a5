//! Crashes: where they can happen, and a look at what must not happen after one.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use std::{fmt, future, sync::Arc};

use openworkflow::backend::{
    Backend, BackendError, BackendResult, Cancellation, Claim, ClaimedRun, EndedStep, ExecutionEnd,
    History, ListRuns, ListSteps, NewRun, NewSignal, NewStepAttempt, Owner, Page, RunCounts,
    RunRecord, StepAttempt, Wakeups, WorkflowRun,
};
use openworkflow::{Clock, async_trait};

use super::observed::Observations;

/// What lies outside of the workflows: the effects of step bodies, and fate.
#[derive(Default)]
pub struct World {
    /// How many more points are passed before the crash; none where 0.
    points_left: AtomicU32,
    /// Where the numbers come from that decide what is left to chance; 0 where nothing is.
    chance: AtomicU64,
    effects: Mutex<Effects>,
    pub(super) observations: Observations,
}

#[derive(Default)]
struct Effects {
    executions: HashMap<(String, String), u32>,
    completed: HashSet<(String, String)>,
    lost: HashSet<(String, u32)>,
    /// The waits and children, in the order of their commits.
    begun: Vec<(String, String)>,
    violations: Vec<String>,
}

impl World {
    /// A world where some things take longer than others, and happen earlier or later, as it chances.
    #[must_use]
    pub fn of_chance(seed: Option<u64>) -> Self {
        Self {
            chance: AtomicU64::new(seed.map_or(0, |seed| seed | 1)),
            ..Self::default()
        }
    }

    fn effects(&self) -> MutexGuard<'_, Effects> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `sides`; 0 where nothing is left to chance.
    pub(super) fn roll(&self, sides: u64) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        if self.chance.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        // SplitMix64.
        let mut number = self.chance.fetch_add(STEP << 1, Ordering::Relaxed);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % sides
    }

    /// Lets the process crash at the `points`-th point from now; never where 0.
    pub fn crash_after(&self, points: u32) {
        self.points_left.store(points, Ordering::SeqCst);
    }

    /// A place at which the process may crash. Then nothing gets past it, nor past any other.
    pub async fn point(&self) {
        if self.crashes() {
            future::pending::<()>().await;
        }
    }

    /// The same in the code of a workflow, which is not at rest when it has crashed.
    pub async fn code_point(&self) {
        if self.crashes() {
            future::poll_fn::<(), _>(|cx| {
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
    }

    fn crashes(&self) -> bool {
        let left = self
            .points_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                0 | CRASHED => None,
                1 => Some(CRASHED),
                more => Some(more - 1),
            });
        !matches!(left, Ok(2..) | Err(0))
    }

    /// The same on the way to the database or back, which may take a while.
    pub async fn way_point(&self) {
        self.point().await;
        match self.roll(8) {
            5 | 6 => tokio::task::yield_now().await,
            7 => tokio::time::sleep(Duration::from_millis(1 + self.roll(3))).await,
            _ => return,
        }
        // What was under way at a crash stays so.
        if self.has_crashed() {
            future::pending::<()>().await;
        }
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

    /// Remembers that a wait or a child of the run stands.
    fn step_begun(&self, run_id: &str, step: &str) {
        let begun = (run_id.to_owned(), step.to_owned());
        self.effects().begun.push(begun);
    }

    /// Whether `step` stood when `later` did not, as far as that was seen.
    pub fn began_before(&self, run_id: &str, step: &str, later: &str) -> bool {
        let effects = self.effects();
        let place_of = |step: &str| {
            let mut begun = effects.begun.iter();
            begun.position(|(run, begun)| run == run_id && begun == step)
        };
        place_of(later).is_some_and(|later| place_of(step).is_some_and(|place| place < later))
    }

    /// Remembers that nodes were in branches that lost a race, of which the code has heard.
    pub fn have_lost(&self, run_id: &str, nodes: impl IntoIterator<Item = u32>) {
        let nodes = nodes.into_iter().map(|node| (run_id.to_owned(), node));
        self.effects().lost.extend(nodes);
    }

    /// Whether [`have_lost`](Self::have_lost) was told of that node.
    pub fn has_lost(&self, run_id: &str, node: u32) -> bool {
        self.effects().lost.contains(&(run_id.to_owned(), node))
    }

    /// How often the body of a step ran.
    pub fn executions(&self, run_id: &str, step: &str) -> u32 {
        let key = (run_id.to_owned(), step.to_owned());
        self.effects().executions.get(&key).copied().unwrap_or(0)
    }

    /// Notes something that must not happen.
    pub(super) fn violation(&self, violation: String) {
        self.effects().violations.push(violation);
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

    /// One of a worker's writes: the process may crash before it, and after it before anybody hears of it.
    async fn write<T>(
        &self,
        owner: Option<&Owner>,
        write: impl Future<Output = BackendResult<T>>,
        written: impl FnOnce(&World),
    ) -> BackendResult<T> {
        self.world.way_point().await;
        let result = write.await;
        match (&result, owner) {
            (Ok(_), _) => written(&self.world),
            (Err(BackendError::OwnershipLost { .. }), Some(owner)) if !self.world.has_crashed() => {
                let run_id = &owner.run_id;
                let lost = format!("a write for run {run_id} was refused, though nobody took it");
                self.world.violation(lost);
            }
            _ => {}
        }
        self.world.way_point().await;
        result
    }
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
        let owner = signal.sender.clone();
        let send = self.inner.send_signal(signal);
        self.write(owner.as_ref(), send, |_| {}).await
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
        let step = attempt.step_name.clone();
        let begin = self.inner.begin_step(owner, attempt);
        self.write(Some(owner), begin, |world| {
            world.step_begun(&owner.run_id, &step);
        })
        .await
    }

    async fn begin_child(
        &self,
        owner: &Owner,
        attempt: NewStepAttempt,
        child: NewRun,
    ) -> BackendResult<WorkflowRun> {
        let step = attempt.step_name.clone();
        let begin = self.inner.begin_child(owner, attempt, child);
        self.write(Some(owner), begin, |world| {
            world.step_begun(&owner.run_id, &step);
        })
        .await
    }

    async fn end_step(&self, owner: &Owner, ended: EndedStep) -> BackendResult<()> {
        let step = ended.attempt.step_name.clone();
        let completes = ended.result.is_ok();
        let end = self.inner.end_step(owner, ended);
        self.write(Some(owner), end, |world| {
            if completes {
                world.step_completed(&owner.run_id, &step);
            }
        })
        .await
    }

    async fn end_execution(&self, owner: &Owner, end: ExecutionEnd) -> BackendResult<()> {
        let end = self.inner.end_execution(owner, end);
        self.write(Some(owner), end, |world| {
            world.observations.end(&owner.run_id, owner.attempts);
        })
        .await
    }
}
