//! Which traces are recorded: decided at the root, by the caller, at a run's start, or at the end of
//! an execution.

use std::collections::BTreeSet;
use std::time::Duration;

use openworkflow::otel::export::{Protocol, Signal, TailSampling, Telemetry, TelemetryBuilder};
use openworkflow::otel::opentelemetry::Context;
use openworkflow::otel::opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
    TracerProvider,
};
use openworkflow::{Client, Error, RetryPolicy, Sqlite, Worker, WorkerHandle, WorkflowSpec};
use serde_json::Value;

use crate::receiver::Receiver;
use crate::tree::{text, tree};

/// What is to happen in a run.
static DO: WorkflowSpec<String, ()> = WorkflowSpec::new("do");
static NOTHING: WorkflowSpec<(), ()> = WorkflowSpec::new("nothing");

struct Shop {
    client: Client,
    worker: WorkerHandle,
    telemetry: Telemetry,
    receiver: Receiver,
    _folder: tempfile::TempDir,
}

impl Shop {
    async fn open(settings: impl FnOnce(TelemetryBuilder) -> TelemetryBuilder) -> Self {
        let receiver = Receiver::start();
        let builder = Telemetry::builder()
            .protocol(Protocol::HttpProtobuf)
            .endpoint(receiver.http())
            .schedule_delay(Duration::from_secs(60));
        let telemetry = settings(builder).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(folder.path().join("shop.db")).await.unwrap();
        let otel = telemetry.interceptor();
        let client = Client::builder(store.clone())
            .interceptor(otel.clone())
            .build();
        let tracer = telemetry.tracer_provider().tracer("app");
        let inner = client.clone();
        let work = DO.implement(move |wf, what: String| {
            let (tracer, inner) = (tracer.clone(), inner.clone());
            async move {
                let retry = RetryPolicy::attempts(5).initial_interval(Duration::from_millis(10));
                match what.as_str() {
                    "child" => wf.run_workflow(&NOTHING, &()).await?,
                    "start" => {
                        let start = async || {
                            inner.start(&NOTHING, &()).await?;
                            Ok(())
                        };
                        wf.run("start", start).await?;
                    }
                    _ => {
                        let first = wf.attempt() == 1;
                        wf.run("step", async || {
                            tracer.in_span("the user's own", |_| {});
                            match what.as_str() {
                                "retry" if first => Err(Error::new("Flaky", "not yet")),
                                "fail" => Err(Error::new("Bad", "never").non_retryable()),
                                "slow" => {
                                    tokio::time::sleep(Duration::from_millis(300)).await;
                                    Ok(())
                                }
                                _ => Ok(()),
                            }
                        })
                        .retry(retry)
                        .await?;
                    }
                }
                Ok(())
            }
        });
        let nothing = NOTHING.implement(|_, ()| async { Ok(()) });
        let worker = Worker::builder(store)
            .workflow(work)
            .workflow(nothing)
            .interceptor(otel)
            .build()
            .unwrap()
            .start();
        Self {
            client,
            worker,
            telemetry,
            receiver,
            _folder: folder,
        }
    }

    async fn run(&self, what: &str) {
        let run = self.client.start(&DO, &what.to_owned()).await.unwrap();
        let _ = run.result().await;
    }

    async fn close(mut self) -> Vec<Value> {
        self.worker.stop().await.unwrap();
        let report = self.telemetry.shutdown(Duration::from_secs(10)).await;
        let stats = report.into_result().unwrap().of(Signal::Traces).stats;
        assert_eq!(stats.lost(), 0);
        let spans = self.receiver.spans();
        assert_eq!(stats.exported, spans.len() as u64);
        spans
    }
}

fn caller(flags: TraceFlags) -> Context {
    let span = SpanContext::new(
        TraceId::from(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
        SpanId::from(0xb7ad_6b71_6920_3331),
        flags,
        true,
        TraceState::NONE,
    );
    Context::new().with_remote_span_context(span)
}

fn traces(spans: &[Value]) -> BTreeSet<&str> {
    spans.iter().map(|span| text(span, "trace_id")).collect()
}

#[tokio::test]
async fn a_ratio_keeps_runs_whole() {
    let shop = Shop::open(|builder| builder.sample_ratio(0.5)).await;
    for _ in 0..40 {
        shop.run("child").await;
    }
    let spans = shop.close().await;
    let traces = traces(&spans).len();
    // One in a billion of never or always.
    assert!((1..40).contains(&traces), "{traces}");
    // start, two executions, the child's step twice, the child's execution.
    assert_eq!(spans.len(), traces * 6);
}

#[tokio::test]
async fn a_traceparent_decides_and_is_the_parent() {
    let shop = Shop::open(|builder| builder.sample_ratio(0.0)).await;
    shop.run("plain").await;
    for (trace, flags) in [("aa", "00"), ("bb", "01")] {
        let header = format!("00-{}-b7ad6b7169203331-{flags}", trace.repeat(16));
        let input = "plain".to_owned();
        let run = shop.client.start(&DO, &input).traceparent(header);
        run.await.unwrap().result().await.unwrap();
    }
    let spans = shop.close().await;
    assert_eq!(traces(&spans), BTreeSet::from(["bb".repeat(16).as_str()]));
    assert_eq!(spans.len(), 4);
    let start = spans
        .iter()
        .find(|s| text(s, "name").starts_with("workflow.start"));
    assert_eq!(text(start.unwrap(), "parent_id"), "b7ad6b7169203331");
}

#[tokio::test]
async fn a_traceparent_can_switch_off_what_would_be_recorded() {
    let shop = Shop::open(|builder| builder).await;
    let header = format!("00-{}-b7ad6b7169203331-00", "aa".repeat(16));
    let run = shop.client.start(&DO, &"child".to_owned());
    let run = run.traceparent(header).await.unwrap();
    run.result().await.unwrap();
    assert_eq!(shop.close().await, Vec::<Value>::new());
}

#[tokio::test]
async fn runs_of_unsampled_requests_can_be_decided_anew() {
    for (ratio, expected) in [(0.0, 0), (1.0, 4)] {
        let shop = Shop::open(|builder| builder.resample_runs(ratio)).await;
        shop.run("plain")
            .with_context(caller(TraceFlags::NOT_SAMPLED))
            .await;
        let spans = shop.close().await;
        // Only the run: the user's own span is in it, and nothing else of the caller's.
        assert_eq!(spans.len(), expected, "{}", tree(&spans));
        if let Some(span) = spans.first() {
            assert_eq!(text(span, "trace_id"), "0af7651916cd43dd8448eb211c80319c");
        }
    }
    // A sampled caller is not asked again.
    let shop = Shop::open(|builder| builder.resample_runs(0.0)).await;
    shop.run("plain")
        .with_context(caller(TraceFlags::SAMPLED))
        .await;
    assert_eq!(shop.close().await.len(), 4);
}

fn tail(builder: TelemetryBuilder) -> TelemetryBuilder {
    let slow = Duration::from_millis(200);
    builder.tail_sampling(TailSampling::keep_ratio(0.0).slower_than(slow))
}

#[tokio::test]
async fn the_tail_keeps_what_failed() {
    let shop = Shop::open(tail).await;
    shop.run("plain").await;
    shop.run("fail").await;
    assert_eq!(
        tree(&shop.close().await),
        "workflow.start do producer ok\n\
         workflow.start do producer ok\n  \
           workflow.execute do consumer error\n    \
             step.run step internal error * exception\n      \
               the user's own internal unset\n"
    );
}

#[tokio::test]
async fn the_tail_keeps_what_was_retried() {
    let shop = Shop::open(tail).await;
    shop.run("retry").await;
    assert_eq!(
        tree(&shop.close().await),
        "workflow.start do producer ok\n  \
           workflow.execute do consumer error\n    \
             step.run step internal error * exception\n      \
               the user's own internal unset\n  \
           workflow.execute do consumer ok\n    \
             step.run step internal ok\n      \
               the user's own internal unset\n"
    );
}

#[tokio::test]
async fn the_tail_keeps_what_was_slow() {
    let shop = Shop::open(tail).await;
    shop.run("slow").await;
    assert_eq!(
        tree(&shop.close().await),
        "workflow.start do producer ok\n  \
           workflow.execute do consumer ok\n    \
             step.run step internal ok\n      \
               the user's own internal unset\n"
    );
}

/// The child's execution is left out, the parent's that it hangs on is kept, and so would the child's
/// be if it failed.
#[tokio::test]
async fn the_tail_keeps_what_a_run_hangs_on() {
    let shop = Shop::open(tail).await;
    shop.run("child").await;
    shop.run("start").await;
    let spans = shop.close().await;
    assert_eq!(
        tree(&spans),
        "workflow.start do producer ok\n  \
           workflow.execute do consumer ok\n    \
             step.run_workflow nothing producer ok\n\
         workflow.start do producer ok\n  \
           workflow.execute do consumer ok\n    \
             step.run start internal ok\n      \
               workflow.start nothing producer ok\n"
    );
}

#[tokio::test]
async fn the_tail_keeps_its_share_whole() {
    let settings = |builder: TelemetryBuilder| builder.tail_sampling(TailSampling::keep_ratio(0.5));
    let shop = Shop::open(settings).await;
    for _ in 0..40 {
        shop.run("plain").await;
    }
    let spans = shop.close().await;
    let whole = (spans.len() - 40) / 3;
    assert_eq!(
        spans.len(),
        40 + whole * 3,
        "a start each, and the rest or nothing of it"
    );
    assert!((1..40).contains(&whole), "{whole}");
}

#[tokio::test]
async fn the_tail_holds_no_more_than_it_may() {
    let settings = |builder: TelemetryBuilder| {
        builder.tail_sampling(TailSampling::keep_ratio(0.0).max_spans(1))
    };
    let shop = Shop::open(settings).await;
    shop.run("plain").await;
    // Two spans of an execution in which nothing happened: kept, and whole, for want of room.
    assert_eq!(shop.close().await.len(), 4);
}

/// A span that a task goes on with after the execution has ended shares the execution's fate.
#[tokio::test]
async fn late_spans_follow_the_tail() {
    for (what, expected) in [("plain", 1), ("fail", 5)] {
        let receiver = Receiver::start();
        // However long it takes.
        let telemetry = Telemetry::builder()
            .tail_sampling(TailSampling::keep_ratio(0.0))
            .protocol(Protocol::HttpProtobuf)
            .endpoint(receiver.http())
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(folder.path().join("shop.db")).await.unwrap();
        let otel = telemetry.interceptor();
        let client = Client::builder(store.clone())
            .interceptor(otel.clone())
            .build();
        let tracer = telemetry.tracer_provider().tracer("app");
        let left_over = std::sync::Arc::new(std::sync::Mutex::new(None));
        let out = left_over.clone();
        let work = DO.implement(move |wf, what: String| {
            let (tracer, out) = (tracer.clone(), out.clone());
            async move {
                wf.run("step", async || {
                    let span = tracer.start("outlives");
                    let cx = Context::current();
                    *out.lock().unwrap() = Some((span, cx, tracer.clone()));
                    if what == "fail" {
                        return Err(Error::new("Bad", "never").non_retryable());
                    }
                    Ok(())
                })
                .await
            }
        });
        let mut worker = Worker::builder(store)
            .workflow(work)
            .interceptor(otel)
            .build()
            .unwrap()
            .start();
        let run = client.start(&DO, &what.to_owned()).await.unwrap();
        let _ = run.result().await;
        worker.stop().await.unwrap();
        let (span, cx, tracer) = left_over.lock().unwrap().take().unwrap();
        drop(span);
        drop(tracer.start_with_context("begins late", &cx));
        drop(cx);
        let report = telemetry.shutdown(Duration::from_secs(10)).await;
        let stats = report.into_result().unwrap().of(Signal::Traces).stats;
        assert_eq!(stats.exported, expected, "{}", tree(&receiver.spans()));
        assert_eq!(stats.exported + stats.discarded, 5);
    }
}
