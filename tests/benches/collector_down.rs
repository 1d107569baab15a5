//! What a collector that is down, or that never answers, costs: runs of one step on SQLite, with
//! telemetry off, with spans that nobody exports, with a collector that is absent, and with one that
//! takes spans and acknowledges none.
//!
//! `cargo bench -p openworkflow-tests --bench collector_down`, or with a number of runs after `--`.
//! The variants take turns, so that what else the machine does falls on all of them.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::export::{Protocol, Signal, Telemetry};
use openworkflow::otel::opentelemetry_sdk::trace::SdkTracerProvider;
use openworkflow::{Client, Sqlite, Worker, WorkflowSpec};

static GREET: WorkflowSpec<u32, u32> = WorkflowSpec::new("greet");
const ROUNDS: u32 = 10;
const SPANS_PER_RUN: u64 = 3;

#[tokio::main]
async fn main() {
    // Cargo passes `--bench`.
    let runs = std::env::args().find_map(|arg| arg.parse().ok());
    let runs: u32 = runs.unwrap_or(10_000);
    // Accepts connections into its backlog, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = format!("http://{}", silent.local_addr().unwrap());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let telemetry = |endpoint: &str| {
        Telemetry::builder()
            .protocol(Protocol::HttpProtobuf)
            .endpoint(endpoint)
            .without(Signal::Metrics)
            .without(Signal::Logs)
            .build()
            .unwrap()
    };
    let (down, hangs) = (telemetry(&absent), telemetry(&hanging));
    let unexported = OtelInterceptor::builder()
        .tracer_provider(&SdkTracerProvider::builder().build())
        .build();
    let variants = [
        ("telemetry off", None, None),
        ("spans, no export", Some(unexported), None),
        ("collector down", Some(down.interceptor()), Some(&down)),
        ("collector hangs", Some(hangs.interceptor()), Some(&hangs)),
    ];

    let before = resident_kib();
    let mut took = [Duration::ZERO; 4];
    for round in 0..ROUNDS {
        for offset in 0..took.len() {
            let which = (round as usize + offset) % took.len();
            took[which] += drain(variants[which].1.as_ref(), runs / ROUNDS).await;
        }
    }
    println!("{runs} runs of one step each, in {ROUNDS} rounds\n");
    println!("| | runs/s | time, off = 1 | time, no export = 1 | spans kept | spans dropped |");
    println!("|---|---|---|---|---|---|");
    for ((name, _, telemetry), time) in variants.iter().zip(took) {
        let stats = telemetry.map(|telemetry| telemetry.stats(Signal::Traces));
        let stats = stats.unwrap_or_default();
        let seconds = time.as_secs_f64();
        let rate = f64::from(runs) / seconds;
        let [off, unexported] = [took[0], took[1]].map(|other| seconds / other.as_secs_f64());
        let (queued, dropped) = (stats.queued, stats.dropped);
        println!("| {name} | {rate:.0} | {off:.3} | {unexported:.3} | {queued} | {dropped} |");
        if telemetry.is_some() {
            assert_eq!(queued + stats.lost(), u64::from(runs) * SPANS_PER_RUN);
        }
    }
    println!(
        "\nresident memory: {before} KiB before, {} KiB after",
        resident_kib()
    );
    for (name, telemetry) in [("collector down", down), ("collector hangs", hangs)] {
        let start = Instant::now();
        let ended = telemetry.shutdown(Duration::from_secs(2)).await;
        let time = start.elapsed().as_secs_f64();
        println!(
            "shutdown within 2 s, {name}: {time:.2} s ({})",
            ended.of(Signal::Traces).reason
        );
    }
}

/// Starts so many runs and then has a worker do them all; how long the worker takes.
async fn drain(otel: Option<&OtelInterceptor>, runs: u32) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(folder.path().join("bench.db")).await.unwrap();
    let mut client = Client::builder(store.clone());
    let mut worker = Worker::builder(store.clone()).concurrency(100);
    if let Some(otel) = otel {
        client = client.interceptor(otel.clone());
        worker = worker.interceptor(otel.clone());
    }
    let client = client.build();
    let mut handles = Vec::new();
    for number in 0..runs {
        handles.push(client.start(&GREET, &number).await.unwrap());
    }
    let greet = GREET.implement(|wf, number: u32| async move {
        wf.run("compose", || async { Ok(number + 1) }).await
    });
    let start = Instant::now();
    let mut worker = worker.workflow(greet).build().unwrap().start();
    for run in handles {
        run.result().await.unwrap();
    }
    let took = start.elapsed();
    worker.stop().await.unwrap();
    took
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let digits = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    digits.unwrap_or(0)
}
