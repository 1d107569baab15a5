//! What the end of each call says on its span.

use std::sync::Arc;

use opentelemetry::KeyValue;
use workflow_core::{
    Call, CancelRun, CreateRun, CreatedRun, Error, ExecuteRun, ExecutionOutcome, Interruption,
    Result, SendSignal, SentSignal, StepCall, StepOutcome, Unwritten,
};

use crate::config::ErrorDetail;
use crate::context::progress::Cause;
use crate::names::attribute;
use crate::outcomes;

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
    /// Why the call was dropped, where that is an error.
    pub(crate) interrupted: Option<&'static str>,
}

impl<'e> Ending<'e> {
    pub(crate) fn success(attribute: Option<KeyValue>) -> Self {
        Self {
            attributes: [attribute, None],
            succeeded: true,
            ..Self::default()
        }
    }

    pub(crate) fn failure(attribute: Option<KeyValue>, error: &'e Error) -> Self {
        Self {
            attributes: [attribute, None],
            error: Some(error),
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
    /// `waits` tells of a step whether it waits for something, and so can time out.
    fn conclude<'e>(result: &'e Result<Self::Output>, waits: bool) -> Ending<'e>;

    /// The error that the call came to.
    fn error(result: &Result<Self::Output>) -> Option<&Error> {
        result.as_ref().err()
    }

    /// The run that the call created, or found.
    fn created(_: &Result<Self::Output>) -> Option<&Arc<str>> {
        None
    }

    /// Why what was dropped in the end was dropped.
    fn cause(result: &Result<Self::Output>) -> Cause {
        match result {
            Ok(_) => Cause::GivenUp,
            Err(_) => Cause::Failure,
        }
    }
}

impl Concluded for CreateRun {
    fn conclude<'e>(result: &'e Result<CreatedRun>, _: bool) -> Ending<'e> {
        match result {
            Ok(_) => Ending::success(None),
            Err(error) => Ending::failure(None, error),
        }
    }

    fn created(result: &Result<CreatedRun>) -> Option<&Arc<str>> {
        result.as_ref().ok().map(|created| &created.run_id)
    }
}

impl Concluded for CancelRun {
    fn conclude<'e>(result: &'e Result<()>, _: bool) -> Ending<'e> {
        match result {
            Ok(()) => Ending::success(None),
            Err(error) => Ending::failure(None, error),
        }
    }
}

impl Concluded for SendSignal {
    fn conclude<'e>(result: &'e Result<SentSignal>, _: bool) -> Ending<'e> {
        match result {
            Ok(sent) => Ending::success(Some(recipients(sent.run_ids.len()))),
            Err(error) => Ending::failure(None, error),
        }
    }
}

impl Concluded for ExecuteRun {
    fn conclude<'e>(result: &'e Result<ExecutionOutcome>, _: bool) -> Ending<'e> {
        match result {
            Ok(outcome) => of_outcome(outcome),
            Err(error) => Ending::failure(outcome(outcomes::of_refused(error)), error),
        }
    }

    fn error(result: &Result<ExecutionOutcome>) -> Option<&Error> {
        match result {
            Ok(outcome) => outcome.error(),
            Err(error) => Some(error),
        }
    }

    fn cause(result: &Result<ExecutionOutcome>) -> Cause {
        match result {
            // A step's failure that is to be tried again: the code itself is not at its end.
            Ok(ExecutionOutcome::Retrying { error, .. }) if error.step_name().is_some() => {
                Cause::GivenUp
            }
            Ok(ExecutionOutcome::Retrying { .. } | ExecutionOutcome::Failed { .. }) | Err(_) => {
                Cause::Failure
            }
            Ok(_) => Cause::GivenUp,
        }
    }
}

fn outcome(word: &'static str) -> Option<KeyValue> {
    Some(KeyValue::new(attribute::WORKFLOW_OUTCOME, word))
}

fn of_outcome(of: &ExecutionOutcome) -> Ending<'_> {
    let word = outcomes::of_execution(of).and_then(outcome);
    if let Some(error) = of.error() {
        return Ending::failure(word, error);
    }
    let mut ending = Ending::success(word);
    if let ExecutionOutcome::Continued { run_id } = of {
        let run_id = Arc::clone(run_id);
        ending.attributes[1] = Some(KeyValue::new(attribute::WORKFLOW_RUN_CONTINUED_AS, run_id));
    }
    ending
}

/// What the last write says of an execution.
pub(crate) fn of_write<'e>(written: &Result<&'e ExecutionOutcome, Unwritten<'e>>) -> Ending<'e> {
    match written {
        Ok(outcome) => of_outcome(outcome),
        Err(Unwritten::Failed(error)) => Ending::failure(outcome(outcomes::STALE), error),
        Err(Unwritten::Interrupted(reason)) => {
            let (word, reason) = outcomes::of_interruption(*reason);
            Ending::interrupted(outcome(word), reason)
        }
        Err(_) => Ending::interrupted(outcome(outcomes::STALE), Interruption::LeaseLost.as_str()),
    }
}

impl Concluded for StepCall {
    fn conclude<'e>(result: &'e Result<StepOutcome>, waits: bool) -> Ending<'e> {
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => return failed_step(waits, error),
        };
        let word = outcomes::of_step(outcome);
        let word = word.map(|word| KeyValue::new(attribute::STEP_OUTCOME, word));
        let mut ending = Ending::success(word);
        if let StepOutcome::SignalSent { run_ids } = outcome {
            ending.attributes[1] = Some(recipients(run_ids.len()));
        }
        ending
    }
}

/// A step that failed; one that `waits` for something can have timed out.
pub(crate) fn failed_step(waits: bool, error: &Error) -> Ending<'_> {
    let outcome = outcomes::of_failed_step(waits, error);
    Ending::failure(Some(KeyValue::new(attribute::STEP_OUTCOME, outcome)), error)
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
