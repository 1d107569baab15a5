//! What [`init`](super::init) makes of the `tracing` crate where nobody has set up a subscriber: a log on
//! standard error, the application's spans among the traces, and its events among the logs.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::Signal;
use super::telemetry::Telemetry;
use crate::logs::json_layer;

/// How the log on standard error is written that [`init`](super::init) sets up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// Text where standard error is a terminal, JSON lines where it is a file, a pipe or a container's log.
    #[default]
    Auto,
    /// Text for people. Events have the ids that they say themselves, as the engine's do, and no others.
    Text,
    /// A JSON object for each event, with the ids of the run, the step and the span that it was made in, as
    /// [`json_layer`] writes it.
    Json,
}

impl LogFormat {
    fn is_json(self) -> bool {
        match self {
            Self::Auto => !stderr().is_terminal(),
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// Installs it, unless there is one.
pub(super) fn install(telemetry: &Telemetry, format: LogFormat) {
    let wanted = std::env::var("RUST_LOG").ok();
    let wanted = wanted.and_then(|filter| filter.parse::<Targets>().ok());
    let info = || Targets::new().with_default(LevelFilter::INFO);
    let wanted = wanted.unwrap_or_else(info);
    let json = format.is_json();
    let lines = json.then(|| {
        let lines = json_layer(stderr, telemetry.run_filter());
        lines.with_filter(wanted.clone())
    });
    let text = (!json).then(|| {
        let text = tracing_subscriber::fmt::layer().with_writer(stderr);
        let text = match stderr().is_terminal() {
            true => text,
            false => text.with_ansi(false),
        };
        text.with_filter(wanted.clone())
            .with_filter(telemetry.run_filter())
    });
    let traced = telemetry.is_enabled(Signal::Traces);
    let spans = traced.then(|| telemetry.tracing_layer().with_filter(info()));
    let registry = tracing_subscriber::registry()
        .with(lines)
        .with(text)
        .with(spans);
    // What is told there and what is exported are the same.
    #[cfg(feature = "logs")]
    let registry = {
        let logged = telemetry.is_enabled(Signal::Logs);
        registry.with(logged.then(|| telemetry.log_layer().with_filter(wanted)))
    };
    let installed = tracing::subscriber::set_global_default(registry);
    if installed.is_err() && traced {
        tracing::debug!(
            target: "workflow_otel",
            "there is a tracing subscriber already; for its spans and events to be exported, set up \
             telemetry with `build` and add its layers"
        );
    }
}
