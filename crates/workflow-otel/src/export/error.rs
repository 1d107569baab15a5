//! What can go wrong when telemetry is set up.

use std::io;

/// Telemetry cannot be set up as it was asked for. No message repeats a header or a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// An environment variable that a destination needs is missing or empty.
    #[error("the environment variable {variable} is not set: it is to hold {purpose}")]
    MissingVariable {
        /// The variable.
        variable: &'static str,
        /// What it should hold.
        purpose: &'static str,
    },
    /// A setting, made in code or by an environment variable, cannot be used.
    #[error("{setting} cannot be used: {reason}")]
    InvalidSetting {
        /// The variable or the builder's method.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A global tracer provider is there already, of this crate's making or the application's own; or a
    /// global meter provider, where metrics are on. It is not replaced. Give it to
    /// [`OtelInterceptor::builder`](crate::OtelInterceptor::builder), or use
    /// [`TelemetryBuilder::build`](super::TelemetryBuilder::build), which installs nothing.
    #[error("a global tracer or meter provider is set already, and is not replaced")]
    AlreadyInstalled,
    /// The thread that exports could not be started.
    #[error("the export thread cannot be started")]
    Thread(#[source] io::Error),
}

impl InitError {
    pub(super) fn invalid(setting: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidSetting {
            setting: setting.into(),
            reason: reason.into(),
        }
    }
}
