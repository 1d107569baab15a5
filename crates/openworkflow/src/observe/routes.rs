//! What is answered at which path.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use workflow_core::BoxError;

use super::{Endpoints, MetricsText, Scraped};

const NO_METRICS: &str = "There are no metrics here: the worker was given none to show. See docs/metrics.md of OpenWorkflow for Rust.\n";

pub(super) fn router<S: Clone + Send + Sync + 'static>(endpoints: Endpoints) -> Router<S> {
    Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(endpoints)
}

async fn ready(State(endpoints): State<Endpoints>) -> (StatusCode, String) {
    // Whoever is about to go needs no database for saying so.
    if endpoints.health.is_stopping() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    let report = endpoints.health.report().await;
    let code = match report.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let word = match report.stopping {
        true => "stopping",
        false => report.status.as_str(),
    };
    (code, format!("{word}\n"))
}

async fn health(State(endpoints): State<Endpoints>) -> Response {
    let report = endpoints.health.report().await;
    // Whoever asks how it is wants to know it now.
    ([(header::CACHE_CONTROL, "no-store")], Json(report)).into_response()
}

async fn metrics(State(endpoints): State<Endpoints>, headers: HeaderMap) -> Response {
    let Some(metrics) = endpoints.metrics else {
        return (StatusCode::NOT_FOUND, NO_METRICS).into_response();
    };
    let accept = headers.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok().map(str::to_owned));
    // Thousands of series take their time, and callbacks of others theirs.
    let scraped = tokio::task::spawn_blocking(move || scrape(&metrics, accept.as_deref())).await;
    match scraped {
        Ok(Ok(Scraped { content_type, text })) => {
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Ok(Err(error)) => failed(&*error),
        Err(panicked) => failed(&panicked),
    }
}

fn scrape(metrics: &MetricsText, accept: Option<&str>) -> Result<Scraped, BoxError> {
    (metrics.0)(accept)
}

fn failed(error: &dyn std::error::Error) -> Response {
    tracing::warn!(%error, "metrics were asked for, and cannot be told");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}
