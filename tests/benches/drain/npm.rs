//! OpenWorkflow for TypeScript on the same work, out of the npm registry.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::Result;

const PACKAGE: &str = "openworkflow@0.10.1";
/// Its SQLite backend needs Node 22 or newer, which not every machine has.
const NODE: &str = "24";
const SCRIPT: &str = include_str!("drain.mjs");

/// An installed package, and a Node to run it.
pub(crate) struct Npm {
    node: PathBuf,
    script: PathBuf,
}

impl Npm {
    /// Installs both under `folder`, unless an earlier call has done so.
    pub(crate) fn install(folder: &Path) -> Result<Self> {
        let home = folder.join(format!("npm-{}", PACKAGE.replace('@', "-")));
        let node_package = node_package()?;
        let node = home
            .join("node_modules")
            .join(&node_package)
            .join("bin")
            .join("node");
        let manifest = home.join("node_modules/openworkflow/package.json");
        if !node.is_file() || !manifest.is_file() {
            eprintln!("installing {PACKAGE} and {node_package}@{NODE} from the npm registry");
            std::fs::create_dir_all(&home)?;
            let mut install = Command::new("npm");
            install
                .args(["install", "--no-audit", "--no-fund", "--ignore-scripts"])
                .arg("--prefix")
                .arg(&home)
                .args([PACKAGE, &format!("{node_package}@{NODE}")]);
            match install.stdin(Stdio::null()).output() {
                Ok(output) => said("npm install", &output)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(
                        "npm is not on the PATH; install Node.js with npm, or leave \
                         the comparison out with --without-npm"
                            .into(),
                    );
                }
                Err(error) => return Err(format!("npm cannot be run: {error}").into()),
            };
        }
        let script = home.join("drain.mjs");
        std::fs::write(&script, SCRIPT)?;
        Ok(Self { node, script })
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
        let output = Command::new(&self.node)
            .arg(&self.script)
            .args([backend, address])
            .args([runs.to_string(), concurrency.to_string()])
            .stdin(Stdio::null())
            .output()?;
        let said = said("drain.mjs", &output)?;
        let seconds = said.trim().parse();
        seconds.map_err(|_| format!("drain.mjs said {said:?} instead of seconds").into())
    }
}

/// The npm package that holds nothing but a Node for this machine.
fn node_package() -> Result<String> {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        "linux" => "linux",
        other => return Err(format!("no Node is known for {other}; use --without-npm").into()),
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => return Err(format!("no Node is known for {other}; use --without-npm").into()),
    };
    Ok(format!("node-{os}-{arch}"))
}

/// What a program said, or why it failed.
fn said(program: &str, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} failed ({}): {}", output.status, complaint.trim()).into())
}
