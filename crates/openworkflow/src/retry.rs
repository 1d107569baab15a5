//! When a failure is tried again.

use std::time::{Duration, SystemTime};

use workflow_core::{Error, ErrorKind};

use crate::backend::codec;

/// How often, and how long after a failure, something is tried again.
///
/// The delay after the n-th failure is `initial_interval` × `backoff_coefficient`^(n−1), at most
/// `maximum_interval`, without jitter. A step counts the failed attempts of its own name and is by
/// default tried 10 times; a workflow counts *every* execution of the run, parks included, and is by
/// default tried once. A workflow's policy is about errors of the workflow's own code: a step that
/// has failed for good fails the run at once, unless the workflow catches its error.
///
/// ```
/// use std::time::Duration;
/// use openworkflow::RetryPolicy;
///
/// const PATIENT: RetryPolicy = RetryPolicy::attempts(20).initial_interval(Duration::from_secs(10));
/// assert_eq!(PATIENT.delay(2), Duration::from_secs(20));
/// assert!(RetryPolicy::attempts(3).backoff_coefficient(f64::NAN).validate().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    initial_interval: Duration,
    backoff_coefficient: f64,
    maximum_interval: Duration,
    maximum_attempts: u32,
}

impl RetryPolicy {
    /// At most `maximum` attempts, the first included: 1 s, 2 s, 4 s, … apart, at most 100 s. 0 means
    /// without limit.
    #[must_use]
    pub const fn attempts(maximum: u32) -> Self {
        Self {
            initial_interval: Duration::from_secs(1),
            backoff_coefficient: 2.0,
            maximum_interval: Duration::from_secs(100),
            maximum_attempts: maximum,
        }
    }

    /// Attempts without limit.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self::attempts(0)
    }

    /// One attempt, no retry.
    #[must_use]
    pub const fn none() -> Self {
        Self::attempts(1)
    }

    /// The delay after the first failure.
    #[must_use]
    pub const fn initial_interval(mut self, interval: Duration) -> Self {
        self.initial_interval = interval;
        self
    }

    /// What each delay is multiplied with to get the next.
    #[must_use]
    pub const fn backoff_coefficient(mut self, coefficient: f64) -> Self {
        self.backoff_coefficient = coefficient;
        self
    }

    /// The longest delay.
    #[must_use]
    pub const fn maximum_interval(mut self, interval: Duration) -> Self {
        self.maximum_interval = interval;
        self
    }

    /// The delay after the `failures`-th failure (from 1).
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        if self.initial_interval.is_zero() {
            return Duration::ZERO;
        }
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial_interval.as_secs_f64() * self.backoff_coefficient.powi(exponent);
        Duration::try_from_secs_f64(seconds).map_or(self.maximum_interval, |delay| {
            delay.min(self.maximum_interval)
        })
    }

    /// Whether the numbers make sense.
    ///
    /// # Errors
    ///
    /// An error of kind [`ErrorKind::InvalidArgument`] if the coefficient is not a positive, finite
    /// number.
    pub fn validate(&self) -> Result<(), Error> {
        if self.backoff_coefficient.is_finite() && self.backoff_coefficient > 0.0 {
            return Ok(());
        }
        Err(Error::of_kind(
            ErrorKind::InvalidArgument,
            format!(
                "the retry policy's backoff coefficient is {}; give a positive, finite number",
                self.backoff_coefficient
            ),
        ))
    }

    /// How many attempts there are; `None` where there is no limit.
    pub(crate) fn limit(&self) -> Option<u32> {
        (self.maximum_attempts > 0).then_some(self.maximum_attempts)
    }

    /// What follows the `failures`-th failure, which happened at `failed_at`.
    pub(crate) fn decide(
        &self,
        failures: u32,
        error: &Error,
        failed_at: SystemTime,
        deadline_at: Option<SystemTime>,
        now: SystemTime,
    ) -> RetryDecision {
        if deadline_at.is_some_and(|deadline| deadline <= now) {
            return RetryDecision::DeadlinePassed;
        }
        let exhausted = self.limit().is_some_and(|limit| failures >= limit);
        if exhausted || !error.is_retryable() {
            return RetryDecision::GiveUp;
        }
        let at = codec::later(failed_at, self.delay(failures));
        if deadline_at.is_some_and(|deadline| at >= deadline) {
            return RetryDecision::GiveUp;
        }
        RetryDecision::RetryAt(at)
    }
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    RetryAt(SystemTime),
    GiveUp,
    /// Nothing is tried after the run's deadline, and the run fails with the deadline's error.
    DeadlinePassed,
}
