//! What is logged with the `tracing` crate, by whomever: each event inside a run with the ids of the run, the
//! step and the span, and what workflow code logs between steps logged once.
//!
//! ```
//! use tracing_subscriber::filter::LevelFilter;
//! use tracing_subscriber::prelude::*;
//! use workflow_otel::logs::{RunFilter, json_layer};
//!
//! let logs = json_layer(std::io::stderr, RunFilter::new()).with_filter(LevelFilter::INFO);
//! let subscriber = tracing_subscriber::registry().with(logs);
//! // subscriber.init();
//! ```
//!
//! `docs/logs.md` has the rest. The ids are those of the current OpenTelemetry context, which
//! [`OtelInterceptor`](crate::OtelInterceptor) keeps: register it with clients and workers, with or without
//! an SDK behind it. Tasks that are spawned have them where the context is passed on.

mod filter;
mod ids;
mod json;
#[cfg(feature = "logs")]
mod records;

pub use filter::{ReplayedEvents, RunFilter};
pub use json::{JsonRunFields, json_layer};
#[cfg(feature = "logs")]
pub use records::{RunIdsProcessor, appender_layer};
