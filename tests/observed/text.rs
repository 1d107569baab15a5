//! The text of metrics, read by somebody else's parser.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use openworkflow::observe::Observe;
use openworkflow::otel::opentelemetry_sdk::metrics::SdkMeterProvider;
use openworkflow::otel::testing::SpanCollector;
use openworkflow::otel::{OtelInterceptor, Prometheus};
use openworkflow::{Error, RetryPolicy, WorkflowSpec};
use openworkflow_tests::wait_until;
use serde::Deserialize;

use super::{Answer, Harness, address, get_as};

const REQUIREMENTS: &str = "prometheus-client==0.26.0\n";
const READER: &str = include_str!("scraped.py");

static WORK: WorkflowSpec<bool, ()> = WorkflowSpec::new("a \"quoted\"\nworkflow\\");

/// One value, as it was read.
#[derive(Debug, Deserialize)]
struct Sample {
    r#type: String,
    help: String,
    name: String,
    labels: HashMap<String, String>,
    value: f64,
    exemplar: Option<Exemplar>,
}

#[derive(Debug, Deserialize)]
struct Exemplar {
    labels: HashMap<String, String>,
    value: f64,
}

/// What Prometheus's library for Python reads.
fn read(answer: &Answer) -> Vec<Sample> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let python = openworkflow_tests::python::environment(home, "prometheus-client", REQUIREMENTS);
    let kind = answer.content_type.split(';').next().unwrap();
    let mut reader = Command::new(python.join("bin/python"))
        .args(["-c", READER, kind])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = reader.stdin.take().unwrap();
    input.write_all(answer.text.as_bytes()).unwrap();
    drop(input);
    let output = reader.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{}", answer.text);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn both_formats_say_the_same_and_buckets_lead_to_traces() {
    let spans = SpanCollector::new();
    let tracers = spans.provider();
    let prometheus = Prometheus::new();
    let meters = SdkMeterProvider::builder()
        .with_reader(prometheus.reader())
        .build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&tracers)
        .meter_provider(&meters)
        .exemplars(&prometheus)
        .build();
    let mut harness = Harness::with_client(
        |client| client.interceptor(otel.clone()),
        |worker| {
            let workflow = WORK.implement(|wf, fails: bool| async move {
                wf.run("first", || async { Ok(()) }).await?;
                let body = || async {
                    match fails {
                        true => Err(Error::new("Declined", "no money left").non_retryable()),
                        false => Ok(()),
                    }
                };
                wf.run("second", body).retry(RetryPolicy::attempts(1)).await
            });
            worker
                .interceptor(otel.clone())
                .workflow(workflow)
                .observe(Observe::on("127.0.0.1:0").metrics(&prometheus))
        },
    )
    .await;
    let at = address(&harness.worker);
    for _ in 0..3 {
        harness.complete(&WORK, false).await;
    }
    let run = harness.start(&WORK, true).await;
    harness.failure(&run).await;
    let openmetrics =
        "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    wait_until("the last end is measured", || async {
        let text = prometheus.scrape().unwrap();
        text.lines().any(|line| {
            line.starts_with("workflow_duration_seconds_count") && line.contains("failed")
        })
    })
    .await;
    let plain = get_as(at, "/metrics", "text/plain").await.unwrap();
    let open = get_as(at, "/metrics", openmetrics).await.unwrap();
    assert_eq!(
        open.content_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let (plain, open) = (read(&plain), read(&open));
    assert!(plain.len() > 100, "{plain:?}");
    // The library gives a counter the time of its creation, where it is told one.
    let told = |samples: &[Sample]| {
        let mut all: Vec<_> = samples
            .iter()
            .map(|sample| {
                let mut labels: Vec<_> = sample.labels.iter().collect();
                labels.sort();
                let (kind, help) = (&sample.r#type, &sample.help);
                // A connection may be in use at the one moment and not at the other.
                let value = match &*sample.name {
                    "db_client_connection_count" => String::new(),
                    _ => sample.value.to_string(),
                };
                format!("{kind} {help} {} {labels:?} {value}", sample.name)
            })
            .collect();
        all.sort();
        all
    };
    assert_eq!(told(&plain), told(&open));
    let name = &open
        .iter()
        .find(|sample| sample.name == "workflow_executions_total")
        .unwrap()
        .labels["workflow_name"];
    assert_eq!(name, WORK.name());

    // What a bucket leads to was exported, and is what was measured.
    let exported = spans.spans();
    let with: Vec<_> = open
        .iter()
        .filter(|sample| sample.exemplar.is_some())
        .collect();
    let histograms: std::collections::BTreeSet<_> =
        with.iter().map(|sample| sample.name.as_str()).collect();
    let expected = [
        "step_duration_seconds_bucket",
        "workflow_duration_seconds_bucket",
        "workflow_execution_duration_seconds_bucket",
        "workflow_queue_duration_seconds_bucket",
    ];
    assert_eq!(histograms, expected.into());
    for sample in &with {
        let exemplar = sample.exemplar.as_ref().unwrap();
        let bound: f64 = match sample.labels["le"].as_str() {
            "+Inf" => f64::INFINITY,
            bound => bound.parse().unwrap(),
        };
        assert!(exemplar.value <= bound, "{sample:?}");
        let span = exported
            .iter()
            .find(|span| span.span_context.span_id().to_string() == exemplar.labels["span_id"])
            .unwrap_or_else(|| panic!("{sample:?} leads nowhere"));
        let trace = span.span_context.trace_id().to_string();
        assert_eq!(trace, exemplar.labels["trace_id"]);
        let name = match sample.labels.get("step_name") {
            Some(step) => format!("step.run {step}"),
            None => format!("workflow.execute {}", WORK.name()),
        };
        assert_eq!(span.name, name, "{sample:?}");
        let failed = sample.labels.contains_key("error_type");
        let status = format!("{:?}", span.status);
        // What a run waited for says nothing of how it ends.
        if !sample.name.starts_with("workflow_queue") {
            assert_eq!(failed, status.starts_with("Error"), "{sample:?}: {status}");
        }
    }
    // A series has one in each bucket that counted.
    let failed =
        |sample: &&&Sample| sample.labels.get("error_type").map(String::as_str) == Some("Declined");
    let steps = with
        .iter()
        .filter(failed)
        .filter(|sample| sample.name.starts_with("step_"));
    assert_eq!(steps.count(), 1, "{with:?}");
    harness.stop().await;
}
