//! `sleep`: a wait for a point in time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use workflow_core::{ErrorKind, Payload, Result, StepKind, StepOutcome};

use super::{
    Lazy, boxed, complete, elapsed, fail_standing_wait, fail_wait, failed_for_good, lazy_future,
    observe, tell_again,
};
use crate::backend::{NewStepAttempt, StepAttemptKind, codec};
use crate::execution::{
    Entered, ExecutionState, Phase, PriorAttempts, RunningAttempt, through_chain,
    unexpected_outcome,
};
use crate::when::When;

/// A sleep as a step; see [`WorkflowContext::sleep`](crate::WorkflowContext::sleep).
#[must_use = "a step does nothing unless awaited"]
pub struct SleepStep(Lazy<'static, Config, Result<()>>);

struct Config {
    state: Arc<ExecutionState>,
    name: String,
    until: When,
}

impl SleepStep {
    pub(crate) fn new(state: Arc<ExecutionState>, name: String, until: When) -> Self {
        Self(Lazy::Configured(Config { state, name, until }))
    }
}

lazy_future! { [] SleepStep => Result<()>, |config| boxed(sleep(config)) }

impl fmt::Debug for SleepStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SleepStep").finish_non_exhaustive()
    }
}

async fn sleep(config: Config) -> Result<()> {
    let Config { state, name, until } = config;
    let entered = state.enter(&name, true, StepAttemptKind::Sleep).await?;
    let Entered {
        name,
        place,
        prior,
        turn,
    } = entered;
    let prior_failures = match prior {
        PriorAttempts::Completed(_) => {
            observe(turn).await;
            return Ok(());
        }
        PriorAttempts::Withdrawn => state.withdrawn().await,
        PriorAttempts::None => 0,
        PriorAttempts::Open(open) => {
            if let Some(running) = open.running {
                return resume(&state, name, place, running).await;
            }
            if let Some(error) = failed_for_good(&open, ErrorKind::Application) {
                return Err(tell_again(name, error, turn).await);
            }
            open.failures
        }
    };
    drop(turn);

    state.begin_wait(place).await;
    let resume_at = until.resolve(state.now(), &format!("sleep {name:?}"))?;
    let attempt_id = state.new_attempt_id().await;
    let attempt = NewStepAttempt::new(
        attempt_id,
        name,
        StepAttemptKind::Sleep,
        codec::sleep_context(resume_at),
    );
    let at_work = state.at_work_waiting(state.standing(&attempt));
    let set_up = AtomicBool::new(false);
    let call = through_chain(
        &state,
        &attempt,
        Phase::Start,
        prior_failures,
        || StepKind::sleep(resume_at),
        || async {
            state.begin_step(&attempt).await;
            set_up.store(true, Ordering::Relaxed);
            Ok(StepOutcome::Parked { until: resume_at })
        },
    );
    let outcome = at_work.during(call).await;
    match outcome {
        Ok(StepOutcome::Parked { until }) => at_work.park(until).await,
        Ok(StepOutcome::Completed { output }) => {
            complete(&state, at_work, &attempt, &output, None).await
        }
        Ok(other) => {
            let error = unexpected_outcome(&other);
            state.tell_failure(&attempt.step_name, &error);
            Err(fail_wait(&state, at_work, &attempt, prior_failures, error, None).await)
        }
        Err(error) if set_up.into_inner() => {
            Err(fail_standing_wait(&state, at_work, &attempt, prior_failures, error, None).await)
        }
        Err(error) => Err(fail_wait(&state, at_work, &attempt, prior_failures, error, None).await),
    }
}

/// Goes on with a sleep that an earlier execution set up. One whose end cannot be read is over.
async fn resume(
    state: &Arc<ExecutionState>,
    name: Arc<str>,
    place: usize,
    running: RunningAttempt,
) -> Result<()> {
    let mut attempt = NewStepAttempt::new(running.id, name, StepAttemptKind::Sleep, None);
    let resume_at = running.context.resume_at.unwrap_or(running.created_at);
    let standing = state.standing(&attempt);
    if state.now() < resume_at {
        standing.wait(resume_at).await;
    }
    let (at_work, turn) = state.begin_to_settle(place, standing, resume_at).await;
    attempt.begun_ago = elapsed(running.created_at, state.now());
    complete(state, at_work, &attempt, &Payload::NULL, Some(turn)).await
}
