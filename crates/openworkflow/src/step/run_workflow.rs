//! `run_workflow`: a child workflow and its result.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use workflow_core::{
    CreateRun, CreatedRun, Error, ErrorKind, ParentStep, Payload, Result, RunInfo, StepKind,
    StepOutcome,
};

use super::{
    Lazy, boxed, complete, elapsed, fail_standing_wait, fail_wait, failed_for_good, lazy_future,
    observe, tell_again,
};
use crate::backend::{ChildRun, NewRun, NewStepAttempt, RunStatus, StepAttemptKind, codec};
use crate::execution::{
    AtWork, Entered, ExecutionState, Phase, PriorAttempts, RunningAttempt, Turn, new_id,
    through_chain, unexpected_outcome,
};
use crate::payload::{self, Subject};
use crate::when::{When, a_year_after};
use crate::{log, name};

/// A child workflow as a step; see
/// [`WorkflowContext::run_workflow`](crate::WorkflowContext::run_workflow).
#[must_use = "a step does nothing unless awaited"]
pub struct RunWorkflowStep<O>(Lazy<'static, Config, Result<O>>, PhantomData<fn() -> O>);

pub(crate) struct Config {
    pub(crate) state: Arc<ExecutionState>,
    pub(crate) workflow_name: &'static str,
    pub(crate) version: Option<&'static str>,
    pub(crate) input: Result<Payload>,
    pub(crate) name: Option<String>,
    pub(crate) timeout: When,
    pub(crate) cancel_with_parent: bool,
}

impl<O: DeserializeOwned + Send + 'static> RunWorkflowStep<O> {
    pub(crate) fn new(config: Config) -> Self {
        Self(Lazy::Configured(config), PhantomData)
    }

    /// Names the step; the default is the child's workflow name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        if let Some(config) = self.0.config() {
            config.name = Some(name.into());
        }
        self
    }

    /// Limits the wait for the child; the default is a year. The step then fails with an error of
    /// kind [`ErrorKind::Timeout`](crate::ErrorKind::Timeout); the child goes on.
    pub fn timeout(mut self, timeout: impl Into<When>) -> Self {
        if let Some(config) = self.0.config() {
            config.timeout = timeout.into();
        }
        self
    }

    /// Whether the child is canceled when a client cancels this run: `false` by default, and it goes on. A
    /// child that is canceled so cancels those of its own children that are to be, and so on, all in one
    /// transaction. Children that are over stay as they are.
    ///
    /// The choice is kept with the step when the child is created. It holds for
    /// [`Client::cancel`](crate::Client::cancel) and [`RunHandle::cancel`](crate::RunHandle::cancel):
    /// OpenWorkflow for TypeScript cancels a run alone, and a run that fails or misses its deadline leaves
    /// its children alone.
    ///
    /// ```
    /// # use openworkflow::{Workflow, WorkflowSpec};
    /// static SHIP: WorkflowSpec<String, u64> = WorkflowSpec::new("ship");
    ///
    /// # let _ = Workflow::new("w", |wf, order: String| async move {
    /// let parcel = wf.run_workflow(&SHIP, &order).cancel_with_parent(true).await?;
    /// # Ok(parcel) });
    /// ```
    pub fn cancel_with_parent(mut self, cancel: bool) -> Self {
        if let Some(config) = self.0.config() {
            config.cancel_with_parent = cancel;
        }
        self
    }
}

lazy_future! {
    [O: DeserializeOwned + Send + 'static] RunWorkflowStep<O> => Result<O>,
    |config| boxed(run_workflow(config))
}

impl<O> fmt::Debug for RunWorkflowStep<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunWorkflowStep").finish_non_exhaustive()
    }
}

/// The child, as both phases of the step need it.
struct Child {
    workflow_name: Arc<str>,
    version: Option<Arc<str>>,
    timeout_at: SystemTime,
    cancel_with_parent: bool,
}

impl Child {
    fn kind(&self, run_id: &Arc<str>) -> StepKind {
        StepKind::run_workflow(
            Arc::clone(&self.workflow_name),
            self.version.clone(),
            Arc::clone(run_id),
            self.timeout_at,
        )
    }
}

async fn run_workflow<O: DeserializeOwned>(config: Config) -> Result<O> {
    let Config {
        state,
        workflow_name,
        version,
        input,
        name: step_name,
        timeout,
        cancel_with_parent,
    } = config;
    let input = input?;
    name::validate("a workflow", workflow_name)?;
    if let Some(version) = version {
        name::validate_version(workflow_name, version)?;
    }
    let entered = state
        .enter(
            step_name.as_deref().unwrap_or(workflow_name),
            step_name.is_some(),
            StepAttemptKind::Workflow,
        )
        .await?;
    let Entered {
        name: step_name,
        place,
        prior,
        turn,
    } = entered;
    let mut child = Child {
        workflow_name: workflow_name.into(),
        version: version.map(Arc::from),
        timeout_at: SystemTime::UNIX_EPOCH,
        cancel_with_parent,
    };
    let (prior_failures, unlinked) = match prior {
        PriorAttempts::Completed(output) => {
            observe(turn).await;
            return Ok(state
                .read_back(decode_stored(&output, &step_name), step_name)
                .await);
        }
        PriorAttempts::Withdrawn => state.withdrawn().await,
        PriorAttempts::None => (0, None),
        PriorAttempts::Open(open) => {
            if let Some(running) = open.running {
                child.timeout_at = running
                    .context
                    .timeout_at
                    .unwrap_or_else(|| a_year_after(running.created_at));
                // One whose link was lost, but not its child, is linked again.
                let is_gone = running.child_id.is_some() && running.child.is_none();
                if running.linked || is_gone {
                    drop(turn);
                    return resolve(&state, step_name, place, child, running, open.failures).await;
                }
                (open.failures, Some(running.id))
            } else {
                if let Some(failure) = &open.last_failure
                    && failure.had_child
                {
                    let error = failure
                        .error
                        .to_error(ErrorKind::ChildFailed)
                        .non_retryable();
                    return Err(tell_again(step_name, error, turn).await);
                }
                if let Some(error) = failed_for_good(&open, ErrorKind::Application) {
                    return Err(tell_again(step_name, error, turn).await);
                }
                (open.failures, None)
            }
        }
    };
    drop(turn);
    state.begin(place).await;
    if unlinked.is_none() {
        let what = format!("the timeout of child workflow {step_name:?}");
        child.timeout_at = timeout.resolve(state.now(), &what)?;
    }
    set_up(&state, step_name, child, input, unlinked, prior_failures).await
}

/// Creates the child, or links one that a crash left unlinked.
async fn set_up<O: DeserializeOwned>(
    state: &Arc<ExecutionState>,
    step_name: Arc<str>,
    child: Child,
    input: Payload,
    unlinked: Option<Arc<str>>,
    prior_failures: u32,
) -> Result<O> {
    let attempt_id = match unlinked {
        Some(id) => id,
        None => state.new_attempt_id().await,
    };
    let attempt = NewStepAttempt::new(
        attempt_id,
        step_name,
        StepAttemptKind::Workflow,
        codec::workflow_context(child.timeout_at),
    );
    let at_work = state.at_work_waiting(state.standing(&attempt));
    let run_id = new_id();
    let set_up = AtomicBool::new(false);
    let call = through_chain(
        state,
        &attempt,
        Phase::Start,
        prior_failures,
        || child.kind(&run_id),
        || async {
            let run_id = Arc::clone(&run_id);
            let created = create_child(state, &attempt, &child, input, run_id, &set_up).await?;
            match outcome_of(&created, &child, &attempt.step_name, state.now()) {
                Some(outcome) => fitting::<O>(outcome, state, &attempt.step_name),
                None => Ok(StepOutcome::Parked {
                    until: child.timeout_at,
                }),
            }
        },
    );
    let result = match at_work.during(call).await {
        Ok(StepOutcome::Parked { until }) => at_work.park(until).await,
        Ok(StepOutcome::Completed { output }) => {
            let value = state.answered(&attempt.step_name, decode(&output, &attempt.step_name));
            value.map(|value| (value, output))
        }
        Ok(other) => state.answered(&attempt.step_name, Err(unexpected_outcome(&other))),
        Err(error) => Err(error),
    };
    let standing = set_up.into_inner();
    settle(
        state,
        at_work,
        None,
        &attempt,
        result,
        prior_failures,
        standing,
    )
    .await
}

/// Sends the creation through the chain; the row is written at its end, with the carrier that the
/// interceptors made. `set_up` says from then on that the wait stands, whatever the chain makes of it.
async fn create_child(
    state: &Arc<ExecutionState>,
    attempt: &NewStepAttempt,
    child: &Child,
    input: Payload,
    run_id: Arc<str>,
    set_up: &AtomicBool,
) -> Result<ChildRun> {
    let namespace_id = Arc::clone(&state.owner.namespace_id);
    let mut run = RunInfo::new(namespace_id, run_id, Arc::clone(&child.workflow_name));
    run.workflow_version = child.version.clone();
    let mut call = CreateRun::new(run, input);
    call.idempotency_key = Some(format!(
        "__workflow:{}:{}",
        state.owner.namespace_id, attempt.id
    ));
    call.parent = Some(ParentStep::new(
        Arc::clone(&state.execution),
        Arc::clone(&attempt.step_name),
        Arc::clone(&attempt.id),
    ));
    let written = Mutex::new(None);
    let create = |call: CreateRun| async {
        let asked_for = Arc::clone(&call.run.id);
        let mut new = NewRun::from_call(call);
        new.cancel_with_parent = child.cancel_with_parent;
        let subject = || {
            let name = &attempt.step_name;
            format!("the input, or the carrier, of child workflow {name:?}")
        };
        let begin = || {
            let backend = &state.backend;
            backend.begin_child(&state.owner, attempt.clone(), new.clone())
        };
        let run = state.store(subject, begin).await?;
        set_up.store(true, Ordering::Relaxed);
        let found = *run.id != *asked_for;
        log::run_created(&run.workflow_name, &run.id, found);
        let created = CreatedRun::new(run.id.as_str(), found);
        *written.lock().unwrap_or_else(PoisonError::into_inner) = Some(ChildRun::from(run));
        Ok(created)
    };
    state.chain.call(call, create).await?;
    written
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .ok_or_else(|| {
            Error::of_kind(
                ErrorKind::InvalidArgument,
                "an interceptor answered for the creation of a child run without creating it; \
             answer for the step instead",
            )
            .non_retryable()
        })
}

/// Goes on with a child that an earlier execution created.
async fn resolve<O: DeserializeOwned>(
    state: &Arc<ExecutionState>,
    step_name: Arc<str>,
    place: usize,
    child: Child,
    running: RunningAttempt,
    prior_failures: u32,
) -> Result<O> {
    let mut attempt = NewStepAttempt::new(running.id, step_name, StepAttemptKind::Workflow, None);
    let ended = running.child.as_ref();
    let outcome = match ended {
        Some(run) => outcome_of(run, &child, &attempt.step_name, state.now()),
        // It was deleted: nothing will ever come of it, and what it did is not to be done again.
        None => Some(Err(Error::of_kind(
            ErrorKind::ChildFailed,
            format!(
                "Workflow step \"{}\" could not find linked child workflow run \"{}\"",
                attempt.step_name,
                running.child_id.as_deref().unwrap_or_default()
            ),
        )
        .non_retryable())),
    };
    let standing = state.standing(&attempt);
    let Some(outcome) = outcome else {
        standing.wait(child.timeout_at).await
    };
    let ended_at = ended.and_then(|run| run.finished_at);
    let since = ended_at.map_or(child.timeout_at, |at| at.min(child.timeout_at));
    let (at_work, turn) = state.begin_to_settle(place, standing, since).await;
    attempt.begun_ago = elapsed(running.created_at, state.now());
    if let Ok(StepOutcome::Completed { output }) = &outcome
        && let Err(damaged) = payload::check_json(output, subject(&attempt.step_name))
    {
        drop((at_work, turn));
        state
            .stop(damaged.with_step_name(Arc::clone(&attempt.step_name)))
            .await;
    }
    let run_id = ended
        .map(|run| run.id.as_str())
        .or(running.child_id.as_deref());
    let run_id: Arc<str> = run_id.unwrap_or_default().into();
    let call = through_chain(
        state,
        &attempt,
        Phase::resolve(running.created_at, since),
        prior_failures,
        || child.kind(&run_id),
        || async { fitting::<O>(outcome, state, &attempt.step_name) },
    );
    let result = match at_work.during(call).await {
        Ok(StepOutcome::Completed { output }) => {
            let value = state.answered(&attempt.step_name, decode(&output, &attempt.step_name));
            value.map(|value| (value, output))
        }
        Ok(other) => state.answered(&attempt.step_name, Err(unexpected_outcome(&other))),
        Err(error) => Err(error),
    };
    let turn = Some(turn);
    settle(state, at_work, turn, &attempt, result, prior_failures, true).await
}

/// Refuses, inside the chain, an output that is not what the parent takes it for: so that the hooks see it.
fn fitting<O: DeserializeOwned>(
    outcome: Result<StepOutcome>,
    state: &ExecutionState,
    step_name: &str,
) -> Result<StepOutcome> {
    if let Ok(StepOutcome::Completed { output }) = &outcome
        && !state.chain.is_empty()
    {
        decode::<O>(output, step_name)?;
    }
    outcome
}

async fn settle<O>(
    state: &Arc<ExecutionState>,
    at_work: AtWork,
    turn: Option<Turn>,
    attempt: &NewStepAttempt,
    result: Result<(O, Payload)>,
    prior_failures: u32,
    standing: bool,
) -> Result<O> {
    match result {
        Ok((value, output)) => {
            complete(state, at_work, attempt, &output, turn).await?;
            Ok(value)
        }
        Err(error) if standing => {
            Err(fail_standing_wait(state, at_work, attempt, prior_failures, error, turn).await)
        }
        Err(error) => Err(fail_wait(state, at_work, attempt, prior_failures, error, turn).await),
    }
}

/// What the child's state means for the step; `None` while it is to be waited for. A child that ended
/// after the time-out has timed out.
fn outcome_of(
    run: &ChildRun,
    child: &Child,
    step_name: &str,
    now: SystemTime,
) -> Option<Result<StepOutcome>> {
    let in_time = run.finished_at.is_none_or(|at| at <= child.timeout_at);
    if now >= child.timeout_at && !(run.status.is_terminal() && in_time) {
        let message = "Timed out waiting for child workflow to complete";
        return Some(Err(
            Error::of_kind(ErrorKind::Timeout, message).non_retryable()
        ));
    }
    let error = match &run.status {
        RunStatus::Completed | RunStatus::Succeeded => {
            return Some(Ok(StepOutcome::Completed {
                output: run.output.clone(),
            }));
        }
        RunStatus::Failed => match &run.error {
            Some(error) => error
                .to_error(ErrorKind::ChildFailed)
                .with_kind(ErrorKind::ChildFailed),
            None => Error::of_kind(
                ErrorKind::ChildFailed,
                format!("Child workflow run \"{}\" failed", run.id),
            ),
        },
        RunStatus::Canceled => Error::of_kind(
            ErrorKind::ChildCanceled,
            format!(
                "Workflow step \"{step_name}\" failed because child workflow run \"{}\" was canceled",
                run.id
            ),
        ),
        _ => return None,
    };
    Some(Err(error.non_retryable()))
}

fn decode<O: DeserializeOwned>(output: &Payload, step_name: &str) -> Result<O> {
    payload::decode(output, subject(step_name))
}

fn decode_stored<O: DeserializeOwned>(output: &Payload, step_name: &str) -> Result<O> {
    payload::decode_stored(output, subject(step_name))
}

fn subject(step_name: &str) -> Subject<'_> {
    Subject("the output of child workflow", step_name)
}
