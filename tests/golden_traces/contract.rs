//! What holds for every span of ours, whatever the scenario.

use std::collections::BTreeSet;

use openworkflow::otel::ids;
use openworkflow::otel::opentelemetry::Value;
use openworkflow::otel::opentelemetry::trace::{SpanKind, Status};
use openworkflow::otel::opentelemetry_sdk::trace::SpanData;
use openworkflow::otel::testing::SpanCollector;

const RUN: [&str; 3] = [
    "workflow.name",
    "workflow_run.id",
    "workflow_run.namespace_id",
];
const EXECUTION: [&str; 3] = ["workflow_run.attempt", "workflow_run.replay", "worker.id"];
const STEP: [&str; 4] = [
    "step.name",
    "step.kind",
    "step_attempt.id",
    "step_attempt.prior_failures",
];

pub(super) fn check(spans: &SpanCollector) {
    spans.assert_sound();
    for span in spans.spans() {
        if span.instrumentation_scope.name() == "workflow-otel" {
            check_span(&span);
        }
    }
}

fn check_span(span: &SpanData) {
    let name = &*span.name;
    let (operation, subject) = name.split_once(' ').unwrap_or((name, ""));
    let mut keys: BTreeSet<&str> = BTreeSet::new();
    let step_kind = match operation {
        "workflow.start" | "workflow.cancel" => {
            keys.extend(RUN);
            None
        }
        "workflow.run" => {
            keys.extend(RUN);
            keys.insert("workflow_run.status");
            None
        }
        "workflow.execute" => {
            keys.extend(RUN.iter().chain(&EXECUTION));
            keys.insert("workflow.outcome");
            keys.extend(["workflow_run.queue_duration", "workflow_run.woken_by"]);
            None
        }
        "signal.send" => {
            keys.insert("workflow_run.namespace_id");
            keys.insert("signal.name");
            None
        }
        _ => {
            keys.extend(RUN.iter().chain(&EXECUTION).chain(&STEP));
            keys.insert("step.outcome");
            Some(operation)
        }
    };
    match step_kind {
        Some("step.sleep") => keys.extend(["step.resume_at"]),
        Some("step.run_workflow") => {
            keys.extend([
                "child_workflow.name",
                "child_workflow_run.id",
                "step.timeout_at",
            ]);
        }
        Some("step.wait_for_signal") => keys.extend(["signal.name", "step.timeout_at"]),
        Some("step.send_signal") => keys.extend(["signal.name"]),
        Some("step.run") | None => {}
        Some(other) => panic!("{other} is no operation of the contract"),
    }
    if name == "workflow.cancel" {
        // Of a run that does not exist.
        keys.remove("workflow.name");
    }
    let is_there = |key: &str| span.attributes.iter().any(|kv| kv.key.as_str() == key);
    let also = match operation {
        "workflow.execute" => ["workflow_run.continued_as"].as_slice(),
        "step.run_workflow" | "step.wait_for_signal" => ["step.parked_duration"].as_slice(),
        _ => &[],
    };
    keys.extend(also.iter().filter(|key| is_there(key)));
    let failed = matches!(span.status, Status::Error { .. });
    if failed {
        keys.insert("error.type");
    } else if operation.ends_with("send") || operation == "step.send_signal" {
        keys.insert("signal.recipient_count");
    }
    let actual: BTreeSet<&str> = span.attributes.iter().map(|kv| kv.key.as_str()).collect();
    assert_eq!(actual, keys, "the attributes of {name}");

    let text = |key: &str| match span.attributes.iter().find(|kv| kv.key.as_str() == key) {
        Some(kv) => kv.value.to_string(),
        None => String::new(),
    };
    if operation.starts_with("workflow.") {
        assert_eq!(text("workflow.name"), subject);
    }
    if let Some(operation) = step_kind {
        let kind = match operation {
            "step.run" => "function",
            "step.sleep" => "sleep",
            "step.run_workflow" => "workflow",
            "step.wait_for_signal" => "signal-wait",
            _ => "signal-send",
        };
        assert_eq!(text("step.kind"), kind);
        assert!(subject.is_empty() || text("step.name") == subject, "{name}");
        assert_eq!(uuid_like(&text("step_attempt.id")), Ok(()), "{name}");
    }
    if operation != "signal.send" {
        assert_eq!(uuid_like(&text("workflow_run.id")), Ok(()), "{name}");
    }
    for key in [
        "workflow_run.attempt",
        "step_attempt.prior_failures",
        "signal.recipient_count",
    ] {
        if let Some(kv) = span.attributes.iter().find(|kv| kv.key.as_str() == key) {
            assert!(
                matches!(kv.value, Value::I64(_)),
                "{key} of {name} is a number"
            );
        }
    }
    // How long that took is another every time.
    for key in ["workflow_run.queue_duration", "step.parked_duration"] {
        if let Some(kv) = span.attributes.iter().find(|kv| kv.key.as_str() == key) {
            assert!(
                matches!(kv.value, Value::F64(seconds) if (0.0..60.0).contains(&seconds)),
                "{key} of {name} is in seconds: {:?}",
                kv.value
            );
        }
    }
    for key in ["step.resume_at", "step.timeout_at"] {
        let time = text(key);
        assert!(
            time.is_empty() || time.ends_with('Z'),
            "{key} of {name} is in UTC: {time}"
        );
    }

    check_id(span, operation, &text);

    let kind = match (operation, text("step.outcome").as_str()) {
        ("workflow.start" | "signal.send" | "step.send_signal", _) => SpanKind::Producer,
        ("workflow.execute", _) => SpanKind::Consumer,
        // The observation is internal, and only a set-up parks.
        ("step.run_workflow", "parked") => SpanKind::Producer,
        _ => SpanKind::Internal,
    };
    assert_eq!(span.span_kind, kind, "the kind of {name}");
    assert_ne!(span.status, Status::Unset, "the status of {name}");
}

/// The span's id follows from what is in the database.
fn check_id(span: &SpanData, operation: &str, text: &dyn Fn(&str) -> String) {
    let (namespace, run) = (text("workflow_run.namespace_id"), text("workflow_run.id"));
    let Ok(attempt) = text("workflow_run.attempt").parse() else {
        // What a client calls may be about another run in the end.
        return;
    };
    let id = if operation == "workflow.execute" {
        ids::execution(&namespace, &run, attempt)
    } else {
        ids::step(&namespace, &run, attempt, &text("step_attempt.id"))
    };
    assert_eq!(span.span_context.span_id(), id, "the id of {}", span.name);
}

fn uuid_like(text: &str) -> Result<(), String> {
    let well_formed = text.len() == 36 && text.chars().filter(|c| *c == '-').count() == 4;
    if well_formed {
        Ok(())
    } else {
        Err(text.to_owned())
    }
}
