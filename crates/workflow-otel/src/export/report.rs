//! What became of the spans.

use std::fmt;

/// What became of the spans that were sampled and ended. Each is counted in one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportStats {
    /// The receiver accepted them.
    pub exported: u64,
    /// They wait in the queue, or are being sent.
    pub queued: u64,
    /// The queue was full, as the receiver was down or too slow, or was closed by the shutdown.
    pub dropped: u64,
    /// The receiver refused them: a wrong key, a wrong path, data it does not take.
    pub refused: u64,
    /// Given up on shutdown, because the receiver could not be reached or time was up.
    pub undelivered: u64,
    /// Left out by [`TailSampling`](super::TailSampling), as it was asked to.
    pub discarded: u64,
}

impl ExportStats {
    /// Spans that should have been exported and were not.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.dropped + self.refused + self.undelivered
    }
}

/// How a shutdown ended: what became of all spans. That some were lost is no error unless it is
/// [made one](Self::into_result); a program whose collector was away has done its work all the same.
///
/// `Display` is one line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What became of all spans, those lost before the shutdown included.
    pub stats: ExportStats,
    /// How many spans were given up, or refused, on shutdown.
    pub lost: u64,
    /// Why, in words; empty where none was lost.
    pub reason: String,
}

impl Report {
    pub(super) fn new(stats: ExportStats, lost: u64, reason: impl Into<String>) -> Self {
        Self {
            stats,
            lost,
            reason: reason.into(),
        }
    }

    /// For programs that want to fail where spans were lost on the way out: a batch job whose trace is
    /// part of its result, or a test.
    ///
    /// ```
    /// use std::time::Duration;
    /// use workflow_otel::export::Telemetry;
    ///
    /// # async fn example(telemetry: Telemetry) -> Result<(), Box<dyn std::error::Error>> {
    /// let report = telemetry.shutdown(Duration::from_secs(10)).await;
    /// println!("{report}");
    /// report.into_result()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Undelivered`] if spans were given up, or refused, on shutdown.
    pub fn into_result(self) -> Result<ExportStats, Undelivered> {
        if self.lost == 0 {
            Ok(self.stats)
        } else {
            Err(Undelivered(self))
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (exported, lost) = (self.stats.exported, self.stats.lost());
        write!(f, "{exported} spans were exported, {lost} lost")
    }
}

/// Not every span was delivered before telemetry was shut down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} spans could not be delivered on shutdown: {}", .0.lost, .0.reason)]
pub struct Undelivered(Report);

impl Undelivered {
    /// What became of all spans.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.0
    }
}
