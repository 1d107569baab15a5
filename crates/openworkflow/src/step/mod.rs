//! The steps of a workflow: each a future that is configured before it is awaited.

mod run;
mod run_workflow;
mod send_signal;
mod sleep;
mod wait_for_signal;

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use workflow_core::{BoxFuture, Error, ErrorKind, Payload, Result, replay};

use crate::backend::{NewStepAttempt, StepAttemptKind};
use crate::execution::{AtWork, ExecutionState, OpenStep, Turn};
use crate::log::{self, Failures};
use crate::retry::{RetryDecision, RetryPolicy};

pub use run::RunStep;
pub(crate) use run_workflow::Config as RunWorkflowConfig;
pub use run_workflow::RunWorkflowStep;
pub use send_signal::SendSignalStep;
pub use sleep::SleepStep;
pub use wait_for_signal::WaitForSignalStep;

/// A step's default retry policy.
pub(crate) const STEP_RETRY: RetryPolicy = RetryPolicy::attempts(10);

/// A future that is made of its configuration when it is first polled.
pub(crate) enum Lazy<'a, C, T> {
    Configured(C),
    Started(BoxFuture<'a, T>),
    Starting,
}

/// A configuration may hold an error, which is not `Unpin` by itself. Nothing in here is pinned.
impl<C, T> Unpin for Lazy<'_, C, T> {}

impl<'a, C, T> Lazy<'a, C, T> {
    /// The configuration; `None` once the future is polled.
    pub(crate) fn config(&mut self) -> Option<&mut C> {
        match self {
            Self::Configured(config) => Some(config),
            Self::Started(_) | Self::Starting => None,
        }
    }

    pub(crate) fn poll_with(
        &mut self,
        cx: &mut Context<'_>,
        start: impl FnOnce(C) -> BoxFuture<'a, T>,
    ) -> Poll<T> {
        let _ours = replay::aside();
        if let Self::Configured(_) = self
            && let Self::Configured(config) = std::mem::replace(self, Self::Starting)
        {
            *self = Self::Started(start(config));
        }
        match self {
            Self::Started(future) => future.as_mut().poll(cx),
            // Only where `start` panicked.
            Self::Configured(_) | Self::Starting => Poll::Pending,
        }
    }
}

/// Implements `Future` for a step that holds a `Lazy` and a way to start it.
macro_rules! lazy_future {
    ([$($generics:tt)*] $step:ty => $output:ty, $start:expr) => {
        impl<$($generics)*> std::future::Future for $step {
            type Output = $output;

            fn poll(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<$output> {
                self.0.poll_with(cx, $start)
            }
        }
    };
}
pub(crate) use lazy_future;

/// Waits until a result that is recorded may be observed.
pub(crate) async fn observe(turn: Option<Turn>) {
    if let Some(turn) = turn {
        turn.await;
    }
}

/// Records a result and waits until it may be observed. One that the database refuses is a failure of the
/// step, and a final one, since it would be refused again.
pub(crate) async fn complete(
    state: &ExecutionState,
    at_work: AtWork,
    attempt: &NewStepAttempt,
    output: &Payload,
    turn: Option<Turn>,
) -> Result<()> {
    let turn = turn.unwrap_or_else(|| at_work.number(&attempt.step_name));
    let stored = at_work
        .during(state.complete_step(attempt, output, &turn))
        .await;
    if let Err(error) = stored {
        state.tell_failure(&attempt.step_name, &error);
        let policy = RetryPolicy::none();
        return Err(fail(state, at_work, attempt, 1, error, &policy, Some(turn)).await);
    }
    let timed_out = attempt.kind == StepAttemptKind::SignalWait && output.is_null();
    log::step_completed(&state.execution, attempt, timed_out);
    let turn = turn.written();
    drop(at_work);
    turn.await;
    Ok(())
}

/// Records the `failures`-th failure of a step: resolves with the error once it may be observed, or never
/// where `policy` has it tried again.
pub(crate) async fn fail(
    state: &ExecutionState,
    mut at_work: AtWork,
    attempt: &NewStepAttempt,
    failures: u32,
    error: Error,
    policy: &RetryPolicy,
    turn: Option<Turn>,
) -> Error {
    let decide = |now| policy.decide(failures, &error, now, state.deadline_at, now);
    // What is tried again is no result, and has no number.
    let turn = (decide(state.now()) == RetryDecision::GiveUp)
        .then(|| turn.unwrap_or_else(|| at_work.number(&attempt.step_name)));
    state
        .fail_step(&mut at_work, attempt, &error, turn.as_ref())
        .await;
    // The delay counts from the time in the row. Were the run due before that, the execution that tries
    // again would come too early.
    let decision = match turn {
        Some(_) => RetryDecision::GiveUp,
        None => decide(state.now()),
    };
    let retry_at = match decision {
        RetryDecision::RetryAt(at) => Some(at),
        RetryDecision::GiveUp | RetryDecision::DeadlinePassed => None,
    };
    let failures = Failures {
        count: failures,
        limit: policy.limit(),
    };
    log::step_failed(&state.execution, attempt, &error, failures, retry_at);
    if let Some(at) = retry_at {
        state.tell_retry(attempt, &error, at);
    }
    let turn = turn.map(Turn::when_at_rest);
    drop(at_work);
    follow(state, &attempt.step_name, error, decision, turn).await
}

/// Follows a failure whose row is written.
pub(crate) async fn follow(
    state: &ExecutionState,
    step_name: &Arc<str>,
    error: Error,
    decision: RetryDecision,
    turn: Option<Turn>,
) -> Error {
    let error = error.with_step_name(Arc::clone(step_name));
    match decision {
        RetryDecision::RetryAt(at) => {
            drop(turn);
            state.wait_for_retry(error, at).await
        }
        RetryDecision::DeadlinePassed => {
            state
                .fail_run(crate::backend::codec::deadline_error())
                .await
        }
        RetryDecision::GiveUp => {
            observe(turn.map(Turn::when_at_rest)).await;
            error
        }
    }
}

/// Follows the failure of a step other than a function. Such a step has one attempt, as the protocol
/// says, so its own failures are not retryable. Where an interceptor or a layer failed rather than
/// the step, it is tried again like a function.
pub(crate) async fn fail_wait(
    state: &ExecutionState,
    at_work: AtWork,
    attempt: &NewStepAttempt,
    prior_failures: u32,
    error: Error,
    turn: Option<Turn>,
) -> Error {
    let failures = prior_failures + 1;
    fail(state, at_work, attempt, failures, error, &STEP_RETRY, turn).await
}

/// The error with which a step other than a function failed for good in an earlier execution, if it
/// did. Workflow code that caught it then must get it again.
pub(crate) fn failed_for_good(open: &OpenStep, usual: ErrorKind) -> Option<Error> {
    let failure = open.last_failure.as_ref()?;
    let error = failure.error.to_error(usual);
    if failure.is_final {
        return Some(error);
    }
    let decision = STEP_RETRY.decide(open.failures, &error, failure.at, None, failure.at);
    (decision == RetryDecision::GiveUp).then_some(error)
}

/// Tells a failure of an earlier execution again.
pub(crate) async fn tell_again(step_name: Arc<str>, error: Error, turn: Option<Turn>) -> Error {
    observe(turn.map(Turn::when_at_rest)).await;
    error.with_step_name(step_name)
}

/// Follows the failure of a wait whose row is written and stays as it is where an interceptor failed
/// rather than the wait: a later execution then finds the wait and goes on with it.
pub(crate) async fn fail_standing_wait(
    state: &ExecutionState,
    at_work: AtWork,
    attempt: &NewStepAttempt,
    prior_failures: u32,
    error: Error,
    turn: Option<Turn>,
) -> Error {
    if error.is_retryable() {
        drop(turn);
        let _standing = at_work.rest();
        let at = state.now() + STEP_RETRY.delay(state.execution.attempt);
        let failures = Failures {
            count: state.execution.attempt,
            limit: None,
        };
        log::step_failed(&state.execution, attempt, &error, failures, Some(at));
        state.tell_retry(attempt, &error, at);
        state
            .wait_for_retry(error.with_step_name(Arc::clone(&attempt.step_name)), at)
            .await;
    }
    fail_wait(state, at_work, attempt, prior_failures, error, turn).await
}

/// How long ago something began.
pub(crate) fn elapsed(since: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

/// Boxes a step's future, as [`Lazy`] holds it.
pub(crate) fn boxed<'a, T>(
    future: impl Future<Output = Result<T>> + Send + 'a,
) -> BoxFuture<'a, Result<T>> {
    Box::pin(future)
}
