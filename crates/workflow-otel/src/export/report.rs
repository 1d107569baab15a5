//! What users are told of what became of their telemetry.

use std::fmt;

use super::Signal;

/// What became of the items of a signal: spans that were sampled and ended, log records, data points of
/// metrics that were collected. Each is counted in one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportStats {
    /// The receiver accepted them.
    pub exported: u64,
    /// They wait in the queue, or are being sent.
    pub queued: u64,
    /// The queue was full, as the receiver was down or too slow, or was closed by the shutdown. Never of
    /// metrics, which have no queue: what is measured while one collection is on its way is in the next.
    pub dropped: u64,
    /// The receiver refused them: a wrong key, a wrong path, data it does not take.
    pub refused: u64,
    /// Given up on shutdown, because the receiver could not be reached or time was up.
    pub undelivered: u64,
    /// Left out by [`TailSampling`](super::TailSampling), as it was asked to.
    pub discarded: u64,
}

impl ExportStats {
    /// Items that should have been exported and were not.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.dropped + self.refused + self.undelivered
    }
}

/// How the export of a signal ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalReport {
    /// What became of all items, those lost before the shutdown included.
    pub stats: ExportStats,
    /// How many were given up, or refused, on shutdown.
    pub lost: u64,
    /// Why, in words; empty where none was lost.
    pub reason: String,
}

/// How a shutdown ended: what became of everything. That something was lost is no error unless it is
/// [made one](Self::into_result); a program whose collector was away has done its work all the same.
///
/// `Display` is one line of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report(Vec<(Signal, SignalReport)>);

impl Report {
    pub(super) fn new(signals: Vec<(Signal, SignalReport)>) -> Self {
        Self(signals)
    }

    /// What became of this signal: nothing, where it was off.
    ///
    /// ```
    /// use workflow_otel::export::{Report, Signal};
    ///
    /// # fn example(report: Report) {
    /// let spans = report.of(Signal::Traces);
    /// println!("{} spans arrived, {} did not: {}", spans.stats.exported, spans.lost, spans.reason);
    /// # }
    /// ```
    #[must_use]
    pub fn of(&self, signal: Signal) -> SignalReport {
        let found = self.0.iter().find(|(of, _)| *of == signal);
        found.map(|(_, report)| report.clone()).unwrap_or_default()
    }

    /// For programs that want to fail where telemetry was lost on the way out: a batch job whose trace
    /// is part of its result, or a test.
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
    /// [`Undelivered`] if something was given up, or refused, on shutdown.
    pub fn into_result(self) -> Result<Self, Undelivered> {
        match self.losses() {
            Some(losses) => Err(Undelivered {
                losses,
                report: self,
            }),
            None => Ok(self),
        }
    }

    /// What was lost on the way out, and why, in words.
    pub(super) fn losses(&self) -> Option<String> {
        let lost = self.0.iter().filter(|(_, report)| report.lost > 0);
        let told = lost.map(|(signal, report)| {
            let SignalReport { lost, reason, .. } = report;
            format!("{lost} {}: {reason}", signal.items())
        });
        let told: Vec<_> = told.collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("telemetry was off");
        }
        for (index, (signal, report)) in self.0.iter().enumerate() {
            let before = if index > 0 { "; " } else { "" };
            let (exported, lost) = (report.stats.exported, report.stats.lost());
            let items = signal.items();
            write!(f, "{before}{exported} {items} were exported, {lost} lost")?;
        }
        Ok(())
    }
}

/// Not everything was delivered before telemetry was shut down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not delivered on shutdown: {losses}")]
pub struct Undelivered {
    losses: String,
    report: Report,
}

impl Undelivered {
    /// What became of everything.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }
}
