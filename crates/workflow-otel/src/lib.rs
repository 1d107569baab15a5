//! OpenTelemetry traces, metrics and logs for durable workflows: one run, one trace.
//!
//! [`OtelInterceptor`] turns what a workflow engine does into spans. Register one with the client
//! and the worker; every execution of a run is then a child of the span that started it, however
//! often the run was parked, replayed or retried in between, and the user's own spans nest where
//! they were made. It works with any engine that speaks [`workflow_core`].
//!
//! ```
//! use opentelemetry_sdk::trace::SdkTracerProvider;
//! use workflow_otel::OtelInterceptor;
//!
//! let provider = SdkTracerProvider::builder().build();
//! let otel = OtelInterceptor::builder().tracer_provider(&provider).build();
//! // client.interceptor(otel.clone()), worker.interceptor(otel)
//! ```
//!
//! Without a provider the global one is used, without a propagator the global one or W3C trace
//! context and baggage. The versions of the `opentelemetry` crates must be the same throughout an
//! application: a span of another version is invisible here. [`opentelemetry`] and
//! [`opentelemetry_sdk`] are re-exported so that they can be.
//!
//! # Features
//!
//! - `http`: trace context in and out of HTTP requests, as tower layers.
//! - `logs`: what is logged with the `tracing` crate, as OpenTelemetry log records and as JSON lines, each
//!   with the ids of its run; [`logs`].
//! - `metrics`: counts and durations of runs, executions and steps, taken by the same interceptor.
//! - `logs`: what is logged by way of the `tracing` crate, as log records, for `otlp` to export.
//! - `otlp`: [`init`] and [`export`], the set-up for applications that have no OpenTelemetry of their
//!   own: export over HTTP, sampling, hosted backends. Of traces; of metrics and logs with the features
//!   named so. Includes `tracing`.
//! - `otlp-grpc`: the same over gRPC too.
//! - `prometheus`: the same metrics as text that Prometheus scrapes. Includes `metrics`.
//! - `testing`: a kit to collect spans and compare them with an expected tree.
//! - `tracing`: for applications whose own spans are made with the `tracing` crate. Includes what is in
//!   [`logs`] but for log records.

mod builder;
mod config;
mod context;
mod edges;
#[cfg(feature = "otlp")]
pub mod export;
pub mod ids;
mod interceptor;
#[cfg(any(feature = "logs", feature = "tracing"))]
pub mod logs;
mod losses;
#[cfg(feature = "metrics")]
mod metrics;
mod names;
mod outcomes;
#[cfg(feature = "testing")]
pub mod testing;
mod tracer;
mod traces;

pub use builder::OtelInterceptorBuilder;
#[cfg(any(feature = "logs", feature = "tracing"))]
pub use config::LogSelection;
#[cfg(feature = "metrics")]
pub use config::MetricSelection;
pub use config::{
    BaggagePolicy, ErrorDetail, SignalNames, SpanCall, SpanSelection, SuccessStatus, TraceMode,
};
#[cfg(feature = "http")]
pub use edges::http;
#[cfg(feature = "prometheus")]
pub use edges::prometheus::{Prometheus, PrometheusReader, PrometheusText, ScrapeError};
#[cfg(feature = "otlp")]
pub use export::init;
pub use interceptor::OtelInterceptor;
pub use losses::Losses;
#[cfg(feature = "metrics")]
pub use names::metric;
pub use names::{attribute, event, operation};
pub use traces::RunAttributesProcessor;
#[cfg(feature = "tracing")]
pub use traces::bridge::tracing_layer;
pub use {opentelemetry, opentelemetry_sdk};
