//! What the end of each call says on its span.

use std::sync::Arc;

use opentelemetry::KeyValue;
use workflow_core::{
    Call, CancelRun, CreateRun, CreatedRun, Error, ErrorKind, ExecuteRun, ExecutionOutcome, Result,
    SendSignal, SentSignal, StepCall, StepOutcome,
};

use crate::config::{ErrorDetail, SpanSelection};
use crate::names::attribute;
use crate::span::Subject;

/// The most of an error's message that goes onto a span.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;
/// The most of where an error came from.
const MAX_STACK_BYTES: usize = 16 * 1024;

/// What is set on a span when it ends.
#[derive(Default)]
pub(crate) struct Ending<'e> {
    pub(crate) attributes: [Option<KeyValue>; 2],
    pub(crate) succeeded: bool,
    pub(crate) error: Option<&'e Error>,
    /// Whether this span is the innermost of ours that saw the error.
    pub(crate) with_event: bool,
    /// Why the call was dropped, where that is an error.
    pub(crate) interrupted: Option<&'static str>,
}

impl<'e> Ending<'e> {
    fn success(attribute: Option<KeyValue>) -> Self {
        Self {
            attributes: [attribute, None],
            succeeded: true,
            ..Self::default()
        }
    }

    fn failure(attribute: Option<KeyValue>, error: &'e Error) -> Self {
        Self {
            attributes: [attribute, None],
            error: Some(error),
            with_event: true,
            ..Self::default()
        }
    }

    pub(crate) fn interrupted(outcome: Option<KeyValue>, reason: &'static str) -> Self {
        Self {
            attributes: [outcome, None],
            interrupted: Some(reason),
            ..Self::default()
        }
    }

    pub(crate) fn given_up(outcome: KeyValue) -> Self {
        Self {
            attributes: [Some(outcome), None],
            ..Self::default()
        }
    }
}

/// A call whose end is told on a span.
pub(crate) trait Concluded: Call {
    fn conclude<'e>(result: &'e Result<Self::Output>, subject: &Subject) -> Ending<'e>;
}

impl Concluded for CreateRun {
    fn conclude<'e>(result: &'e Result<CreatedRun>, subject: &Subject) -> Ending<'e> {
        let id = match subject {
            Subject::Creation(asked) => {
                let id = result.as_ref().map_or(asked, |created| &created.run_id);
                Some(KeyValue::new(attribute::WORKFLOW_RUN_ID, Arc::clone(id)))
            }
            _ => None,
        };
        match result {
            Ok(_) => Ending::success(id),
            Err(error) => Ending::failure(id, error),
        }
    }
}

impl Concluded for CancelRun {
    fn conclude<'e>(result: &'e Result<()>, _: &Subject) -> Ending<'e> {
        match result {
            Ok(()) => Ending::success(None),
            Err(error) => Ending::failure(None, error),
        }
    }
}

impl Concluded for SendSignal {
    fn conclude<'e>(result: &'e Result<SentSignal>, _: &Subject) -> Ending<'e> {
        match result {
            Ok(sent) => Ending::success(Some(recipients(sent.run_ids.len()))),
            Err(error) => Ending::failure(None, error),
        }
    }
}

impl Concluded for ExecuteRun {
    fn conclude<'e>(result: &'e Result<ExecutionOutcome>, subject: &Subject) -> Ending<'e> {
        let outcome = |word: &'static str| Some(KeyValue::new(attribute::WORKFLOW_OUTCOME, word));
        let (word, error) = match result {
            Ok(ExecutionOutcome::Completed { .. }) => return Ending::success(outcome("completed")),
            Ok(ExecutionOutcome::Parked { .. }) => return Ending::success(outcome("parked")),
            Ok(ExecutionOutcome::Retrying { error, .. }) => ("retrying", error),
            Ok(ExecutionOutcome::Failed { error }) => ("failed", error),
            // An interceptor's: the engine puts the run back into the queue or fails it.
            Err(error) if error.is_retryable() => ("retrying", error),
            Err(error) => ("failed", error),
            Ok(_) => return Ending::success(None),
        };
        let mut ending = Ending::failure(outcome(word), error);
        // A step that failed has it on its own span, be it in this execution or an earlier one.
        let steps = matches!(subject, Subject::Execution(s) if s.selection == SpanSelection::All);
        ending.with_event = !(steps && error.step_name().is_some());
        ending
    }
}

impl Concluded for StepCall {
    fn conclude<'e>(result: &'e Result<StepOutcome>, subject: &Subject) -> Ending<'e> {
        let outcome = |word: &'static str| Some(KeyValue::new(attribute::STEP_OUTCOME, word));
        match result {
            Ok(StepOutcome::Completed { .. }) => Ending::success(outcome("completed")),
            Ok(StepOutcome::Parked { .. }) => Ending::success(outcome("parked")),
            Ok(StepOutcome::TimedOut) => Ending::success(outcome("timed_out")),
            Ok(StepOutcome::SignalSent { run_ids }) => {
                let mut ending = Ending::success(outcome("completed"));
                ending.attributes[1] = Some(recipients(run_ids.len()));
                ending
            }
            Ok(_) => Ending::success(None),
            Err(error) => {
                let waits = matches!(subject, Subject::Step { waits: true, .. });
                let timed_out = waits && error.kind() == ErrorKind::Timeout;
                Ending::failure(
                    outcome(if timed_out { "timed_out" } else { "failed" }),
                    error,
                )
            }
        }
    }
}

fn recipients(count: usize) -> KeyValue {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    KeyValue::new(attribute::SIGNAL_RECIPIENT_COUNT, count)
}

/// The attributes of an `exception` event.
pub(crate) fn exception(error: &Error, detail: ErrorDetail) -> Vec<KeyValue> {
    let name = error.name().to_owned();
    let mut all = vec![KeyValue::new(attribute::EXCEPTION_TYPE, name)];
    if detail == ErrorDetail::Full {
        let message = message(error).to_owned();
        all.push(KeyValue::new(attribute::EXCEPTION_MESSAGE, message));
        if let Some(stack) = error.stack() {
            let stack = truncated(stack, MAX_STACK_BYTES).to_owned();
            all.push(KeyValue::new(attribute::EXCEPTION_STACKTRACE, stack));
        }
    }
    all
}

pub(crate) fn message(error: &Error) -> &str {
    truncated(error.message(), MAX_MESSAGE_BYTES)
}

fn truncated(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
