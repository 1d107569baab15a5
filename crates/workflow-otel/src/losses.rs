//! Keeps the failures of telemetry away from workflows, and counts them.

use std::panic::{AssertUnwindSafe, catch_unwind};
#[cfg(feature = "metrics")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "metrics")]
use opentelemetry::{KeyValue, metrics::Counter};

#[cfg(feature = "metrics")]
use crate::names::attribute;

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
    /// Where they are counted as a metric too, from when there is a meter.
    #[cfg(feature = "metrics")]
    metric: OnceLock<Counter<u64>>,
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
        self.tell("span", 1);
    }

    pub(crate) fn carrier(&self) {
        self.carriers.fetch_add(1, Ordering::Relaxed);
        self.tell("carrier", 1);
    }

    /// What a policy keeps out is no loss that anybody should be woken for: it is in no metric.
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
                self.tell("call", 1);
                None
            }
        }
    }

    /// Counts losses with `metric` from now on, and those so far.
    #[cfg(feature = "metrics")]
    pub(crate) fn count_with(&self, metric: Counter<u64>) {
        if self.metric.set(metric).is_ok() {
            let Losses {
                panics,
                spans,
                carriers,
                ..
            } = self.read();
            for (item, count) in [("call", panics), ("span", spans), ("carrier", carriers)] {
                if count > 0 {
                    self.tell(item, count);
                }
            }
        }
    }

    #[cfg(feature = "metrics")]
    fn tell(&self, item: &'static str, count: u64) {
        if let Some(metric) = self.metric.get() {
            let item = [KeyValue::new(attribute::ITEM, item)];
            // If it is the meter that panics, that has been counted.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| metric.add(count, &item))) {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            }
        }
    }

    #[cfg(not(feature = "metrics"))]
    fn tell(&self, _: &'static str, _: u64) {}
}
