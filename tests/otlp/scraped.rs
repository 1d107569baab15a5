//! One registry, two ways out: what is pushed to a receiver is what Prometheus scrapes.

use std::collections::BTreeSet;
use std::time::Duration;

use openworkflow::otel::Prometheus;
use openworkflow::otel::export::{Signal, Telemetry};
use serde_json::json;

use crate::faults::Shop;
use crate::receiver::Receiver;
use crate::tree::text;

const OPEN_METRICS: Option<&str> = Some("application/openmetrics-text; version=1.0.0");
const RUNS: u32 = 5;

/// The value of a series that is the only one with this beginning and these labels.
fn value(scraped: &str, name: &str, labels: &[&str]) -> u64 {
    let lines: Vec<_> = scraped
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .collect();
    let [line] = lines[..] else {
        panic!("{name} {labels:?} is there once: {lines:?} in {scraped}");
    };
    let (_, value) = line.rsplit_once("} ").unwrap();
    value.parse().unwrap()
}

#[tokio::test]
async fn what_is_pushed_is_scraped_and_leads_to_a_trace() {
    let receiver = Receiver::start();
    let prometheus = Prometheus::new();
    let telemetry = Telemetry::builder()
        .endpoint(receiver.http())
        .metric_interval(Duration::from_millis(50))
        .schedule_delay(Duration::from_millis(50))
        .prometheus(&prometheus)
        .build()
        .unwrap();
    let mut shop = Shop::open(&telemetry).await;
    shop.trade(RUNS).await;
    shop.worker.stop().await.unwrap();
    assert!(telemetry.flush(Duration::from_secs(60)).await);

    let scraped = prometheus.scrape_as(OPEN_METRICS).unwrap().text;
    let created = value(&scraped, "workflow_runs_created_total", &[]);
    assert_eq!(created, u64::from(RUNS));
    let pushed = receiver.items(Signal::Metrics);
    let created = pushed
        .iter()
        .filter(|point| point["name"] == "workflow.runs.created");
    let created = created.map(|point| point["value"].as_u64().unwrap());
    assert_eq!(created.max(), Some(RUNS.into()));

    // What the receiver has is what is told of it.
    let stats = |signal| telemetry.stats(signal).exported;
    for (name, signal) in [
        ("otel_sdk_exporter_span_exported_total", Signal::Traces),
        ("otel_sdk_exporter_log_exported_total", Signal::Logs),
        ("otel_sdk_processor_span_processed_total", Signal::Traces),
        ("otel_sdk_processor_log_processed_total", Signal::Logs),
    ] {
        let lines = scraped.lines().filter(|line| line.starts_with(name));
        let well = lines.filter(|line| !line.contains("error_type"));
        let well: Vec<_> = well.collect();
        assert_eq!(well.len(), 1, "{scraped}");
        let (_, count) = well[0].rsplit_once("} ").unwrap();
        assert_eq!(count, receiver.items(signal).len().to_string(), "{name}");
        assert_eq!(count, stats(signal).to_string(), "{name}");
    }
    let points = "otel_sdk_exporter_metric_data_point_exported_total";
    let well = scraped
        .lines()
        .find(|line| line.starts_with(&format!("{points}{{")) && !line.contains("error_type"));
    let (_, count) = well.unwrap().rsplit_once("} ").unwrap();
    let count: u64 = count.parse().unwrap();
    // More are pushed all the time.
    assert!((1..=stats(Signal::Metrics)).contains(&count), "{count}");
    for name in [
        "otel_sdk_processor_span_queue_size",
        "otel_sdk_processor_log_queue_size",
    ] {
        assert_eq!(value(&scraped, name, &[]), 0, "{name}");
    }

    // Each exemplar is a span that the receiver has.
    let spans = receiver.spans();
    let spans: BTreeSet<_> = spans
        .iter()
        .map(|span| (text(span, "trace_id"), text(span, "span_id")))
        .collect();
    let exemplars = scraped.lines().filter_map(|line| {
        let (_, exemplar) = line.split_once("# {trace_id=\"")?;
        let (trace, rest) = exemplar.split_once("\",span_id=\"")?;
        let (span, _) = rest.split_once('"')?;
        Some((trace, span))
    });
    let exemplars: BTreeSet<_> = exemplars.collect();
    assert!(!exemplars.is_empty(), "{scraped}");
    assert!(exemplars.is_subset(&spans), "{exemplars:?} in {spans:?}");

    let refused = |name| value(&scraped, name, &["error_type=\"rejected\""]);
    assert_eq!(refused(points), 0);
    telemetry.shutdown(Duration::from_secs(30)).await;
}

/// What is lost of each signal is told by a metric, too, to whoever scrapes.
#[tokio::test]
async fn what_a_receiver_refuses_is_scraped() {
    let receiver = Receiver::start();
    receiver.behave(&json!({ "refuse": 401 }));
    let prometheus = Prometheus::new();
    let telemetry = Telemetry::builder()
        .endpoint(receiver.http())
        .metric_interval(Duration::from_secs(3600))
        .schedule_delay(Duration::from_millis(50))
        .prometheus(&prometheus)
        .build()
        .unwrap();
    let lost = telemetry.losses();
    let mut shop = Shop::open(&telemetry).await;
    shop.trade(RUNS).await;
    shop.worker.stop().await.unwrap();
    assert!(telemetry.flush(Duration::from_secs(60)).await);
    let scraped = prometheus.scrape_as(OPEN_METRICS).unwrap().text;
    let mut all = 0;
    for (item, signal) in [
        ("span", Signal::Traces),
        ("log", Signal::Logs),
        ("metric_data_point", Signal::Metrics),
    ] {
        let name = format!("otel_sdk_exporter_{item}_exported_total");
        let refused = value(&scraped, &name, &["error_type=\"rejected\""]);
        assert!(refused > 0, "{name}");
        assert_eq!(refused, telemetry.stats(signal).refused, "{name}");
        all += refused;
    }
    assert_eq!(lost(), all);
    telemetry.shutdown(Duration::from_secs(30)).await;
}
