//! One execution of a run: its history, the steps under way, and when it comes to rest.
//!
//! An execution polls the workflow's code until it returns, or until it can get no further: no step
//! is at work and at least one waits. `docs/architecture.md` tells the rules.

mod driver;
mod history;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use uuid::Uuid;
use workflow_core::{
    Chain, Error, ErrorKind, Event, Execution, Interruption, Payload, Result, StepKind,
    StepOutcome, StepPhase,
};

use crate::backend::codec::{self, STEP_LIMIT};
use crate::backend::{
    Backend, BackendError, BackendResult, EndedStep, NewStepAttempt, Owner, StepAttemptKind,
};
use crate::lease::Lease;
use crate::name::{self, StepNames};
use crate::retry::RetryPolicy;

pub(crate) use driver::{Driver, DriverEnd};
pub(crate) use history::{OpenStep, PriorAttempts, RunningAttempt, StepHistory};

use driver::DriverWaker;

/// How long an operation that the database could not carry out is tried again. After that the lease
/// has run out and another worker may have the run.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30);

/// How long a run is left alone that cannot be executed before somebody mends something.
pub(crate) const MEND_RETRY: RetryPolicy = RetryPolicy::unlimited()
    .initial_interval(Duration::from_secs(5))
    .maximum_interval(Duration::from_secs(300));

/// What the steps of one execution share.
pub(crate) struct ExecutionState {
    pub(crate) execution: Arc<Execution>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) chain: Chain,
    pub(crate) owner: Owner,
    pub(crate) created_at: SystemTime,
    pub(crate) deadline_at: Option<SystemTime>,
    /// Whether the worker before died: then every function is recorded as running before it begins,
    /// so that one which kills its process is counted and meets the step limit some day.
    pub(crate) taken_over: bool,
    pub(crate) lease: Arc<Lease>,
    driver: Arc<DriverWaker>,
    interrupted: Notify,
    interruption: OnceLock<Interruption>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    history: StepHistory,
    names: StepNames,
    attempts: usize,
    at_work: usize,
    pending: Vec<(u64, Pending)>,
    held: Vec<Arc<Held>>,
    next_key: u64,
    fatal: Option<Error>,
}

/// Something that a later execution goes on with.
enum Pending {
    Wait {
        attempt_id: Arc<str>,
        until: SystemTime,
    },
    Retry {
        error: Error,
        at: SystemTime,
    },
}

/// A failure that is to be told to user code.
struct Held {
    /// Where its step stands in the order of the code.
    place: usize,
    /// Whether it may be told, and who waits for that.
    released: Mutex<(bool, Option<Waker>)>,
}

impl ExecutionState {
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, which names each of them"
    )]
    pub(crate) fn new(
        execution: Arc<Execution>,
        backend: Arc<dyn Backend>,
        chain: Chain,
        owner: Owner,
        created_at: SystemTime,
        deadline_at: Option<SystemTime>,
        taken_over: bool,
        lease: Arc<Lease>,
        history: StepHistory,
    ) -> Self {
        let inner = Inner {
            attempts: history.len(),
            history,
            ..Inner::default()
        };
        Self {
            execution,
            backend,
            chain,
            owner,
            created_at,
            deadline_at,
            taken_over,
            lease,
            driver: Arc::default(),
            interrupted: Notify::new(),
            interruption: OnceLock::new(),
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.backend.clock().now()
    }

    /// Chooses the step's name in this execution and looks up what happened under it before.
    pub(crate) fn enter(&self, base_name: &str) -> Result<(Arc<str>, PriorAttempts)> {
        name::validate("a step", base_name)?;
        let (name, prior) = {
            let mut inner = self.lock();
            let name = inner.names.resolve(base_name);
            let prior = inner.history.of(&name);
            (name, prior)
        };
        if matches!(prior, PriorAttempts::Completed(_)) && !self.chain.is_empty() {
            self.chain
                .event(&Event::step_replayed(&self.execution, &name));
        }
        Ok((name, prior))
    }

    /// Marks a step as at work until the guard is dropped. The run does not park meanwhile.
    pub(crate) fn at_work(self: &Arc<Self>) -> AtWork {
        self.lock().at_work += 1;
        AtWork(Arc::clone(self))
    }

    /// The id of a new attempt. Never resolves where the run has reached the limit: it then fails,
    /// once no step is [at work](Self::at_work). So ask for it before being so oneself.
    pub(crate) async fn new_attempt_id(&self) -> Arc<str> {
        let within_limit = {
            let mut inner = self.lock();
            let within = inner.attempts < STEP_LIMIT;
            inner.attempts += usize::from(within);
            within
        };
        if !within_limit {
            let message = format!(
                "Exceeded the step limit of {STEP_LIMIT} attempts (current count: {STEP_LIMIT})"
            );
            self.fail_run(Error::of_kind(ErrorKind::StepLimitExceeded, message).non_retryable())
                .await;
        }
        new_id()
    }

    /// The step that waits for `signal` in this run, if one does.
    pub(crate) fn waiter_on(&self, signal: &str) -> Option<Arc<str>> {
        self.lock().history.waiter_on(signal)
    }

    /// Remembers that the step waits for `signal`, so that a second wait on it is refused.
    pub(crate) fn set_waiter(&self, signal: Arc<str>, step_name: Arc<str>) {
        self.lock().history.set_waiter(signal, step_name);
    }

    pub(crate) fn clear_waiter(&self, signal: &str) {
        self.lock().history.clear_waiter(signal);
    }

    /// Waits until a later execution: never resolves. The run may park.
    pub(crate) async fn wait(&self, attempt_id: Arc<str>, until: SystemTime) -> ! {
        self.pend(Pending::Wait { attempt_id, until }).await
    }

    /// Leaves the retry of a failure to a later execution: never resolves.
    pub(crate) async fn wait_for_retry(&self, error: Error, at: SystemTime) -> ! {
        self.pend(Pending::Retry { error, at }).await
    }

    /// Passes on what was read back from the database. Where that cannot be read, the run is put back
    /// until somebody mends the row or the code: never resolves. An earlier execution got further, so
    /// this is no failure of the run's.
    pub(crate) async fn read_back<T>(&self, read: Result<T>, step_name: Arc<str>) -> T {
        match read {
            Ok(value) => value,
            Err(error) => {
                self.tell_failure(&step_name, &error);
                let at = self.now() + MEND_RETRY.delay(self.execution.attempt);
                self.wait_for_retry(error.with_step_name(step_name), at)
                    .await
            }
        }
    }

    /// Tells interceptors of an error that may have passed none of them.
    fn tell_failure(&self, step_name: &str, error: &Error) {
        let failed = Event::step_failed(&self.execution, step_name, error);
        self.chain.event(&failed);
    }

    async fn pend(&self, pending: Pending) -> ! {
        let key = {
            let mut inner = self.lock();
            inner.next_key += 1;
            let key = inner.next_key;
            inner.pending.push((key, pending));
            key
        };
        self.driver.wake();
        // User code may drop the step: a wait that nobody awaits does not keep the run.
        let _registered = Registered { state: self, key };
        never().await
    }

    /// Fails the run with `error`, which user code cannot catch: never resolves.
    pub(crate) async fn fail_run(&self, error: Error) -> ! {
        self.lock().fatal.get_or_insert(error);
        self.driver.wake();
        never().await
    }

    /// Resolves once no step is at work. A failure is told to user code only then, so that
    /// `try_join!` does not drop the steps beside it halfway.
    pub(crate) async fn at_rest(&self, step_name: &str) {
        let held = {
            let mut inner = self.lock();
            let held = Arc::new(Held {
                place: inner.names.place(step_name),
                released: Mutex::default(),
            });
            inner.held.push(Arc::clone(&held));
            held
        };
        self.driver.wake();
        // User code may drop the step, before or after it may be told.
        let _hearing = Hearing {
            state: self,
            held: &held,
        };
        std::future::poll_fn(|cx| {
            let mut released = held.released.lock().unwrap_or_else(PoisonError::into_inner);
            if released.0 {
                return Poll::Ready(());
            }
            released.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Carries out an operation of the backend. Tries again while the database is only busy or out
    /// of reach. Never resolves where the run is no longer ours, or the operation failed for good:
    /// the execution is then interrupted, and nothing more is written.
    pub(crate) async fn commit<T, F, Fut>(&self, operation: F) -> T
    where
        F: Fn() -> Fut,
        Fut: Future<Output = BackendResult<T>>,
    {
        match retry_transient(operation).await {
            Ok(value) => value,
            Err(BackendError::OwnershipLost { reason }) => self.interrupt(reason).await,
            Err(error) => {
                tracing::error!(
                    run_id = &*self.owner.run_id,
                    %error,
                    "cannot write the run; it is left until its lease runs out"
                );
                self.interrupt(Interruption::LeaseLost).await
            }
        }
    }

    async fn interrupt(&self, reason: Interruption) -> ! {
        // A second reason is no news.
        let _ = self.interruption.set(reason);
        self.interrupted.notify_one();
        never().await
    }

    /// Resolves when the execution is to be dropped.
    pub(crate) async fn interrupted(&self) -> Interruption {
        loop {
            if let Some(reason) = self.interruption.get() {
                return *reason;
            }
            self.interrupted.notified().await;
        }
    }

    pub(crate) async fn begin_step(&self, attempt: &NewStepAttempt) {
        self.commit(|| self.backend.begin_step(&self.owner, attempt.clone()))
            .await;
    }

    pub(crate) async fn complete_step(&self, attempt: &NewStepAttempt, output: &Payload) {
        self.commit(|| {
            let ended = EndedStep::new(attempt.clone(), Ok(output.clone()));
            self.backend.end_step(&self.owner, ended)
        })
        .await;
    }

    pub(crate) async fn fail_step(&self, attempt: &NewStepAttempt, error: &Error) {
        let error = codec::encode_step_error(error);
        self.commit(|| {
            let ended = EndedStep::new(attempt.clone(), Err(error.clone()));
            self.backend.end_step(&self.owner, ended)
        })
        .await;
    }

    /// Completes the sleeps that are over, before user code runs.
    pub(crate) async fn complete_elapsed_sleeps(&self) {
        let elapsed = self.lock().history.take_elapsed_sleeps(self.now());
        let writes = elapsed.into_iter().map(|(name, id)| async move {
            let attempt = NewStepAttempt::new(id, name, StepAttemptKind::Sleep, None);
            self.complete_step(&attempt, &Payload::NULL).await;
        });
        futures_util::future::join_all(writes).await;
    }
}

/// A step is at work while this lives.
pub(crate) struct AtWork(Arc<ExecutionState>);

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.at_work -= 1;
        let idle = inner.at_work == 0;
        drop(inner);
        if idle {
            self.0.driver.wake();
        }
    }
}

/// Somebody waits to be told of a failure while this lives. From its release until then the failure
/// counts as at work: the run does not park before user code has heard of it.
struct Hearing<'a> {
    state: &'a ExecutionState,
    held: &'a Arc<Held>,
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        inner.held.retain(|held| !Arc::ptr_eq(held, self.held));
        let released = self
            .held
            .released
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inner.at_work -= usize::from(released.0);
        drop(released);
        drop(inner);
        self.state.driver.wake();
    }
}

struct Registered<'a> {
    state: &'a ExecutionState,
    key: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.state
            .lock()
            .pending
            .retain(|(key, _)| *key != self.key);
    }
}

/// A new id: a UUID in lower case, of version 7, so that ids made one after the other are neighbours
/// in the indexes. A random one (the protocol takes any text) costs a step a page of its own in each
/// commit, which halves what SQLite does per second.
pub(crate) fn new_id() -> Arc<str> {
    let mut buffer = Uuid::encode_buffer();
    Arc::from(&*Uuid::now_v7().hyphenated().encode_lower(&mut buffer))
}

async fn never() -> ! {
    std::future::pending::<std::convert::Infallible>().await;
    unreachable!("a pending future does not resolve")
}

/// Tries `operation` again, ever more slowly, while its error is a passing one.
pub(crate) async fn retry_transient<T, F, Fut>(operation: F) -> BackendResult<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = BackendResult<T>>,
{
    let begin = tokio::time::Instant::now();
    let mut delay = Duration::from_millis(20);
    loop {
        match operation().await {
            Err(error) if error.is_transient() && begin.elapsed() < COMMIT_PATIENCE => {
                tracing::warn!(%error, "the database could not carry out an operation; trying again");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(1));
            }
            result => return result,
        }
    }
}

/// The kind, phase and outcome that go with each other are the engine's to check: an interceptor may
/// have answered itself.
pub(crate) fn unexpected_outcome(outcome: &StepOutcome) -> Error {
    Error::of_kind(
        ErrorKind::InvalidArgument,
        format!("an interceptor answered with {outcome:?}, which is no outcome of this step"),
    )
    .non_retryable()
}

/// Sends a step through the chain to `terminal`.
pub(crate) async fn through_chain<F, Fut>(
    state: &ExecutionState,
    attempt: &NewStepAttempt,
    named: bool,
    phase: StepPhase,
    prior_failures: u32,
    kind: impl FnOnce() -> StepKind,
    terminal: F,
) -> Result<StepOutcome>
where
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = Result<StepOutcome>> + Send,
{
    use futures_util::FutureExt as _;
    if state.chain.is_empty() {
        let contained = std::panic::AssertUnwindSafe(async { terminal().await }).catch_unwind();
        return state
            .lease
            .gate(contained)
            .await
            .unwrap_or_else(|panic| Err(Error::from_panic(&*panic)));
    }
    let mut call = workflow_core::StepCall::new(
        Arc::clone(&state.execution),
        Arc::clone(&attempt.step_name),
        kind(),
        Arc::clone(&attempt.id),
    );
    call.named = named;
    call.phase = phase;
    call.prior_failures = prior_failures;
    // Here as well as around the execution: a body may block its thread while others wait for their
    // turn in the same poll.
    let chain = state.chain.call(call, |_call| terminal());
    let outcome = state.lease.gate(chain).await;
    if let Err(error) = &outcome {
        state.tell_failure(&attempt.step_name, error);
    }
    outcome
}
