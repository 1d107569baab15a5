//! `sleep`: a wait for a point in time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use workflow_core::{ErrorKind, Result, StepKind, StepOutcome, StepPhase};

use super::{Lazy, boxed, fail_standing_wait, fail_wait, failed_for_good, lazy_future};
use crate::backend::{NewStepAttempt, StepAttemptKind, codec};
use crate::execution::{ExecutionState, PriorAttempts, through_chain, unexpected_outcome};
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
    let (name, prior) = state.enter(&name)?;
    let prior_failures = match prior {
        PriorAttempts::Completed(_) => return Ok(()),
        PriorAttempts::None => 0,
        PriorAttempts::Open(open) => {
            // The sleeps that are over were completed before this code ran.
            if let Some(running) = &open.running
                && let Some(resume_at) = running.context.resume_at
            {
                state.wait(Arc::clone(&running.id), resume_at).await;
            }
            if let Some(error) = failed_for_good(&open, ErrorKind::Application) {
                state.at_rest(&name).await;
                return Err(error.with_step_name(name));
            }
            open.failures
        }
    };

    let resume_at = until.resolve(state.now(), &format!("sleep {name:?}"))?;
    let attempt_id = state.new_attempt_id().await;
    let at_work = state.at_work();
    let attempt = NewStepAttempt::new(
        attempt_id,
        name,
        StepAttemptKind::Sleep,
        codec::sleep_context(resume_at),
    );
    let set_up = AtomicBool::new(false);
    let outcome = through_chain(
        &state,
        &attempt,
        true,
        StepPhase::Start,
        prior_failures,
        || StepKind::sleep(resume_at),
        || async {
            state.begin_step(&attempt).await;
            set_up.store(true, Ordering::Relaxed);
            Ok(StepOutcome::Parked { until: resume_at })
        },
    )
    .await;
    match outcome {
        Ok(StepOutcome::Parked { until }) => {
            drop(at_work);
            state.wait(attempt.id, until).await
        }
        Ok(StepOutcome::Completed { output }) => {
            state.complete_step(&attempt, &output).await;
            Ok(())
        }
        Ok(other) => {
            let error = unexpected_outcome(&other);
            Err(fail_wait(&state, at_work, &attempt, prior_failures, error).await)
        }
        Err(error) if set_up.into_inner() => {
            Err(fail_standing_wait(&state, at_work, &attempt, prior_failures, error).await)
        }
        Err(error) => Err(fail_wait(&state, at_work, &attempt, prior_failures, error).await),
    }
}
