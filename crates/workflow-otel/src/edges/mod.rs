//! Where requests come in and go out, and where metrics are scraped.

#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "prometheus")]
mod openmetrics;
#[cfg(feature = "prometheus")]
pub(crate) mod prometheus;
