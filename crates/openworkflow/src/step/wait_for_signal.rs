//! `wait_for_signal`: a wait for somebody's word.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use workflow_core::{Error, ErrorKind, Payload, Result, StepKind, StepOutcome};

use super::{
    Lazy, boxed, complete, elapsed, fail_standing_wait, fail_wait, failed_for_good, lazy_future,
    observe, tell_again,
};
use crate::backend::{NewStepAttempt, StepAttemptKind, codec};
use crate::execution::{
    Entered, ExecutionState, Phase, PriorAttempts, RunningAttempt, through_chain,
    unexpected_outcome,
};
use crate::payload::{self, Subject};
use crate::when::{When, a_year_after};
use crate::{log, name};

/// A wait for a signal as a step; see
/// [`WorkflowContext::wait_for_signal`](crate::WorkflowContext::wait_for_signal).
#[must_use = "a step does nothing unless awaited"]
pub struct WaitForSignalStep<T>(
    Lazy<'static, Config, Result<Option<T>>>,
    PhantomData<fn() -> T>,
);

struct Config {
    state: Arc<ExecutionState>,
    name: Option<String>,
    signal: String,
    timeout: When,
}

impl<T: DeserializeOwned + Send + 'static> WaitForSignalStep<T> {
    pub(crate) fn new(state: Arc<ExecutionState>, signal: String) -> Self {
        let timeout = When::A_YEAR_FROM_NOW;
        Self(
            Lazy::Configured(Config {
                state,
                name: None,
                signal,
                timeout,
            }),
            PhantomData,
        )
    }

    /// Names the step; the default is the signal's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        if let Some(config) = self.0.config() {
            config.name = Some(name.into());
        }
        self
    }

    /// Limits the wait; the default is a year. A wait that times out gives `None`.
    pub fn timeout(mut self, timeout: impl Into<When>) -> Self {
        if let Some(config) = self.0.config() {
            config.timeout = timeout.into();
        }
        self
    }
}

lazy_future! {
    [T: DeserializeOwned + Send + 'static] WaitForSignalStep<T> => Result<Option<T>>,
    |config| boxed(wait_for_signal(config))
}

impl<T> fmt::Debug for WaitForSignalStep<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitForSignalStep").finish_non_exhaustive()
    }
}

async fn wait_for_signal<T: DeserializeOwned>(config: Config) -> Result<Option<T>> {
    let Config {
        state,
        name,
        signal,
        timeout,
    } = config;
    name::validate("a signal", &signal)?;
    let entered = state
        .enter(
            name.as_deref().unwrap_or(&signal),
            name.is_some(),
            StepAttemptKind::SignalWait,
        )
        .await?;
    let Entered {
        name: step_name,
        place,
        prior,
        turn,
    } = entered;
    let prior_failures = match prior {
        PriorAttempts::Completed(output) => {
            observe(turn).await;
            let value = decode_stored(&output, &signal);
            return Ok(state.read_back(value, step_name).await);
        }
        PriorAttempts::Withdrawn => state.withdrawn().await,
        PriorAttempts::None => 0,
        PriorAttempts::Open(open) => {
            if let Some(running) = open.running {
                let wait = Wait {
                    step_name,
                    place,
                    signal,
                    prior_failures: open.failures,
                };
                return resolve(&state, wait, running).await;
            }
            if let Some(error) = failed_for_good(&open, ErrorKind::InvalidPayload) {
                return Err(tell_again(step_name, error, turn).await);
            }
            open.failures
        }
    };
    drop(turn);

    let recording = state.begin_to_record(place).await;
    if let Some(waiter) = state.waiter_on(&signal) {
        drop(recording);
        return Err(refuse(&state, step_name, &signal, &waiter, prior_failures).await);
    }
    let timeout_at = timeout.resolve(state.now(), &format!("the timeout of wait {step_name:?}"))?;
    let signal: Arc<str> = signal.into();
    let attempt_id = state.new_attempt_id().await;
    let attempt = NewStepAttempt::new(
        attempt_id,
        step_name,
        StepAttemptKind::SignalWait,
        codec::signal_wait_context(&signal, timeout_at),
    );
    let at_work = recording.at_work(state.standing(&attempt));
    let set_up = AtomicBool::new(false);
    let call = through_chain(
        &state,
        &attempt,
        Phase::Start,
        prior_failures,
        || StepKind::wait_for_signal(Arc::clone(&signal), timeout_at),
        || async {
            state.begin_step(&attempt).await;
            set_up.store(true, Ordering::Relaxed);
            Ok(StepOutcome::Parked { until: timeout_at })
        },
    );
    let result = match at_work.during(call).await {
        Ok(StepOutcome::Parked { until }) => {
            state.set_waiter(signal, Arc::clone(&attempt.step_name));
            at_work.park(until).await
        }
        Ok(StepOutcome::Completed { output }) => {
            let value = state.answered(&attempt.step_name, decode_output(&output, &signal));
            value.map(|value| (value, output))
        }
        Ok(StepOutcome::TimedOut) => Ok((None, Payload::NULL)),
        Ok(other) => state.answered(&attempt.step_name, Err(unexpected_outcome(&other))),
        Err(error) => Err(error),
    };
    match result {
        Ok((value, output)) => {
            complete(&state, at_work, &attempt, &output, None).await?;
            Ok(value)
        }
        Err(error) if set_up.into_inner() => {
            Err(fail_standing_wait(&state, at_work, &attempt, prior_failures, error, None).await)
        }
        Err(error) => Err(fail_wait(&state, at_work, &attempt, prior_failures, error, None).await),
    }
}

/// Refuses a second wait for a signal. That is recorded, since a replay may find the first one over.
async fn refuse(
    state: &Arc<ExecutionState>,
    step_name: Arc<str>,
    signal: &str,
    waiter: &str,
    prior_failures: u32,
) -> Error {
    let message = format!("Signal \"{signal}\" is already being waited on by step \"{waiter}\"");
    let error = Error::of_kind(ErrorKind::InvalidArgument, message).non_retryable();
    let attempt_id = state.new_attempt_id().await;
    let attempt = NewStepAttempt::new(attempt_id, step_name, StepAttemptKind::SignalWait, None);
    let at_work = state.at_work();
    fail_wait(state, at_work, &attempt, prior_failures, error, None).await
}

/// A wait that an earlier execution set up.
struct Wait {
    step_name: Arc<str>,
    place: usize,
    signal: String,
    prior_failures: u32,
}

/// Goes on with it.
async fn resolve<T: DeserializeOwned>(
    state: &Arc<ExecutionState>,
    wait: Wait,
    running: RunningAttempt,
) -> Result<Option<T>> {
    let Wait {
        step_name,
        place,
        signal,
        prior_failures,
    } = wait;
    let timeout_at = running
        .context
        .timeout_at
        .unwrap_or_else(|| a_year_after(running.created_at));
    let mut attempt = NewStepAttempt::new(running.id, step_name, StepAttemptKind::SignalWait, None);
    let received = running.signal;
    // A signal that came counts even after the time-out.
    let standing = state.standing(&attempt);
    if received.is_none() && state.now() < timeout_at {
        standing.wait(timeout_at).await;
    }
    let since = received.as_ref().map_or(timeout_at, |signal| signal.at);
    let (at_work, turn) = state.begin_to_settle(place, standing, since).await;
    attempt.begun_ago = elapsed(running.created_at, state.now());
    if let Some(received) = &received
        && let Err(damaged) = payload::check_json(&received.data, subject(&signal))
    {
        drop((at_work, turn));
        state
            .stop(damaged.with_step_name(Arc::clone(&attempt.step_name)))
            .await;
    }
    if received.is_some() {
        log::signal_received(&state.execution, &attempt, &signal);
    }
    state.clear_waiter(&signal);
    let call = through_chain(
        state,
        &attempt,
        Phase::resolve(running.created_at, since),
        prior_failures,
        || StepKind::wait_for_signal(signal.as_str().into(), timeout_at),
        || async {
            let Some(received) = &received else {
                return Ok(StepOutcome::TimedOut);
            };
            let output = codec::encode_signal_output(&received.data);
            decode_output::<T>(&output, &signal)?;
            Ok(StepOutcome::Completed { output })
        },
    );
    let result = match at_work.during(call).await {
        Ok(StepOutcome::Completed { output }) => {
            let value = state.answered(&attempt.step_name, decode_output(&output, &signal));
            value.map(|value| (value, output))
        }
        Ok(StepOutcome::TimedOut) => Ok((None, Payload::NULL)),
        Ok(other) => state.answered(&attempt.step_name, Err(unexpected_outcome(&other))),
        Err(error) => Err(error),
    };
    let turn = Some(turn);
    match result {
        Ok((value, output)) => {
            complete(state, at_work, &attempt, &output, turn).await?;
            Ok(value)
        }
        Err(error) => {
            Err(fail_standing_wait(state, at_work, &attempt, prior_failures, error, turn).await)
        }
    }
}

/// Reads what an interceptor or a signal has brought, which may be unfit for good.
fn decode_output<T: DeserializeOwned>(output: &Payload, signal: &str) -> Result<Option<T>> {
    decode_stored(output, signal).map_err(|error| {
        Error::of_kind(
            ErrorKind::InvalidPayload,
            format!("Signal schema validation failed: {error}"),
        )
        .non_retryable()
    })
}

fn decode_stored<T: DeserializeOwned>(output: &Payload, signal: &str) -> Result<Option<T>> {
    let subject = subject(signal);
    match codec::decode_signal_output(output, subject)? {
        Some(data) => payload::decode_stored(&data, subject).map(Some),
        None => Ok(None),
    }
}

fn subject(signal: &str) -> Subject<'_> {
    Subject("the data of signal", signal)
}
