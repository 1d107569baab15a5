//! A Chromium: the one on PATH, or the one that npm brings.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use openworkflow_tests::npm::Npm;
use serde_json::{Value, json};

const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// What a visit is made with.
pub(crate) struct Browser {
    pub(crate) node: PathBuf,
    pub(crate) script: PathBuf,
    /// The program and its arguments.
    pub(crate) chromium: Value,
}

pub(crate) fn browser() -> &'static Browser {
    static BROWSER: OnceLock<Browser> = OnceLock::new();
    BROWSER.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let npm = Npm::install(&folder, home);
        // Scripts find packages beside themselves.
        for script in ["browser.mjs", "visitor.mjs"] {
            let to = npm.folder.join(script);
            std::fs::copy(folder.join(script), to).expect("the script can be copied");
        }
        let chromium = on_path().unwrap_or_else(|| unpacked(&npm, home));
        Browser {
            script: npm.folder.join("visitor.mjs"),
            node: npm.node,
            chromium,
        }
    })
}

fn on_path() -> Option<Value> {
    let path = std::env::var_os("PATH")?;
    let mut places =
        std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name)));
    let program = places.find(|program| program.is_file())?;
    Some(json!({ "path": program, "args": ["--no-sandbox", "--disable-gpu"] }))
}

/// Unpacks the package's below `home`, once.
fn unpacked(npm: &Npm, home: &Path) -> Value {
    let lock = File::create(home.join("chromium.lock")).expect("the lock can be made");
    lock.lock().expect("the lock can be taken");
    let unpacked = Command::new(&npm.node)
        .arg(npm.folder.join("browser.mjs"))
        .env("TMPDIR", home)
        .output()
        .expect("Node.js starts");
    let stderr = String::from_utf8_lossy(&unpacked.stderr);
    assert!(
        unpacked.status.success(),
        "Chromium cannot be unpacked: {stderr}"
    );
    serde_json::from_slice(&unpacked.stdout).expect("it says where it is")
}
