//! Receivers that are away, refuse, are slow or come back: workflows go on, spans are kept as long
//! as there is room, and every one of them is accounted for.

use std::time::{Duration, Instant};

use openworkflow::otel::export::{ExportStats, Protocol, Telemetry, TelemetryBuilder};
use openworkflow::{Client, Sqlite, Worker, WorkerHandle, WorkflowSpec};
use serde_json::json;

use crate::receiver::{Receiver, free_port, well};

static GREET: WorkflowSpec<u32, u32> = WorkflowSpec::new("greet");
/// `workflow.start`, `workflow.execute`, `step.run`.
const SPANS_PER_RUN: u64 = 3;

const BOTH: [Protocol; 2] = [Protocol::HttpProtobuf, Protocol::Grpc];

fn builder(protocol: Protocol, endpoint: &str) -> TelemetryBuilder {
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
        let error = telemetry
            .shutdown(Duration::from_secs(20))
            .await
            .unwrap_err();
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "three attempts and no more"
        );
        assert_eq!(error.spans, 20 * SPANS_PER_RUN);
        assert_eq!(error.stats.undelivered, error.spans);
        assert!(error.reason.contains("refused"), "{}", error.reason);
        assert_accounted_for(error.stats, error.spans);
    }
}

#[tokio::test]
async fn what_is_refused_is_not_sent_again() {
    for (protocol, why) in BOTH.into_iter().zip(["401", "no such key"]) {
        let receiver = Receiver::start();
        receiver.behave(&json!({"refuse": 401}));
        let endpoint = match protocol {
            Protocol::Grpc => receiver.grpc(),
            _ => receiver.http(),
        };
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
        let result = telemetry.shutdown(Duration::from_secs(10)).await;
        let stats = match &result {
            Ok(stats) => *stats,
            Err(error) => {
                assert!(error.reason.contains(why), "{}", error.reason);
                error.stats
            }
        };
        assert!(stats.refused > earlier && stats.exported > 0, "{stats:?}");
        assert_accounted_for(stats, 3 * SPANS_PER_RUN);
    }
}

#[tokio::test]
async fn a_receiver_may_ask_for_patience() {
    for protocol in BOTH {
        let receiver = Receiver::start();
        receiver.behave(&json!({"throttle": 2}));
        let endpoint = match protocol {
            Protocol::Grpc => receiver.grpc(),
            _ => receiver.http(),
        };
        let telemetry = builder(protocol, &endpoint).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        let start = Instant::now();
        shop.trade(5).await;
        shop.worker.stop().await.unwrap();
        // Whatever the deadline, one that says when it will be ready is waited for.
        let stats = telemetry.shutdown(Duration::from_secs(20)).await.unwrap();
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
        let endpoint = match protocol {
            Protocol::Grpc => receiver.grpc(),
            _ => receiver.http(),
        };
        let telemetry = builder(protocol, &endpoint).build().unwrap();
        let mut shop = Shop::open(&telemetry).await;
        let start = Instant::now();
        shop.trade(20).await;
        shop.worker.stop().await.unwrap();
        let error = telemetry
            .shutdown(Duration::from_secs(1))
            .await
            .unwrap_err();
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "the deadline counts"
        );
        assert_eq!(error.reason, "no answer before the deadline");
        assert_accounted_for(error.stats, 20 * SPANS_PER_RUN);
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
    telemetry.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_receiver_that_comes_back_gets_everything() {
    for protocol in BOTH {
        let receiver = Receiver::start();
        let ports = (receiver.http_port, receiver.grpc_port);
        let endpoint = match protocol {
            Protocol::Grpc => receiver.grpc(),
            _ => receiver.http(),
        };
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
        let stats = telemetry.shutdown(Duration::from_secs(10)).await.unwrap();
        assert_eq!(stats.exported, 40 * SPANS_PER_RUN);
        assert_eq!(receiver.spans().len() as u64, stats.exported - before);
    }
}

#[tokio::test]
async fn what_a_receiver_throws_away_is_counted() {
    for protocol in BOTH {
        let receiver = Receiver::start();
        receiver.behave(&json!({"reject": 1}));
        let endpoint = match protocol {
            Protocol::Grpc => receiver.grpc(),
            _ => receiver.http(),
        };
        let telemetry = builder(protocol, &endpoint)
            .schedule_delay(Duration::from_secs(60))
            .build()
            .unwrap();
        let mut shop = Shop::open(&telemetry).await;
        shop.trade(1).await;
        shop.worker.stop().await.unwrap();
        let error = telemetry
            .shutdown(Duration::from_secs(10))
            .await
            .unwrap_err();
        assert_eq!((error.stats.refused, error.stats.exported), (1, 2));
        assert!(error.reason.contains("not these"), "{}", error.reason);
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
    let error = telemetry
        .shutdown(Duration::from_secs(10))
        .await
        .unwrap_err();
    assert_eq!(error.stats.lost(), 50 * SPANS_PER_RUN);
}

/// A certificate authority's certificate, and the paths of a certificate of its for 127.0.0.1.
fn certificates(folder: &std::path::Path) -> (String, [String; 2]) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    let paths = [
        ("server.pem", server.pem()),
        ("key.pem", key.serialize_pem()),
    ];
    let paths = paths.map(|(name, pem)| {
        let path = folder.join(name);
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    });
    (certificate.pem(), paths)
}

#[tokio::test]
async fn certificates_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (stranger, _) = certificates(folder.path());
    let (authority, [certificate, key]) = certificates(folder.path());
    let receiver = Receiver::with(&["--certificate", &certificate, "--key", &key]);
    for protocol in BOTH {
        let port = match protocol {
            Protocol::Grpc => receiver.grpc_port,
            _ => receiver.http_port,
        };
        let endpoint = format!("https://127.0.0.1:{port}");
        let end = async |telemetry: Telemetry| {
            let mut shop = Shop::open(&telemetry).await;
            shop.trade(1).await;
            shop.worker.stop().await.unwrap();
            telemetry.shutdown(Duration::from_secs(10)).await
        };

        let trusting = builder(protocol, &endpoint).certificates(authority.clone());
        let stats = end(trusting.build().unwrap()).await.unwrap();
        assert_eq!(stats.exported, SPANS_PER_RUN);

        let wary = builder(protocol, &endpoint).certificates(stranger.clone());
        let error = end(wary.build().unwrap()).await.unwrap_err();
        assert!(error.reason.contains("certificate"), "{}", error.reason);
        assert_eq!(error.stats.undelivered, SPANS_PER_RUN);

        let plain = builder(protocol, &format!("http://127.0.0.1:{port}"));
        let error = end(plain.build().unwrap()).await.unwrap_err();
        assert_eq!(error.stats.lost(), SPANS_PER_RUN);
    }
    let no_pem = builder(Protocol::Grpc, "https://localhost").certificates("none");
    let error = no_pem.build().unwrap_err().to_string();
    assert!(error.starts_with("the certificates to trust"), "{error}");
}
