//! `send_signal`: a signal to whoever waits for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use workflow_core::{Error, ErrorKind, Payload, Result, StepKind, StepOutcome};

use super::{
    Lazy, boxed, complete, elapsed, fail_wait, failed_for_good, lazy_future, observe, tell_again,
};
use crate::arrival::{self, Patience, Tries};
use crate::backend::{NewSignal, NewStepAttempt, StepAttemptKind, codec};
use crate::execution::{
    Entered, ExecutionState, Phase, PriorAttempts, through_chain, unexpected_outcome,
};
use crate::name;
use crate::when::When;

/// The sending of a signal as a step; see
/// [`WorkflowContext::send_signal`](crate::WorkflowContext::send_signal).
#[must_use = "a step does nothing unless awaited"]
pub struct SendSignalStep(Lazy<'static, Config, Result<Vec<String>>>);

struct Config {
    state: Arc<ExecutionState>,
    name: Option<String>,
    signal: String,
    data: Result<Payload>,
    until_received: Option<Patience>,
}

impl SendSignalStep {
    pub(crate) fn new(state: Arc<ExecutionState>, signal: String, data: Result<Payload>) -> Self {
        Self(Lazy::Configured(Config {
            state,
            name: None,
            signal,
            data,
            until_received: None,
        }))
    }

    /// Names the step; the default is the signal's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        if let Some(config) = self.0.config() {
            config.name = Some(name.into());
        }
        self
    }

    /// Sends the signal until somebody receives it, for 30 seconds at most unless
    /// [set otherwise](Self::within): a signal reaches those who wait for it, and the run that it is for
    /// may not have come that far. The step then fails with an error of kind
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout), which is not tried again.
    ///
    /// It is one step and one span, however often it is sent. The run is at work meanwhile and keeps its
    /// worker's slot, and a later execution counts anew.
    ///
    /// ```
    /// # use openworkflow::Workflow;
    /// # let _ = Workflow::new("w", |wf, order: String| async move {
    /// let run_ids = wf.send_signal(format!("paid:{order}"), &1200).until_received().await?;
    /// assert!(!run_ids.is_empty());
    /// # Ok(()) });
    /// ```
    pub fn until_received(mut self) -> Self {
        if let Some(config) = self.0.config() {
            config.until_received.get_or_insert_default();
        }
        self
    }

    /// Sends the signal [until somebody receives it](Self::until_received), for `limit` at most. It counts
    /// from the first try, and there is a last one at its end.
    ///
    /// Takes a [`Duration`], or text such as `"2 minutes"`. The step is refused with
    /// an error of kind [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where that is
    /// zero, an instant or no duration.
    ///
    /// ```
    /// # use openworkflow::Workflow;
    /// # let _ = Workflow::new("w", |wf, order: String| async move {
    /// wf.send_signal(format!("paid:{order}"), &1200).within("2 minutes").await
    /// # });
    /// ```
    pub fn within(mut self, limit: impl Into<When>) -> Self {
        if let Some(config) = self.0.config() {
            config.until_received = Some(Patience::within(limit));
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
        until_received,
    } = config;
    let data = data?;
    name::validate("a signal", &signal)?;
    let limit = until_received
        .map(|patience| patience.limit(&signal))
        .transpose()?;
    let entered = state
        .enter(
            name.as_deref().unwrap_or(&signal),
            name.is_some(),
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
    let mut attempt = NewStepAttempt::new(attempt_id, step_name, StepAttemptKind::SignalSend, None);
    let begun_at = state.now();
    // A second sending after a crash finds the first by this key.
    let key = format!("__signal:{}:{}", state.owner.run_id, attempt.step_name);
    let at_work = state.at_work();
    let call = through_chain(
        &state,
        &attempt,
        Phase::Start,
        prior_failures,
        || StepKind::send_signal(Arc::clone(&signal), data.clone()),
        || async {
            let mut new = NewSignal::new(&*state.owner.namespace_id, &*signal, data.clone());
            new.idempotency_key = Some(key);
            new.sender = Some(state.owner.clone());
            let run_ids = match limit {
                Some(limit) => send_until_received(&state, &attempt, &new, limit).await?,
                None => send(&state, &new).await?,
            };
            Ok(StepOutcome::SignalSent { run_ids })
        },
    );
    let sent = at_work.during(call).await;
    attempt.begun_ago = elapsed(begun_at, state.now());
    let result = match sent {
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

async fn send(state: &ExecutionState, signal: &NewSignal) -> Result<Vec<String>> {
    let subject = || format!("the data of signal {:?}", signal.signal);
    let send = || state.backend.send_signal(signal.clone());
    state.store(subject, send).await
}

async fn send_until_received(
    state: &ExecutionState,
    attempt: &NewStepAttempt,
    signal: &NewSignal,
    limit: Duration,
) -> Result<Vec<String>> {
    let mut tries = Tries::begin(limit);
    let mut is_recorded = false;
    loop {
        let run_ids = send(state, signal).await?;
        if !run_ids.is_empty() {
            return Ok(run_ids);
        }
        if !is_recorded {
            // For whoever looks what the run is at.
            state.begin_step(attempt).await;
            is_recorded = true;
        }
        if !tries.again().await {
            let message = arrival::not_received(&signal.signal, limit);
            return Err(Error::of_kind(ErrorKind::Timeout, message).non_retryable());
        }
    }
}
