//! What hosted backends get: the exact path and headers, and nothing that is another's.

use std::process::Command;
use std::time::Duration;

use openworkflow::otel::export::{Destination, Protocol, Signal, Telemetry};
use openworkflow::otel::opentelemetry::logs::{Logger, LoggerProvider};
use openworkflow::otel::opentelemetry::metrics::MeterProvider;
use openworkflow::otel::opentelemetry::trace::{Tracer, TracerProvider};
use serde_json::Value;

use crate::receiver::Receiver;
use crate::tree::text;

/// The requests that one item of each signal sent there makes, by signal.
async fn sent(receiver: &Receiver, destination: Destination) -> Vec<(Signal, Value)> {
    let telemetry = Telemetry::builder()
        .destination(destination)
        .build()
        .unwrap();
    let shown = format!("{telemetry:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    drop(telemetry.tracer_provider().tracer("test").start("one"));
    let meter = telemetry.meter_provider().meter("test");
    meter.u64_counter("one").build().add(1, &[]);
    let logger = telemetry.logger_provider().logger("test");
    logger.emit(logger.create_log_record());
    let report = telemetry.shutdown(Duration::from_secs(10)).await;
    let report = report.into_result().unwrap();
    let requests = receiver.requests();
    let mut sent = Vec::new();
    for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
        let of = requests
            .iter()
            .filter(|request| request["signal"] == signal.to_string());
        let of: Vec<_> = of.collect();
        // The export's own numbers are among the data points.
        let items = receiver.items(signal).len() as u64;
        assert_eq!(items, report.of(signal).stats.exported, "{signal}");
        sent.extend(of.into_iter().map(|request| (signal, request.clone())));
    }
    sent
}

/// A signal without a dataset stays at home.
#[tokio::test]
async fn axiom() {
    let receiver = Receiver::start();
    let datasets = [(Signal::Traces, "orders"), (Signal::Metrics, "numbers")];
    let axiom = Destination::axiom("s3cret", datasets).endpoint(receiver.http());
    let requests = sent(&receiver, axiom).await;
    let signals: Vec<_> = requests.iter().map(|(signal, _)| *signal).collect();
    assert_eq!(signals, [Signal::Traces, Signal::Metrics]);
    for (signal, request) in requests {
        assert_eq!(text(&request, "path"), format!("/v1/{signal}"));
        let headers = &request["headers"];
        assert_eq!(text(headers, "authorization"), "Bearer s3cret");
        assert_eq!(text(headers, "content-type"), "application/x-protobuf");
        assert_eq!(text(headers, "content-encoding"), "gzip");
        let of_traces = signal == Signal::Traces;
        assert_eq!(headers["x-axiom-dataset"] == "orders", of_traces);
        assert_eq!(headers["x-axiom-metrics-dataset"] == "numbers", !of_traces);
    }
}

#[tokio::test]
async fn honeycomb() {
    let receiver = Receiver::start();
    let honeycomb = Destination::honeycomb("s3cret").endpoint(receiver.http());
    let honeycomb = honeycomb.header_of(Signal::Metrics, "x-honeycomb-dataset", "numbers");
    let requests = sent(&receiver, honeycomb).await;
    assert_eq!(requests.len(), 3);
    for (signal, request) in requests {
        assert_eq!(text(&request, "path"), format!("/v1/{signal}"));
        let headers = &request["headers"];
        assert_eq!(text(headers, "x-honeycomb-team"), "s3cret");
        let dataset = &headers["x-honeycomb-dataset"];
        assert_eq!(dataset == "numbers", signal == Signal::Metrics);
    }
}

#[tokio::test]
async fn grafana_cloud() {
    let receiver = Receiver::start();
    let endpoint = format!("{}/otlp", receiver.http());
    let grafana = Destination::grafana_cloud(endpoint, 42, "s3cret");
    let requests = sent(&receiver, grafana).await;
    assert_eq!(requests.len(), 3);
    for (signal, request) in requests {
        assert_eq!(text(&request, "path"), format!("/otlp/v1/{signal}"));
        // `printf 42:s3cret | base64`
        let authorization = text(&request["headers"], "authorization");
        assert_eq!(authorization, "Basic NDI6czNjcmV0");
    }
}

#[tokio::test]
async fn any_other_over_grpc() {
    let receiver = Receiver::start();
    let other = Destination::grpc(receiver.grpc()).header("X-Api-Key", "s3cret");
    let requests = sent(&receiver, other).await;
    assert_eq!(requests.len(), 3);
    for (_, request) in requests {
        assert_eq!(text(&request, "protocol"), "grpc");
        assert_eq!(text(&request["headers"], "x-api-key"), "s3cret");
    }
}

/// One whose variables have no dataset for a signal says so, once.
#[test]
fn a_signal_that_is_off_is_told() {
    let output = Command::new(env!("CARGO_BIN_EXE_export_probe"))
        .arg("axiom by its variables")
        .env("AXIOM_API_KEY", "s3cret")
        .env("AXIOM_LOGS_DATASET", "orders")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for (signal, lines) in [(Signal::Traces, 1), (Signal::Metrics, 1), (Signal::Logs, 0)] {
        let told = format!("{signal} are not exported: ");
        assert_eq!(errors.matches(&told).count(), lines, "{errors}");
    }
    assert!(errors.contains("AXIOM_TRACES_DATASET"), "{errors}");
}

/// Variables that are meant for another backend do not reach one that was given in code.
#[test]
fn a_destination_in_code_gets_no_key_of_the_environment() {
    for (protocol, other) in [
        (Protocol::HttpProtobuf, "grpc"),
        (Protocol::Grpc, "http/protobuf"),
    ] {
        let receiver = Receiver::start();
        let output = Command::new(env!("CARGO_BIN_EXE_export_probe"))
            .arg(receiver.endpoint(protocol))
            .args((protocol == Protocol::Grpc).then_some("grpc"))
            .env(
                "OTEL_EXPORTER_OTLP_HEADERS",
                "x-other-key=s3cret,authorization=s3cret",
            )
            .env("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "x-log-key=s3cret")
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
            .env("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:1")
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", other)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let requests = receiver.requests();
        for signal in ["traces", "metrics", "logs"] {
            let request = requests.iter().find(|request| request["signal"] == signal);
            let request = request.expect(signal);
            assert_eq!(text(&request["headers"], "authorization"), "Bearer key");
            assert!(!request.to_string().contains("s3cret"), "{request}");
        }
        assert!(!errors.contains("s3cret"), "{errors}");
    }
}

#[test]
fn a_provider_of_the_application_is_not_replaced() {
    let output = Command::new(env!("CARGO_BIN_EXE_export_probe"))
        .arg("with a provider of its own")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

/// Those that only the exporter reads, too.
#[test]
fn a_variable_that_cannot_be_honoured_is_an_error() {
    for (variable, value) in [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "snappy"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://user:s3cret@[::",
        ),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere.pem"),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "snappy"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "sometimes",
        ),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m"),
        ("OTEL_LOGS_EXPORTER", "syslog"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_traced_order"))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
            .env(variable, value)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{errors}");
        assert!(errors.contains(variable), "{errors}");
        assert!(!errors.contains("s3cret"), "{errors}");
    }
}
