//! A span around a future: current while it is polled and while it is dropped, ended once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Task, Poll};
use std::time::SystemTime;

use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, KeyValue};
use workflow_core::{Interruption, Next, NextFuture, Result};

use super::end::About;
use super::outcome::{Concluded, Ending};
use super::{Traces, call};
use crate::context::progress::{Cause, DroppedStep};
use crate::context::scope::{RunScope, StepScope};
use crate::names::attribute;
use crate::outcomes;

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
    pub(crate) traces: &'a Traces,
    pub(crate) cx: Context,
    pub(crate) recording: bool,
    /// Whether the span is to be ended by what the engine writes.
    pub(crate) left_open: bool,
    pub(crate) subject: Subject,
}

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
            self.traces.end_span(&self.cx, about, &mut ending, None);
        }
    }

    /// Ends the span of a call that came to its end; that of an execution once the engine tells what
    /// was written, where it is going to.
    fn conclude<C: Concluded>(&mut self, result: &Result<C::Output>) {
        if let Subject::Execution(scope) = &self.subject {
            self.traces.ended(scope, C::cause(result));
            if self.recording && scope.execution.end_is_promised() {
                if let Some(error) = C::error(result) {
                    self.traces.record(&self.cx, About::Execution(scope), error);
                }
                return self.leave_open();
            }
        }
        if self.recording {
            if let (Subject::Creation(id), Some(created)) = (&mut self.subject, C::created(result))
            {
                *id = Arc::clone(created);
            }
            let waits = matches!(self.subject, Subject::Step { waits: true, .. });
            self.end(C::conclude(result, waits));
        }
    }

    fn leave_open(&mut self) {
        if let Subject::Execution(scope) = &self.subject {
            self.traces.leave_open(&scope.execution, self.cx.clone());
            self.recording = false;
            self.left_open = true;
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
                let (outcome, reason) = outcomes::of_interruption(reason_of(scope));
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
                        let losses = &self.traces.losses;
                        losses.contain(|| self.cx.span().set_attribute(created));
                    }
                    if let Some((step, cause)) = scope.progress.keep(step) {
                        self.traces.end_dropped(scope, &step, cause);
                    }
                    return;
                }
                let (outcome, reason) = outcomes::of_interruption(reason_of(scope));
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
            self.traces.ended(scope, Cause::Failure);
            if !self.left_open && scope.execution.end_is_promised() && StepScope::wanted() {
                self.traces.keep(&scope.execution, self.cx.clone());
            }
            self.traces.forget(scope);
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
                    this.open.traces.went_on(scope);
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
