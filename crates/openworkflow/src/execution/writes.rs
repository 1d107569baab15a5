//! What an execution writes: its steps, each until it is written or the run is no longer its own.

use std::future::Future;
use std::time::Duration;

use workflow_core::{Error, Interruption, Payload, Result};

use super::order::Turn;
use super::work::AtWork;
use super::{ExecutionState, never};
use crate::backend::{BackendError, BackendResult, EndedStep, NewStepAttempt, codec};
use crate::payload;

/// How long an operation that the database could not carry out is tried again. After that the lease
/// has run out and another worker may have the run.
const COMMIT_PATIENCE: Duration = Duration::from_secs(30);

impl ExecutionState {
    /// Carries out an operation of the backend. Tries again while the database is only busy or out
    /// of reach. Never resolves where the run is no longer ours, or the operation failed for good:
    /// the execution is then interrupted, and nothing more is written.
    pub(crate) async fn commit<T, F, Fut>(&self, operation: F) -> T
    where
        F: Fn() -> Fut,
        Fut: Future<Output = BackendResult<T>>,
    {
        match self.try_commit(operation).await {
            Ok(value) => value,
            Err(_) => never().await,
        }
    }

    /// As [`commit`](Self::commit), for work that is not part of the execution's own: an error where the
    /// execution is interrupted.
    pub(crate) async fn try_commit<T, F, Fut>(
        &self,
        operation: F,
    ) -> std::result::Result<T, Interruption>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = BackendResult<T>>,
    {
        let reason = match retry_transient(operation).await {
            Ok(value) => return Ok(value),
            Err(BackendError::OwnershipLost { reason }) => reason,
            Err(error) => {
                tracing::error!(
                    workflow_run.id = &*self.owner.run_id,
                    %error,
                    "cannot write the run; it is left until its lease runs out"
                );
                Interruption::LeaseLost
            }
        };
        // A second reason is no news.
        let _ = self.interruption.set(reason);
        self.interrupted.notify_one();
        Err(reason)
    }

    /// As [`commit`](Self::commit), of something that stores a value of the user's: an error where the
    /// database refuses that. `subject` begins its message.
    pub(crate) async fn store<T, F, Fut>(
        &self,
        subject: impl FnOnce() -> String,
        operation: F,
    ) -> Result<T>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = BackendResult<T>>,
    {
        let stored = self.commit(async || refusal_apart(operation().await)).await;
        stored.map_err(|problem| payload::refused(subject(), &problem))
    }

    pub(crate) async fn begin_step(&self, attempt: &NewStepAttempt) {
        self.commit(|| self.backend.begin_step(&self.owner, attempt.clone()))
            .await;
    }

    /// Adds the `config` of an attempt that runs to its row, which it makes where there is none yet. The
    /// inner error is the database's, about the value.
    pub(crate) async fn save_in_step(
        &self,
        attempt: &NewStepAttempt,
    ) -> std::result::Result<std::result::Result<(), String>, Interruption> {
        let save = || self.backend.begin_step(&self.owner, attempt.clone());
        self.try_commit(async || refusal_apart(save().await)).await
    }

    pub(crate) async fn complete_step(
        &self,
        attempt: &NewStepAttempt,
        output: &Payload,
        turn: &Turn,
    ) -> Result<()> {
        let subject = || format!("the result of step {:?}", attempt.step_name);
        self.store(subject, || {
            let ended = EndedStep::new(numbered(attempt, Some(turn)), Ok(output.clone()));
            self.backend.end_step(&self.owner, ended)
        })
        .await
    }

    /// Records a failure, which is the `at_work`'s. One that the code is told of has a turn.
    pub(crate) async fn fail_step(
        &self,
        at_work: &mut AtWork,
        attempt: &NewStepAttempt,
        error: &Error,
        turn: Option<&Turn>,
    ) {
        let error = codec::encode_step_error(error);
        let ended = EndedStep::new(numbered(attempt, turn), Err(error));
        at_work.closes_with(&ended);
        let write = self.commit(|| self.backend.end_step(&self.owner, ended.clone()));
        at_work.during(write).await;
    }
}

/// An attempt with the number of its result, where that has one.
fn numbered(attempt: &NewStepAttempt, turn: Option<&Turn>) -> NewStepAttempt {
    let attempt = attempt.clone();
    match turn.and_then(Turn::number) {
        Some(number) => attempt.with_config(codec::encode_order(number)),
        None => attempt,
    }
}

/// Takes what the database says of a value that it refuses for a result: another try comes to the same.
fn refusal_apart<T>(result: BackendResult<T>) -> BackendResult<std::result::Result<T, String>> {
    match result {
        Err(BackendError::ValueRefused { problem, .. }) => Ok(Err(problem)),
        result => result.map(Ok),
    }
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
