//! A kit for tests of traces: collect spans, render them as an indented tree, compare.
//!
//! ```
//! use opentelemetry::trace::{Tracer, TracerProvider};
//! use workflow_otel::testing::SpanCollector;
//!
//! let spans = SpanCollector::new();
//! let tracer = spans.provider().tracer("shop");
//! tracer.in_span("checkout", |_| {
//!     tracer.in_span("charge", |_| {});
//!     tracer.in_span("ship", |_| {});
//! });
//!
//! spans.assert_sound();
//! spans.tree().assert_eq(
//!     "
//!     checkout
//!     ├── charge
//!     └── ship
//!     ",
//! );
//! ```
//!
//! In an application's own tests the collector's provider takes the place of the real one:
//! `OtelInterceptor::builder().tracer_provider(&spans.provider())`.

mod collector;
mod diff;
mod tree;

pub use collector::SpanCollector;
pub use tree::SpanTree;
