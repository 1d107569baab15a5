//! `run`: a function whose result is remembered.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use serde::Serialize;
use serde::de::DeserializeOwned;
use workflow_core::{BoxFuture, Error, ErrorKind, Payload, Result, StepKind, StepOutcome};

use super::{Lazy, STEP_RETRY, boxed, complete, elapsed, fail, follow, lazy_future, observe};
use crate::backend::{NewStepAttempt, StepAttemptKind};
use crate::execution::{
    Entered, ExecutionState, Phase, PriorAttempts, through_chain, unexpected_outcome,
};
use crate::naming;
use crate::payload::{self, Subject};
use crate::progress::{Progress, Saves};
use crate::retry::{RetryDecision, RetryPolicy};
use crate::when::When;

/// A function that takes longer than this is recorded as running; a faster one is recorded once,
/// with its result, which halves what it costs.
const RUNNING_ROW_AFTER: Duration = Duration::from_millis(10);

/// A function as a step; see [`WorkflowContext::run`](crate::WorkflowContext::run) and
/// [`run_with_progress`](crate::WorkflowContext::run_with_progress).
#[must_use = "a step does nothing unless awaited"]
pub struct RunStep<'a, T>(Lazy<'a, Config<'a>, Result<T>>);

struct Config<'a> {
    state: Arc<ExecutionState>,
    name: String,
    policy: RetryPolicy,
    timeout: Option<When>,
    body: Body<'a>,
}

enum Body<'a> {
    Plain(BoxFuture<'a, Result<Payload>>),
    /// Made of what an earlier attempt saved, unless that cannot be read.
    WithProgress(MakeBody<'a>),
}

type MakeBody<'a> = Box<
    dyn FnOnce(Option<Payload>, Arc<Saves>) -> Result<BoxFuture<'a, Result<Payload>>> + Send + 'a,
>;

impl<'a, T> RunStep<'a, T>
where
    T: Serialize + DeserializeOwned + Send + 'a,
{
    pub(crate) fn new<F, Fut>(state: Arc<ExecutionState>, name: String, body: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'a,
        Fut: Future<Output = Result<T>> + Send + 'a,
    {
        Self::of(state, name, Body::Plain(encoded(body)))
    }

    pub(crate) fn with_progress<P, F, Fut>(
        state: Arc<ExecutionState>,
        name: String,
        body: F,
    ) -> Self
    where
        P: DeserializeOwned + Send + Sync + 'a,
        F: FnOnce(Progress<P>) -> Fut + Send + 'a,
        Fut: Future<Output = Result<T>> + Send + 'a,
    {
        let make: MakeBody<'a> = Box::new(|last: Option<Payload>, saves| {
            let progress = Progress::new(last.as_ref(), saves)?;
            Ok(encoded(move || body(progress)))
        });
        Self::of(state, name, Body::WithProgress(make))
    }

    fn of(state: Arc<ExecutionState>, name: String, body: Body<'a>) -> Self {
        Self(Lazy::Configured(Config {
            state,
            name,
            policy: STEP_RETRY,
            timeout: None,
            body,
        }))
    }

    /// Sets the retry policy. The default is 10 attempts, 1 s, 2 s, 4 s, … apart.
    ///
    /// ```
    /// # use openworkflow::{RetryPolicy, Workflow};
    /// # async fn charge() -> std::io::Result<u32> { Ok(1) }
    /// # let _ = Workflow::new("w", |wf, _: ()| async move {
    /// wf.run("charge", || async { Ok(charge().await?) }).retry(RetryPolicy::attempts(3)).await
    /// # });
    /// ```
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        if let Some(config) = self.0.config() {
            config.policy = policy;
        }
        self
    }

    /// Limits each attempt at the step; there is no limit by default. The function is dropped at the
    /// `await` where it is when the time is over, and the attempt has failed with an error of kind
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) that names the step and the limit. The
    /// [retry policy](Self::retry) has it tried again like any other failure.
    ///
    /// What the function has handed to another thread or task goes on: see `docs/guarantees.md`. One that
    /// blocks its thread is not stopped, and what it returns at the end of that counts.
    ///
    /// Takes a [`Duration`], or text such as `"30s"`. The step is refused with an error of kind
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where that is zero, an instant or
    /// no duration.
    ///
    /// ```
    /// # use openworkflow::{RetryPolicy, Workflow};
    /// # async fn charge() -> std::io::Result<u32> { Ok(1) }
    /// # let _ = Workflow::new("w", |wf, _: ()| async move {
    /// wf.run("charge", || async { Ok(charge().await?) })
    ///     .timeout("30s")
    ///     .retry(RetryPolicy::attempts(3))
    ///     .await
    /// # });
    /// ```
    pub fn timeout(mut self, limit: impl Into<When>) -> Self {
        if let Some(config) = self.0.config() {
            config.timeout = Some(limit.into());
        }
        self
    }
}

lazy_future! {
    ['a, T: Serialize + DeserializeOwned + Send + 'a] RunStep<'a, T> => Result<T>,
    |config| boxed(run(config))
}

impl<T> fmt::Debug for RunStep<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunStep").finish_non_exhaustive()
    }
}

/// The function, with its result as JSON.
fn encoded<'a, T, F, Fut>(body: F) -> BoxFuture<'a, Result<Payload>>
where
    T: Serialize,
    F: FnOnce() -> Fut + Send + 'a,
    Fut: Future<Output = Result<T>> + Send + 'a,
{
    Box::pin(async move {
        let result = body().await.map_err(naming::by_cause)?;
        payload::encode(&result, "the step's result")
    })
}

async fn run<T: DeserializeOwned>(config: Config<'_>) -> Result<T> {
    let Config {
        state,
        name,
        policy,
        timeout,
        body,
    } = config;
    if let Err(error) = policy.validate() {
        let message = format!("step {name:?}: {error}");
        return Err(Error::of_kind(ErrorKind::InvalidArgument, message));
    }
    let limit = match timeout {
        Some(timeout) => Some(timeout.limit(&format!("the time-out of step {name:?}"))?),
        None => None,
    };
    let entered = state.enter(&name, true, StepAttemptKind::Function).await?;
    let Entered {
        name,
        place,
        prior,
        turn,
    } = entered;
    let (prior_failures, progress) = match prior {
        PriorAttempts::Completed(output) => {
            observe(turn).await;
            let value = payload::decode_stored(&output, subject(&name));
            return Ok(state.read_back(value, name).await);
        }
        PriorAttempts::Withdrawn => state.withdrawn().await,
        PriorAttempts::None => (0, None),
        PriorAttempts::Open(open) => {
            if let Some(failure) = &open.last_failure {
                let error = failure.error.to_error(ErrorKind::Application);
                let now = state.now();
                let decision = if failure.is_final {
                    RetryDecision::GiveUp
                } else {
                    policy.decide(open.failures, &error, failure.at, state.deadline_at, now)
                };
                match decision {
                    RetryDecision::RetryAt(at) if at <= now => {}
                    decision => return Err(follow(&state, &name, error, decision, turn).await),
                }
            }
            (open.failures, open.progress)
        }
    };
    drop(turn);

    state.begin(place).await;
    let (body, saves) = match body {
        Body::Plain(body) => (body, None),
        Body::WithProgress(make) => {
            let saves = Saves::new(&state.owner.run_id, &name);
            let made = make(progress, Arc::clone(&saves));
            (state.read_back(made, Arc::clone(&name)).await, Some(saves))
        }
    };
    let body = match limit {
        Some(limit) => Box::pin(limited(body, Arc::clone(&name), limit)),
        None => body,
    };
    let attempt_id = state.new_attempt_id().await;
    let mut attempt = NewStepAttempt::new(attempt_id, name, StepAttemptKind::Function, None);
    attempt.is_unwritten = saves.is_none() && !state.taken_over;
    let at_work = state.at_work();
    let saves = saves.map(|saves| saves.open(&state, &attempt));
    let result: Result<(T, Payload)> = at_work
        .during(async {
            let result = work(&state, &mut attempt, prior_failures, body).await;
            if let Some(saves) = saves {
                saves.close().await;
            }
            result
        })
        .await;
    match result {
        Ok((value, output)) => {
            complete(&state, at_work, &attempt, &output, None).await?;
            Ok(value)
        }
        Err(error) => {
            let failures = prior_failures + 1;
            Err(fail(&state, at_work, &attempt, failures, error, &policy, None).await)
        }
    }
}

/// Drops `body` where it takes longer than `limit`, counted from when it is first polled.
async fn limited(
    body: BoxFuture<'_, Result<Payload>>,
    step_name: Arc<str>,
    limit: Duration,
) -> Result<Payload> {
    let in_time = tokio::time::timeout(limit, body).await;
    in_time.unwrap_or_else(|_| {
        let message = format!("step {step_name:?} took longer than its limit of {limit:?}");
        Err(Error::of_kind(ErrorKind::Timeout, message))
    })
}

/// Runs the function through the chain.
async fn work<T: DeserializeOwned>(
    state: &ExecutionState,
    attempt: &mut NewStepAttempt,
    prior_failures: u32,
    body: BoxFuture<'_, Result<Payload>>,
) -> Result<(T, Payload)> {
    let begun_at = state.now();
    if state.taken_over {
        state.begin_step(attempt).await;
    }
    let mut is_running = false;
    let outcome = {
        let attempt = &*attempt;
        let call = through_chain(
            state,
            attempt,
            Phase::Start,
            prior_failures,
            || StepKind::Run,
            || async move {
                let output = body.await?;
                // Inside the chain, so that its hooks see a result that no replay could read.
                if !state.chain.is_empty() {
                    decode::<T>(&output, &attempt.step_name)?;
                }
                Ok(StepOutcome::Completed { output })
            },
        );
        let mut call = pin!(call);
        match tokio::time::timeout(RUNNING_ROW_AFTER, &mut call).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let mut running = attempt.clone();
                running.begun_ago = elapsed(begun_at, state.now());
                is_running = true;
                join(call, state.begin_step(&running)).await.0
            }
        }
    };
    attempt.begun_ago = elapsed(begun_at, state.now());
    attempt.is_unwritten &= !is_running;
    match outcome? {
        // Read back before it is recorded: a result that no replay could read must not be kept.
        StepOutcome::Completed { output } => {
            let value = state.answered(&attempt.step_name, decode(&output, &attempt.step_name));
            value.map(|value| (value, output))
        }
        other => state.answered(&attempt.step_name, Err(unexpected_outcome(&other))),
    }
}

fn decode<T: DeserializeOwned>(output: &Payload, step_name: &str) -> Result<T> {
    payload::decode(output, subject(step_name))
}

fn subject(step_name: &str) -> Subject<'_> {
    Subject("the result of step", step_name)
}
