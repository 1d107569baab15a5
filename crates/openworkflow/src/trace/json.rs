//! Times, durations and causes in JSON.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use workflow_core::WakeCause;

/// RFC 3339 in UTC, with as many digits as there are, three at least.
pub(super) fn time<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    let at = Timestamp::try_from(*time).unwrap_or(Timestamp::MAX);
    let text = match at.subsec_nanosecond() % 1_000_000 {
        0 => format!("{at:.3}"),
        _ => at.to_string(),
    };
    to.serialize_str(&text)
}

pub(super) fn optional_time<S: Serializer>(
    at: &Option<SystemTime>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, to),
        None => to.serialize_none(),
    }
}

/// Seconds.
pub(super) fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

pub(super) fn optional_seconds<S: Serializer>(
    duration: &Option<Duration>,
    to: S,
) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64())
        .serialize(to)
}

/// The word that interceptors and attributes have for it.
pub(super) fn cause<S: Serializer>(cause: &Option<WakeCause>, to: S) -> Result<S::Ok, S::Error> {
    cause.map(WakeCause::as_str).serialize(to)
}
