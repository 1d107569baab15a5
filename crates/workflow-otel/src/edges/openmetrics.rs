//! The text format 1.0.0 of OpenMetrics: what the encoder of the format 0.0.4 writes, with exemplars.
//!
//! `prometheus` does not write it, and the exemplars of `prometheus-client`, which does, can be made by
//! that crate's own instruments alone. The formats differ in three places: the names of families of
//! counters, the end, and what may follow a sample.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{Result, TextEncoder};

use crate::metrics::exemplars::{Exemplar, Exemplars};
use crate::names::{attribute, metric};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Our histograms, and what Prometheus calls them.
const HISTOGRAMS: [(&str, &str); 4] = [
    ("step_duration_seconds", metric::STEP_DURATION),
    ("workflow_duration_seconds", metric::WORKFLOW_DURATION),
    (
        "workflow_execution_duration_seconds",
        metric::WORKFLOW_EXECUTION_DURATION,
    ),
    (
        "workflow_queue_duration_seconds",
        metric::WORKFLOW_QUEUE_DURATION,
    ),
];

/// The attributes of these, and what Prometheus calls them.
const ATTRIBUTES: [(&str, &str); 7] = [
    ("error_type", attribute::ERROR_TYPE),
    ("step_kind", attribute::STEP_KIND),
    ("step_name", attribute::STEP_NAME),
    ("step_outcome", attribute::STEP_OUTCOME),
    ("workflow_name", attribute::WORKFLOW_NAME),
    ("workflow_outcome", attribute::WORKFLOW_OUTCOME),
    ("workflow_run_status", attribute::WORKFLOW_RUN_STATUS),
];

/// Whether a client takes this format.
pub(super) fn is_accepted(accept: &str) -> bool {
    let mut ranges = accept.split(',').map(str::trim);
    ranges.any(|range| range.starts_with("application/openmetrics-text"))
}

pub(super) fn write(families: &[MetricFamily], exemplars: &Exemplars) -> Result<String> {
    let mut text = String::new();
    for family in families {
        write_family(&mut text, family, exemplars)?;
    }
    text.push_str("# EOF\n");
    Ok(text)
}

fn write_family(text: &mut String, family: &MetricFamily, exemplars: &Exemplars) -> Result<()> {
    let name = family.name();
    let histogram = HISTOGRAMS.iter().find(|(ours, _)| *ours == name);
    let mut followers = Vec::new();
    if let Some((_, histogram)) = histogram {
        for metric in family.get_metric() {
            followers.extend(of_histogram(metric, histogram, exemplars));
        }
    }
    let mut followers = followers.into_iter();
    let is_counter = family.get_field_type() == MetricType::COUNTER;
    let base = match is_counter {
        true => name.strip_suffix("_total").unwrap_or(name),
        false => name,
    };
    for line in TextEncoder::new()
        .encode_to_string(std::slice::from_ref(family))?
        .lines()
    {
        if let Some(header) = line.strip_prefix("# ") {
            let mut words = header.splitn(3, ' ');
            let (what, rest) = (words.next(), words.nth(1));
            let rest = rest.unwrap_or_default().replace('"', "\\\"");
            let _ = writeln!(text, "# {} {base} {rest}", what.unwrap_or_default());
            continue;
        }
        text.push_str(line);
        if let Some(Some(exemplar)) = followers.next() {
            let at = exemplars.time_of(&exemplar).duration_since(UNIX_EPOCH);
            let _ = write!(
                text,
                " # {{trace_id=\"{}\",span_id=\"{}\"}} {} {:.3}",
                exemplar.trace_id,
                exemplar.span_id,
                exemplar.value,
                at.unwrap_or_default().as_secs_f64()
            );
        }
        text.push('\n');
    }
    Ok(())
}

/// What follows each line of a histogram: those of its buckets, the one without a bound, the sum and the
/// count.
fn of_histogram(metric: &Metric, name: &str, exemplars: &Exemplars) -> Vec<Option<Exemplar>> {
    let bounds = metric.get_histogram().get_bucket();
    let mut lines = vec![None; bounds.len() + 3];
    let labels = metric.get_label().iter().map(|label| {
        let ours = ATTRIBUTES.iter().find(|(ours, _)| *ours == label.name());
        (ours.map_or(label.name(), |(_, key)| *key), label.value())
    });
    // The newest first: a view may have made one bucket of several.
    for exemplar in exemplars.of(name, labels) {
        let bucket = bounds.partition_point(|bucket| bucket.upper_bound() < exemplar.value);
        lines[bucket].get_or_insert(exemplar);
    }
    lines
}
