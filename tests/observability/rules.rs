//! What promtool says of the rules, and what they name.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use openworkflow::otel::{attribute, metric};
use openworkflow_tests::prometheus::Prometheus;
use serde_json::Value;

use crate::names::Names;
use crate::{board, docs, programs};

/// The instruments, in code. What rules and board name is one of these, or recorded by a rule.
const INSTRUMENTS: [&str; 23] = [
    metric::WORKFLOW_RUNS_CREATED,
    metric::WORKFLOW_EXECUTIONS,
    metric::WORKFLOW_EXECUTION_DURATION,
    metric::WORKFLOW_DURATION,
    metric::WORKFLOW_QUEUE_DURATION,
    metric::ACTIVE_WORKFLOWS,
    metric::STEP_DURATION,
    metric::STEP_RETRIES,
    metric::STEP_REPLAYED,
    metric::SIGNAL_SENT,
    metric::WORKFLOW_LEASE_LOST,
    metric::WORKFLOW_TELEMETRY_LOST,
    metric::OTEL_SDK_PROCESSOR_SPAN_PROCESSED,
    metric::OTEL_SDK_PROCESSOR_SPAN_QUEUE_SIZE,
    metric::OTEL_SDK_EXPORTER_SPAN_EXPORTED,
    metric::OTEL_SDK_PROCESSOR_LOG_PROCESSED,
    metric::OTEL_SDK_PROCESSOR_LOG_QUEUE_SIZE,
    metric::OTEL_SDK_EXPORTER_LOG_EXPORTED,
    metric::OTEL_SDK_EXPORTER_METRIC_DATA_POINT_EXPORTED,
    metric::WORKFLOW_WORKER_SLOTS,
    metric::WORKFLOW_QUEUE_DEPTH,
    metric::WORKFLOW_QUEUE_OLDEST,
    metric::OPENWORKFLOW_WORKFLOW_RUNS,
];
/// The attributes on metrics, in code.
const ATTRIBUTES: [&str; 13] = [
    attribute::WORKFLOW_NAME,
    attribute::WORKFLOW_OUTCOME,
    attribute::WORKFLOW_CHILD,
    attribute::WORKFLOW_RUN_STATUS,
    attribute::STEP_NAME,
    attribute::STEP_KIND,
    attribute::STEP_OUTCOME,
    attribute::SIGNAL_DELIVERED,
    attribute::REASON,
    attribute::ITEM,
    attribute::ERROR_TYPE,
    attribute::STATE,
    attribute::STATUS,
];
/// Prometheus's own, and those that the rules make.
const LABELS: [&str; 8] = [
    "alertname",
    "alertstate",
    "instance",
    "job",
    "le",
    "severity",
    "signal",
    "where",
];

/// The rules are well-formed, and their unit tests pass: `rules_test.yml` says when each alert fires.
#[test]
fn promtool_passes_the_rules_and_their_tests() {
    for (test, file) in [("check", "rules.yml"), ("test", "rules_test.yml")] {
        let told = Command::new(&programs().promtool)
            .args([test, "rules"])
            .arg(docs(file))
            .output()
            .expect("promtool runs");
        let (out, err) = (
            String::from_utf8_lossy(&told.stdout),
            String::from_utf8_lossy(&told.stderr),
        );
        assert!(told.status.success(), "{test} {file}:\n{out}{err}");
        assert!(out.contains("SUCCESS"), "{test} {file}:\n{out}{err}");
    }
}

/// Every metric and label of rules and board is one of ours, or made by a rule; and every alert leads to a
/// section of the page.
#[tokio::test]
async fn rules_and_board_name_what_there_is() {
    let prometheus = Prometheus::start(programs(), &[], &docs("rules.yml")).await;
    let rules = prometheus.ask("rules", &[]).await.unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap().iter();
    let rules: Vec<_> = groups
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    let recorded: BTreeSet<_> = rules
        .iter()
        .filter(|rule| rule["type"] == "recording")
        .map(|rule| rule["name"].as_str().unwrap())
        .collect();
    let alerts = rules.iter().filter(|rule| rule["type"] == "alerting");
    alerts.for_each(|alert| is_explained(alert));

    let of_rules = rules
        .iter()
        .map(|rule| rule["query"].as_str().unwrap().to_owned());
    let of_board = board::queries().into_iter().map(|(_, query)| query);
    for query in of_rules.chain(of_board) {
        let names = Names::of(&query);
        for metric in names.metrics {
            let known = metric == "ALERTS"
                || recorded.contains(metric.as_str())
                || INSTRUMENTS
                    .iter()
                    .any(|instrument| is_of(&metric, instrument));
            assert!(known, "{metric} in {query}");
        }
        for label in names.labels {
            let known = LABELS.contains(&&*label)
                || ATTRIBUTES
                    .iter()
                    .any(|attribute| attribute.replace('.', "_") == label);
            assert!(known, "{label} in {query}");
        }
    }
}

fn is_explained(alert: &Value) {
    let name = alert["name"].as_str().unwrap();
    let page = fs::read_to_string(docs("README.md")).unwrap();
    assert!(
        page.contains(&format!("### {name}\n")),
        "{name} has a section on the page"
    );
    let runbook = alert["annotations"]["runbook"].as_str().unwrap();
    let section = format!("docs/observability/README.md#{}", name.to_lowercase());
    assert_eq!(runbook, section);
}

/// Whether an exporter makes `metric` of `instrument`, by OpenTelemetry's rules.
fn is_of(metric: &str, instrument: &str) -> bool {
    let suffix = metric.strip_prefix(&instrument.replace('.', "_"));
    let suffixes = [
        "",
        "_total",
        "_seconds",
        "_seconds_bucket",
        "_seconds_count",
        "_seconds_sum",
    ];
    suffix.is_some_and(|suffix| suffixes.contains(&suffix))
}
