//! A trace that comes in with a request, goes through a run, and out again with the requests of a
//! step: a real server, and real clients of two makes.

use std::collections::HashMap;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::http::{ExtractContextLayer, InjectContextLayer, inject};
use openworkflow::otel::testing::SpanCollector;
use openworkflow::{Client, Sqlite, Worker, WorkflowSpec};
use tower::{Service, ServiceBuilder, ServiceExt};

/// Asks the address for its headers, by two clients.
static ASK: WorkflowSpec<String, Vec<HashMap<String, String>>> = WorkflowSpec::new("ask");

const INCOMING: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A discount of 100 %.
const BAGGAGE: &str = "discount=100%25;of=100%25";

fn trace_headers(text: &str) -> HashMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(": "));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

async fn with_hyper(url: &str) -> openworkflow::Result<String> {
    let client = HyperClient::builder(TokioExecutor::new()).build_http::<Empty<&[u8]>>();
    let mut client = ServiceBuilder::new()
        .layer(InjectContextLayer::new())
        .service(client);
    let request = http::Request::get(url).body(Empty::new())?;
    let response = client.ready().await?.call(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

async fn with_reqwest(url: &str) -> openworkflow::Result<String> {
    let client = reqwest::Client::new();
    let mut request = client.get(url).build()?;
    inject(request.headers_mut());
    Ok(client.execute(request).await?.text().await?)
}

async fn handler(State((client, address)): State<(Client, String)>) -> String {
    let run = client
        .start(&ASK, &format!("http://{address}/headers"))
        .await
        .unwrap();
    let headers = run.result().await.unwrap();
    serde_json::to_string(&headers).unwrap()
}

async fn headers(headers: HeaderMap) -> String {
    let lines = headers.iter().map(|(name, value)| {
        let value = value.to_str().unwrap_or_default();
        format!("{name}: {value}\n")
    });
    lines.collect()
}

#[tokio::test]
async fn a_trace_goes_through_a_run_and_on() {
    let spans = SpanCollector::new();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&spans.provider())
        .build();
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(folder.path().join("app.db")).await.unwrap();
    let client = Client::builder(store.clone())
        .interceptor(otel.clone())
        .build();
    let ask = ASK.implement(|wf, url: String| async move {
        let mut answers = Vec::new();
        answers.push(wf.run("hyper", || with_hyper(&url)).await?);
        answers.push(wf.run("reqwest", || with_reqwest(&url)).await?);
        Ok(answers.iter().map(|text| trace_headers(text)).collect())
    });
    let mut worker = Worker::builder(store)
        .workflow(ask)
        .interceptor(otel)
        .build()
        .unwrap()
        .start();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new()
        .route("/ask", get(handler))
        .route("/headers", get(headers))
        .layer(ExtractContextLayer::new())
        .with_state((client, address.clone()));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let answer = reqwest::Client::new()
        .get(format!("http://{address}/ask"))
        .header("traceparent", INCOMING)
        .header("baggage", BAGGAGE)
        .send()
        .await
        .unwrap();
    let answer = answer.text().await.unwrap();
    let received: Vec<HashMap<String, String>> = serde_json::from_str(&answer).unwrap();
    worker.stop().await.unwrap();
    server.abort();

    spans.assert_sound();
    spans.tree().assert_eq(
        "
        workflow.start ask (remote parent)
        └── workflow.execute ask
            ├── step.run hyper
            └── step.run reqwest
        ",
    );
    let spans = spans.spans();
    assert_eq!(spans[0].parent_span_id.to_string(), "b7ad6b7169203331");
    for (headers, step) in received.iter().zip(&spans[2..]) {
        let id = step.span_context.span_id();
        let expected = format!("00-0af7651916cd43dd8448eb211c80319c-{id}-01");
        assert_eq!(headers["traceparent"], expected);
        assert_eq!(headers["baggage"], BAGGAGE);
    }
}

/// Garbage from the world is no context, and a request without one starts a trace.
#[tokio::test]
async fn a_request_that_names_no_trace_is_handled_too() {
    let mut service = ServiceBuilder::new()
        .layer(ExtractContextLayer::new())
        .layer(InjectContextLayer::new())
        .service_fn(async |request: http::Request<()>| {
            Ok::<_, std::convert::Infallible>(request.headers().clone())
        });
    for garbage in ["", "00", "00-0-0-01", "ff-zz"] {
        let request = http::Request::builder().header("x-other", "1");
        let request = request.header("traceparent", garbage).body(()).unwrap();
        let headers = service.ready().await.unwrap().call(request).await.unwrap();
        // Not passed on as if it were ours: it is what the caller sent.
        assert_eq!(headers["traceparent"], garbage);
        assert_eq!(headers["x-other"], "1");
    }
}
