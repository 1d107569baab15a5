//! Deciding at the end of an execution whether it was worth keeping.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Span as _, SpanId, SpanKind, Status, TraceContextExt, TraceId};
use opentelemetry::{Context, Value};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, ShouldSample, Span, SpanData, SpanProcessor,
};

use super::InitError;
use super::queue::Queue;
use super::sampling;
use crate::context::scope::RunScope;
use crate::names::{attribute, operation};
use crate::tracer::Own;

/// The executions that were kept of late, for spans of theirs that start or end after them.
const REMEMBERED: usize = 1024;

/// Keeps every execution that failed, was retried or slow, and a share of the rest.
///
/// What is decided on is an *execution*: its `workflow.execute` span with everything beneath it in
/// this process, the application's own spans included. It is kept whole or left out whole. Not a
/// *run*, because one may last weeks and go from process to process: holding back its spans until it
/// ends would take memory without bound, and somebody to share it. So of a run that was retried once,
/// the execution that failed and the one that tried again are kept, and those before may be missing.
///
/// An execution is kept if
///
/// - its trace is in the share (decided by the trace id, so all processes keep the same runs whole);
/// - it or a span in it has the status Error: failed, to be retried, canceled, stale;
/// - a step in it was tried again after a failure;
/// - it took at least as long as [`slower_than`](Self::slower_than) says;
/// - it started a run, whose spans would otherwise hang in the air;
/// - there is no room left to hold it until it ends.
///
/// Everything outside of executions is exported as ever: the application's requests,
/// `workflow.start`, signals. Executions must be sampled at their start to be judged at their end, so
/// use this with the default sampler; services that a step calls see a sampled trace.
///
/// ```
/// use std::time::Duration;
/// use workflow_otel::export::{TailSampling, Telemetry};
///
/// let builder = Telemetry::builder()
///     .tail_sampling(TailSampling::keep_ratio(0.05).slower_than(Duration::from_secs(2)));
/// ```
#[derive(Debug, Clone)]
pub struct TailSampling {
    ratio: f64,
    slower_than: Option<Duration>,
    max_spans: usize,
}

impl TailSampling {
    /// Keeps this share of all traces, from 0 to 1, and beyond that what matters.
    #[must_use]
    pub fn keep_ratio(ratio: f64) -> Self {
        Self {
            ratio,
            slower_than: None,
            max_spans: 10_000,
        }
    }

    /// Keeps executions that take at least so long. Otherwise their duration does not matter.
    #[must_use]
    pub fn slower_than(mut self, duration: Duration) -> Self {
        self.slower_than = Some(duration);
        self
    }

    /// Holds at most so many spans of executions that have not ended. Beyond that an execution is
    /// kept without waiting for its end. Otherwise 10,000.
    #[must_use]
    pub fn max_spans(mut self, spans: usize) -> Self {
        self.max_spans = spans;
        self
    }

    pub(super) fn processor(&self, next: Queue<SpanData>) -> Result<TailProcessor, InitError> {
        Ok(TailProcessor {
            ratio: sampling::ratio("the ratio of tail sampling", self.ratio)?,
            settings: self.clone(),
            next,
            state: Mutex::default(),
        })
    }
}

#[derive(Debug)]
pub(super) struct TailProcessor {
    settings: TailSampling,
    ratio: Sampler,
    next: Queue<SpanData>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The executions that have not ended, by their span.
    executions: HashMap<SpanId, Held>,
    /// The spans that have not ended, and the execution that each belongs to.
    open: HashMap<SpanId, SpanId>,
    /// How many spans are held.
    held: usize,
    kept: HashSet<SpanId>,
    kept_in_order: VecDeque<SpanId>,
}

#[derive(Debug)]
struct Held {
    since: SystemTime,
    spans: Vec<SpanData>,
    /// It will be kept, whatever comes.
    kept: bool,
}

impl State {
    fn remember(&mut self, execution: SpanId) {
        if self.kept.insert(execution) {
            self.kept_in_order.push_back(execution);
        }
        if self.kept_in_order.len() > REMEMBERED
            && let Some(oldest) = self.kept_in_order.pop_front()
        {
            self.kept.remove(&oldest);
        }
    }
}

/// What is to be done with spans once the lock is released.
enum Verdict {
    Export(Vec<SpanData>),
    Discard(Vec<SpanData>),
    Wait,
}

impl TailProcessor {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in there panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in_share(&self, trace_id: TraceId) -> bool {
        let sampled = self
            .ratio
            .should_sample(None, trace_id, "", &SpanKind::Internal, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }

    /// Whether `span` is a reason to keep its execution, which began at `since`.
    fn matters(&self, span: &SpanData, since: SystemTime) -> bool {
        let slow = |limit| {
            let took = span.end_time.duration_since(since);
            took.is_ok_and(|took| took >= limit)
        };
        matches!(span.status, Status::Error { .. })
            || self.settings.slower_than.is_some_and(slow)
            || starts_run(span)
            || span.attributes.iter().any(|attribute| {
                attribute.key.as_str() == attribute::STEP_ATTEMPT_PRIOR_FAILURES
                    && matches!(attribute.value, Value::I64(failures) if failures > 0)
            })
    }

    fn judge(&self, span: SpanData) -> Verdict {
        let id = span.span_context.span_id();
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(execution) = state.open.remove(&id) else {
            // Of no execution.
            return Verdict::Export(vec![span]);
        };
        let Some(held) = state.executions.get_mut(&execution) else {
            // It outlived its execution.
            return if state.kept.contains(&execution) {
                Verdict::Export(vec![span])
            } else {
                Verdict::Discard(vec![span])
            };
        };
        let matters = !held.kept && self.matters(&span, held.since);
        held.kept |= matters || state.held >= self.settings.max_spans;
        held.spans.push(span);
        state.held += 1;
        if !held.kept && id != execution {
            return Verdict::Wait;
        }
        let kept = held.kept;
        let spans = std::mem::take(&mut held.spans);
        state.held -= spans.len();
        if id == execution {
            state.executions.remove(&execution);
            if kept {
                state.remember(execution);
            }
        }
        if kept {
            Verdict::Export(spans)
        } else {
            Verdict::Discard(spans)
        }
    }
}

/// Whether a run hangs on this span.
fn starts_run(span: &SpanData) -> bool {
    let is = |operation: &str| {
        let rest = span.name.strip_prefix(operation);
        rest.is_some_and(|rest| rest.starts_with(' '))
    };
    span.span_kind == SpanKind::Producer
        && (is(operation::WORKFLOW_START) || is(operation::STEP_RUN_WORKFLOW))
}

/// Whether `span`, which is being started outside of executions, is that of an execution.
fn is_execution(span: &Span) -> bool {
    Own::is_starting()
        && span
            .exported_data()
            .is_some_and(|data| data.name.starts_with(operation::WORKFLOW_EXECUTE))
}

impl SpanProcessor for TailProcessor {
    fn on_start(&self, span: &mut Span, parent: &Context) {
        let span_context = span.span_context();
        if !span_context.is_sampled() || self.is_in_share(span_context.trace_id()) {
            return;
        }
        let id = span_context.span_id();
        let execution = match RunScope::of(parent) {
            // Spans made under the one of an execution, from which they cannot be told apart later.
            Some(scope) if parent.has_active_span() => scope.span_id,
            _ if is_execution(span) => {
                let held = Held {
                    since: SystemTime::now(),
                    spans: Vec::new(),
                    kept: false,
                };
                let mut state = self.state();
                state.executions.insert(id, held);
                state.open.insert(id, id);
                return;
            }
            _ => return,
        };
        if execution != SpanId::INVALID {
            self.state().open.insert(id, execution);
        }
    }

    fn on_end(&self, span: SpanData) {
        let span_context = &span.span_context;
        if !span_context.is_sampled() || self.is_in_share(span_context.trace_id()) {
            self.next.on_end(span);
            return;
        }
        match self.judge(span) {
            Verdict::Export(spans) => {
                for span in spans {
                    self.next.on_end(span);
                }
            }
            Verdict::Discard(spans) => self.next.count_discarded(spans.len() as u64),
            Verdict::Wait => {}
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        // What is held waits for its execution's end.
        self.next.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        // Executions whose span has not ended: what is left of them would hang in the air.
        let state = std::mem::take(&mut *self.state());
        self.next.count_discarded(state.held as u64);
        self.next.shutdown_with_timeout(timeout)
    }
}
