//! What users choose: data, without what acts on it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use workflow_core::{CancelRun, CreateRun, ExecuteRun, SendSignal, StepCall};

/// How the executions of a run relate to the trace of its caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceMode {
    /// Every execution is a child of the run's `workflow.start` span, in the caller's trace.
    #[default]
    CallerAsParent,
    /// Every execution is the root of a trace of its own, with a link to the span that created the
    /// run. Traces then end when an execution ends, however long the run takes. An execution of a
    /// run whose creator was not sampled is not recorded, as in the other mode.
    Linked,
    /// Under the caller while the run is young, a trace of its own afterwards: short runs are one picture,
    /// and the traces of long ones have an end. What counts is the age that the run has when the execution
    /// begins, and of a run that others continued as, the age of the first of them. [`auto`](Self::auto)
    /// has the usual limit.
    Auto {
        /// The age from which executions are linked.
        linked_after: Duration,
    },
}

impl TraceMode {
    /// Under the caller while the run is younger than an hour, linked afterwards.
    ///
    /// ```
    /// use std::time::Duration;
    /// use workflow_otel::{OtelInterceptor, TraceMode};
    ///
    /// let otel = OtelInterceptor::builder().trace_mode(TraceMode::auto()).build();
    /// // Or with a limit of one's own.
    /// let linked_after = Duration::from_secs(10 * 60);
    /// let otel = OtelInterceptor::builder()
    ///     .trace_mode(TraceMode::Auto { linked_after })
    ///     .build();
    /// ```
    #[must_use]
    pub const fn auto() -> Self {
        Self::Auto {
            linked_after: Duration::from_secs(60 * 60),
        }
    }
}

/// Which spans are made for a workflow. Whatever is chosen, trace context and baggage are passed on
/// through its runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanSelection {
    /// All of them.
    #[default]
    All,
    /// The run's: its start, its executions, its cancellation. None for steps.
    RunsOnly,
    /// None. What is made inside of it (the user's own spans, child runs) belongs to the span that
    /// created the run.
    None,
}

/// Which metrics are taken of a workflow.
#[cfg(feature = "metrics")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricSelection {
    /// All of them.
    #[default]
    All,
    /// Those of runs and executions. None of steps, nor of the signals that steps send.
    RunsOnly,
    /// None.
    None,
}

/// What is logged of a workflow, where a [`RunFilter`](crate::logs::RunFilter) is at work.
#[cfg(any(feature = "logs", feature = "tracing"))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogSelection {
    /// All of it.
    #[default]
    All,
    /// What is about its runs and executions, and what its code logs between steps. Nothing that is
    /// about a step, or is logged in one.
    RunsOnly,
    /// Nothing that is logged in its runs, by whomever.
    None,
}

/// The status of a span whose operation succeeded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SuccessStatus {
    /// Ok.
    #[default]
    Ok,
    /// Unset, as OpenTelemetry advises instrumentation libraries.
    Unset,
}

/// How much of an error goes onto a span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorDetail {
    /// Its name, its message (up to 4 KiB) and where it came from (up to 16 KiB).
    #[default]
    Full,
    /// Its name alone, for messages that may hold personal data.
    TypeOnly,
}

/// Whether the names of signals are on spans. They often hold an id or an address, so that a wait is
/// for the signal of one customer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalNames {
    /// As attributes: `signal.name`, and `step.name` where a step is named after its signal. Never in
    /// the name of a span.
    #[default]
    Shown,
    /// Nowhere. The messages of errors may quote them: see [`ErrorDetail`].
    LeftOut,
}

/// The call that a span is about to be started for, as
/// [`OtelInterceptorBuilder::attributes`](crate::OtelInterceptorBuilder::attributes) gets it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum SpanCall<'a> {
    /// `workflow.start`.
    CreateRun(&'a CreateRun),
    /// `workflow.execute`.
    ExecuteRun(&'a ExecuteRun),
    /// `step.*`.
    Step(&'a StepCall),
    /// `signal.send`.
    SendSignal(&'a SendSignal),
    /// `workflow.cancel`.
    CancelRun(&'a CancelRun),
}

/// The limit on a `baggage` header that W3C asks every platform to support, and the most that the
/// SDK's own propagator reads.
const W3C_MAX_BYTES: usize = 8192;

/// Which baggage is stored with a run, and how much of it.
///
/// A carrier stays in the database as long as its run and is written again for every child, so
/// baggage there costs space and may be personal data. By default all entries are stored, up to
/// 8192 bytes (the W3C limit). Entries beyond the limit are left out in the order of their keys, and
/// [counted](crate::Losses::baggage_entries).
///
/// ```
/// use workflow_otel::{BaggagePolicy, OtelInterceptor};
///
/// let otel = OtelInterceptor::builder()
///     .baggage(BaggagePolicy::only(["tenant.id"]).max_bytes(512))
///     .build();
/// ```
#[derive(Debug, Clone)]
pub struct BaggagePolicy {
    pub(crate) allowed: Option<BTreeSet<String>>,
    pub(crate) max_bytes: usize,
}

impl BaggagePolicy {
    /// Stores every entry.
    #[must_use]
    pub fn all() -> Self {
        Self {
            allowed: None,
            max_bytes: W3C_MAX_BYTES,
        }
    }

    /// Stores the entries with these keys.
    pub fn only<K: Into<String>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self {
            allowed: Some(keys.into_iter().map(Into::into).collect()),
            max_bytes: W3C_MAX_BYTES,
        }
    }

    /// Stores no baggage.
    #[must_use]
    pub fn none() -> Self {
        Self::only::<String>([])
    }

    /// Stores at most this many bytes, counted as the header that W3C describes (an upper bound of
    /// it, if characters need escaping).
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }
}

impl Default for BaggagePolicy {
    fn default() -> Self {
        Self::all()
    }
}

pub(crate) type ExtraAttributes = dyn Fn(SpanCall<'_>) -> Vec<KeyValue> + Send + Sync;

#[derive(Clone, Default)]
pub(crate) struct Config {
    pub(crate) mode: TraceMode,
    pub(crate) run_bar: bool,
    pub(crate) success: SuccessStatus,
    pub(crate) errors: ErrorDetail,
    pub(crate) signal_names: SignalNames,
    pub(crate) baggage: BaggagePolicy,
    pub(crate) attributes: Option<Arc<ExtraAttributes>>,
    pub(crate) spans: SpanSelection,
    pub(crate) spans_of: HashMap<String, SpanSelection>,
    #[cfg(any(feature = "logs", feature = "tracing"))]
    pub(crate) logs: LogSelection,
    #[cfg(any(feature = "logs", feature = "tracing"))]
    pub(crate) logs_of: HashMap<String, LogSelection>,
}

impl Config {
    pub(crate) fn spans_of(&self, workflow: &str) -> SpanSelection {
        if self.spans_of.is_empty() {
            return self.spans;
        }
        self.spans_of.get(workflow).copied().unwrap_or(self.spans)
    }

    #[cfg(any(feature = "logs", feature = "tracing"))]
    pub(crate) fn logs_of(&self, workflow: &str) -> LogSelection {
        if self.logs_of.is_empty() {
            return self.logs;
        }
        self.logs_of.get(workflow).copied().unwrap_or(self.logs)
    }

    /// Whether there is a workflow of which not all is logged.
    #[cfg(any(feature = "logs", feature = "tracing"))]
    pub(crate) fn selects_logs(&self) -> bool {
        let mut all = self.logs_of.values().chain([&self.logs]);
        all.any(|selection| *selection != LogSelection::All)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Config");
        #[cfg(any(feature = "logs", feature = "tracing"))]
        shown
            .field("logs", &self.logs)
            .field("logs_of", &self.logs_of);
        shown
            .field("mode", &self.mode)
            .field("run_bar", &self.run_bar)
            .field("success", &self.success)
            .field("errors", &self.errors)
            .field("signal_names", &self.signal_names)
            .field("baggage", &self.baggage)
            .field("spans", &self.spans)
            .field("spans_of", &self.spans_of)
            .finish_non_exhaustive()
    }
}

/// How many names of steps are attributes, unless something else is chosen.
#[cfg(feature = "metrics")]
const STEP_NAMES: usize = 1000;

#[cfg(feature = "metrics")]
#[derive(Debug, Clone)]
pub(crate) struct MetricsConfig {
    pub(crate) selection: MetricSelection,
    pub(crate) selections: HashMap<String, MetricSelection>,
    pub(crate) step_names: usize,
}

#[cfg(feature = "metrics")]
impl MetricsConfig {
    /// Whether `workflow` has what `part` has: all metrics, or those of runs.
    pub(crate) fn selects(&self, workflow: &str, part: MetricSelection) -> bool {
        let selected = if self.selections.is_empty() {
            self.selection
        } else {
            let own = self.selections.get(workflow);
            own.copied().unwrap_or(self.selection)
        };
        match selected {
            MetricSelection::All => true,
            MetricSelection::RunsOnly => part == MetricSelection::RunsOnly,
            MetricSelection::None => false,
        }
    }
}

#[cfg(feature = "metrics")]
impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            selection: MetricSelection::default(),
            selections: HashMap::new(),
            step_names: STEP_NAMES,
        }
    }
}
