//! What the library logs, on standard error: warnings, or what `RUST_LOG` asks for.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;

pub(crate) fn install() {
    let wanted = std::env::var("RUST_LOG").ok();
    let wanted = wanted.and_then(|filter| filter.parse::<Targets>().ok());
    let warnings = || Targets::new().with_default(LevelFilter::WARN);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .without_time()
        .with_filter(wanted.unwrap_or_else(warnings));
    let subscriber = tracing_subscriber::registry().with(lines);
    // Nobody else installs one in this program.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
