//! What each call looks like as a span: its name, kind and attributes.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use workflow_core::{
    Execution, LostExecution, RunInfo, SendSignal, StepCall, StepKind, StepPhase, WakeCause,
};

use super::time::rfc3339;
use crate::config::SignalNames;
use crate::names::{attribute, operation};

/// Room for what is known only when the span ends, so that the attributes are allocated once.
const ROOM_FOR_THE_END: usize = 2;

/// A span's name: an operation and what it is about, if that is known. Without `format!`, whose cost
/// would show.
pub(crate) fn name(operation: &str, about: &str) -> String {
    if about.is_empty() {
        return operation.to_owned();
    }
    let mut name = String::with_capacity(operation.len() + 1 + about.len());
    name.push_str(operation);
    name.push(' ');
    name.push_str(about);
    name
}

/// The attributes of a run. `with_id` is false where it is yet to be created: an interceptor further in
/// can change its id, and a key can find another.
pub(crate) fn run_attributes(run: &RunInfo, with_id: bool) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(10 + ROOM_FOR_THE_END);
    if !run.workflow_name.is_empty() {
        all.push(KeyValue::new(
            attribute::WORKFLOW_NAME,
            Arc::clone(&run.workflow_name),
        ));
    }
    if let Some(version) = &run.workflow_version {
        all.push(KeyValue::new(
            attribute::WORKFLOW_VERSION,
            Arc::clone(version),
        ));
    }
    if with_id {
        all.push(KeyValue::new(
            attribute::WORKFLOW_RUN_ID,
            Arc::clone(&run.id),
        ));
    }
    all.push(namespace(&run.namespace_id));
    all
}

/// The attributes of an execution, which are also those that its steps begin with.
pub(crate) fn execution_attributes(execution: &Execution) -> Vec<KeyValue> {
    let Execution {
        run,
        attempt,
        replay,
        worker_id,
        ..
    } = execution;
    attempt_attributes(run, *attempt, *replay, worker_id)
}

fn attempt_attributes(
    run: &RunInfo,
    attempt: u32,
    replay: bool,
    worker_id: &Arc<str>,
) -> Vec<KeyValue> {
    let mut all = run_attributes(run, true);
    let attempt = i64::from(attempt);
    all.push(KeyValue::new(attribute::WORKFLOW_RUN_ATTEMPT, attempt));
    all.push(KeyValue::new(attribute::WORKFLOW_RUN_REPLAY, replay));
    all.push(KeyValue::new(attribute::WORKER_ID, Arc::clone(worker_id)));
    all
}

/// The attributes of an execution whose worker is gone.
pub(crate) fn lost_attributes(run: &RunInfo, lost: &LostExecution) -> Vec<KeyValue> {
    let mut all = attempt_attributes(run, lost.attempt, lost.replay, &lost.worker_id);
    all.extend(waking(lost.due_for, lost.woken_by));
    all
}

/// How an execution came about: on its own span alone.
pub(crate) fn waking(
    due_for: Option<Duration>,
    woken_by: Option<WakeCause>,
) -> impl Iterator<Item = KeyValue> {
    let queued =
        due_for.map(|d| KeyValue::new(attribute::WORKFLOW_RUN_QUEUE_DURATION, d.as_secs_f64()));
    let cause = woken_by.map(|by| KeyValue::new(attribute::WORKFLOW_RUN_WOKEN_BY, by.as_str()));
    queued.into_iter().chain(cause)
}

pub(crate) fn signal_attributes(call: &SendSignal, names: SignalNames) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(2 + ROOM_FOR_THE_END);
    all.push(namespace(&call.namespace_id));
    all.extend(signal(&call.signal, names));
    all
}

fn signal(name: &Arc<str>, names: SignalNames) -> Option<KeyValue> {
    let shown = names == SignalNames::Shown;
    shown.then(|| KeyValue::new(attribute::SIGNAL_NAME, Arc::clone(name)))
}

fn namespace(id: &Arc<str>) -> KeyValue {
    KeyValue::new(attribute::WORKFLOW_RUN_NAMESPACE_ID, Arc::clone(id))
}

pub(crate) fn step_name(call: &StepCall) -> String {
    match &call.kind {
        StepKind::Run => name(operation::STEP_RUN, &call.name),
        StepKind::Sleep { .. } => name(operation::STEP_SLEEP, &call.name),
        StepKind::RunWorkflow { .. } => name(operation::STEP_RUN_WORKFLOW, &call.name),
        // Where the author chose no name it is the signal's, which often holds an id.
        StepKind::SendSignal { .. } => name(operation::STEP_SEND_SIGNAL, chosen_name(call)),
        StepKind::WaitForSignal { .. } => name(operation::STEP_WAIT_FOR_SIGNAL, chosen_name(call)),
        other => format!("step.{} {}", other.as_str(), call.name),
    }
}

fn chosen_name(call: &StepCall) -> &str {
    if call.named { &call.name } else { "" }
}

/// The step's name, unless that is a signal's which is not to be shown.
pub(crate) fn shown_name(call: &StepCall, names: SignalNames) -> Option<&Arc<str>> {
    (names == SignalNames::Shown || !call.is_named_after_signal()).then_some(&call.name)
}

pub(crate) fn step_span_kind(call: &StepCall) -> SpanKind {
    match (&call.kind, call.phase) {
        (StepKind::RunWorkflow { .. }, StepPhase::Start) | (StepKind::SendSignal { .. }, _) => {
            SpanKind::Producer
        }
        _ => SpanKind::Internal,
    }
}

/// The id that a step is about to create a child under. Which run it comes to is certain only
/// afterwards: one that an execution before created may be found instead.
pub(crate) fn uncertain_child(call: &StepCall) -> Option<&Arc<str>> {
    match &call.kind {
        StepKind::RunWorkflow { run_id, .. } if call.phase == StepPhase::Start => Some(run_id),
        _ => None,
    }
}

pub(crate) fn child(run_id: &Arc<str>) -> KeyValue {
    KeyValue::new(attribute::CHILD_WORKFLOW_RUN_ID, Arc::clone(run_id))
}

/// The attributes of a step, after those of its `execution`.
pub(crate) fn step_attributes(
    call: &StepCall,
    execution: &[KeyValue],
    names: SignalNames,
) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(execution.len() + 8 + ROOM_FOR_THE_END);
    all.extend_from_slice(execution);
    if let Some(name) = shown_name(call, names) {
        all.push(KeyValue::new(attribute::STEP_NAME, Arc::clone(name)));
    }
    all.push(KeyValue::new(attribute::STEP_KIND, call.kind.as_str()));
    all.push(KeyValue::new(
        attribute::STEP_ATTEMPT_ID,
        Arc::clone(&call.attempt_id),
    ));
    all.push(KeyValue::new(
        attribute::STEP_ATTEMPT_PRIOR_FAILURES,
        i64::from(call.prior_failures),
    ));
    if let Some(parked_for) = call.parked_for {
        let seconds = parked_for.as_secs_f64();
        all.push(KeyValue::new(attribute::STEP_PARKED_DURATION, seconds));
    }
    match &call.kind {
        StepKind::Sleep { resume_at, .. } => all.push(KeyValue::new(
            attribute::STEP_RESUME_AT,
            rfc3339(*resume_at),
        )),
        StepKind::RunWorkflow {
            workflow_name,
            run_id,
            timeout_at,
            ..
        } => {
            let name = Arc::clone(workflow_name);
            all.push(KeyValue::new(attribute::CHILD_WORKFLOW_NAME, name));
            if uncertain_child(call).is_none() {
                all.push(child(run_id));
            }
            all.push(KeyValue::new(
                attribute::STEP_TIMEOUT_AT,
                rfc3339(*timeout_at),
            ));
        }
        StepKind::WaitForSignal {
            signal: name,
            timeout_at,
            ..
        } => {
            all.extend(signal(name, names));
            all.push(KeyValue::new(
                attribute::STEP_TIMEOUT_AT,
                rfc3339(*timeout_at),
            ));
        }
        StepKind::SendSignal { signal: name, .. } => all.extend(signal(name, names)),
        _ => {}
    }
    all
}
