//! A span around a future: current while it is polled and while it is dropped, ended once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Task, Poll, ready};

use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use workflow_core::{Interruption, Next, NextFuture, Result};

use crate::config::{ErrorDetail, SuccessStatus};
use crate::interceptor::Inner;
use crate::names::{attribute, event};
use crate::outcome::{Concluded, Ending};
use crate::scope::RunScope;

/// What a span is about, for the case that it is dropped.
pub(crate) enum Subject {
    /// A client's call.
    Client,
    /// A client's creation of a run whose id is certain only afterwards; the id that was asked for.
    Creation(Arc<str>),
    Execution(Arc<RunScope>),
    Step {
        scope: Arc<RunScope>,
        /// Whether it waits for something, and so can time out.
        waits: bool,
    },
}

/// A span that was started, or (not recording) a context that takes its place.
pub(crate) struct OpenSpan<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) cx: Context,
    pub(crate) recording: bool,
    pub(crate) subject: Subject,
}

impl OpenSpan<'_> {
    /// Ends the span as the call ended.
    fn end(&mut self, ending: Ending<'_>) {
        if !std::mem::take(&mut self.recording) {
            return;
        }
        let Inner { config, losses, .. } = self.inner;
        let described = losses.contain(|| {
            let span = self.cx.span();
            for attribute in ending.attributes.into_iter().flatten() {
                span.set_attribute(attribute);
            }
            if let Some(error) = ending.error {
                let error_type = error.error_type().to_owned();
                let description = match config.errors {
                    ErrorDetail::Full => crate::outcome::message(error).to_owned(),
                    ErrorDetail::TypeOnly => error_type.clone(),
                };
                span.set_attribute(KeyValue::new(attribute::ERROR_TYPE, error_type));
                if ending.with_event {
                    span.add_event(
                        event::EXCEPTION,
                        crate::outcome::exception(error, config.errors),
                    );
                }
                span.set_status(Status::error(description));
            } else if let Some(interruption) = ending.interrupted {
                span.set_attribute(KeyValue::new(attribute::ERROR_TYPE, interruption));
                span.set_status(Status::error(interruption));
            } else if ending.succeeded && config.success == SuccessStatus::Ok {
                span.set_status(Status::Ok);
            }
        });
        let ended = losses.contain(|| self.cx.span().end());
        if described.is_none() || ended.is_none() {
            losses.span();
        }
    }

    /// Ends the span of a call that was dropped before it ended.
    fn abandon(&mut self) {
        let ending = match &self.subject {
            Subject::Client => Ending::interrupted(None, Interruption::Canceled.as_str()),
            Subject::Creation(asked) => Ending::interrupted(
                Some(KeyValue::new(attribute::WORKFLOW_RUN_ID, Arc::clone(asked))),
                Interruption::Canceled.as_str(),
            ),
            Subject::Execution(scope) => {
                let (outcome, reason) = interruption(scope);
                let outcome = KeyValue::new(attribute::WORKFLOW_OUTCOME, outcome);
                Ending::interrupted(Some(outcome), reason)
            }
            Subject::Step { scope, .. } => {
                let dropped_with_execution = scope.dropping.load(Ordering::Relaxed)
                    || scope.execution.interruption().is_some();
                let (outcome, reason) = if dropped_with_execution {
                    let (outcome, reason) = interruption(scope);
                    (outcome, Some(reason))
                } else {
                    // The workflow's own code gave it up, in a `select!` for one. That is no error.
                    ("canceled", None)
                };
                let outcome = KeyValue::new(attribute::STEP_OUTCOME, outcome);
                match reason {
                    Some(reason) => Ending::interrupted(Some(outcome), reason),
                    None => Ending::given_up(outcome),
                }
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
            self.inner.forget(scope);
        }
    }
}

/// The outcome of an execution that was dropped, and its `error.type`.
fn interruption(scope: &RunScope) -> (&'static str, &'static str) {
    // A future dropped without a word is one whose runtime was torn down.
    let reason = scope.execution.interruption();
    let reason = reason.unwrap_or(Interruption::WorkerStopped);
    let outcome = match reason {
        Interruption::Canceled => "canceled",
        Interruption::DeadlineExceeded => "failed",
        _ => "stale",
    };
    (outcome, reason.as_str())
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
        let result = {
            let _current = this.open.cx.clone().attach();
            let Some(rest) = &mut this.rest else {
                return Poll::Pending;
            };
            let result = ready!(Pin::new(rest).poll(task));
            this.rest = None;
            result
        };
        if this.open.recording {
            let ending = C::conclude(&result, &this.open.subject);
            this.open.end(ending);
        }
        Poll::Ready(result)
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
