//! The order of the trace contract in three signals, exported by the example and read back from receivers.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use openworkflow::otel::export::Signal;
use openworkflow::otel::ids;
use serde_json::Value;

use crate::receiver::{Receiver, Rotel};
use crate::tree::{text, tree};

const TREE: &str = "\
app.orders.handler server unset
  workflow.start process-order producer ok
    workflow.execute process-order consumer ok
      step.run validate-order internal ok
      step.run_workflow fulfill-shipment producer ok
        workflow.execute fulfill-shipment consumer ok
          step.run reserve-inventory internal ok
          step.run dispatch-courier internal ok
    workflow.execute process-order consumer ok
      step.run_workflow fulfill-shipment internal ok
      step.wait_for_signal internal ok
    workflow.execute process-order consumer ok
      step.wait_for_signal internal ok
      step.sleep cooldown internal ok
    workflow.execute process-order consumer error
      step.run notify-customer internal error * exception
    workflow.execute process-order consumer ok
      step.run notify-customer internal ok
";

/// Runs the example `traced_order` with these variables and no others of OpenTelemetry.
fn traced_order(variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_traced_order"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    said
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    &span["attributes"][key]
}

/// Exports to `endpoint` and reads back from `receiver`, which is there or behind it.
fn check(receiver: &Receiver, endpoint: &str, protocol: &str, direct: bool) {
    let said = traced_order(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=acme%20ltd"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
        ("OTEL_SERVICE_NAME", "code goes before me"),
    ]);
    assert!(said.contains("18 spans were exported"), "{said}");
    // What the receiver itself was sent is there when the program has ended.
    let spans = if direct {
        receiver.spans()
    } else {
        receiver.wait_for(18)
    };

    assert_eq!(tree(&spans), TREE);
    let trace = text(&spans[0], "trace_id");
    let ids: BTreeSet<_> = spans.iter().map(|s| text(s, "span_id")).collect();
    assert_eq!(ids.len(), 18);
    for span in &spans {
        assert_eq!(text(span, "trace_id"), trace);
        assert!(span["start"].as_u64() <= span["end"].as_u64());
        let resource = &span["resource"];
        assert_eq!(text(resource, "service.name"), "orders");
        assert_eq!(text(resource, "deployment.environment.name"), "test");
        assert!(!text(resource, "service.instance.id").is_empty());
        if text(span, "name") != "app.orders.handler" {
            assert_eq!(text(span, "scope"), "workflow-otel");
            assert!(attribute(span, "workflow_run.id").is_string(), "{span}");
            assert_eq!(attribute(span, "workflow_run.namespace_id"), "default");
        }
    }
    let executions: Vec<_> = spans
        .iter()
        .filter(|span| text(span, "name") == "workflow.execute process-order")
        .collect();
    let mut outcomes: Vec<_> = executions
        .iter()
        .map(|span| {
            let attempt: i64 = match attribute(span, "workflow_run.attempt") {
                Value::Number(number) => number.as_i64().unwrap(),
                other => other.as_str().unwrap().parse().unwrap(),
            };
            (
                attempt,
                attribute(span, "workflow.outcome").as_str().unwrap(),
            )
        })
        .collect();
    outcomes.sort_unstable();
    let run = text(&executions[0]["attributes"], "workflow_run.id");
    let derived = (1..=5).map(|attempt| ids::execution("default", run, attempt).to_string());
    let exported = executions
        .iter()
        .map(|span| text(span, "span_id").to_owned());
    let [derived, exported]: [BTreeSet<_>; 2] = [derived.collect(), exported.collect()];
    assert_eq!(exported, derived);
    let expected = ["parked", "parked", "parked", "retrying", "completed"];
    assert_eq!(outcomes, (1..).zip(expected).collect::<Vec<_>>());
    let failed = spans
        .iter()
        .find(|span| span["events"][0].is_object())
        .unwrap();
    let exception = &failed["events"][0]["attributes"];
    assert_eq!(text(exception, "exception.type"), "MailServerDown");
    assert_eq!(
        text(exception, "exception.message"),
        "the mail server does not answer"
    );
    assert_eq!(attribute(failed, "error.type"), "MailServerDown");

    check_counts(receiver);
    check_logs(receiver, trace, &ids);

    if direct {
        let requests = receiver.requests();
        for signal in ["traces", "metrics", "logs"] {
            let request = requests.iter().find(|request| request["signal"] == signal);
            let request = request.expect(signal);
            assert_eq!(text(&request["headers"], "x-tenant"), "acme ltd");
            let agent = text(&request["headers"], "user-agent");
            assert!(agent.contains("workflow-otel/"), "{agent}");
            if protocol == "http/protobuf" {
                assert_eq!(text(request, "path"), format!("/v1/{signal}"));
                assert_eq!(text(&request["headers"], "content-encoding"), "gzip");
            }
        }
    }
}

/// The metrics of the order, as they are at its end.
fn check_counts(receiver: &Receiver) {
    let expected = [
        "workflow.runs.created fulfill-shipment = 1",
        "workflow.runs.created process-order = 1",
        "workflow.executions fulfill-shipment completed = 1",
        "workflow.executions process-order completed = 1",
        "workflow.executions process-order parked = 3",
        "workflow.executions process-order retrying = 1",
        "step.retries process-order = 1",
    ];
    let start = Instant::now();
    loop {
        let points = receiver.items(Signal::Metrics);
        let mut latest = BTreeMap::new();
        for point in &points {
            assert_eq!(text(&point["resource"], "service.name"), "orders");
            let attributes = &point["attributes"];
            let words = ["workflow.name", "workflow.outcome"];
            let words = words.map(|word| attributes[word].as_str().unwrap_or(""));
            let key = format!("{} {}", text(point, "name"), words.join(" ").trim());
            let at = (point["time"].as_u64(), point["value"].as_u64());
            let last = latest.entry(key).or_insert(at);
            *last = at.max(*last);
        }
        let counts = latest
            .into_iter()
            .filter_map(|(key, (_, count))| Some(format!("{key} = {}", count?)));
        let counts: BTreeSet<_> = counts.collect();
        let missing: Vec<_> = expected
            .iter()
            .filter(|count| !counts.contains(**count))
            .collect();
        if missing.is_empty() {
            return;
        }
        // One that is passed on may be under way.
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{missing:?} not in {counts:#?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The ends of the executions, logged in their order, with the ids of the trace.
fn check_logs(receiver: &Receiver, trace: &str, spans: &BTreeSet<&str>) {
    let ends = |records: &[Value]| -> Vec<String> {
        let mut ends: Vec<_> = records
            .iter()
            .filter(|record| record["name"] == "execution.end")
            .filter(|record| attribute(record, "workflow.name") == "process-order")
            .map(|record| {
                (
                    record["time"].as_u64(),
                    attribute(record, "workflow.outcome"),
                )
            })
            .collect();
        ends.sort_by_key(|(time, _)| *time);
        let outcomes = ends.into_iter();
        outcomes
            .map(|(_, outcome)| outcome.as_str().unwrap().to_owned())
            .collect()
    };
    let expected = ["parked", "parked", "parked", "retrying", "completed"];
    let start = Instant::now();
    let records = loop {
        let records = receiver.items(Signal::Logs);
        if ends(&records) == expected {
            break records;
        }
        let ends = ends(&records);
        assert!(start.elapsed() < Duration::from_secs(30), "{ends:?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let within: Vec<_> = records
        .iter()
        .filter(|record| !text(record, "trace_id").is_empty())
        .collect();
    assert!(!within.is_empty(), "{records:?}");
    for record in within {
        assert_eq!(text(&record["resource"], "service.name"), "orders");
        assert_eq!(text(record, "trace_id"), trace, "{record}");
        assert!(spans.contains(text(record, "span_id")), "{record}");
    }
}

#[test]
fn arrives() {
    // Side by side: an order takes three seconds, most of it asleep.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let receiver = Receiver::start();
            check(&receiver, &receiver.http(), "http/protobuf", true);
        });
        scope.spawn(|| {
            let receiver = Receiver::start();
            check(&receiver, &receiver.grpc(), "grpc", true);
        });
    });
}

#[test]
fn goes_through_a_collector() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let receiver = Receiver::start();
            let rotel = Rotel::start(&receiver);
            check(&receiver, &rotel.http, "http/protobuf", false);
        });
        scope.spawn(|| {
            let receiver = Receiver::start();
            let rotel = Rotel::start(&receiver);
            check(&receiver, &rotel.grpc, "grpc", false);
        });
    });
}

#[test]
fn nothing_is_sent_where_telemetry_is_switched_off() {
    let receiver = Receiver::start();
    let endpoint = receiver.http();
    std::thread::scope(|scope| {
        let switched_off = [
            vec![("OTEL_SDK_DISABLED", "true")],
            vec![
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "none"),
                ("OTEL_LOGS_EXPORTER", "none"),
            ],
        ];
        for mut variables in switched_off {
            variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()));
            scope.spawn(move || {
                let said = traced_order(&variables);
                assert!(said.contains("Receipt"), "{said}");
                assert!(said.contains("telemetry was off"), "{said}");
            });
        }
    });
    assert_eq!(receiver.requests(), Vec::<Value>::new());
}
