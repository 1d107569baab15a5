//! OpenWorkflow for TypeScript on the same work, out of the npm registry.

use std::path::Path;
use std::process::{Command, Stdio};

use openworkflow_tests::npm;

use crate::Result;

/// The packages that the suites install too.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/drain/drain.mjs");

/// Installed packages, and a Node to run them.
pub(crate) struct Npm(npm::Npm);

impl Npm {
    /// Installs both under `folder`, unless an earlier call has done so.
    pub(crate) fn install(folder: &Path) -> Self {
        Self(npm::Npm::install(Path::new(MANIFEST), folder))
    }

    /// Fills a queue and drains it. Returns the seconds from the worker's start until every run is
    /// completed.
    pub(crate) fn drain(
        &self,
        backend: &str,
        address: &str,
        runs: u32,
        concurrency: u32,
    ) -> Result<f64> {
        let output = Command::new(&self.0.node)
            .arg(SCRIPT)
            .arg(&self.0.folder)
            .args([backend, address])
            .args([runs.to_string(), concurrency.to_string()])
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let complaint = complaint.trim();
            return Err(format!("drain.mjs failed ({}): {complaint}", output.status).into());
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let seconds = said.trim().parse();
        seconds.map_err(|_| format!("drain.mjs said {said:?} instead of seconds").into())
    }
}
