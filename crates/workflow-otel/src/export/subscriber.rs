//! What [`init`](super::init) makes of the `tracing` crate where nobody has set up a subscriber: a log on
//! standard error, the application's spans among the traces, and its events among the logs.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::Signal;
use super::telemetry::Telemetry;

/// Installs it, unless there is one.
pub(super) fn install(telemetry: &Telemetry) {
    let wanted = std::env::var("RUST_LOG").ok();
    let wanted = wanted.and_then(|filter| filter.parse::<Targets>().ok());
    let info = || Targets::new().with_default(LevelFilter::INFO);
    let wanted = wanted.unwrap_or_else(info);
    let console = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(wanted.clone())
        .with_filter(telemetry.run_filter());
    let traced = telemetry.is_enabled(Signal::Traces);
    let spans = traced.then(|| telemetry.tracing_layer().with_filter(info()));
    let registry = tracing_subscriber::registry().with(console).with(spans);
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
