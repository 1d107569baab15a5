//! What a context knows about the run that is executed in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::{SpanId, SpanRef, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use workflow_core::Execution;

use super::progress::Progress;
#[cfg(any(feature = "logs", feature = "tracing"))]
use crate::config::LogSelection;
use crate::config::SpanSelection;
use crate::ids::StepIds;
use crate::tracer::StartSpan;

/// An execution, as it is found in the contexts that are current inside of it.
pub(crate) struct RunScope {
    pub(crate) execution: Arc<Execution>,
    /// The execution's own span; invalid where it has none.
    #[cfg_attr(not(feature = "otlp"), expect(dead_code))]
    pub(crate) span_id: SpanId,
    /// Which interceptor this is of (by address), should there be several.
    pub(crate) owner: usize,
    /// Taken once per execution, because taking one from the global provider is not free.
    pub(crate) tracer: Arc<dyn StartSpan>,
    pub(crate) selection: SpanSelection,
    /// The attributes that the execution's steps begin with.
    pub(crate) attributes: Vec<KeyValue>,
    /// What the ids of its steps are derived from; `None` where another interceptor's steps have them.
    pub(crate) step_ids: Option<StepIds>,
    /// The execution's span, where that is in a trace but records nothing.
    pub(crate) unrecorded: Option<SpanId>,
    /// Whether the execution's span is sampled.
    pub(crate) sampled: bool,
    /// Set when the execution is dropped, before its steps are.
    pub(crate) dropping: AtomicBool,
    pub(crate) progress: Progress,
}

impl RunScope {
    /// The execution that `cx` belongs to.
    pub(crate) fn of(cx: &Context) -> Option<&Arc<Self>> {
        cx.get::<InRun>().map(|InRun(scope)| scope)
    }

    pub(crate) fn is(&self, owner: usize, execution: &Arc<Execution>) -> bool {
        self.owner == owner && Arc::ptr_eq(&self.execution, execution)
    }

    /// Whether a span of the execution is exported if the execution's own is.
    pub(crate) fn is_kept(&self, span: &SpanRef<'_>) -> bool {
        span.span_context().is_sampled() || !self.sampled
    }

    /// Whether a span under that of `cx`, a context inside the execution, can be part of a tree that is
    /// recorded.
    pub(crate) fn is_recorded(&self, cx: &Context) -> bool {
        let span = cx.span();
        let span_context = span.span_context();
        span_context.is_valid()
            && (span_context.is_sampled() || span.is_recording())
            // Without an SDK the execution's span says of itself what its parent says.
            && self.unrecorded != Some(span_context.span_id())
    }

    pub(crate) fn put(self: &Arc<Self>, cx: &Context) -> Context {
        cx.with_value(InRun(Arc::clone(self)))
    }
}

struct InRun(Arc<RunScope>);

/// The step that a context belongs to, by the name that may be shown of it. Costs three allocations a step,
/// so it is only there once something that reads it was made.
pub(crate) struct StepScope(pub(crate) Option<Arc<str>>);

static STEP_SCOPES: AtomicBool = AtomicBool::new(false);

impl StepScope {
    pub(crate) fn want() {
        STEP_SCOPES.store(true, Ordering::Relaxed);
    }

    pub(crate) fn wanted() -> bool {
        STEP_SCOPES.load(Ordering::Relaxed)
    }
}

/// What is logged of the workflow that a context is about. There only where that, or what is around it, is
/// not everything.
#[cfg(any(feature = "logs", feature = "tracing"))]
#[derive(Clone, Copy)]
pub(crate) struct LogScope(pub(crate) LogSelection);

#[cfg(any(feature = "logs", feature = "tracing"))]
static LOG_SCOPES: AtomicBool = AtomicBool::new(false);

#[cfg(any(feature = "logs", feature = "tracing"))]
impl LogScope {
    pub(crate) fn want() {
        LOG_SCOPES.store(true, Ordering::Relaxed);
    }

    /// What is logged in `cx`, at which nobody looks as long as everything is.
    pub(crate) fn of(cx: &Context) -> LogSelection {
        let scope = Self::wanted().then(|| cx.get::<Self>()).flatten();
        scope.map_or(LogSelection::All, |Self(selection)| *selection)
    }

    /// The same in the current context.
    pub(crate) fn current() -> LogSelection {
        if Self::wanted() {
            Context::map_current(Self::of)
        } else {
            LogSelection::All
        }
    }

    fn wanted() -> bool {
        LOG_SCOPES.load(Ordering::Relaxed)
    }

    /// `cx`, for what is logged of a workflow.
    pub(crate) fn put(selection: LogSelection, cx: Context) -> Context {
        if Self::of(&cx) == selection {
            cx
        } else {
            cx.with_value(Self(selection))
        }
    }
}
