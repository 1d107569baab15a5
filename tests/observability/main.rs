//! `docs/observability/`: the rules and the board, against a real Prometheus that scrapes a real worker.

mod board;
mod names;
mod rules;
mod scraped;
mod site;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use openworkflow_tests::prometheus::Programs;

/// Fetched once, and kept in the target directory.
fn programs() -> &'static Programs {
    static FOUND: OnceLock<Programs> = OnceLock::new();
    FOUND.get_or_init(|| Programs::find(Path::new(env!("CARGO_TARGET_TMPDIR"))))
}

/// A file of the folder that is tested.
fn docs(file: &str) -> PathBuf {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/observability"
    ))
    .join(file)
}
