//! What is told of losses in the log, and how often.

use std::time::{Duration, Instant};

use super::report::{ExportStats, Report};

/// At most so often are losses reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Says once in a while what is wrong and what was lost.
#[derive(Default)]
pub(super) struct Reporter {
    trouble: Option<String>,
    reported_at: Option<Instant>,
    reported: u64,
}

impl Reporter {
    pub(super) fn note(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    pub(super) fn report(&mut self, stats: ExportStats) {
        if self.trouble.is_none() && stats.lost() == self.reported {
            return;
        }
        if self
            .reported_at
            .is_some_and(|at| at.elapsed() < REPORT_INTERVAL)
        {
            return;
        }
        let reason = self.trouble.take();
        tracing::warn!(
            target: "workflow_otel",
            reason = reason.as_deref().unwrap_or("spans are made faster than they are accepted"),
            exported = stats.exported,
            queued = stats.queued,
            dropped = stats.dropped,
            refused = stats.refused,
            "spans do not get through; workflows go on"
        );
        self.reported_at = Some(Instant::now());
        self.reported = stats.lost();
    }
}

/// Tells of what was lost on the way out.
pub(super) fn at_the_end(report: &Report) {
    if report.lost > 0 {
        tracing::warn!(
            target: "workflow_otel",
            spans = report.lost,
            reason = report.reason,
            "spans were not delivered before telemetry was shut down"
        );
    }
}
