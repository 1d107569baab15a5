//! `send_signal`: a signal to whoever waits for it.

use std::fmt;
use std::sync::Arc;

use workflow_core::{ErrorKind, Payload, Result, StepKind, StepOutcome, StepPhase};

use super::{Lazy, boxed, complete, fail_wait, failed_for_good, lazy_future, observe, tell_again};
use crate::backend::{NewSignal, NewStepAttempt, StepAttemptKind, codec};
use crate::execution::{Entered, ExecutionState, PriorAttempts, through_chain, unexpected_outcome};
use crate::name;

/// The sending of a signal as a step; see
/// [`WorkflowContext::send_signal`](crate::WorkflowContext::send_signal).
#[must_use = "a step does nothing unless awaited"]
pub struct SendSignalStep(Lazy<'static, Config, Result<Vec<String>>>);

struct Config {
    state: Arc<ExecutionState>,
    name: Option<String>,
    signal: String,
    data: Result<Payload>,
}

impl SendSignalStep {
    pub(crate) fn new(state: Arc<ExecutionState>, signal: String, data: Result<Payload>) -> Self {
        Self(Lazy::Configured(Config {
            state,
            name: None,
            signal,
            data,
        }))
    }

    /// Names the step; the default is the signal's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        if let Some(config) = self.0.config() {
            config.name = Some(name.into());
        }
        self
    }
}

lazy_future! { [] SendSignalStep => Result<Vec<String>>, |config| boxed(send_signal(config)) }

impl fmt::Debug for SendSignalStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendSignalStep").finish_non_exhaustive()
    }
}

async fn send_signal(config: Config) -> Result<Vec<String>> {
    let Config {
        state,
        name,
        signal,
        data,
    } = config;
    let data = data?;
    name::validate("a signal", &signal)?;
    let entered = state
        .enter(
            name.as_deref().unwrap_or(&signal),
            StepAttemptKind::SignalSend,
        )
        .await?;
    let Entered {
        name: step_name,
        place,
        prior,
        turn,
    } = entered;
    let (prior_failures, resumed) = match prior {
        PriorAttempts::Completed(output) => {
            observe(turn).await;
            let subject = format!("the result of step {step_name:?}");
            let run_ids = codec::decode_recipients(&output, &subject);
            return Ok(state.read_back(run_ids, step_name).await);
        }
        PriorAttempts::Withdrawn => state.withdrawn().await,
        PriorAttempts::None => (0, None),
        PriorAttempts::Open(open) => {
            if open.running.is_none()
                && let Some(error) = failed_for_good(&open, ErrorKind::Application)
            {
                return Err(tell_again(step_name, error, turn).await);
            }
            (open.failures, open.running.map(|running| running.id))
        }
    };
    drop(turn);

    state.begin(place).await;
    let signal: Arc<str> = signal.into();
    let attempt_id = match resumed {
        Some(id) => id,
        None => state.new_attempt_id().await,
    };
    let attempt = NewStepAttempt::new(attempt_id, step_name, StepAttemptKind::SignalSend, None);
    // A second sending after a crash finds the first by this key.
    let key = format!("__signal:{}:{}", state.owner.run_id, attempt.step_name);
    let at_work = state.at_work();
    let call = through_chain(
        &state,
        &attempt,
        name.is_some(),
        StepPhase::Start,
        prior_failures,
        || StepKind::send_signal(Arc::clone(&signal), data.clone()),
        || async {
            let mut new = NewSignal::new(&*state.owner.namespace_id, &*signal, data.clone());
            new.idempotency_key = Some(key);
            new.sender = Some(state.owner.clone());
            let subject = || format!("the data of signal {signal:?}");
            let send = || state.backend.send_signal(new.clone());
            let run_ids = state.store(subject, send).await?;
            Ok(StepOutcome::SignalSent { run_ids })
        },
    );
    let result = match at_work.during(call).await {
        Ok(StepOutcome::SignalSent { run_ids }) => Ok(run_ids),
        Ok(StepOutcome::Completed { output }) => {
            let run_ids = codec::decode_recipients(&output, "an interceptor's answer")
                .map_err(|error| error.with_kind(ErrorKind::InvalidPayload).non_retryable());
            state.answered(&attempt.step_name, run_ids)
        }
        Ok(other) => state.answered(&attempt.step_name, Err(unexpected_outcome(&other))),
        Err(error) => Err(error),
    };
    let result = result.and_then(|run_ids| {
        let output = codec::encode_recipients(run_ids.clone())?;
        Ok((run_ids, output))
    });
    match result {
        Ok((run_ids, output)) => {
            complete(&state, at_work, &attempt, &output, None).await?;
            Ok(run_ids)
        }
        Err(error) => Err(fail_wait(&state, at_work, &attempt, prior_failures, error, None).await),
    }
}
