//! Receivers that are away, refuse, are slow or come back, for each signal by both protocols: workflows go
//! on, telemetry is kept as long as there is room, and every item of it is accounted for.
//!
//! All of it is on runtimes of one thread, where the SDK's own processors stall.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use openworkflow::otel::export::{
    ExportStats, Protocol, Signal, SignalReport, Telemetry, TelemetryBuilder,
};
use openworkflow::otel::opentelemetry::metrics::MeterProvider;
use openworkflow::{Client, Sqlite, Worker, WorkerHandle, WorkflowSpec};
use serde_json::json;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

use crate::receiver::{Receiver, free_port, well};

static GREET: WorkflowSpec<u32, u32> = WorkflowSpec::new("greet");
/// `workflow.start`, `workflow.execute`, `step.run`; and as many log records, those of [`LOGGED`].
pub(crate) const ITEMS_PER_RUN: u64 = 3;
const LOGGED: [&str; 3] = ["run.created", "step.complete", "execution.end"];

pub(crate) const BOTH: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];
const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];
/// Those that wait in a queue.
const QUEUED: [Signal; 2] = [Signal::Traces, Signal::Logs];

fn all() -> impl Iterator<Item = (Protocol, Signal)> {
    BOTH.into_iter()
        .flat_map(|protocol| SIGNALS.map(|signal| (protocol, signal)))
}

pub(crate) fn builder(protocol: Protocol, endpoint: &str, signal: Signal) -> TelemetryBuilder {
    let builder = Telemetry::builder()
        .protocol(protocol)
        .endpoint(endpoint)
        .metric_interval(Duration::from_millis(50))
        .schedule_delay(Duration::from_millis(50));
    let others = SIGNALS.into_iter().filter(|other| *other != signal);
    others.fold(builder, TelemetryBuilder::without)
}

/// A client and a worker on a database of their own.
pub(crate) struct Shop {
    client: Client,
    pub(crate) worker: WorkerHandle,
    /// Events of this thread, which is the runtime's only one, go to the telemetry.
    _log: DefaultGuard,
    _folder: tempfile::TempDir,
}

impl Shop {
    pub(crate) async fn open(telemetry: &Telemetry) -> Self {
        let logged = filter_fn(|metadata| LOGGED.contains(&metadata.name()));
        let log = telemetry.log_layer().with_filter(logged);
        let log = tracing_subscriber::registry().with(log).set_default();
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(folder.path().join("shop.db")).await.unwrap();
        let otel = telemetry.interceptor();
        let client = Client::builder(store.clone())
            .interceptor(otel.clone())
            .build();
        let greet = GREET.implement(|wf, number: u32| async move {
            wf.run("compose", || async { Ok(number + 1) }).await
        });
        let worker = Worker::builder(store)
            .workflow(greet)
            .interceptor(otel)
            .build()
            .unwrap()
            .start();
        Self {
            client,
            worker,
            _log: log,
            _folder: folder,
        }
    }

    /// So many runs, one after the other, each with the right result.
    pub(crate) async fn trade(&self, runs: u32) {
        for number in 0..runs {
            let run = self.client.start(&GREET, &number).await.unwrap();
            assert_eq!(run.result().await.unwrap(), number + 1);
        }
    }
}

/// The runs that the receiver has heard of by this signal.
fn runs(receiver: &Receiver, signal: Signal) -> u64 {
    let items = receiver.items(signal);
    let named = |name: &str| {
        items
            .iter()
            .filter(move |item| item["name"] == name)
            .count() as u64
    };
    match signal {
        Signal::Traces => named("workflow.execute greet"),
        Signal::Logs => named("execution.end"),
        // It counts from the beginning, whatever arrived before.
        _ => {
            let created = items
                .iter()
                .filter(|point| point["name"] == "workflow.runs.created");
            let counts = created.map(|point| point["value"].as_u64().unwrap());
            counts.max().unwrap_or(0)
        }
    }
}

fn assert_accounted_for(signal: Signal, stats: ExportStats, runs: u64) {
    let all = stats.exported + stats.queued + stats.lost() + stats.discarded;
    if QUEUED.contains(&signal) {
        assert_eq!(all, runs * ITEMS_PER_RUN, "{signal} {stats:?}");
    } else {
        // Each collection says all that there is to say, how often, depends on the time.
        assert!(all > 0 && stats.dropped == 0, "{signal} {stats:?}");
    }
}

#[tokio::test]
async fn an_absent_receiver_is_given_up_at_the_end() {
    for (protocol, signal) in all() {
        let endpoint = format!("http://127.0.0.1:{}", free_port());
        let telemetry = builder(protocol, &endpoint, signal).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(20).await;
        shop.worker.stop().await.unwrap();
        let start = Instant::now();
        let report = telemetry.shutdown(Duration::from_secs(20)).await;
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "three attempts and no more"
        );
        let report = report.of(signal);
        assert_eq!(report.stats.undelivered, report.lost, "{signal}");
        assert!(report.lost > 0);
        assert!(report.reason.contains("refused"), "{}", report.reason);
        assert_accounted_for(signal, report.stats, 20);
    }
}

#[tokio::test]
async fn what_is_refused_is_not_sent_again() {
    for (protocol, signal) in all() {
        let why = match protocol {
            Protocol::Grpc => "Unauthenticated",
            _ => "401",
        };
        let receiver = Receiver::start();
        receiver.behave(&json!({"refuse": 401}));
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint, signal).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(1).await;
        until("it is refused", || telemetry.stats(signal).refused > 0).await;
        // Not for ever: the key may have been put right.
        let earlier = telemetry.stats(signal).refused;
        receiver.behave(&well());
        shop.trade(1).await;
        receiver.wait_for_items(signal, 1);
        receiver.behave(&json!({"refuse": 401}));
        shop.trade(1).await;
        shop.worker.stop().await.unwrap();
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        // Or it was refused before the shutdown began.
        let SignalReport {
            stats,
            lost,
            reason,
            ..
        } = report.of(signal);
        assert!(lost == 0 || reason.contains(why), "{reason}");
        assert!(stats.refused > earlier && stats.exported > 0, "{stats:?}");
        assert_accounted_for(signal, stats, 3);
    }
}

#[tokio::test]
async fn a_receiver_may_ask_for_patience() {
    for (protocol, signal) in all() {
        let receiver = Receiver::start();
        receiver.behave(&json!({"throttle": 2}));
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint, signal).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        let start = Instant::now();
        shop.trade(5).await;
        shop.worker.stop().await.unwrap();
        // Whatever the deadline, one that says when it will be ready is waited for.
        let report = telemetry.shutdown(Duration::from_secs(20)).await;
        let stats = report.into_result().unwrap().of(signal).stats;
        assert!(
            start.elapsed() >= Duration::from_secs(2),
            "twice a second was asked for"
        );
        assert_eq!(stats.exported, receiver.items(signal).len() as u64);
        assert_eq!(runs(&receiver, signal), 5);
        assert_accounted_for(signal, stats, 5);
    }
}

#[tokio::test]
async fn a_slow_receiver_holds_nothing_up() {
    for (protocol, signal) in all() {
        let receiver = Receiver::start();
        receiver.behave(&json!({"hang": 30}));
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint, signal).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        let start = Instant::now();
        shop.trade(20).await;
        shop.worker.stop().await.unwrap();
        let report = telemetry.shutdown(Duration::from_secs(1)).await;
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "the deadline counts"
        );
        let report = report.of(signal);
        assert_eq!(report.reason, "no answer before the deadline", "{signal}");
        assert_accounted_for(signal, report.stats, 20);
    }
}

#[tokio::test]
async fn an_export_has_a_time_limit() {
    for signal in SIGNALS {
        let receiver = Receiver::start();
        receiver.behave(&json!({"hang": 30}));
        let telemetry = builder(Protocol::HttpProtobuf, &receiver.http(), signal)
            .timeout(Duration::from_millis(100))
            .build()
            .unwrap();
        let shop = Shop::open(&telemetry).await;
        shop.trade(1).await;
        assert!(!telemetry.flush(Duration::from_millis(500)).await);
        // The instruction is that of the request, so those under way still hang.
        receiver.behave(&well());
        assert!(
            telemetry.flush(Duration::from_secs(20)).await,
            "sent again, and arrived"
        );
        assert_eq!(telemetry.stats(signal).lost(), 0);
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        report.into_result().unwrap();
    }
}

#[tokio::test]
async fn a_receiver_that_comes_back_gets_everything() {
    for (protocol, signal) in all() {
        let receiver = Receiver::start();
        let ports = (receiver.http_port, receiver.grpc_port);
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint, signal).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(10).await;
        // Of an execution is told when its run's result is there.
        let start = Instant::now();
        while runs(&receiver, signal) < 10 {
            assert!(start.elapsed() < Duration::from_secs(60), "{signal}");
            assert!(telemetry.flush(Duration::from_secs(10)).await);
        }
        assert!(telemetry.flush(Duration::from_secs(10)).await);
        let before = receiver.items(signal).len() as u64;
        drop(receiver);

        shop.trade(10).await;
        assert!(
            !telemetry.flush(Duration::from_millis(300)).await,
            "nobody is there"
        );
        shop.trade(10).await;

        let receiver = Receiver::at(ports.0, ports.1);
        shop.trade(10).await;
        shop.worker.stop().await.unwrap();
        assert!(telemetry.flush(Duration::from_secs(20)).await);
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        let stats = report.into_result().unwrap().of(signal).stats;
        assert_accounted_for(signal, stats, 40);
        if QUEUED.contains(&signal) {
            assert_eq!(runs(&receiver, signal), 30);
            assert_eq!(receiver.items(signal).len() as u64, stats.exported - before);
        } else {
            assert_eq!(runs(&receiver, signal), 40);
        }
    }
}

#[tokio::test]
async fn a_receiver_that_dies_over_a_batch_gets_it_again() {
    for (protocol, signal) in all() {
        let receiver = Receiver::start();
        receiver.behave(&json!({"hang": 30}));
        let ports = (receiver.http_port, receiver.grpc_port);
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint, signal).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(1).await;
        receiver.wait_for_request();
        drop(receiver);
        let receiver = Receiver::at(ports.0, ports.1);
        shop.worker.stop().await.unwrap();
        assert!(telemetry.flush(Duration::from_secs(20)).await);
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        let SignalReport { stats, .. } = report.of(signal);
        assert_accounted_for(signal, stats, 1);
        assert_eq!(stats.lost(), 0, "{report:?}");
        assert_eq!(stats.exported, receiver.items(signal).len() as u64);
        assert_eq!(runs(&receiver, signal), 1);
    }
}

#[tokio::test]
async fn what_a_receiver_throws_away_is_counted() {
    for (protocol, signal) in all() {
        let receiver = Receiver::start();
        receiver.behave(&json!({"reject": 1}));
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint, signal)
            .schedule_delay(Duration::from_secs(60))
            .metric_interval(Duration::from_secs(60))
            .build()
            .unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(1).await;
        shop.worker.stop().await.unwrap();
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        let SignalReport { stats, reason, .. } = report.of(signal);
        // It has kept them all, whatever it says.
        let kept = receiver.items(signal).len() as u64;
        assert_eq!((stats.refused, stats.exported), (1, kept - 1), "{signal}");
        assert!(reason.contains("not these"), "{reason}");
    }
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    for signal in QUEUED {
        let telemetry = builder(Protocol::HttpProtobuf, &endpoint, signal)
            .max_queue_size(20)
            .max_batch_size(10)
            .build()
            .unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(50).await;
        shop.worker.stop().await.unwrap();
        let stats = telemetry.stats(signal);
        // The queue and the batch in hand.
        assert!(stats.queued <= 30, "{stats:?}");
        assert_eq!(stats.dropped, 50 * ITEMS_PER_RUN - stats.queued);
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        assert_eq!(report.of(signal).stats.lost(), 50 * ITEMS_PER_RUN);
    }
}

/// What is measured while a collection waits is in the next, also where each says only what is new.
#[test]
fn no_difference_is_lost_while_the_receiver_is_away() {
    let receiver = Receiver::start();
    let ports = (receiver.http_port, receiver.grpc_port);
    drop(receiver);
    let mut probe = std::process::Command::new(env!("CARGO_BIN_EXE_export_probe"))
        .arg("count while it is away")
        .arg(format!("http://127.0.0.1:{}", ports.0))
        .env("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "100")
        .env("OTEL_TRACES_EXPORTER", "none")
        .env("OTEL_LOGS_EXPORTER", "none")
        .stderr(std::process::Stdio::piped())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(probe.stderr.take().unwrap()).lines();
    // It has counted on, and an export with all of its attempts was in vain.
    let warned = log.any(|line| line.unwrap().contains("does not get through"));
    assert!(warned, "nothing is told");
    let receiver = Receiver::at(ports.0, ports.1);
    drop(probe.stdin.take());
    assert!(probe.wait().unwrap().success());
    let points = receiver.items(Signal::Metrics);
    let ours = points.iter().filter(|point| point["name"] == "counted");
    let counts: Vec<_> = ours.map(|point| point["value"].as_u64().unwrap()).collect();
    assert!(counts.len() > 1, "{counts:?}");
    assert_eq!(counts.iter().sum::<u64>(), 30, "{counts:?}");
}

/// An instrument's callback is called for a collection, and may be anybody's.
#[tokio::test]
async fn a_callback_that_panics_or_hangs_holds_nothing_up() {
    for hangs in [false, true] {
        let receiver = Receiver::start();
        let telemetry = Telemetry::builder()
            .endpoint(receiver.http())
            .without(Signal::Logs)
            .build()
            .unwrap();
        let meter = telemetry.meter_provider().meter("test");
        let _gauge = meter
            .u64_observable_gauge("broken")
            .with_callback(move |_| {
                assert!(hangs, "this callback is broken");
                std::thread::sleep(Duration::from_secs(60));
            })
            .build();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(1).await;
        shop.worker.stop().await.unwrap();
        let start = Instant::now();
        let report = telemetry.shutdown(Duration::from_secs(2)).await;
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the deadline counts"
        );
        assert_eq!(report.of(Signal::Traces).stats.exported, ITEMS_PER_RUN);
        assert_eq!(report.of(Signal::Metrics).stats.exported, 0);
    }
}

/// One run, and what became of a signal.
pub(crate) async fn traded(builder: TelemetryBuilder, signal: Signal) -> SignalReport {
    let telemetry = builder.build().unwrap();
    let mut shop = Shop::open(&telemetry).await;
    shop.trade(1).await;
    shop.worker.stop().await.unwrap();
    telemetry.shutdown(Duration::from_secs(10)).await.of(signal)
}

/// It is refused like any other answer that is no success, and the key stays where it belongs.
#[tokio::test]
async fn nobody_is_sent_elsewhere() {
    for signal in SIGNALS {
        let (receiver, other) = (Receiver::start(), Receiver::start());
        let elsewhere = format!("{}/v1/{signal}", other.http());
        receiver.behave(&json!({"redirect": elsewhere}));
        let sending = builder(Protocol::HttpProtobuf, &receiver.http(), signal);
        let report = traded(sending.header("x-api-key", "s3cret"), signal).await;
        assert!(report.stats.refused > 0 && report.stats.exported == 0);
        assert_accounted_for(signal, report.stats, 1);
        assert!(other.requests().is_empty());
    }
}

/// At any level: a log record of a request would make the next request.
#[test]
fn what_the_export_logs_is_not_exported() {
    for protocol in BOTH {
        let receiver = Receiver::start();
        // It checks that the one record which it makes is the only one.
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_export_probe"))
            .arg(receiver.endpoint(protocol))
            .args((protocol == Protocol::Grpc).then_some("grpc"))
            .env("RUST_LOG", "trace,opentelemetry_sdk=off,opentelemetry=off")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert_eq!(receiver.items(Signal::Logs).len(), 1);
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
