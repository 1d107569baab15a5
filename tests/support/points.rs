//! What a real meter provider collected, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, Instrument, PeriodicReader, SdkMeterProvider, Stream,
};
use openworkflow::otel::OtelInterceptorBuilder;
use openworkflow::otel::opentelemetry::KeyValue;

/// A meter provider whose data points can be looked at.
#[derive(Debug)]
pub struct Points {
    exporter: InMemoryMetricExporter,
    provider: SdkMeterProvider,
}

impl Default for Points {
    fn default() -> Self {
        Self::viewed(|_| None)
    }
}

impl Points {
    /// Data points as a view has them.
    pub fn viewed<V>(view: V) -> Self
    where
        V: Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static,
    {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone())
            // Read when asked.
            .with_interval(std::time::Duration::from_secs(3600))
            .build();
        let provider = SdkMeterProvider::builder()
            .with_reader(reader)
            .with_view(view)
            .build();
        Self { exporter, provider }
    }

    /// The provider.
    #[must_use]
    pub fn provider(&self) -> &SdkMeterProvider {
        &self.provider
    }

    /// An interceptor that takes its metrics here, to be set up further.
    pub fn interceptor(&self) -> OtelInterceptorBuilder {
        openworkflow::otel::OtelInterceptor::builder().meter_provider(&self.provider)
    }

    /// Each instrument with its unit, and its points: counts and sums as they are, of histograms the count,
    /// and the sum where it is a minute or more, in whole minutes. Less is how long the machine took.
    ///
    /// # Panics
    ///
    /// Where the provider does not collect.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (instrument, points) in self.collect() {
            let _ = writeln!(text, "{instrument}");
            for (attributes, point) in points {
                let minutes = (point.sum / 60.0).floor();
                let _ = write!(text, "    {{{attributes}}} {}", point.count);
                if minutes >= 1.0 {
                    let _ = write!(text, ", {minutes} min");
                }
                text.push('\n');
            }
        }
        text
    }

    /// Asserts that [`text`](Self::text) is `expected`, but for how that is indented as a whole.
    ///
    /// # Panics
    ///
    /// Where it is not.
    #[track_caller]
    pub fn assert_eq(&self, expected: &str) {
        let lines = expected.lines().filter(|line| !line.trim().is_empty());
        let lines: Vec<_> = lines.collect();
        let margin = |line: &&str| line.len() - line.trim_start().len();
        let margin = lines.iter().map(margin).min().unwrap_or_default();
        let expected: String = lines
            .iter()
            .map(|line| format!("{}\n", &line[margin..]))
            .collect();
        let text = self.text();
        assert_eq!(text, expected, "collected:\n{text}\nexpected:\n{expected}");
    }

    /// The sum of the counts of an instrument's points that have these attributes, among others.
    #[must_use]
    pub fn count(&self, instrument: &str, attributes: &[(&str, &str)]) -> i64 {
        let wanted = attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let wanted: Vec<_> = wanted.collect();
        let points = self.collect().into_iter();
        let points = points.filter(|(name, _)| name.split(' ').next() == Some(instrument));
        points
            .flat_map(|(_, points)| points)
            .filter(|(found, _)| {
                let found: Vec<_> = found.split(", ").collect();
                wanted.iter().all(|wanted| found.contains(&wanted.as_str()))
            })
            .map(|(_, point)| point.count)
            .sum()
    }

    /// The boundaries of the buckets of each histogram.
    #[must_use]
    pub fn boundaries(&self) -> BTreeMap<String, String> {
        let histograms = self.collect().into_iter().filter_map(|(name, points)| {
            let (_, point) = points.into_iter().next()?;
            (!point.bounds.is_empty()).then_some((name, point.bounds))
        });
        histograms.collect()
    }

    fn collect(&self) -> BTreeMap<String, BTreeMap<String, Point>> {
        self.exporter.reset();
        self.provider.force_flush().expect("the metrics are read");
        let collected = self.exporter.get_finished_metrics();
        let collected = collected.expect("the metrics are there");
        let scopes = collected.iter().flat_map(|all| all.scope_metrics());
        let metrics = scopes.flat_map(|scope| scope.metrics());
        metrics
            .map(|metric| {
                let instrument = format!("{} [{}]", metric.name(), metric.unit());
                (instrument, points(metric))
            })
            .collect()
    }
}

struct Point {
    count: i64,
    /// Of durations.
    sum: f64,
    /// Of durations.
    bounds: String,
}

fn points(metric: &Metric) -> BTreeMap<String, Point> {
    let name = metric.name();
    let count = |count| Point {
        count,
        sum: 0.0,
        bounds: String::new(),
    };
    match metric.data() {
        AggregatedMetrics::U64(MetricData::Sum(sum)) => {
            assert!(sum.is_monotonic(), "{name} is a counter");
            let points = sum.data_points();
            points
                .map(|point| {
                    let value = i64::try_from(point.value()).expect("counts are small");
                    (attributes(point.attributes()), count(value))
                })
                .collect()
        }
        AggregatedMetrics::I64(MetricData::Sum(sum)) => {
            assert!(!sum.is_monotonic(), "{name} goes up and down");
            let points = sum.data_points();
            points
                .map(|point| (attributes(point.attributes()), count(point.value())))
                .collect()
        }
        AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
            let points = histogram.data_points();
            points
                .map(|point| {
                    let bounds = point.bounds().map(|bound| bound.to_string());
                    let of = Point {
                        bounds: bounds.collect::<Vec<_>>().join(" "),
                        count: i64::try_from(point.count()).expect("counts are small"),
                        sum: point.sum(),
                    };
                    (attributes(point.attributes()), of)
                })
                .collect()
        }
        AggregatedMetrics::U64(MetricData::Gauge(gauge)) => {
            let points = gauge.data_points();
            points
                .map(|point| {
                    let value = i64::try_from(point.value()).expect("gauges are small");
                    (attributes(point.attributes()), count(value))
                })
                .collect()
        }
        other => panic!("{name} is of another kind: {other:?}"),
    }
}

fn attributes<'a>(all: impl Iterator<Item = &'a KeyValue>) -> String {
    let mut all: Vec<_> = all.map(|kv| format!("{}={}", kv.key, kv.value)).collect();
    all.sort();
    all.join(", ")
}
