//! The end of each span: what it says of how the call ended, once.

use std::sync::Arc;
use std::time::SystemTime;

#[cfg(feature = "metrics")]
use opentelemetry::trace::SpanContext;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use workflow_core::{Error, Execution, ExecutionOutcome, Unwritten};

use super::outcome::{self, Ending, exception};
use super::{Traces, Unended, address_of, lock};
use crate::config::{ErrorDetail, SignalNames, SuccessStatus};
use crate::context::progress::{Cause, DroppedStep};
use crate::context::scope::RunScope;
use crate::names::{attribute, event};

/// The `error.type` of a step that was at work when its execution failed.
const EXECUTION_FAILED: &str = "execution_failed";

/// What a span's end is about: who else of its execution may have the same error.
#[derive(Clone, Copy)]
pub(super) enum About<'a> {
    Client,
    /// A whole run, whose errors are events on its executions.
    Run,
    Execution(&'a RunScope),
    Step(&'a RunScope, &'a str),
}

impl Traces {
    /// Ends the span of `cx`: now, or as of `at`.
    pub(super) fn end_span(
        &self,
        cx: &Context,
        about: About<'_>,
        ending: &mut Ending<'_>,
        at: Option<SystemTime>,
    ) {
        let Self { config, losses, .. } = self;
        let described = losses.contain(|| {
            let span = cx.span();
            for attribute in ending.attributes.iter_mut().filter_map(Option::take) {
                span.set_attribute(attribute);
            }
            if let Some(error) = ending.error {
                let error_type = error.error_type().to_owned();
                let description = match config.errors {
                    ErrorDetail::Full => outcome::message(error).to_owned(),
                    ErrorDetail::TypeOnly => error_type.clone(),
                };
                span.set_attribute(KeyValue::new(attribute::ERROR_TYPE, error_type));
                span.set_status(Status::error(description));
            } else if let Some(interruption) = ending.interrupted {
                span.set_attribute(KeyValue::new(attribute::ERROR_TYPE, interruption));
                span.set_status(Status::error(interruption));
            } else if ending.succeeded && config.success == SuccessStatus::Ok {
                span.set_status(Status::Ok);
            }
        });
        let recorded = ending
            .error
            .is_none_or(|error| self.record(cx, about, error));
        let ended = losses.contain(|| match at {
            Some(at) => cx.span().end_with_timestamp(at),
            None => cx.span().end(),
        });
        if described.is_none() || !recorded || ended.is_none() {
            losses.span();
        }
    }

    /// Makes an exception event of an error on the span of `cx`, unless another span of the execution
    /// has it. Says whether all went well.
    pub(super) fn record(&self, cx: &Context, about: About<'_>, error: &Error) -> bool {
        let scope = match about {
            About::Run => return true,
            About::Client => None,
            About::Execution(scope) | About::Step(scope, _) => Some(scope),
        };
        let step = match about {
            About::Step(_, name) => Some(name),
            _ => error.step_name(),
        };
        if scope.is_some_and(|scope| scope.progress.has_recorded(step, error)) {
            return true;
        }
        let recorded = self.losses.contain(|| {
            let span = cx.span();
            if span.is_recording() {
                span.add_event(event::EXCEPTION, exception(error, self.config.errors));
            }
            // One that is recorded without being sampled is exported by nobody.
            span.is_recording() && scope.is_some_and(|scope| scope.is_kept(&span))
        });
        if let (Some(true), Some(scope)) = (recorded, scope) {
            scope.progress.record(step, error);
        }
        recorded.is_some()
    }

    /// Ends the span of a step that was dropped.
    pub(super) fn end_dropped(&self, scope: &RunScope, step: &DroppedStep, cause: Cause) {
        let outcome = KeyValue::new(attribute::STEP_OUTCOME, "canceled");
        let mut ending = match cause {
            Cause::GivenUp => Ending::given_up(outcome),
            Cause::Failure => Ending::interrupted(Some(outcome), EXECUTION_FAILED),
        };
        let about = About::Step(scope, &step.name);
        self.end_span(&step.cx, about, &mut ending, Some(step.at));
    }

    /// The workflow's code went on after what it dropped so far.
    #[inline]
    pub(super) fn went_on(&self, scope: &RunScope) {
        if scope.progress.any_dropped() {
            self.gave_up(scope);
        }
    }

    #[cold]
    fn gave_up(&self, scope: &RunScope) {
        for step in scope.progress.take_all() {
            self.end_dropped(scope, &step, Cause::GivenUp);
        }
    }

    pub(super) fn ended(&self, scope: &RunScope, cause: Cause) {
        for step in scope.progress.end(cause).into_iter().flatten() {
            self.end_dropped(scope, &step, cause);
        }
    }

    /// A step failed, perhaps where no span of ours could see it.
    pub(crate) fn step_failed(&self, execution: &Execution, step_name: &str, error: &Error) {
        let known = self.executions().get(&address_of(execution)).cloned();
        let Some(cx) = known else { return };
        let Some(scope) = RunScope::of(&cx) else {
            return;
        };
        let about = About::Step(scope, step_name);
        // The step's own span, if an interceptor further out has just dropped it.
        if let Some(step) = scope.progress.take(step_name) {
            let mut ending = outcome::failed_step(step.waits, error);
            self.end_span(&step.cx, about, &mut ending, Some(step.at));
        } else {
            self.record(&cx, about, error);
        }
    }

    pub(crate) fn departed(
        &self,
        execution: &Execution,
        asked: Option<&str>,
        recorded: Option<&str>,
    ) {
        let known = self.executions().get(&address_of(execution)).cloned();
        let Some(cx) = known else { return };
        let attributes = [
            (attribute::STEP_NAME, asked),
            (attribute::STEP_RECORDED_NAME, recorded),
        ];
        // Whose names these are is not told: a signal's may be among them.
        let shown = self.config.signal_names == SignalNames::Shown;
        let attributes = attributes.into_iter().filter(|_| shown);
        let attributes =
            attributes.filter_map(|(key, name)| Some(KeyValue::new(key, name?.to_owned())));
        let attributes = attributes.collect();
        // Where the execution has no span of its own, this one is its creator's, which records nothing.
        self.losses
            .contain(|| cx.span().add_event(event::NON_DETERMINISM, attributes));
    }

    /// Leaves the span of an execution open until the engine tells what was written.
    pub(super) fn leave_open(&self, execution: &Arc<Execution>, cx: Context) {
        self.keep_unwritten(execution, Unended { cx, open: true });
    }

    /// Keeps the context of an execution whose span has ended, or has none, for what is logged about it
    /// until the engine tells what was written.
    pub(super) fn keep(&self, execution: &Arc<Execution>, cx: Context) {
        self.keep_unwritten(execution, Unended { cx, open: false });
    }

    fn keep_unwritten(&self, execution: &Arc<Execution>, unended: Unended) {
        let mut unwritten = lock(&self.unwritten);
        let all = unwritten.entry(address_of(execution)).or_default();
        all.push(unended);
    }

    /// The span of an execution that is over, as long as it is open.
    #[cfg(feature = "metrics")]
    pub(crate) fn unwritten_span(&self, execution: &Execution) -> Option<SpanContext> {
        let unwritten = lock(&self.unwritten);
        let unended = unwritten.get(&address_of(execution))?.last()?;
        unended
            .open
            .then(|| unended.cx.span().span_context().clone())
    }

    pub(crate) fn execution_ended(
        &self,
        execution: &Execution,
        written: &Result<&ExecutionOutcome, Unwritten<'_>>,
    ) {
        let spans = lock(&self.unwritten).remove(&address_of(execution));
        let open = spans.into_iter().flatten().filter(|unended| unended.open);
        for Unended { cx, .. } in open {
            let about = RunScope::of(&cx).map_or(About::Client, |scope| About::Execution(scope));
            self.end_span(&cx, about, &mut outcome::of_write(written), None);
        }
        self.wrote(execution, written);
    }
}
