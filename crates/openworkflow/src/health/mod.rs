//! How a worker is: a report, and what it goes by.

mod checks;
mod database;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::worker::HealthFacts;
use checks::TelemetryWatch;
use database::Probe;

/// How well something is. Ordered: the worst is the greatest.
///
/// ```
/// use openworkflow::HealthStatus;
///
/// assert!(HealthStatus::Unhealthy > HealthStatus::Degraded);
/// assert_eq!(HealthStatus::Degraded.as_str(), "degraded");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// All is well.
    Healthy,
    /// It works, and somebody should look.
    Degraded,
    /// It does not work.
    Unhealthy,
}

impl HealthStatus {
    /// The word in reports: `healthy`, `degraded` or `unhealthy`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What was looked at: `database`, `claiming`, `leases`, `errors`, `clock` or `telemetry`.
    pub name: &'static str,
    /// How it is.
    pub status: HealthStatus,
    /// Why, in words for people.
    pub reason: String,
}

/// How a worker is, and why. Serialized, it is what `/health` answers.
///
/// ```
/// # async fn example(handle: openworkflow::WorkerHandle) {
/// let report = handle.health().report().await;
/// for check in report.checks.iter().filter(|check| check.status > openworkflow::HealthStatus::Healthy) {
///     println!("{}: {} ({})", check.name, check.status, check.reason);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HealthReport {
    /// The worst of the checks.
    pub status: HealthStatus,
    /// Whether the worker is stopping, or has stopped.
    pub stopping: bool,
    /// What was looked at.
    pub checks: Vec<HealthCheck>,
}

impl HealthReport {
    /// Whether others may count on the worker: it is not unhealthy, and not stopping.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status < HealthStatus::Unhealthy && !self.stopping
    }

    /// What the check of that name found.
    ///
    /// ```
    /// # async fn example(handle: openworkflow::WorkerHandle) {
    /// let report = handle.health().report().await;
    /// assert!(report.check("database").is_some());
    /// # }
    /// ```
    #[must_use]
    pub fn check(&self, name: &str) -> Option<&HealthCheck> {
        self.checks.iter().find(|check| check.name == name)
    }
}

/// From when on a worker is not healthy. The defaults are those of `docs/health.md`.
///
/// ```no_run
/// use std::time::Duration;
/// use openworkflow::{HealthLimits, Sqlite, Worker};
///
/// # fn example(store: Sqlite) {
/// let mut limits = HealthLimits::default();
/// // A database on another continent.
/// limits.database_slow = Duration::from_secs(2);
/// let worker = Worker::builder(store).health_limits(limits);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HealthLimits {
    /// A round trip to the database that takes longer is slow: degraded. 500 ms.
    pub database_slow: Duration,
    /// A round trip that takes longer has failed: unhealthy. 5 s.
    pub database_timeout: Duration,
    /// For how long no claim may succeed while the worker has room for runs; then it is unhealthy. 30 s.
    pub claiming: Duration,
    /// For how long a lease that was lost is held against the worker: degraded. 1 min.
    pub lease_lost: Duration,
    /// Over which time executions are counted, an hour at most. 5 min.
    pub errors_within: Duration,
    /// Which share of them may fail; above, it is degraded. 0.05.
    pub error_rate: f64,
    /// With fewer executions than these within that time, none of it is judged. 20.
    pub errors_of_at_least: u64,
    /// How far the machine's clock may be off, compared with the database's: degraded. 1 s.
    pub clock_offset: Duration,
    /// For how long telemetry that was lost is held against the worker: degraded. 1 min.
    pub telemetry_lost: Duration,
}

impl Default for HealthLimits {
    fn default() -> Self {
        Self {
            database_slow: Duration::from_millis(500),
            database_timeout: Duration::from_secs(5),
            claiming: Duration::from_secs(30),
            lease_lost: Duration::from_secs(60),
            errors_within: Duration::from_secs(5 * 60),
            error_rate: 0.05,
            errors_of_at_least: 20,
            clock_offset: Duration::from_secs(1),
            telemetry_lost: Duration::from_secs(60),
        }
    }
}

/// Counts what telemetry has lost so far.
pub(crate) type TelemetryLosses = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Tells how a worker is, from [`WorkerHandle::health`](crate::WorkerHandle::health). Clones are the same.
/// It outlives the worker, and then says that it is stopping.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    facts: HealthFacts,
    limits: HealthLimits,
    probe: Probe,
    telemetry: Option<TelemetryWatch>,
}

impl Health {
    pub(crate) fn new(
        facts: HealthFacts,
        limits: HealthLimits,
        losses: Option<TelemetryLosses>,
    ) -> Self {
        Self(Arc::new(Inner {
            facts,
            limits,
            probe: Probe::default(),
            telemetry: losses.map(TelemetryWatch::new),
        }))
    }

    /// Looks how the worker is. Asks the database for a sign of life, unless somebody did within the last
    /// second, and waits for it as long as [`HealthLimits::database_timeout`] says; all else is known.
    ///
    /// Dropping the future is harmless.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn report(&self) -> HealthReport {
        let inner = &*self.0;
        let limits = &inner.limits;
        let vitals = inner.facts.vitals();
        let backend = inner.facts.backend();
        let answered = inner.probe.ask(backend, limits.database_timeout).await;
        let mut checks = vec![
            checks::database(&answered, limits),
            checks::claiming(vitals, limits),
            checks::leases(vitals, limits),
            checks::errors(vitals, limits),
            checks::clock(backend.clock_offset(), limits),
        ];
        if let Some(telemetry) = &inner.telemetry {
            checks.push(telemetry.check(limits));
        }
        HealthReport {
            status: checks
                .iter()
                .map(|check| check.status)
                .max()
                .unwrap_or(HealthStatus::Healthy),
            stopping: self.is_stopping(),
            checks,
        }
    }

    /// Whether the worker is stopping, or has stopped.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.facts.is_stopping()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("limits", &self.0.limits)
            .field("stopping", &self.is_stopping())
            .finish_non_exhaustive()
    }
}
