//! What is healthy, what degraded, and what unhealthy: one function for each check.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::database::Answer;
use super::{HealthCheck, HealthLimits, HealthStatus, TelemetryLosses};
use crate::ClockOffset;
use crate::worker::Vitals;

use HealthStatus::{Degraded, Healthy, Unhealthy};

fn found(name: &'static str, status: HealthStatus, reason: impl Into<String>) -> HealthCheck {
    HealthCheck {
        name,
        status,
        reason: reason.into(),
    }
}

pub(super) fn database(answer: &Answer, limits: &HealthLimits) -> HealthCheck {
    let name = "database";
    match answer {
        Answer::After(took) if *took > limits.database_timeout => {
            found(name, Unhealthy, format!("a round trip took {took:.1?}"))
        }
        Answer::After(took) if *took > limits.database_slow => {
            found(name, Degraded, format!("a round trip took {took:.1?}"))
        }
        Answer::After(took) => found(name, Healthy, format!("a round trip took {took:.1?}")),
        Answer::NoneFor(waited) => found(name, Unhealthy, format!("no answer for {waited:.1?}")),
        Answer::Failed(problem) => found(name, Unhealthy, problem.clone()),
    }
}

pub(super) fn claiming(vitals: &Vitals, limits: &HealthLimits) -> HealthCheck {
    let name = "claiming";
    let Some(claims) = vitals.claims() else {
        return found(name, Healthy, "all slots are taken, or it has not begun");
    };
    let since = claims.since;
    if since <= limits.claiming {
        return found(name, Healthy, format!("claimed {since:.1?} ago"));
    }
    let because = claims.error.map(|error| format!(": {error}"));
    let reason = format!(
        "no claim succeeded for {since:.1?}{}",
        because.unwrap_or_default()
    );
    found(name, Unhealthy, reason)
}

pub(super) fn leases(vitals: &Vitals, limits: &HealthLimits) -> HealthCheck {
    let name = "leases";
    match vitals.last_lease_lost() {
        Some(ago) if ago <= limits.lease_lost => {
            let reason = format!("a run's lease was lost {ago:.1?} ago, and its execution dropped");
            found(name, Degraded, reason)
        }
        _ => found(
            name,
            Healthy,
            format!("none was lost for {:.1?}", limits.lease_lost),
        ),
    }
}

pub(super) fn errors(vitals: &Vitals, limits: &HealthLimits) -> HealthCheck {
    let name = "errors";
    let (ended, failed) = vitals.executions_within(limits.errors_within);
    let reason = format!(
        "{failed} of {ended} executions failed within {:.1?}",
        limits.errors_within
    );
    let share = failed as f64 / ended.max(1) as f64;
    let is_bad = ended >= limits.errors_of_at_least && share > limits.error_rate;
    found(name, if is_bad { Degraded } else { Healthy }, reason)
}

pub(super) fn clock(offset: ClockOffset, limits: &HealthLimits) -> HealthCheck {
    let name = "clock";
    let reason = format!("this machine's is {offset}, compared with the database's");
    let is_off = offset.by() > limits.clock_offset;
    found(name, if is_off { Degraded } else { Healthy }, reason)
}

/// Looks how much telemetry was lost since it last looked.
pub(super) struct TelemetryWatch {
    losses: TelemetryLosses,
    seen: Mutex<Seen>,
}

struct Seen {
    lost: u64,
    /// When it was noticed that there are more.
    more: Option<Instant>,
}

impl TelemetryWatch {
    pub(super) fn new(losses: TelemetryLosses) -> Self {
        let seen = Seen {
            lost: losses(),
            more: None,
        };
        Self {
            losses,
            seen: Mutex::new(seen),
        }
    }

    pub(super) fn check(&self, limits: &HealthLimits) -> HealthCheck {
        let name = "telemetry";
        let lost = (self.losses)();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if lost > seen.lost {
            seen.more = Some(Instant::now());
        }
        seen.lost = lost;
        match seen.more.map(|more| more.elapsed()) {
            Some(ago) if ago <= limits.telemetry_lost => {
                let reason = format!("some was lost {ago:.1?} ago, {lost} in all");
                found(name, Degraded, reason)
            }
            _ => found(name, Healthy, format!("{lost} lost in all, none of late")),
        }
    }
}
