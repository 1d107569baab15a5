//! Where requests come in and go out.

#[cfg(feature = "http")]
pub mod http;
