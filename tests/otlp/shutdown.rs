//! Ways for a program to end.

use std::collections::HashSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openworkflow::otel::export::{Protocol, Report, Signal, Telemetry};
use openworkflow::otel::opentelemetry::logs::{Logger, LoggerProvider};
use openworkflow::otel::opentelemetry::metrics::MeterProvider;
use openworkflow::otel::opentelemetry::trace::{Tracer, TracerProvider};
use serde_json::Value;

use crate::receiver::{Receiver, free_port};
use crate::tree::text;

/// Starts the example `traced_worker`, sends it `signal` once `ready`, and answers what it printed to
/// standard output and standard error. It is to end well, whatever became of its spans.
fn traced_worker(signal: &str, endpoint: &str, protocol: &str, ready: impl Fn()) -> [String; 2] {
    let mut worker = Command::new(env!("CARGO_BIN_EXE_traced_worker"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_BSP_SCHEDULE_DELAY", "300")
        .env("OTEL_BLRP_SCHEDULE_DELAY", "300")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "300")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // From the beginning: a worker whose log nobody reads stands still when the pipe is full.
    let said = read(worker.stdout.take().unwrap());
    let errors = read(worker.stderr.take().unwrap());
    ready();
    let sent = Command::new("kill")
        .args([signal, &worker.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let start = Instant::now();
    let output = [said, errors].map(|text| text.join().unwrap());
    assert!(worker.wait().unwrap().success(), "{}", output[1]);
    // However long the receiver has been away.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "it takes long to end"
    );
    output
}

fn read(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    })
}

/// Ctrl-C, or what a container's runtime sends, loses no span, and none of a tree.
fn loses_nothing(signal: &str, protocol: &str) {
    let receiver = Receiver::start();
    let endpoint = match protocol {
        "grpc" => receiver.grpc(),
        _ => receiver.http(),
    };
    let [said, errors] = traced_worker(signal, &endpoint, protocol, || {
        receiver.wait_for(60);
    });
    let spans = receiver.spans();
    let expected = format!("{} spans were exported, 0 lost", spans.len());
    assert!(said.contains(&expected), "{expected}\n{said}\n{errors}");
    let ids: HashSet<_> = spans.iter().map(|span| text(span, "span_id")).collect();
    for span in &spans {
        let parent = text(span, "parent_id");
        assert!(parent.is_empty() || ids.contains(parent), "{span}");
    }
}

#[test]
fn ctrl_c_loses_nothing() {
    loses_nothing("-INT", "http/protobuf");
}

#[test]
fn a_termination_loses_nothing() {
    loses_nothing("-TERM", "grpc");
}

/// While the receiver is down a warning comes once in a while, not with each span or attempt.
#[test]
fn losses_are_reported_once_in_a_while() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    for protocol in ["http/protobuf", "grpc"] {
        let [said, errors] = traced_worker("-INT", &endpoint, protocol, || {
            std::thread::sleep(Duration::from_secs(3));
        });
        // Of all crates: one while it runs, one at the end.
        let warnings: Vec<_> = errors.lines().filter(|line| is_trouble(line)).collect();
        assert_eq!(warnings.len(), 2, "{warnings:#?}");
        assert!(warnings[0].contains("telemetry does not get through"));
        assert!(warnings[0].contains("onnection refused"), "{warnings:#?}");
        assert!(warnings[1].contains("telemetry was not delivered before"));
        assert!(said.contains("\n0 spans were exported, "), "{said}");
    }
}

/// A program that ends before it has noticed anything hears of it once.
#[test]
fn an_absent_receiver_is_a_warning_and_no_failure() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let output = Command::new(env!("CARGO_BIN_EXE_traced_order"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BLRP_SCHEDULE_DELAY", "60000")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let warnings: Vec<_> = errors.lines().filter(|line| is_trouble(line)).collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("onnection refused"), "{warnings:#?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("0 spans were exported, 18 lost"), "{said}");
}

fn is_trouble(line: &str) -> bool {
    let Ok(line) = serde_json::from_str::<Value>(line) else {
        return false;
    };
    // The engine's own log is not about telemetry.
    (line["level"] == "WARN" || line["level"] == "ERROR") && line["target"] != "openworkflow"
}

/// How often a counter of the test's arrived, as the export's own numbers do beside it.
fn pushed(receiver: &Receiver, counter: &str) -> usize {
    let items = receiver.items(Signal::Metrics);
    items.iter().filter(|item| item["name"] == counter).count()
}

fn exported(report: Report) -> u64 {
    let report = report.into_result().unwrap();
    report.of(Signal::Traces).stats.exported
}

fn telemetry(receiver: &Receiver) -> Telemetry {
    Telemetry::builder()
        .protocol(Protocol::Grpc)
        .endpoint(receiver.grpc())
        .schedule_delay(Duration::from_secs(60))
        .build()
        .unwrap()
}

#[test]
fn a_guard_that_is_dropped_does_its_best() {
    let receiver = Receiver::start();
    let telemetry = telemetry(&receiver);
    let tracer = telemetry.tracer_provider().tracer("test");
    drop(tracer.start("left over"));
    drop(telemetry);
    assert_eq!(receiver.spans().len(), 1);
    drop(tracer.start("too late"));
}

#[test]
fn no_runtime_is_needed() {
    let receiver = Receiver::start();
    let telemetry = telemetry(&receiver);
    drop(telemetry.tracer_provider().tracer("test").start("one"));
    let report = futures::executor::block_on(telemetry.shutdown(Duration::from_secs(10)));
    assert_eq!(exported(report), 1);
    assert_eq!(receiver.spans().len(), 1);
}

#[test]
fn the_provider_itself_can_be_flushed_and_shut_down() {
    let receiver = Receiver::start();
    let telemetry = telemetry(&receiver);
    let tracer = telemetry.tracer_provider().tracer("test");
    drop(tracer.start("one"));
    telemetry.tracer_provider().force_flush().unwrap();
    assert_eq!(receiver.spans().len(), 1);
    drop(tracer.start("two"));
    telemetry.tracer_provider().shutdown().unwrap();
    assert_eq!(receiver.spans().len(), 2);
    let meter = telemetry.meter_provider().meter("test");
    meter.u64_counter("one").build().add(1, &[]);
    telemetry.meter_provider().force_flush().unwrap();
    assert_eq!(pushed(&receiver, "one"), 1);
    let logger = telemetry.logger_provider().logger("test");
    logger.emit(logger.create_log_record());
    telemetry.logger_provider().force_flush().unwrap();
    assert_eq!(receiver.items(Signal::Logs).len(), 1);
    logger.emit(logger.create_log_record());
    telemetry.meter_provider().shutdown().unwrap();
    telemetry.logger_provider().shutdown().unwrap();
    assert_eq!(pushed(&receiver, "one"), 2);
    assert_eq!(receiver.items(Signal::Logs).len(), 2);
    let report = futures::executor::block_on(telemetry.shutdown(Duration::from_secs(10)));
    for signal in [Signal::Metrics, Signal::Logs] {
        let items = receiver.items(signal).len() as u64;
        assert_eq!(report.of(signal).stats.exported, items, "{signal}");
    }
    assert_eq!(exported(report), 2);
}

/// On the runtime where the SDK's own processor stalls.
#[tokio::test(flavor = "current_thread")]
async fn work_is_done_before_the_spans_are_sent() {
    let receiver = Receiver::start();
    let mut telemetry = telemetry(&receiver);
    for name in ["first", "second"] {
        let tracer = telemetry.tracer_provider().tracer("test");
        telemetry.before_shutdown(async move {
            let span = tracer.start(name);
            tokio::time::sleep(Duration::from_millis(50)).await;
            drop(span);
        });
    }
    let tracer = telemetry.tracer_provider().tracer("test");
    telemetry.before_shutdown(async move {
        let _span = tracer.start("never done");
        std::future::pending::<()>().await;
    });
    let report = telemetry.shutdown(Duration::from_secs(3)).await;
    assert_eq!(exported(report), 3);
    let spans = receiver.spans();
    let names: Vec<_> = spans.iter().map(|span| text(span, "name")).collect();
    assert_eq!(names, ["first", "second", "never done"]);
}
