//! A span around a future: current while it is polled and while it is dropped, ended once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Task, Poll};
use std::time::SystemTime;

use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use workflow_core::{Error, Interruption, Next, NextFuture, Result};

use crate::call;
use crate::config::{ErrorDetail, SuccessStatus};
use crate::interceptor::Inner;
use crate::names::{attribute, event};
use crate::outcome::{Concluded, Ending, exception, interrupted};
use crate::progress::{Cause, DroppedStep};
use crate::scope::RunScope;

/// What a span is about, for the case that it is dropped.
pub(crate) enum Subject {
    /// A client's call.
    Client,
    /// A client's creation of a run. The id that was asked for, and then the one that came of it.
    Creation(Arc<str>),
    Execution(Arc<RunScope>),
    Step {
        scope: Arc<RunScope>,
        name: Arc<str>,
        /// Whether it waits for something, and so can time out.
        waits: bool,
        /// The child that it creates. Boxed, as most steps create none.
        child: Option<Box<Child>>,
    },
}

/// A child run that a step is about to create.
pub(crate) struct Child {
    pub(crate) attempt_id: Arc<str>,
    /// The id under which it was to be created.
    pub(crate) asked: Arc<str>,
}

impl Subject {
    /// The id of the run that a creation came to, as far as that is known.
    fn created(&self) -> Option<KeyValue> {
        match self {
            Self::Creation(id) => Some(KeyValue::new(attribute::WORKFLOW_RUN_ID, Arc::clone(id))),
            Self::Step {
                scope,
                child: Some(child),
                ..
            } => {
                let created = scope.progress.take_child(&child.attempt_id);
                Some(call::child(created.as_ref().unwrap_or(&child.asked)))
            }
            _ => None,
        }
    }
}

/// A span that was started, or (not recording) a context that takes its place.
pub(crate) struct OpenSpan<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) cx: Context,
    pub(crate) recording: bool,
    pub(crate) subject: Subject,
}

/// What a span's end is about: who else of its execution may have the same error.
#[derive(Clone, Copy)]
pub(crate) enum About<'a> {
    Client,
    Execution(&'a RunScope),
    Step(&'a RunScope, &'a str),
}

impl Inner {
    /// Ends the span of `cx`: now, or as of `at`.
    pub(crate) fn end_span(
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
                    ErrorDetail::Full => crate::outcome::message(error).to_owned(),
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
    pub(crate) fn record(&self, cx: &Context, about: About<'_>, error: &Error) -> bool {
        let scope = match about {
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
    pub(crate) fn end_dropped(&self, scope: &RunScope, step: &DroppedStep, cause: Cause) {
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
    pub(crate) fn went_on(&self, scope: &RunScope) {
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

    fn ended(&self, scope: &RunScope, cause: Cause) {
        for step in scope.progress.end(cause).into_iter().flatten() {
            self.end_dropped(scope, &step, cause);
        }
    }
}

/// The `error.type` of a step that was at work when its execution failed.
const EXECUTION_FAILED: &str = "execution_failed";

impl OpenSpan<'_> {
    /// Ends the span as the call ended.
    fn end(&mut self, mut ending: Ending<'_>) {
        if std::mem::take(&mut self.recording) {
            let [_, more] = &mut ending.attributes;
            if more.is_none() {
                *more = self.subject.created();
            }
            let about = match &self.subject {
                Subject::Client | Subject::Creation(_) => About::Client,
                Subject::Execution(scope) => About::Execution(scope),
                Subject::Step { scope, name, .. } => About::Step(scope, name),
            };
            self.inner.end_span(&self.cx, about, &mut ending, None);
        }
    }

    /// Ends the span of a call that came to its end; that of an execution once the engine tells what
    /// was written, where it is going to.
    fn conclude<C: Concluded>(&mut self, result: &Result<C::Output>) {
        if let Subject::Execution(scope) = &self.subject {
            self.inner.ended(scope, C::cause(result));
            if self.recording && scope.execution.end_is_promised() {
                if let Some(error) = C::error(result) {
                    self.inner.record(&self.cx, About::Execution(scope), error);
                }
                return self.leave_open();
            }
        }
        if self.recording {
            if let (Subject::Creation(id), Some(created)) = (&mut self.subject, C::created(result))
            {
                *id = Arc::clone(created);
            }
            self.end(C::conclude(result, &self.subject));
        }
    }

    fn leave_open(&mut self) {
        if let Subject::Execution(scope) = &self.subject {
            self.inner.leave_open(&scope.execution, self.cx.clone());
            self.recording = false;
        }
    }

    /// Ends the span of a call that was dropped before it ended.
    fn abandon(&mut self) {
        let ending = match &self.subject {
            Subject::Client | Subject::Creation(_) => {
                Ending::interrupted(None, Interruption::Canceled.as_str())
            }
            Subject::Execution(scope) => {
                // The engine gives its reasons before it drops anything: this was an interceptor
                // further out, and what is made of that is yet to be told.
                if scope.execution.interruption().is_none() && scope.execution.end_is_promised() {
                    return self.leave_open();
                }
                let (outcome, reason) = interrupted(reason_of(scope));
                let outcome = KeyValue::new(attribute::WORKFLOW_OUTCOME, outcome);
                Ending::interrupted(Some(outcome), reason)
            }
            Subject::Step {
                scope, name, waits, ..
            } => {
                let dropped_with_execution = scope.dropping.load(Ordering::Relaxed);
                let interruption = scope.execution.interruption();
                if interruption.is_none()
                    && (!dropped_with_execution || scope.execution.end_is_promised())
                {
                    let step = DroppedStep {
                        cx: self.cx.clone(),
                        name: Arc::clone(name),
                        waits: *waits,
                        at: SystemTime::now(),
                    };
                    self.recording = false;
                    if let Some(created) = self.subject.created() {
                        let losses = &self.inner.losses;
                        losses.contain(|| self.cx.span().set_attribute(created));
                    }
                    if let Some((step, cause)) = scope.progress.keep(step) {
                        self.inner.end_dropped(scope, &step, cause);
                    }
                    return;
                }
                let (outcome, reason) = interrupted(reason_of(scope));
                let outcome = KeyValue::new(attribute::STEP_OUTCOME, outcome);
                Ending::interrupted(Some(outcome), reason)
            }
        };
        self.end(ending);
    }
}

impl Drop for OpenSpan<'_> {
    fn drop(&mut self) {
        if self.recording {
            self.abandon();
        }
        if let Subject::Execution(scope) = &self.subject {
            self.inner.ended(scope, Cause::Failure);
            self.inner.forget(scope);
        }
    }
}

/// Why an execution was dropped.
fn reason_of(scope: &RunScope) -> Interruption {
    // A future dropped without a word is one whose runtime was torn down.
    let reason = scope.execution.interruption();
    reason.unwrap_or(Interruption::WorkerStopped)
}

/// The rest of a chain, inside a span.
///
/// The API's own `WithContext` has its context current in polls alone: what destructors of a dropped
/// step do would then be part of no trace, or of the wrong one.
pub(crate) struct Scoped<'s, 'n, C: Concluded> {
    // `None` once it has ended. Declared before `open`, whose drop ends the span.
    rest: Option<NextFuture<'n, C>>,
    open: OpenSpan<'s>,
}

impl<'s, 'n, C: Concluded> Scoped<'s, 'n, C> {
    pub(crate) fn new(open: OpenSpan<'s>, next: Next<'n, C>, call: C) -> Self {
        let rest = {
            let _current = open.cx.clone().attach();
            Some(next.run(call))
        };
        Self { rest, open }
    }
}

impl<C: Concluded> Future for Scoped<'_, '_, C> {
    type Output = Result<C::Output>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = {
            let _current = this.open.cx.clone().attach();
            let Some(rest) = &mut this.rest else {
                return Poll::Pending;
            };
            let polled = Pin::new(rest).poll(task);
            if polled.is_ready() {
                this.rest = None;
            }
            polled
        };
        match &polled {
            Poll::Ready(result) => this.open.conclude::<C>(result),
            Poll::Pending => {
                if let Subject::Execution(scope) = &this.open.subject {
                    this.open.inner.went_on(scope);
                }
            }
        }
        polled
    }
}

impl<C: Concluded> Drop for Scoped<'_, '_, C> {
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take() {
            if let Subject::Execution(scope) = &self.open.subject {
                scope.dropping.store(true, Ordering::Relaxed);
            }
            let _current = self.open.cx.clone().attach();
            drop(rest);
        }
    }
}
