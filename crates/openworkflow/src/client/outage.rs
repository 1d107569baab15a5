//! How a client rides through an outage of its database: a restart, a fail-over, a lock.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{BackendError, BackendResult};

/// How long a client's operations are repeated unless the caller says otherwise.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// One outage after the other, as one operation sees them.
pub(super) struct Outage {
    limit: Duration,
    /// When the first operation began that failed.
    since: Option<Instant>,
    delay: Duration,
    error: Option<BackendError>,
}

impl Outage {
    /// None yet, and `limit` at most when there is one.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: None,
            delay: FIRST_DELAY,
            error: None,
        }
    }

    /// The database answers.
    pub(super) fn is_over(&mut self) {
        *self = Self::new(self.limit);
    }

    /// The last error of an outage that is not over.
    pub(super) fn into_error(self) -> Option<BackendError> {
        self.error
    }

    /// Waits until it is time to try again what began at `began` and failed. Gives the error back where
    /// it does not pass by itself, or has lasted too long.
    pub(super) async fn outlast(
        &mut self,
        began: Instant,
        error: BackendError,
    ) -> BackendResult<()> {
        let lasted = self.since.unwrap_or(began).elapsed();
        let left = self.limit.saturating_sub(lasted);
        if !error.is_transient() || left.is_zero() {
            return Err(error);
        }
        if self.since.is_none() {
            self.since = Some(began);
            let limit = self.limit;
            // Workflow code may use a client, too, without a step.
            let _ours = workflow_core::replay::aside();
            tracing::warn!(%error, ?limit, "the database does not do what a client asks; trying again");
        }
        self.error = Some(error);
        tokio::time::sleep(self.delay.min(left)).await;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        Ok(())
    }
}

/// Carries out an operation that can be repeated, through an outage of `limit` at most.
pub(super) async fn ride_out<T, F, Fut>(limit: Duration, operation: F) -> BackendResult<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = BackendResult<T>>,
{
    ride_out_if(limit, |_| true, operation).await
}

/// As [`ride_out`], where not every error allows a repetition.
pub(super) async fn ride_out_if<T, F, Fut>(
    limit: Duration,
    can_be_repeated: impl Fn(&BackendError) -> bool,
    operation: F,
) -> BackendResult<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = BackendResult<T>>,
{
    let mut outage = Outage::new(limit);
    loop {
        let began = Instant::now();
        match operation().await {
            Err(error) if can_be_repeated(&error) => outage.outlast(began, error).await?,
            result => return result,
        }
    }
}
