//! A real worker, scraped by a real Prometheus.

use std::fs;

use openworkflow_tests::prometheus::{Prometheus, Sample};
use openworkflow_tests::wait_until;

use crate::site::{EXECUTIONS, Site};
use crate::{board, docs};

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

    an_exemplar_leads_to_a_trace(prometheus).await;
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
}

/// The longest runs have an exemplar, with the id of a trace.
async fn an_exemplar_leads_to_a_trace(prometheus: &Prometheus) {
    let series = r#"workflow_duration_seconds_bucket{workflow_name="order"}"#;
    // From the beginning until long after the test, in seconds.
    let ever = [("query", series), ("start", "0"), ("end", "9999999999")];
    wait_until("an exemplar is there", || async {
        let answer = prometheus.ask("query_exemplars", &ever).await.unwrap();
        let found = answer["data"].as_array().unwrap().iter();
        let mut exemplars = found.flat_map(|series| series["exemplars"].as_array().unwrap());
        exemplars.any(|exemplar| {
            let trace = exemplar["labels"]["trace_id"].as_str().unwrap_or_default();
            let seconds = exemplar["value"].as_str().unwrap_or_default();
            // The order lets 12 minutes pass.
            trace.len() == 32 && seconds.parse().is_ok_and(|seconds: f64| seconds > 720.0)
        })
    })
    .await;
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
    site.lose_log_records();
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
        "WorkflowTelemetryDropped logs queue",
        "WorkflowTelemetryDropped traces queue",
        "WorkflowsActiveHigh",
    ];
    firing(&site.prometheus, &all).await;
    site.release();
    firing(&site.prometheus, &all[..9]).await;
}

/// Waits until exactly these alerts fire.
async fn firing(prometheus: &Prometheus, expected: &[&str]) {
    prometheus
        .query_until(r#"ALERTS{alertstate="firing"}"#, |samples| {
            let found = told(samples, &["alertname", "workflow_name", "signal", "where"]);
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
