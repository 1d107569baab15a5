//! What hosted backends get: the exact path and headers, and nothing that is another's.

use std::process::Command;
use std::time::Duration;

use openworkflow::otel::export::{Destination, Protocol, Telemetry};
use openworkflow::otel::opentelemetry::trace::{Tracer, TracerProvider};
use serde_json::Value;

use crate::receiver::Receiver;
use crate::tree::text;

/// The one request that a span sent there makes.
async fn sent(receiver: &Receiver, destination: Destination) -> Value {
    let telemetry = Telemetry::builder()
        .destination(destination)
        .build()
        .unwrap();
    let shown = format!("{telemetry:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    drop(telemetry.tracer_provider().tracer("test").start("one"));
    let report = telemetry.shutdown(Duration::from_secs(10)).await;
    let stats = report.into_result().unwrap();
    assert_eq!(stats.exported, 1);
    let requests = receiver.requests();
    assert_eq!(requests.len(), 1);
    requests[0].clone()
}

#[tokio::test]
async fn axiom() {
    let receiver = Receiver::start();
    let axiom = Destination::axiom("orders", "s3cret").endpoint(receiver.http());
    let request = sent(&receiver, axiom).await;
    assert_eq!(text(&request, "path"), "/v1/traces");
    let headers = &request["headers"];
    assert_eq!(text(headers, "authorization"), "Bearer s3cret");
    assert_eq!(text(headers, "x-axiom-dataset"), "orders");
    assert_eq!(text(headers, "content-type"), "application/x-protobuf");
    assert_eq!(text(headers, "content-encoding"), "gzip");
}

#[tokio::test]
async fn honeycomb() {
    let receiver = Receiver::start();
    let honeycomb = Destination::honeycomb("s3cret").endpoint(receiver.http());
    let request = sent(&receiver, honeycomb).await;
    assert_eq!(text(&request, "path"), "/v1/traces");
    assert_eq!(text(&request["headers"], "x-honeycomb-team"), "s3cret");
}

#[tokio::test]
async fn grafana_cloud() {
    let receiver = Receiver::start();
    let endpoint = format!("{}/otlp", receiver.http());
    let grafana = Destination::grafana_cloud(endpoint, 42, "s3cret");
    let request = sent(&receiver, grafana).await;
    assert_eq!(text(&request, "path"), "/otlp/v1/traces");
    // `printf 42:s3cret | base64`
    assert_eq!(
        text(&request["headers"], "authorization"),
        "Basic NDI6czNjcmV0"
    );
}

#[tokio::test]
async fn any_other_over_grpc() {
    let receiver = Receiver::start();
    let other = Destination::grpc(receiver.grpc()).header("X-Api-Key", "s3cret");
    let request = sent(&receiver, other).await;
    assert_eq!(text(&request, "protocol"), "grpc");
    assert_eq!(text(&request["headers"], "x-api-key"), "s3cret");
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
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", other)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let request = &receiver.requests()[0];
        assert_eq!(text(&request["headers"], "authorization"), "Bearer key");
        assert!(!request.to_string().contains("s3cret"), "{request}");
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
