//! Points in time as users write them.

use std::time::{Duration, SystemTime};

use workflow_core::{Error, ErrorKind};

use crate::backend::codec;

/// A point in time: a duration from now, or an instant.
///
/// Made from a [`Duration`], a [`SystemTime`], or text in the units of OpenWorkflow for TypeScript: a
/// number that is not negative, a space or none, and a unit (`"500ms"`, `"30s"`, `"1.5 hours"`,
/// `"2d"`, `"1w"`, `"3mo"`, `"1y"`; without a unit, milliseconds). A month is 30.4375 days and a year
/// 365.25.
///
/// Nothing is checked when it is made; what takes it reports text that is no duration, and times
/// beyond the year 9999, as an error of kind [`ErrorKind::InvalidArgument`]. A time in the past has
/// come at once. Times are kept in whole milliseconds.
///
/// ```
/// use std::time::Duration;
/// use openworkflow::When;
///
/// let _: [When; 2] = [Duration::from_secs(30).into(), "30s".into()];
/// ```
#[derive(Debug, Clone)]
pub struct When(Repr);

#[derive(Debug, Clone)]
enum Repr {
    In(Duration),
    At(SystemTime),
    Text(String),
    AYearFromNow,
}

impl When {
    pub(crate) const A_YEAR_FROM_NOW: Self = Self(Repr::AYearFromNow);

    /// The instant, seen from `now`. `what` begins the error's message.
    pub(crate) fn resolve(&self, now: SystemTime, what: &str) -> Result<SystemTime, Error> {
        let invalid = |problem: String| {
            Error::of_kind(ErrorKind::InvalidArgument, format!("{what}: {problem}"))
        };
        let duration = match &self.0 {
            Repr::At(at) => {
                return Ok(*at).and_then(|at| in_range(at).ok_or_else(|| invalid(too_late())));
            }
            Repr::In(duration) => *duration,
            Repr::Text(text) => parse_duration(text).ok_or_else(|| invalid(no_duration(text)))?,
            Repr::AYearFromNow => return Ok(a_year_after(now)),
        };
        now.checked_add(duration)
            .and_then(in_range)
            .ok_or_else(|| invalid(too_late()))
    }

    /// The duration, as the limit of something that may happen more than once. `what` begins the
    /// error's message.
    pub(crate) fn limit(&self, what: &str) -> Result<Duration, Error> {
        let limit = match &self.0 {
            Repr::In(duration) => Ok(*duration),
            Repr::Text(text) => parse_duration(text).ok_or_else(|| no_duration(text)),
            Repr::At(_) | Repr::AYearFromNow => {
                Err("it is an instant; give a duration, such as \"30s\"".to_owned())
            }
        };
        let limit = match limit {
            Ok(Duration::ZERO) => Err("it is zero; give a longer one, such as \"30s\"".to_owned()),
            limit => limit,
        };
        limit.map_err(|problem| {
            Error::of_kind(ErrorKind::InvalidArgument, format!("{what}: {problem}"))
        })
    }
}

fn no_duration(text: &str) -> String {
    format!("{text:?} is no duration; write a number and a unit, such as \"30s\" or \"1.5 hours\"")
}

fn too_late() -> String {
    "the time lies beyond the year 9999; give an earlier one".to_owned()
}

fn in_range(at: SystemTime) -> Option<SystemTime> {
    (at <= codec::latest_time()).then_some(at.max(SystemTime::UNIX_EPOCH))
}

/// The default limit of a wait: one calendar year.
pub(crate) fn a_year_after(now: SystemTime) -> SystemTime {
    let year = jiff::Timestamp::try_from(now)
        .and_then(|now| {
            now.to_zoned(jiff::tz::TimeZone::UTC)
                .checked_add(jiff::Span::new().years(1))
        })
        .map(|zoned| SystemTime::from(zoned.timestamp()));
    year.unwrap_or_else(|_| codec::latest_time())
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().ok()?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let millis = match unit.as_str() {
        "" | "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
        "m" | "min" | "mins" | "minute" | "minutes" => 60e3,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600e3,
        "d" | "day" | "days" => 86_400e3,
        "w" | "week" | "weeks" => 7.0 * 86_400e3,
        "mo" | "month" | "months" => 2_629_800e3,
        "y" | "yr" | "yrs" | "year" | "years" => 31_557_600e3,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * millis / 1e3).ok()
}

impl From<Duration> for When {
    fn from(duration: Duration) -> Self {
        Self(Repr::In(duration))
    }
}

impl From<SystemTime> for When {
    fn from(at: SystemTime) -> Self {
        Self(Repr::At(at))
    }
}

impl From<&str> for When {
    fn from(text: &str) -> Self {
        Self(Repr::Text(text.to_owned()))
    }
}

impl From<String> for When {
    fn from(text: String) -> Self {
        Self(Repr::Text(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_protocol() {
        for (text, millis) in [
            ("1h", Some(3_600_000)),
            ("500ms", Some(500)),
            ("1.5h", Some(5_400_000)),
            ("2 days", Some(172_800_000)),
            ("1w", Some(604_800_000)),
            ("1mo", Some(2_629_800_000)),
            ("1M", Some(60_000)),
            ("1y", Some(31_557_600_000)),
            ("100", Some(100)),
            (".5s", Some(500)),
            ("1 Hour", Some(3_600_000)),
            ("7 msecs", Some(7)),
            ("1h30m", None),
            ("", None),
            (" 1s", None),
            ("1s ", None),
            ("1e3s", None),
            ("+1s", None),
            ("-1s", None),
            ("1  s", None),
            ("9".repeat(400).as_str(), None),
        ] {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }

    #[test]
    fn times_beyond_four_digits_of_year_are_refused() {
        let now = SystemTime::now();
        assert!(When::from(Duration::MAX).resolve(now, "sleep").is_err());
        assert!(
            When::from(Duration::from_secs(u64::from(u32::MAX) * 100))
                .resolve(now, "x")
                .is_err()
        );
        assert_eq!(When::from(Duration::ZERO).resolve(now, "x").ok(), Some(now));
    }

    #[test]
    fn limits_are_durations_that_are_not_zero() {
        let limit = |limit: When| {
            let limit = limit.limit("the time-out");
            limit.map_err(|error| error.message().to_owned())
        };
        assert_eq!(limit("1.5s".into()), Ok(Duration::from_millis(1500)));
        assert_eq!(limit(Duration::MAX.into()), Ok(Duration::MAX));
        for (senseless, problem) in [
            (Duration::ZERO.into(), "it is zero"),
            ("0s".into(), "it is zero"),
            ("soon".into(), "\"soon\" is no duration"),
            (SystemTime::now().into(), "it is an instant"),
        ] {
            let message = limit(senseless).unwrap_err();
            assert!(
                message.starts_with(&format!("the time-out: {problem}; ")),
                "{message}"
            );
        }
    }
}
