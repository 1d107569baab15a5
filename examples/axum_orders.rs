//! A shop as an HTTP service. `POST /orders` starts a run and answers at once; the span of that
//! request is the root of the run's trace. A step asks the warehouse, another HTTP service, and
//! carries the trace on to it.
//!
//! ```text
//! cargo run --example axum_orders -- --demo        # orders something, shows the trace, and ends
//! cargo run --example axum_orders                  # serves until Ctrl-C
//! curl -i localhost:3000/orders -H 'content-type: application/json' -d '"teapot"'
//! curl localhost:3000/orders/RUN
//! ```
//!
//! The orders are in a SQLite file, or in PostgreSQL where `DATABASE_URL` says so.

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use openworkflow::backend::RunStatus;
use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::http::{ExtractContextLayer, inject};
use openworkflow::otel::opentelemetry::trace::{
    FutureExt, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use openworkflow::otel::opentelemetry::{Context, KeyValue};
use openworkflow::otel::opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use openworkflow::otel::testing::SpanCollector;
use openworkflow::{Client, ClientError, Postgres, Sqlite, Worker, WorkerBuilder, WorkflowSpec};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

type AnyError = Box<dyn Error + Send + Sync>;

static TAKE_ORDER: WorkflowSpec<String, Receipt> = WorkflowSpec::new("take-order");

/// What the customer gets in the end.
#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    item: String,
    shelf: String,
}

/// What the shop's handlers and steps share.
#[derive(Clone)]
struct Shop {
    client: Client,
    tracer: Arc<SdkTracer>,
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let spans = SpanCollector::new();
    // An application adds its exporter here; `openworkflow::otel::init()` sets one up.
    let provider = SdkTracerProvider::builder()
        .with_span_processor(spans.clone())
        .build();
    let otel = OtelInterceptor::builder()
        .tracer_provider(&provider)
        .build();
    let tracer = Arc::new(provider.tracer("shop"));

    // The warehouse, which knows nothing of workflows.
    let warehouse = TcpListener::bind("127.0.0.1:0").await?;
    let reservations = format!("http://{}/reservations", warehouse.local_addr()?);
    let warehouse = tokio::spawn(serve(
        warehouse,
        traced(Router::new().route("/reservations", post(reserve)), &tracer),
    ));

    let folder = tempfile::tempdir()?;
    let (client, worker) = match env::var("DATABASE_URL") {
        Ok(url) => {
            let store = Postgres::connect(url).await?;
            (Client::builder(store.clone()), Worker::builder(store))
        }
        Err(_) => {
            let store = Sqlite::open(folder.path().join("orders.db")).await?;
            (Client::builder(store.clone()), Worker::builder(store))
        }
    };
    let shop = Shop {
        client: client.interceptor(otel.clone()).build(),
        tracer: Arc::clone(&tracer),
    };
    let mut worker = with_workflow(worker, reservations)
        .interceptor(otel)
        .build()?
        .start();

    let orders = Router::new()
        .route("/orders", post(take))
        .route("/orders/{run}", get(look))
        .with_state(shop.clone());
    let demo = env::args().any(|argument| argument == "--demo");
    let listener = TcpListener::bind(if demo {
        "127.0.0.1:0"
    } else {
        "127.0.0.1:3000"
    })
    .await?;
    let address = listener.local_addr()?;
    let service = tokio::spawn(serve(listener, traced(orders, &shop.tracer)));

    if demo {
        let run = order(&format!("http://{address}")).await?;
        let receipt = shop.client.handle::<Receipt>(run).result().await?;
        println!("{receipt:?}\n");
    } else {
        println!("taking orders at http://{address}/orders; Ctrl-C ends");
        tokio::signal::ctrl_c().await?;
    }

    // No more requests, then no more steps, then no more spans.
    service.abort();
    worker.stop().await?;
    warehouse.abort();
    provider.force_flush()?;
    if demo {
        let tree = spans.tree().kinds();
        println!("{}", tree.attributes(["http.response.status_code"]));
    }
    Ok(())
}

async fn serve(listener: TcpListener, router: Router) -> std::io::Result<()> {
    axum::serve(listener, router).await
}

/// A span for each request: under the caller's, where the request names one. Crates such as
/// `axum-tracing-opentelemetry` do the same with more attributes.
fn traced(router: Router, tracer: &Arc<SdkTracer>) -> Router {
    router
        .layer(middleware::from_fn_with_state(Arc::clone(tracer), in_span))
        .layer(ExtractContextLayer::new())
}

async fn in_span(
    State(tracer): State<Arc<SdkTracer>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = path.as_ref().map_or("(unknown)", MatchedPath::as_str);
    let builder = tracer
        .span_builder(format!("{} {route}", request.method()))
        .with_kind(SpanKind::Server);
    let cx = Context::current_with_span(builder.start(&*tracer));
    let response = next.run(request).with_context(cx.clone()).await;
    let span = cx.span();
    let status = response.status();
    span.set_attribute(KeyValue::new(
        "http.response.status_code",
        i64::from(status.as_u16()),
    ));
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
    span.end();
    response
}

/// `POST /orders`: starts the run, whose parent is the span of this request.
async fn take(
    State(shop): State<Shop>,
    headers: HeaderMap,
    Json(item): Json<String>,
) -> Result<(StatusCode, String), Refusal> {
    let mut start = shop.client.start(&TAKE_ORDER, &item);
    // A customer who sends the order twice gets the same run.
    if let Some(Ok(key)) = headers.get("idempotency-key").map(|key| key.to_str()) {
        start = start.idempotency_key(key);
    }
    let run = start.await?;
    Ok((StatusCode::ACCEPTED, run.id().to_owned()))
}

/// `GET /orders/{run}`: the receipt, once there is one.
async fn look(
    State(shop): State<Shop>,
    Path(run): Path<String>,
) -> Result<(StatusCode, String), Refusal> {
    let run = shop.client.describe(&run).await?;
    let status = match run.status {
        RunStatus::Completed => StatusCode::OK,
        RunStatus::Failed | RunStatus::Canceled => StatusCode::GONE,
        _ => StatusCode::ACCEPTED,
    };
    Ok((status, run.output.expose().to_owned()))
}

/// Why a request was not answered as hoped.
struct Refusal(ClientError);

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0 {
            ClientError::RunNotFound { .. } => StatusCode::NOT_FOUND,
            ClientError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, self.0.to_string()).into_response()
    }
}

/// What the steps share.
#[derive(Clone)]
struct Warehouse {
    http: reqwest::Client,
    reservations: String,
}

fn with_workflow(worker: WorkerBuilder, reservations: String) -> WorkerBuilder {
    let warehouse = Warehouse {
        http: reqwest::Client::new(),
        reservations,
    };
    let take_order = TAKE_ORDER.state(warehouse);
    worker.workflow(
        take_order.implement(|wf, warehouse, item: String| async move {
            let shelf = wf.run("reserve", || warehouse.reserve(&item)).await?;
            wf.sleep("until-packed", Duration::from_millis(200)).await?;
            wf.run("invoice", || async { Ok(Receipt { item, shelf }) })
                .await
        }),
    )
}

impl Warehouse {
    /// The body of a step. An error of the connection or of the warehouse has the step tried again.
    async fn reserve(&self, item: &str) -> openworkflow::Result<String> {
        let mut request = self
            .http
            .post(&self.reservations)
            .body(item.to_owned())
            .build()?;
        // The current context is the step's.
        inject(request.headers_mut());
        let response = self.http.execute(request).await?.error_for_status()?;
        Ok(response.text().await?)
    }
}

/// The warehouse's handler.
async fn reserve(item: String) -> String {
    format!("shelf {} for the {item}", item.len())
}

/// The customer of the demonstration.
async fn order(shop: &str) -> Result<String, AnyError> {
    let request = reqwest::Client::new()
        .post(format!("{shop}/orders"))
        .header("content-type", "application/json")
        .body("\"teapot\"");
    Ok(request.send().await?.error_for_status()?.text().await?)
}
