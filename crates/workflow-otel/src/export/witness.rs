//! What is seen of an export besides its result, which says that it failed and little else.
//!
//! An exporter of `opentelemetry-otlp` tries a batch [`RETRIES`] times again where another attempt may
//! help, and not where the receiver refuses it. So one that made all attempts failed for a reason that
//! may pass. How many items of a batch the receiver threw away it tells in its log alone, so the log of
//! an export is listened to; and as its warnings come with each failure and say that data is lost,
//! which it is not yet, they go no further.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

use super::error::InitError;

/// How often the exporter tries again by itself, 0.1, 0.2 and 0.4 s later, or when the receiver says.
pub(super) const RETRIES: usize = 3;
/// The longest text of a receiver's that is passed on.
const MAX_REASON_BYTES: usize = 512;

/// How the exporter tells of a connection that broke over a request: by a code that a receiver may
/// answer too, and the cause, which an answer does not have. It does not try again then.
const BROKEN_CONNECTION: &str = "gRPC code: Unknown: ";

/// What became of an export.
pub(super) enum Answer {
    /// The receiver has the batch, but for so many items, which it threw away for this reason.
    Accepted { rejected: u64, reason: String },
    /// It never will be accepted.
    Refused(String),
    /// It may be later.
    Unavailable(String),
}

#[derive(Default)]
struct Seen {
    attempts: usize,
    /// Why the last attempt got no answer.
    trouble: Option<String>,
    rejected: u64,
    remark: String,
    /// A variable that was not honoured, and why.
    ignored: (String, String),
}

/// Sees the exports of one exporter, which makes one at a time.
#[derive(Default)]
pub(super) struct Witness(Mutex<Seen>);

impl Witness {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An export begins.
    pub(super) fn begin(&self) {
        *self.seen() = Seen::default();
    }

    /// An attempt at it begins.
    pub(super) fn attempt(&self) {
        let mut seen = self.seen();
        seen.attempts += 1;
        seen.trouble = None;
    }

    /// The attempt got no answer.
    pub(super) fn no_answer(&self, why: String) {
        self.seen().trouble = Some(why);
    }

    /// What to make of the export's result.
    pub(super) fn answer(&self, result: OTelSdkResult) -> Answer {
        let seen = std::mem::take(&mut *self.seen());
        match result {
            Ok(()) => Answer::Accepted {
                rejected: seen.rejected,
                reason: shortened(seen.remark),
            },
            Err(error) => {
                let reason = shortened(seen.trouble.unwrap_or_else(|| match error {
                    OTelSdkError::InternalFailure(reason) => reason,
                    other => other.to_string(),
                }));
                if seen.attempts > RETRIES || reason.contains(BROKEN_CONNECTION) {
                    Answer::Unavailable(reason)
                } else {
                    Answer::Refused(reason)
                }
            }
        }
    }

    /// Has `build` make an exporter. A variable that it warns of and passes over is an error.
    pub(super) fn strictly<T>(
        self: &Arc<Self>,
        build: impl FnOnce() -> Result<T, InitError>,
    ) -> Result<T, InitError> {
        let built = tracing::dispatcher::with_default(&self.log(), build)?;
        match std::mem::take(&mut self.seen().ignored) {
            (variable, _) if variable.is_empty() => Ok(built),
            (variable, reason) => Err(InitError::invalid(variable, reason)),
        }
    }

    /// Where the log of the exports goes.
    pub(super) fn log(self: &Arc<Self>) -> Dispatch {
        Dispatch::new(Listener(Arc::clone(self)))
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
    text
}

/// Hears the exporter's warnings.
struct Listener(Arc<Witness>);

impl Subscriber for Listener {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= Level::WARN
            && metadata.target().starts_with("opentelemetry")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Warning(&self.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Reads what counts: a number such as `rejected_spans` with the receiver's words, a variable that is
/// ignored with the reason.
struct Warning<'a>(&'a Witness);

impl Visit for Warning<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name().starts_with("rejected_") {
            self.0.seen().rejected += u64::try_from(value).unwrap_or(0);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut seen = self.0.seen();
        match field.name() {
            "error_message" => value.clone_into(&mut seen.remark),
            "environment_variable" => value.clone_into(&mut seen.ignored.0),
            "reason" => value.clone_into(&mut seen.ignored.1),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
