//! One execution of a run: its history, the steps under way, and when it comes to rest.
//!
//! An execution polls the workflow's code until it returns, or until it can get no further: no step
//! is at work and at least one waits. `docs/architecture.md` tells the rules.

mod attention;
mod driver;
mod history;
mod order;
mod withdrawing;
mod work;
mod writes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use uuid::Uuid;
use workflow_core::{
    Chain, Error, ErrorKind, Event, Execution, Interruption, Payload, Result, StepKind, StepName,
    StepOutcome, StepPhase,
};

use crate::backend::codec::STEP_LIMIT;
use crate::backend::{Backend, BackendError, EndedStep, NewStepAttempt, Owner, StepAttemptKind};
use crate::cancellation::{Canceler, Cancellation};
use crate::lease::{Lease, Moment};
use crate::log;
use crate::name::{self, StepNames};
use crate::retry::RetryPolicy;

pub(crate) use driver::{Driver, DriverEnd};
pub(crate) use history::{OpenStep, PriorAttempts, RunningAttempt, StepHistory};
pub(crate) use order::Turn;
pub(crate) use withdrawing::StandingWait;
pub(crate) use work::AtWork;
pub(crate) use writes::retry_transient;

use driver::DriverWaker;
use order::Order;
use work::{Deferred, Works};

/// How long a run is left alone that cannot be executed before somebody mends something.
pub(crate) const MEND_RETRY: RetryPolicy = RetryPolicy::unlimited()
    .initial_interval(Duration::from_secs(5))
    .maximum_interval(Duration::from_secs(300));

/// Of which workflows it was said that they take steps in other tasks.
pub(crate) type ToldOfTasks = Mutex<HashSet<Arc<str>>>;

/// What the steps of one execution share.
pub(crate) struct ExecutionState {
    pub(crate) execution: Arc<Execution>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) chain: Chain,
    pub(crate) owner: Owner,
    pub(crate) created_at: SystemTime,
    pub(crate) deadline_at: Option<SystemTime>,
    /// Whether another run waits for this one.
    pub(crate) is_child: bool,
    /// Whether the worker before died: then every function is recorded as running before it begins,
    /// so that one which kills its process is counted and meets the step limit some day.
    pub(crate) taken_over: bool,
    pub(crate) lease: Arc<Lease>,
    /// Whether code that departs from its history stops, rather than goes on with a warning.
    strict_replay: bool,
    told_of_tasks: Arc<ToldOfTasks>,
    driver: Arc<DriverWaker>,
    interrupted: Notify,
    interruption: OnceLock<Interruption>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    history: StepHistory,
    names: StepNames,
    order: Order,
    works: Works,
    deferred: BTreeMap<u64, Deferred>,
    /// Those of the deferred that may begin, with the number of what they settle.
    released: HashMap<u64, Option<u32>>,
    pending: BTreeMap<u64, Pending>,
    /// How the waits are closed that code gave up while it was asked to collect them.
    withdrawing: Option<Vec<EndedStep>>,
    attempts: usize,
    last_key: u64,
    /// Whether it was said that the code departed from its history.
    departed: bool,
    fatal: Option<Error>,
    stopped: Option<Stopped>,
    canceler: Canceler,
    /// The input with which the run goes on as a new one.
    continued: Option<Payload>,
}

/// The run is put back until somebody mends its code or its rows.
struct Stopped {
    error: Error,
    at: SystemTime,
}

impl Inner {
    fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    /// Whether the code gets no more results, whatever comes.
    fn is_over(&self) -> bool {
        self.fatal.is_some() || self.stopped.is_some() || self.continued.is_some()
    }

    fn stop(&mut self, error: Error, at: SystemTime) {
        self.stopped.get_or_insert(Stopped { error, at });
    }
}

/// Something that a later execution goes on with.
enum Pending {
    Wait {
        attempt: NewStepAttempt,
        until: SystemTime,
    },
    Retry {
        error: Error,
        at: SystemTime,
    },
}

/// What a step finds when the code asks for it.
pub(crate) struct Entered {
    pub(crate) name: Arc<str>,
    /// Where the step stands in the order in which the code asked for steps.
    pub(crate) place: usize,
    pub(crate) prior: PriorAttempts,
    /// The place of its result, where that is recorded.
    pub(crate) turn: Option<Turn>,
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
        is_child: bool,
        taken_over: bool,
        lease: Arc<Lease>,
        strict_replay: bool,
        told_of_tasks: Arc<ToldOfTasks>,
        mut history: StepHistory,
    ) -> Self {
        let (unasked, last) = history.arrange();
        let inner = Inner {
            attempts: history.len(),
            history,
            order: Order::new(unasked, last, execution.replay),
            ..Inner::default()
        };
        Self {
            execution,
            backend,
            chain,
            owner,
            created_at,
            deadline_at,
            is_child,
            taken_over,
            lease,
            strict_replay,
            told_of_tasks,
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

    /// Chooses the step's name in this execution, after `base_name`, and looks up what happened under it
    /// before; `named` says whether the author chose that. Never resolves where that was a step of another
    /// kind: the code has changed, and the run is put back.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        base_name: &str,
        named: bool,
        kind: StepAttemptKind,
    ) -> Result<Entered> {
        name::validate("a step", base_name)?;
        if !self.is_polling_code() {
            self.tell_of_tasks(base_name);
        }
        let waits = !matches!(
            kind,
            StepAttemptKind::Function | StepAttemptKind::SignalSend
        );
        if waits && work::is_inside_step() {
            let message = format!(
                "step {base_name:?} waits inside of another step's function, which would hold the run \
                 for as long; wait in the workflow itself"
            );
            return Err(Error::of_kind(ErrorKind::InvalidArgument, message).non_retryable());
        }
        let (name, place, recorded) = {
            let mut inner = self.lock();
            let (name, place) = inner.names.resolve(base_name);
            if !self.chain.is_empty() {
                inner.names.remember(&name, base_name, named);
            }
            let recorded = inner.history.of(&name);
            inner.order.changed();
            if let Some(recorded) = &recorded
                && let Some(number) = recorded.place
            {
                inner.order.ask(number, &name);
            }
            (name, place, recorded)
        };
        let Some(recorded) = recorded else {
            return Ok(Entered {
                name,
                place,
                prior: PriorAttempts::None,
                turn: None,
            });
        };
        let turn = recorded.place.map(|number| Turn::new(self, number));
        if recorded.kind != kind {
            let departed = Event::non_determinism(&self.execution, Some(&name), Some(&name));
            self.chain.event(&departed);
            self.stop(self.other_kind(&name, &recorded.kind, &kind))
                .await;
        }
        if matches!(recorded.prior, PriorAttempts::Completed(_)) && !self.chain.is_empty() {
            self.chain
                .event(&Event::step_replayed(&self.execution, &name));
        }
        Ok(Entered {
            name,
            place,
            prior: recorded.prior,
            turn,
        })
    }

    fn other_kind(
        &self,
        name: &Arc<str>,
        recorded: &StepAttemptKind,
        asked: &StepAttemptKind,
    ) -> Error {
        let message = format!(
            "step {name:?} of run {} is recorded as {recorded:?} and the workflow's code asks for \
             {asked:?}: the code has changed while the run was under way. Deploy the old code, and give \
             the new code a version of its own (docs/changing-workflows.md); the run goes on by itself",
            self.owner.run_id,
            recorded = recorded.as_str(),
            asked = asked.as_str(),
        );
        Error::of_kind(ErrorKind::NonDeterminism, message).with_step_name(Arc::clone(name))
    }

    /// Whether this thread polls the workflow's code.
    pub(crate) fn is_polling_code(&self) -> bool {
        driver::polls(self)
    }

    /// Has the driver look again, if it does not do so anyhow.
    fn rouse(&self) {
        if !self.is_polling_code() {
            self.driver.wake();
        }
    }

    /// Says once of a workflow that it takes steps in other tasks, where they have no order.
    fn tell_of_tasks(&self, step_name: &str) {
        let workflow_name = &self.execution.run.workflow_name;
        let mut told = self
            .told_of_tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if told.insert(Arc::clone(workflow_name)) {
            tracing::warn!(
                workflow.name = &**workflow_name,
                workflow_run.id = &*self.owner.run_id,
                step_name,
                "a step is polled outside of the workflow's own task: the order in which such steps are \
                 observed is not kept by replays; use openworkflow::JoinSet in place of spawned tasks"
            );
        }
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

    /// Puts the run back until somebody mends its code or its rows: never resolves. User code cannot
    /// catch it, and observes nothing more in this execution.
    pub(crate) async fn stop(&self, error: Error) -> ! {
        tracing::error!(
            workflow.name = &*self.execution.run.workflow_name,
            workflow_run.id = &*self.owner.run_id,
            %error,
            "the run stops, and is tried again until its code or its rows are mended"
        );
        if let Some(step_name) = error.step_name() {
            self.tell_failure(step_name, &error);
        }
        self.lock().stop(error, self.mend_at());
        self.rouse();
        never().await
    }

    fn mend_at(&self) -> SystemTime {
        self.now() + MEND_RETRY.delay(self.execution.attempt)
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
            Err(error) => self.stop(error.with_step_name(step_name)).await,
        }
    }

    /// Passes on what was made of a chain's answer. What an interceptor answered may be unfit, which
    /// those further in have not seen.
    pub(crate) fn answered<T>(&self, step_name: &str, read: Result<T>) -> Result<T> {
        if let Err(error) = &read {
            self.tell_failure(step_name, error);
        }
        read
    }

    /// Tells interceptors of an error that may have passed none of them.
    pub(crate) fn tell_failure(&self, step_name: &str, error: &Error) {
        let failed = Event::step_failed(&self.execution, step_name, error);
        self.chain.event(&failed);
    }

    /// Tells interceptors that a failure is to be tried again.
    pub(crate) fn tell_retry(&self, attempt: &NewStepAttempt, error: &Error, at: SystemTime) {
        if self.chain.is_empty() {
            return;
        }
        let origin = self.lock().names.origin(&attempt.step_name);
        let is_about_signal = matches!(
            attempt.kind,
            StepAttemptKind::SignalWait | StepAttemptKind::SignalSend
        );
        let step = StepName::new(
            &attempt.step_name,
            &origin.base,
            is_about_signal && !origin.named,
        );
        let retrying = Event::step_retrying(&self.execution, step, error, at);
        self.chain.event(&retrying);
    }

    async fn pend(&self, pending: Pending) -> ! {
        let key = {
            let mut inner = self.lock();
            let key = inner.next_key();
            inner.pending.insert(key, pending);
            key
        };
        self.rouse();
        // User code may drop the step: a wait that nobody awaits does not keep the run.
        let _registered = Registered { state: self, key };
        never().await
    }

    /// Fails the run with `error`, which user code cannot catch: never resolves.
    pub(crate) async fn fail_run(&self, error: Error) -> ! {
        self.lock().fatal.get_or_insert(error);
        self.rouse();
        never().await
    }

    /// Ends the run in favor of a new one with that input: never resolves.
    pub(crate) async fn continue_as_new(&self, input: Payload) -> ! {
        self.lock().continued.get_or_insert(input);
        self.rouse();
        never().await
    }

    /// Resolves when the execution is to be dropped.
    pub(crate) async fn interrupted(&self) -> Interruption {
        loop {
            if let Some(reason) = self.interruption.get() {
                return *reason;
            }
            let ended = self.lock().canceler.ended();
            match ended {
                None => self.interrupted.notified().await,
                Some(ended) => {
                    tokio::select! {
                        () = self.interrupted.notified() => {}
                        reason = self.lost_when(ended) => return reason,
                    }
                }
            }
        }
    }

    /// Asks after the run whenever this process hears that it has ended, rather than at half of the lease.
    async fn lost_when(&self, mut ended: OwnedNotified) -> Interruption {
        loop {
            ended.await;
            ended = self
                .backend
                .wakeups()
                .watch(&self.owner.run_id)
                .notified_owned();
            let (asked, length) = (Moment::now(), self.lease.length());
            match self.backend.extend_lease(&self.owner, length).await {
                Ok(()) => self.lease.renew(asked),
                Err(BackendError::OwnershipLost { reason }) => return reason,
                // Who keeps the lease will see.
                Err(error) => {
                    tracing::debug!(workflow_run.id = &*self.owner.run_id, %error, "cannot ask after the run");
                }
            }
        }
    }

    /// What says when the execution is over.
    pub(crate) fn cancellation(&self) -> Cancellation {
        let ended = || self.backend.wakeups().watch(&self.owner.run_id);
        let (cancellation, is_first) = self.lock().canceler.listen(ended);
        if is_first {
            self.interrupted.notify_one();
        }
        cancellation
    }

    /// The execution is over, with the reason if it was interrupted.
    pub(crate) fn over(&self, reason: Option<Interruption>) {
        if let Some(reason) = reason {
            self.execution.interrupt(reason);
        }
        self.lock().canceler.over(reason);
    }
}

struct Registered<'a> {
    state: &'a ExecutionState,
    key: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        inner.pending.remove(&self.key);
        inner.order.changed();
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

/// The kind, phase and outcome that go with each other are the engine's to check: an interceptor may
/// have answered itself.
pub(crate) fn unexpected_outcome(outcome: &StepOutcome) -> Error {
    Error::of_kind(
        ErrorKind::InvalidArgument,
        format!("an interceptor answered with {outcome:?}, which is no outcome of this step"),
    )
    .non_retryable()
}

/// Whether a step begins, or a wait of an earlier execution has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    Start,
    Resolve { parked_for: Duration },
}

impl Phase {
    /// Of a wait that stood from the one time to the other.
    pub(crate) fn resolve(from: SystemTime, to: SystemTime) -> Self {
        let parked_for = to.duration_since(from).unwrap_or_default();
        Self::Resolve { parked_for }
    }
}

/// Sends a step through the chain to `terminal`.
pub(crate) async fn through_chain<F, Fut>(
    state: &ExecutionState,
    attempt: &NewStepAttempt,
    phase: Phase,
    prior_failures: u32,
    kind: impl FnOnce() -> StepKind,
    terminal: F,
) -> Result<StepOutcome>
where
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = Result<StepOutcome>> + Send,
{
    use futures_util::FutureExt as _;
    let terminal = || {
        if matches!(phase, Phase::Start) {
            log::step_started(&state.execution, attempt);
        }
        terminal()
    };
    if state.chain.is_empty() {
        let contained = std::panic::AssertUnwindSafe(async { terminal().await }).catch_unwind();
        return state
            .lease
            .gate(pin!(contained))
            .await
            .unwrap_or_else(|panic| Err(Error::from_panic(&*panic)));
    }
    let mut call = workflow_core::StepCall::new(
        Arc::clone(&state.execution),
        Arc::clone(&attempt.step_name),
        kind(),
        Arc::clone(&attempt.id),
    );
    let origin = state.lock().names.origin(&attempt.step_name);
    call.base_name = origin.base;
    call.named = origin.named;
    if let Phase::Resolve { parked_for } = phase {
        call.phase = StepPhase::Resolve;
        call.parked_for = Some(parked_for);
    }
    call.prior_failures = prior_failures;
    // Here as well as around the execution: a body may block its thread while others wait for their
    // turn in the same poll.
    let chain = pin!(state.chain.call(call, |_call| terminal()));
    let outcome = state.lease.gate(chain).await;
    if let Err(error) = &outcome {
        state.tell_failure(&attempt.step_name, error);
    }
    outcome
}
