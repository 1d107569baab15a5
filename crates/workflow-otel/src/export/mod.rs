//! From the environment to a collector in one call.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // Reads OTEL_EXPORTER_OTLP_ENDPOINT and the other standard variables.
//! let telemetry = workflow_otel::init()?;
//! let otel = telemetry.interceptor();
//! // client.interceptor(otel.clone()), worker.interceptor(otel), worker.run().await
//! telemetry.shutdown(Duration::from_secs(10)).await;
//! # Ok(()) }
//! ```
//!
//! That is traces. With the feature `metrics` it is metrics too, with `logs` what is logged by way of the
//! `tracing` crate, to the same receiver or, by its own variables, to another.
//!
//! Spans and log records wait in bounded queues for a thread that hands them to exporters of
//! `opentelemetry-otlp`, over HTTP or, with the feature `otlp-grpc`, gRPC; metrics are collected there. A
//! receiver that is down, slow or refuses costs workflows nothing: batches are tried again until it is
//! back, what does not fit into a queue meanwhile is dropped, counted in [`ExportStats`], and reported as a
//! `tracing` warning once a minute.
//!
//! An application that has a tracer provider of its own needs nothing of this module:
//! [`OtelInterceptor::builder`](crate::OtelInterceptor::builder) takes it.
//!
//! # Variables
//!
//! Those of the OpenTelemetry standard. What code says goes before what they say, a variable for one
//! signal (`OTEL_EXPORTER_OTLP_TRACES_…`, `…_METRICS_…`, `…_LOGS_…`) before the general one. A value that
//! cannot be honoured is an error.
//!
//! | variable | default |
//! |---|---|
//! | `OTEL_SDK_DISABLED` | `false` |
//! | `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER`, `OTEL_LOGS_EXPORTER` (`otlp`, `none`; for metrics `prometheus`, with [`TelemetryBuilder::prometheus`]) | `otlp` |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | `unknown_service` |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | `http://localhost:4318`, for gRPC `:4317` |
//! | `OTEL_EXPORTER_OTLP_PROTOCOL` (`http/protobuf`, `grpc`) | `http/protobuf` |
//! | `OTEL_EXPORTER_OTLP_HEADERS` (`name=value,…`, percent-encoded) | none |
//! | `OTEL_EXPORTER_OTLP_COMPRESSION` (`gzip`, `none`) | `none`; gRPC is always compressed |
//! | `OTEL_EXPORTER_OTLP_TIMEOUT`, in ms | `10000` |
//! | `OTEL_EXPORTER_OTLP_CERTIFICATE`, a PEM file | the system's certificates |
//! | `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`, `…_CLIENT_KEY`, PEM files | none |
//! | `OTEL_EXPORTER_OTLP_INSECURE`, for gRPC addresses without a scheme | `false` |
//! | `ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, for HTTP | none |
//! | `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG` | `parentbased_always_on` |
//! | `OTEL_PROPAGATORS` (`tracecontext`, `baggage`, `none`) | `tracecontext,baggage` |
//! | `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BLRP_MAX_QUEUE_SIZE` | `2048` spans, log records |
//! | `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, `OTEL_BLRP_MAX_EXPORT_BATCH_SIZE` | `512` |
//! | `OTEL_BSP_SCHEDULE_DELAY`, `OTEL_BLRP_SCHEDULE_DELAY`, in ms | `5000`, `1000` |
//! | `OTEL_METRIC_EXPORT_INTERVAL`, in ms | `60000` |
//! | `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE` | `cumulative` |
//! | `RUST_LOG` (targets and levels), for the log that `init` sets up | `info` |

mod account;
mod builder;
mod client;
mod control;
mod courier;
mod destination;
mod environment;
mod error;
mod exporters;
#[cfg(feature = "metrics")]
mod metrics;
mod presets;
mod queue;
mod report;
mod reporter;
mod sampling;
#[cfg(feature = "metrics")]
mod self_metrics;
mod set_up;
mod signal;
mod subscriber;
mod tail;
mod telemetry;
mod thread;
mod witness;
mod work;

pub use builder::TelemetryBuilder;
pub use destination::{Compression, Destination, Protocol};
pub use error::InitError;
pub use report::{ExportStats, Report, SignalReport, Undelivered};
pub use signal::Signal;
pub use subscriber::LogFormat;
pub use tail::TailSampling;
pub use telemetry::Telemetry;
pub use work::WorkResult;

/// Sets up export as the environment describes it (see [`export`](self)) and installs it for the whole
/// process: the global tracer provider, with the feature `metrics` the global meter provider, the global
/// propagator unless one was set, and, unless there is a `tracing` subscriber, one that logs to standard
/// error ([`LogFormat`]), turns `tracing` spans into spans, and, with the feature `logs`, its events into log records.
///
/// [`Telemetry::builder`] does the same with settings in code, or without installing anything.
///
/// # Errors
///
/// A variable that cannot be honoured, or a global provider that is there already: nothing is installed then.
pub fn init() -> Result<Telemetry, InitError> {
    Telemetry::builder().init()
}
