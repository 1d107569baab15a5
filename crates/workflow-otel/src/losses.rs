//! Keeps the failures of telemetry away from workflows, and counts them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// What telemetry lost since its interceptor was built, as
/// [`OtelInterceptor::losses`](crate::OtelInterceptor::losses) tells it. Workflows were not affected.
///
/// Spans that a full export queue dropped are not in here: the processor counts those.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Losses {
    /// Calls that panicked: into a tracer, a span, a span processor, a meter, a propagator or the user's
    /// attribute function.
    pub panics: u64,
    /// Spans that were not made, or not ended as they should have been: because of such a panic, or
    /// because the tracer provider was shut down already (noticed only where the span has a parent).
    pub spans: u64,
    /// Carriers of runs that could not be read, in part or whole. The execution then starts a
    /// trace of its own, unless the part that names the trace could be read.
    pub carriers: u64,
    /// Baggage entries that the [`BaggagePolicy`](crate::BaggagePolicy) kept out of a run's carrier.
    pub baggage_entries: u64,
}

#[derive(Debug, Default)]
pub(crate) struct LossCounters {
    panics: AtomicU64,
    spans: AtomicU64,
    carriers: AtomicU64,
    baggage_entries: AtomicU64,
}

impl LossCounters {
    pub(crate) fn read(&self) -> Losses {
        Losses {
            panics: self.panics.load(Ordering::Relaxed),
            spans: self.spans.load(Ordering::Relaxed),
            carriers: self.carriers.load(Ordering::Relaxed),
            baggage_entries: self.baggage_entries.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn span(&self) {
        self.spans.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn carrier(&self) {
        self.carriers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn baggage_entries(&self, entries: u64) {
        if entries > 0 {
            self.baggage_entries.fetch_add(entries, Ordering::Relaxed);
        }
    }

    /// Calls into code of others. A panic in there ends here, counted.
    pub(crate) fn contain<T>(&self, foreign: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(foreign)) {
            Ok(value) => Some(value),
            Err(panic) => {
                self.panics.fetch_add(1, Ordering::Relaxed);
                // Dropping what a panic carried can panic too.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
                None
            }
        }
    }
}
