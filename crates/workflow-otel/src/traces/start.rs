//! The start of each span: what it is called, what it is under, and what it says from the beginning.

use std::sync::Arc;

use opentelemetry::trace::{SpanBuilder, SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use workflow_core::{CancelRun, CreateRun, SendSignal, StepCall};

use super::span::{Child, OpenSpan, Subject};
use super::{Traces, call};
#[cfg(any(feature = "logs", feature = "tracing"))]
use crate::config::LogSelection;
use crate::config::{SpanCall, SpanSelection};
use crate::context::propagation::usable_parent;
#[cfg(any(feature = "logs", feature = "tracing"))]
use crate::context::scope::LogScope;
use crate::context::scope::{RunScope, StepScope};
use crate::ids::{self, Wanted};
use crate::names::operation;
use crate::tracer::{Own, StartSpan, Started};

impl Traces {
    pub(crate) fn create_run(&self, call: &mut CreateRun) -> Option<OpenSpan<'_>> {
        let caller = self.caller(call);
        let open = self.span_of_creation(call, &caller);
        let creator = open.as_ref().map_or(&caller, |open| &open.cx);
        self.inject_run(creator, call);
        self.logged(open, &call.run.workflow_name)
    }

    fn span_of_creation(&self, call: &CreateRun, caller: &Context) -> Option<OpenSpan<'_>> {
        if self.config.spans_of(&call.run.workflow_name) == SpanSelection::None {
            return None;
        }
        let span = SpanBuilder::from_name(call::name(
            operation::WORKFLOW_START,
            &call.run.workflow_name,
        ))
        .with_kind(SpanKind::Producer);
        // Should the run get another id, or be found, this one is still nobody else's: ids that are asked
        // for are new. What reads the span's id takes it from the run's carrier.
        let id = ids::start(&call.run.namespace_id, &call.run.id);
        // Of an interceptor further out, which has made that span.
        let is_taken = caller.span().span_context().span_id() == id;
        let mut open = self.client_span(
            span,
            call::run_attributes(&call.run, false),
            SpanCall::CreateRun(call),
            if is_taken {
                Wanted::ANY
            } else {
                Wanted::span(id)
            },
            caller,
        );
        if let Some(open) = &mut open {
            open.subject = Subject::Creation(Arc::clone(&call.run.id));
        }
        open
    }

    pub(crate) fn step(&self, call: &StepCall) -> Option<OpenSpan<'_>> {
        let current = Context::current();
        let in_context = self.is_in(&current, &call.execution);
        let parent = if in_context {
            current
        } else {
            self.context_of(&call.execution)
        };
        let scope = Arc::clone(RunScope::of(&parent)?);
        self.went_on(&scope);
        // A step is recorded where its execution is. Under one that is not it would be an orphan, so
        // no sampler is asked and nothing is built for it.
        let started = if scope.selection == SpanSelection::All && scope.is_recorded(&parent) {
            let names = self.config.signal_names;
            let attributes = call::step_attributes(call, &scope.attributes, names);
            let attributes = self.with_extra(attributes, SpanCall::Step(call));
            let span = SpanBuilder::from_name(call::step_name(call))
                .with_kind(call::step_span_kind(call))
                .with_attributes(attributes);
            let wanted = scope
                .step_ids
                .map_or(Wanted::ANY, |ids| Wanted::span(ids.step(&call.attempt_id)));
            self.start(&*scope.tracer, span, wanted, &parent)
        } else {
            None
        };
        let is_muted = mutes_steps(&parent);
        if started.is_none() && in_context && !StepScope::wanted() && !is_muted {
            return None;
        }
        let recording = started.as_ref().is_some_and(|started| started.recording);
        let mut cx = started.map_or(parent, |started| started.cx);
        if StepScope::wanted() {
            let name = call::shown_name(call, self.config.signal_names);
            cx = cx.with_value(StepScope(name.map(Arc::clone)));
        }
        if is_muted {
            cx = muted(cx);
        }
        let waits = call.kind.waits();
        let child = call::uncertain_child(call).map(|asked| {
            Box::new(Child {
                attempt_id: Arc::clone(&call.attempt_id),
                asked: Arc::clone(asked),
            })
        });
        Some(OpenSpan {
            traces: self,
            cx,
            recording,
            left_open: false,
            subject: Subject::Step {
                scope,
                name: Arc::clone(&call.name),
                waits,
                child,
            },
        })
    }

    pub(crate) fn send_signal(&self, call: &SendSignal) -> Option<OpenSpan<'_>> {
        let span = SpanBuilder::from_name(operation::SIGNAL_SEND).with_kind(SpanKind::Producer);
        self.client_span(
            span,
            call::signal_attributes(call, self.config.signal_names),
            SpanCall::SendSignal(call),
            Wanted::ANY,
            &usable_parent(Context::current()),
        )
    }

    pub(crate) fn cancel_run(&self, call: &CancelRun) -> Option<OpenSpan<'_>> {
        let workflow = &call.run.workflow_name;
        let selected = self.config.spans_of(workflow) != SpanSelection::None;
        let open = selected.then(|| {
            let name = call::name(operation::WORKFLOW_CANCEL, workflow);
            self.client_span(
                SpanBuilder::from_name(name).with_kind(SpanKind::Internal),
                call::run_attributes(&call.run, true),
                SpanCall::CancelRun(call),
                Wanted::ANY,
                &usable_parent(Context::current()),
            )
        });
        self.logged(open.flatten(), workflow)
    }

    /// `open`, or a context in its place, for what is logged of the workflow that a call is about: a call
    /// in a run may be about one of another workflow.
    #[cfg(any(feature = "logs", feature = "tracing"))]
    pub(crate) fn logged<'a>(
        &'a self,
        open: Option<OpenSpan<'a>>,
        workflow: &str,
    ) -> Option<OpenSpan<'a>> {
        let selection = self.config.logs_of(workflow);
        if selection == LogScope::current() {
            return open;
        }
        let mut open = open.unwrap_or_else(|| OpenSpan {
            traces: self,
            cx: Context::current(),
            recording: false,
            left_open: false,
            subject: Subject::Client,
        });
        open.cx = LogScope::put(selection, open.cx.clone());
        Some(open)
    }

    #[cfg(not(any(feature = "logs", feature = "tracing")))]
    pub(crate) fn logged<'a>(&self, open: Option<OpenSpan<'a>>, _: &str) -> Option<OpenSpan<'a>> {
        open
    }

    fn client_span(
        &self,
        span: SpanBuilder,
        attributes: Vec<KeyValue>,
        call: SpanCall<'_>,
        wanted: Wanted,
        caller: &Context,
    ) -> Option<OpenSpan<'_>> {
        let span = span.with_attributes(self.with_extra(attributes, call));
        let Started { cx, recording } = self.start(&*self.tracer(), span, wanted, caller)?;
        Some(OpenSpan {
            traces: self,
            cx,
            recording,
            left_open: false,
            subject: Subject::Client,
        })
    }

    pub(super) fn start(
        &self,
        tracer: &dyn StartSpan,
        span: SpanBuilder,
        wanted: Wanted,
        parent: &Context,
    ) -> Option<Started> {
        let started = self.losses.contain(|| {
            let _own = Own::starting(wanted);
            tracer.start(span, parent)
        });
        match started {
            Some(Some(started)) => Some(started),
            Some(None) => {
                // Under a parent even the tracer of no SDK gives a span, so this one was shut down.
                if parent.span().span_context().is_sampled() && !parent.is_telemetry_suppressed() {
                    self.losses.span();
                }
                None
            }
            None => {
                self.losses.span();
                None
            }
        }
    }

    pub(super) fn with_extra(
        &self,
        mut attributes: Vec<KeyValue>,
        call: SpanCall<'_>,
    ) -> Vec<KeyValue> {
        if let Some(extra) = &self.config.attributes {
            attributes.extend(self.losses.contain(|| extra(call)).unwrap_or_default());
        }
        attributes
    }

    pub(super) fn tracer(&self) -> Arc<dyn StartSpan> {
        let tracer = self.losses.contain(|| self.tracing.tracer());
        tracer.unwrap_or_else(|| Arc::new(opentelemetry::trace::noop::NoopTracer::new()))
    }
}

/// Whether nothing is logged of the steps in `cx`.
#[cfg(any(feature = "logs", feature = "tracing"))]
fn mutes_steps(cx: &Context) -> bool {
    LogScope::of(cx) == LogSelection::RunsOnly
}

#[cfg(not(any(feature = "logs", feature = "tracing")))]
fn mutes_steps(_: &Context) -> bool {
    false
}

/// `cx`, with nothing logged in it.
#[cfg(any(feature = "logs", feature = "tracing"))]
fn muted(cx: Context) -> Context {
    LogScope::put(LogSelection::None, cx)
}

#[cfg(not(any(feature = "logs", feature = "tracing")))]
fn muted(cx: Context) -> Context {
    cx
}
