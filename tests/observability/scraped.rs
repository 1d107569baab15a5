//! A real worker, scraped by a real Prometheus.

use std::collections::BTreeSet;
use std::fs;

use openworkflow::otel::{attribute, metric};
use openworkflow_tests::prometheus::{Prometheus, Sample};

use crate::names::Names;
use crate::site::{EXECUTIONS, Site};
use crate::{board, docs};

/// The instruments, in code. What rules and board name is one of these, or recorded by a rule.
const INSTRUMENTS: [&str; 19] = [
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
const LABELS: [&str; 7] = [
    "alertname",
    "alertstate",
    "instance",
    "job",
    "le",
    "severity",
    "where",
];

/// Counts match the runs that were made, and every query of the board has an answer.
#[tokio::test(flavor = "multi_thread")]
async fn the_board_shows_what_happened() {
    let mut site = Site::open(&docs("rules.yml")).await;
    site.lose_a_lease().await;
    // A rate needs two looks: what is there at the first has no rate.
    site.day().await;
    site.day().await;
    let days = 2.0;

    let prometheus = &site.prometheus;
    let again =
        r#"sum(workflow_executions_total{workflow_name="taken", workflow_outcome="completed"})"#;
    prometheus.query_is(again, 1.0).await;
    let counted = prometheus
        .query("sum by (workflow_name, workflow_outcome) (workflow_executions_total)")
        .await
        .unwrap();
    let mut expected: Vec<_> = EXECUTIONS
        .iter()
        .map(|(workflow, outcome, executions)| format!("{workflow} {outcome} {}", executions * 2))
        .collect();
    // It was taken again when the other worker's lease had run out.
    expected.extend(["taken stale 1", "taken completed 1"].map(str::to_owned));
    expected.sort();
    assert_eq!(
        told(&counted, &["workflow_name", "workflow_outcome"]),
        expected
    );
    for (query, value) in [
        (
            r#"sum(workflow_runs_created_total{workflow_child="false"})"#,
            2.0 * days + 2.0,
        ),
        (
            r#"sum(workflow_runs_created_total{workflow_child="true"})"#,
            days,
        ),
        (
            r#"sum(workflow_duration_seconds_count{workflow_run_status="completed"})"#,
            2.0 * days + 1.0,
        ),
        (
            r#"sum(workflow_duration_seconds_count{workflow_run_status="failed"})"#,
            days,
        ),
        // The order lets 12 minutes pass: longer than 5, less than half an hour.
        (
            r#"sum(workflow_duration_seconds_bucket{workflow_name="order", le="300"})"#,
            0.0,
        ),
        (
            r#"sum(workflow_duration_seconds_bucket{workflow_name="order", le="1800"})"#,
            days,
        ),
        (
            r#"sum(step_duration_seconds_count{step_name="charge", step_outcome="failed"})"#,
            2.0 * days,
        ),
        (
            r#"sum(step_retries_total{step_name="charge", error_type="Declined"})"#,
            days,
        ),
        (
            r#"sum(workflow_telemetry_lost_total{item="carrier"}) > bool 0"#,
            1.0,
        ),
        ("sum(active_workflows)", 0.0),
    ] {
        prometheus.query_is(query, value).await;
    }

    for (name, query) in board::queries() {
        let query = board::filled_in(&query);
        if query.starts_with("ALERTS") {
            // Whether one fires in here is another test's.
            prometheus.query(&query).await.unwrap();
            continue;
        }
        let is_data = |sample: &Sample| !sample.value.is_nan();
        println!("{name}: {query}");
        prometheus
            .query_until(&query, |samples| samples.iter().any(is_data).then_some(()))
            .await;
    }
    for (label, series) in board::variables() {
        let series = board::filled_in(&series);
        let found = prometheus.query(&series).await.unwrap();
        assert!(
            found.iter().any(|one| one.labels.contains_key(&label)),
            "{label} of {series}"
        );
    }
    names_are_known(prometheus).await;
}

/// Each alert that does not take minutes by definition, fired by what it is about.
#[tokio::test(flavor = "multi_thread")]
async fn alerts_fire() {
    // The same rules, but at once, and at a number that a test can reach.
    let mut rules = fs::read_to_string(docs("rules.yml")).unwrap();
    for (from, to, times) in [
        ("        for: 5m\n", "", 4),
        (" > 1000\n", " > 0\n", 1),
        (" > 10000\n", " > 0\n", 1),
    ] {
        assert_eq!(rules.matches(from).count(), times, "{from:?} in the rules");
        rules = rules.replace(from, to);
    }
    let folder = tempfile::tempdir().unwrap();
    let lowered = folder.path().join("rules.yml");
    fs::write(&lowered, rules).unwrap();

    let mut site = Site::open(&lowered).await;
    site.day().await;
    site.day().await;
    firing(
        &site.prometheus,
        &[
            "WorkflowDurationHigh order",
            "WorkflowDurationHigh refused",
            "WorkflowErrorRateHigh refused",
            "WorkflowQueueDeep",
            "WorkflowQueueOld",
            "WorkflowTelemetryDropped interceptor",
        ],
    )
    .await;
    site.lose_spans().await;
    site.lose_a_lease().await;
    site.hold().await;
    let all = [
        "WorkflowDurationHigh order",
        "WorkflowDurationHigh refused",
        "WorkflowErrorRateHigh refused",
        "WorkflowLeasesLost",
        "WorkflowQueueDeep",
        "WorkflowQueueOld",
        "WorkflowTelemetryDropped interceptor",
        "WorkflowTelemetryDropped queue",
        "WorkflowsActiveHigh",
    ];
    firing(&site.prometheus, &all).await;
    site.release();
    firing(&site.prometheus, &all[..8]).await;
}

/// Waits until exactly these alerts fire.
async fn firing(prometheus: &Prometheus, expected: &[&str]) {
    prometheus
        .query_until(r#"ALERTS{alertstate="firing"}"#, |samples| {
            let found = told(samples, &["alertname", "workflow_name", "where"]);
            (found == expected).then_some(())
        })
        .await;
}

/// The series as lines: these labels, where there are, and the value, but for that of an alert.
fn told(samples: &[Sample], labels: &[&str]) -> Vec<String> {
    let lines = samples.iter().map(|sample| {
        let labels = labels.iter().filter_map(|label| sample.labels.get(*label));
        let mut words: Vec<_> = labels.cloned().collect();
        if !sample.labels.contains_key("alertname") {
            words.push(sample.value.to_string());
        }
        words.join(" ")
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

/// Every metric and label of rules and board is one of ours, or made by a rule.
async fn names_are_known(prometheus: &Prometheus) {
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
    let page = fs::read_to_string(docs("README.md")).unwrap();
    for rule in rules.iter().filter(|rule| rule["type"] == "alerting") {
        let name = rule["name"].as_str().unwrap();
        assert!(
            page.contains(&format!("### {name}\n")),
            "{name} has a section on the page"
        );
        let runbook = rule["annotations"]["runbook"].as_str().unwrap();
        assert!(
            runbook.ends_with(&format!("README.md#{}", name.to_lowercase())),
            "{runbook}"
        );
    }

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
