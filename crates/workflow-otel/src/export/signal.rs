//! The three signals, and what each is called by the standards: in addresses, variables and counts.

use std::fmt;

/// What telemetry is made of.
///
/// All three variants are there whatever the features: one that this build cannot export is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// Spans.
    Traces,
    /// Counts and durations, with the feature `metrics`; what is counted of them is data points.
    Metrics,
    /// Log records, with the feature `logs`.
    Logs,
}

impl Signal {
    pub(super) const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// Whether this build can export it.
    pub(super) const fn is_built(self) -> bool {
        match self {
            Self::Traces => true,
            Self::Metrics => cfg!(feature = "metrics"),
            Self::Logs => cfg!(feature = "logs"),
        }
    }

    /// The path in OTLP over HTTP.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }

    /// The word in the names of variables.
    pub(super) const fn in_variables(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }

    /// What is counted.
    pub(super) const fn items(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Metrics => "data points",
            Self::Logs => "log records",
        }
    }
}

/// Its name in lower case.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        })
    }
}
