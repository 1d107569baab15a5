//! Traces that cross the languages: the carrier in the column `context`.

use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::opentelemetry::baggage::BaggageExt;
use openworkflow::otel::opentelemetry::trace::{
    FutureExt, TraceContextExt, Tracer, TracerProvider,
};
use openworkflow::otel::opentelemetry::{Context, KeyValue, SpanId, TraceId};
use openworkflow::otel::testing::SpanCollector;
use openworkflow::{Client, Worker, WorkerHandle};
use openworkflow_tests::Database;
use serde::Deserialize;
use serde_json::{Value, json};

use super::workflows::{CHILD, PARENT, Spec};
use super::{By, Sdk, Site};

super::checks! {
    both: foreign_members_of_the_context_survive;
    current:
        a_run_of_typescript_hangs_under_its_span_in_rust,
        a_run_of_rust_is_linked_to_its_span_in_typescript,
        a_rust_child_hangs_under_its_typescript_parent,
        a_typescript_child_is_linked_to_its_rust_parent
}

/// A span of the peer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerSpan {
    name: String,
    trace_id: String,
    span_id: String,
    parent_span_id: Option<String>,
    links: Vec<PeerLink>,
    attributes: Value,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct PeerLink {
    trace_id: String,
    span_id: String,
}

/// Both languages, with their spans.
struct Traced {
    site: Site,
    spans: SpanCollector,
    otel: OtelInterceptor,
}

impl Traced {
    async fn new() -> Self {
        let spans = SpanCollector::new();
        let otel = OtelInterceptor::builder()
            .tracer_provider(&spans.provider())
            .build();
        let site = Site::traced().await;
        Self { site, spans, otel }
    }

    fn rust_works_on(&self, name: &str) -> WorkerHandle {
        Worker::builder(self.site.db.store())
            .workflow(super::named(name))
            .interceptor(self.otel.clone())
            .build()
            .unwrap()
            .start()
    }

    /// Starts a run from Rust, under a span and baggage.
    async fn start_by_rust(&self, spec: &Spec, input: Value) -> String {
        let store = self.site.db.store();
        let client = Client::builder(store)
            .interceptor(self.otel.clone())
            .build();
        let caller = Context::new().with_baggage([KeyValue::new("tenant", "acme")]);
        let tracer = self.spans.provider().tracer("app");
        let caller = caller.with_span(tracer.start_with_context("caller", &Context::new()));
        let run = client
            .start(spec, &input)
            .with_context(caller.clone())
            .await
            .unwrap();
        caller.span().end();
        run.id().to_owned()
    }

    /// Starts a run from TypeScript, under a span and baggage.
    async fn start_by_typescript(&self, workflow: &str, input: Value) -> String {
        let span = json!({"name": "caller", "baggage": {"tenant": "acme"}});
        let start = json!({"workflow": workflow, "input": input, "span": span});
        self.site.peer.start_with(start).await
    }

    async fn peer_spans(&self) -> Vec<PeerSpan> {
        let spans = self.site.peer.call("spans", json!({})).await;
        serde_json::from_value(spans).expect("spans")
    }

    /// The peer's only span with this name and run.
    async fn peer_span(&self, name: &str, run: &str) -> PeerSpan {
        let mut spans = self.peer_spans().await;
        spans.retain(|span| span.name == name && span.attributes["openworkflow.run.id"] == run);
        assert_eq!(spans.len(), 1, "{name} of {run}: {spans:#?}");
        spans.remove(0)
    }

    /// The trace, the parent and the id of Rust's only span with this name.
    fn span(&self, name: &str) -> (TraceId, SpanId, SpanId) {
        let mut spans = self.spans.spans();
        spans.retain(|span| span.name == name);
        assert_eq!(spans.len(), 1, "{name}: {spans:#?}");
        let context = &spans[0].span_context;
        (
            context.trace_id(),
            spans[0].parent_span_id,
            context.span_id(),
        )
    }
}

async fn a_run_of_typescript_hangs_under_its_span_in_rust(_: Sdk) {
    let traced = Traced::new().await;
    let run = traced
        .start_by_typescript("child", json!({"mode": "ok"}))
        .await;
    let mut worker = traced.rust_works_on("child");
    let row = traced.site.ended(&run).await;
    worker.stop().await.unwrap();
    let create = traced.peer_span("workflow_run.create", &run).await;
    let (trace, parent, execute) = traced.span("workflow.execute child");
    assert_eq!(trace.to_string(), create.trace_id);
    assert_eq!(parent.to_string(), create.span_id);
    let (trace, parent, _) = traced.span("step.run work");
    assert_eq!((trace.to_string(), parent), (create.trace_id, execute));
    assert_eq!(row.output.unwrap()["baggage"], "acme");
    let callers = traced.peer_spans().await;
    let caller = callers.iter().find(|span| span.name == "caller").unwrap();
    assert_eq!(create.parent_span_id.as_deref(), Some(&*caller.span_id));
}

async fn a_run_of_rust_is_linked_to_its_span_in_typescript(_: Sdk) {
    let traced = Traced::new().await;
    let run = traced.start_by_rust(&CHILD, json!({"mode": "ok"})).await;
    traced.site.complete_by(By::TypeScript, &run).await;
    let (trace, _, start) = traced.span("workflow.start child");
    let execute = traced.peer_span("workflow_run.execute", &run).await;
    let link = PeerLink {
        trace_id: trace.to_string(),
        span_id: start.to_string(),
    };
    assert_eq!(execute.links, [link]);
    assert_ne!(execute.trace_id, trace.to_string());
    // What reads the newer name finds the same as what reads the older.
    let context = traced.site.db.run(&run).await.context.unwrap();
    assert_eq!(context["telemetry"], context["traceContext"]);
    assert_eq!(context["traceContext"]["baggage"], "tenant=acme");
}

async fn a_rust_child_hangs_under_its_typescript_parent(_: Sdk) {
    let traced = Traced::new().await;
    let site = &traced.site;
    let input = json!({"child": {"mode": "ok"}});
    let parent = traced.start_by_typescript("parent", input).await;
    site.park_on(By::TypeScript, &["parent"], &parent).await;
    let wait = site.step(&parent, "child").await.remove(0);
    let child = wait.child_workflow_run_id.unwrap();
    let mut worker = traced.rust_works_on("child");
    let row = site.ended(&child).await;
    worker.stop().await.unwrap();
    let create = traced.peer_span("workflow_run.create", &child).await;
    let (trace, parent, _) = traced.span("workflow.execute child");
    assert_eq!(trace.to_string(), create.trace_id);
    assert_eq!(parent.to_string(), create.span_id);
    assert_eq!(row.output.unwrap()["baggage"], "acme");
}

async fn a_typescript_child_is_linked_to_its_rust_parent(_: Sdk) {
    let traced = Traced::new().await;
    let site = &traced.site;
    let parent = traced
        .start_by_rust(&PARENT, json!({"child": {"mode": "ok"}}))
        .await;
    let mut worker = traced.rust_works_on("parent");
    site.parked(&parent, 1).await;
    worker.stop().await.unwrap();
    let wait = site.step(&parent, "child").await.remove(0);
    let child = wait.child_workflow_run_id.unwrap();
    let (trace, _, step) = traced.span("step.run_workflow child");
    let worker = site.work_on(By::TypeScript, &["child"]).await;
    let row = site.ended(&child).await;
    site.rest(worker).await;
    let execute = traced.peer_span("workflow_run.execute", &child).await;
    let link = PeerLink {
        trace_id: trace.to_string(),
        span_id: step.to_string(),
    };
    assert_eq!(execute.links, [link]);
    assert_eq!(
        row.context.unwrap()["traceContext"]["baggage"],
        "tenant=acme"
    );
    assert_eq!(row.output.unwrap()["baggage"], "acme");

    // The parent goes on in its own trace.
    site.forgive().await;
    let mut worker = traced.rust_works_on("parent");
    assert_eq!(site.ended(&parent).await.status, "completed");
    worker.stop().await.unwrap();
    let mut traces: Vec<_> = traced.spans.spans();
    traces.retain(|span| span.name == "workflow.execute parent");
    assert_eq!(traces.len(), 2);
    assert!(
        traces
            .iter()
            .all(|span| span.span_context.trace_id() == trace)
    );
}

/// What others wrote into the column stays, and what is malformed disturbs nobody.
async fn foreign_members_of_the_context_survive(sdk: Sdk) {
    let carrier = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let contexts = [
        json!({"traceContext": {"traceparent": carrier}, "app": {"tenant": ["acme", 1]}}),
        json!({"traceContext": {"traceparent": 42, "tracestate": null}}),
        json!({"traceContext": {"traceparent": "00-garbage", "baggage": "%%%"}}),
        json!({"traceContext": "text", "telemetry": [1]}),
        json!({"telemetry": {"traceparent": carrier, "unknown": "x"}, "traceContext": {}}),
        json!({}),
        json!([{"traceContext": {}}]),
        json!("text"),
        json!(7),
    ];
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let mut runs = Vec::new();
        for (index, context) in contexts.iter().enumerate() {
            let input = json!({"mode": "wait", "signal": format!("go-{index}")});
            let run = site.start_by(first, &CHILD, input).await;
            let context = context.to_string();
            site.db
                .execute(&format!(
                    "UPDATE workflow_runs SET context = '{context}' WHERE id = '{run}'"
                ))
                .await;
            runs.push(run);
        }
        let spans = SpanCollector::new();
        let otel = OtelInterceptor::builder()
            .tracer_provider(&spans.provider())
            .build();
        // Parked in one language, completed in the other.
        for (by, last) in [(first, false), (second, true)] {
            let worker = match by {
                By::Rust => {
                    super::site::AtWork::Rust(site.rust_works(|it| it.interceptor(otel.clone())))
                }
                By::TypeScript => site.work(by).await,
            };
            for run in &runs {
                if last {
                    assert_eq!(site.ended(run).await.status, "completed");
                } else {
                    site.parked(run, 1).await;
                }
            }
            site.rest(worker).await;
            for index in 0..runs.len() {
                // In the end nobody waits any more.
                site.signal_by(by, &format!("go-{index}"), Value::Null)
                    .await;
            }
        }
        for (run, context) in runs.iter().zip(&contexts) {
            assert_eq!(site.db.run(run).await.context.as_ref(), Some(context));
        }
    }
}
