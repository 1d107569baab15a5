//! Receivers that are away, refuse, are slow or come back: workflows go on, spans are kept as long
//! as there is room, and every one of them is accounted for.

use std::time::{Duration, Instant};

use openworkflow::otel::export::{ExportStats, Protocol, Report, Telemetry, TelemetryBuilder};
use openworkflow::{Client, Sqlite, Worker, WorkerHandle, WorkflowSpec};
use serde_json::json;

use crate::receiver::{Receiver, free_port, well};

static GREET: WorkflowSpec<u32, u32> = WorkflowSpec::new("greet");
/// `workflow.start`, `workflow.execute`, `step.run`.
pub(crate) const SPANS_PER_RUN: u64 = 3;

pub(crate) const BOTH: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];

pub(crate) fn builder(protocol: Protocol, endpoint: &str) -> TelemetryBuilder {
    Telemetry::builder()
        .protocol(protocol)
        .endpoint(endpoint)
        .schedule_delay(Duration::from_millis(50))
}

/// A client and a worker on a database of their own.
struct Shop {
    client: Client,
    worker: WorkerHandle,
    _folder: tempfile::TempDir,
}

impl Shop {
    async fn open(telemetry: &Telemetry) -> Self {
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
            _folder: folder,
        }
    }

    /// So many runs, one after the other, each with the right result.
    async fn trade(&self, runs: u32) {
        for number in 0..runs {
            let run = self.client.start(&GREET, &number).await.unwrap();
            assert_eq!(run.result().await.unwrap(), number + 1);
        }
    }
}

fn assert_accounted_for(stats: ExportStats, spans: u64) {
    let all = stats.exported + stats.queued + stats.lost() + stats.discarded;
    assert_eq!(all, spans, "{stats:?}");
}

#[tokio::test]
async fn an_absent_receiver_is_given_up_at_the_end() {
    for protocol in BOTH {
        let endpoint = format!("http://127.0.0.1:{}", free_port());
        let telemetry = builder(protocol, &endpoint).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(20).await;
        shop.worker.stop().await.unwrap();
        let start = Instant::now();
        let report = telemetry.shutdown(Duration::from_secs(20)).await;
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "three attempts and no more"
        );
        assert_eq!(report.lost, 20 * SPANS_PER_RUN);
        assert_eq!(report.stats.undelivered, report.lost);
        assert!(report.reason.contains("refused"), "{}", report.reason);
        assert_accounted_for(report.stats, report.lost);
    }
}

#[tokio::test]
async fn what_is_refused_is_not_sent_again() {
    for (protocol, why) in BOTH.into_iter().zip(["401", "Unauthenticated"]) {
        let receiver = Receiver::start();
        receiver.behave(&json!({"refuse": 401}));
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(1).await;
        while telemetry.stats().refused == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Not for ever: the key may have been put right.
        let earlier = telemetry.stats().refused;
        receiver.behave(&well());
        shop.trade(1).await;
        receiver.wait_for(1);
        receiver.behave(&json!({"refuse": 401}));
        shop.trade(1).await;
        shop.worker.stop().await.unwrap();
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        // Or it was refused before the shutdown began.
        assert!(
            report.lost == 0 || report.reason.contains(why),
            "{}",
            report.reason
        );
        let stats = report.stats;
        assert!(stats.refused > earlier && stats.exported > 0, "{stats:?}");
        assert_accounted_for(stats, 3 * SPANS_PER_RUN);
    }
}

#[tokio::test]
async fn a_receiver_may_ask_for_patience() {
    for protocol in BOTH {
        let receiver = Receiver::start();
        receiver.behave(&json!({"throttle": 2}));
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        let start = Instant::now();
        shop.trade(5).await;
        shop.worker.stop().await.unwrap();
        // Whatever the deadline, one that says when it will be ready is waited for.
        let report = telemetry.shutdown(Duration::from_secs(20)).await;
        let stats = report.into_result().unwrap();
        assert!(
            start.elapsed() >= Duration::from_secs(2),
            "twice a second was asked for"
        );
        assert_eq!(stats.exported, 5 * SPANS_PER_RUN);
        assert_eq!(receiver.spans().len() as u64, stats.exported);
    }
}

#[tokio::test]
async fn a_slow_receiver_holds_nothing_up() {
    for protocol in BOTH {
        let receiver = Receiver::start();
        receiver.behave(&json!({"hang": 30}));
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        let start = Instant::now();
        shop.trade(20).await;
        shop.worker.stop().await.unwrap();
        let report = telemetry.shutdown(Duration::from_secs(1)).await;
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "the deadline counts"
        );
        assert_eq!(report.reason, "no answer before the deadline");
        assert_accounted_for(report.stats, 20 * SPANS_PER_RUN);
    }
}

#[tokio::test]
async fn an_export_has_a_time_limit() {
    let receiver = Receiver::start();
    receiver.behave(&json!({"hang": 30}));
    let telemetry = builder(Protocol::HttpProtobuf, &receiver.http())
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
    assert_eq!(telemetry.stats().lost(), 0);
    let report = telemetry.shutdown(Duration::from_secs(10)).await;
    report.into_result().unwrap();
}

#[tokio::test]
async fn a_receiver_that_comes_back_gets_everything() {
    for protocol in BOTH {
        let receiver = Receiver::start();
        let ports = (receiver.http_port, receiver.grpc_port);
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(10).await;
        assert!(telemetry.flush(Duration::from_secs(10)).await);
        let before = receiver.spans().len() as u64;
        assert_eq!(before, telemetry.stats().exported);
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
        let stats = report.into_result().unwrap();
        assert_eq!(stats.exported, 40 * SPANS_PER_RUN);
        assert_eq!(receiver.spans().len() as u64, stats.exported - before);
    }
}

#[tokio::test]
async fn a_receiver_that_dies_over_a_batch_gets_it_again() {
    for protocol in BOTH {
        let receiver = Receiver::start();
        receiver.behave(&json!({"hang": 30}));
        let ports = (receiver.http_port, receiver.grpc_port);
        let telemetry = builder(protocol, &receiver.endpoint(protocol))
            .build()
            .unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(1).await;
        receiver.wait_for_request();
        drop(receiver);
        let receiver = Receiver::at(ports.0, ports.1);
        shop.worker.stop().await.unwrap();
        assert!(telemetry.flush(Duration::from_secs(20)).await);
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        assert_eq!(report.stats.exported, SPANS_PER_RUN, "{report:?}");
        assert_eq!(receiver.spans().len() as u64, SPANS_PER_RUN);
    }
}

#[tokio::test]
async fn what_a_receiver_throws_away_is_counted() {
    for protocol in BOTH {
        let receiver = Receiver::start();
        receiver.behave(&json!({"reject": 1}));
        let endpoint = receiver.endpoint(protocol);
        let telemetry = builder(protocol, &endpoint)
            .schedule_delay(Duration::from_secs(60))
            .build()
            .unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(1).await;
        shop.worker.stop().await.unwrap();
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        assert_eq!((report.stats.refused, report.stats.exported), (1, 2));
        assert!(report.reason.contains("not these"), "{}", report.reason);
    }
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let telemetry = builder(Protocol::HttpProtobuf, &endpoint)
        .max_queue_size(20)
        .max_batch_size(10)
        .build()
        .unwrap();
    let mut shop = Shop::open(&telemetry).await;
    shop.trade(50).await;
    shop.worker.stop().await.unwrap();
    let stats = telemetry.stats();
    // The queue and the batch in hand.
    assert!(stats.queued <= 30, "{stats:?}");
    assert_eq!(stats.dropped, 50 * SPANS_PER_RUN - stats.queued);
    let report = telemetry.shutdown(Duration::from_secs(10)).await;
    assert_eq!(report.stats.lost(), 50 * SPANS_PER_RUN);
}

/// One run, and what became of its spans.
pub(crate) async fn traded(builder: TelemetryBuilder) -> Report {
    let telemetry = builder.build().unwrap();
    let mut shop = Shop::open(&telemetry).await;
    shop.trade(1).await;
    shop.worker.stop().await.unwrap();
    telemetry.shutdown(Duration::from_secs(10)).await
}

/// It is refused like any other answer that is no success, and the key stays where it belongs.
#[tokio::test]
async fn nobody_is_sent_elsewhere() {
    let (receiver, other) = (Receiver::start(), Receiver::start());
    let elsewhere = format!("{}/v1/traces", other.http());
    receiver.behave(&json!({"redirect": elsewhere}));
    let sending = builder(Protocol::HttpProtobuf, &receiver.http()).header("x-api-key", "s3cret");
    let report = traded(sending).await;
    assert_eq!(report.stats.refused, SPANS_PER_RUN);
    assert!(other.requests().is_empty());
}
