//! Packages from the npm registry, and a Node.js that can run them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// The oldest Node.js with the SQLite module that openworkflow uses.
const NODE_MAJOR: u32 = 22;

const NO_NPM: &str = "these tests need npm, which comes with Node.js: install it from nodejs.org or \
    your system's packages (Debian: `apt-get install npm`)";

/// Installed packages, and the Node.js to run them with.
#[derive(Debug, Clone)]
pub struct Npm {
    /// The folder with `node_modules`.
    pub folder: PathBuf,
    /// The program `node`.
    pub node: PathBuf,
}

impl Npm {
    /// Installs what `manifest`, a folder with a `package.json` and a `package-lock.json`, asks for
    /// into a folder below `cache`. What is there already is used as it is, without a network.
    ///
    /// A Node.js that is recent enough is used. Where there is none, the manifest's optional
    /// dependencies bring one.
    ///
    /// # Panics
    ///
    /// Where npm is missing, or the packages cannot be installed.
    #[must_use]
    pub fn install(manifest: &Path, cache: &Path) -> Self {
        let on_path = node_on_path();
        let folder = cache.join(format!(
            "npm-{:016x}",
            fingerprint(manifest, on_path.is_some())
        ));
        if !folder.exists() {
            // One process installs, the others wait. The lock goes with the process.
            let lock = fs::File::create(cache.join("npm.lock")).expect("the lock can be made");
            lock.lock().expect("the lock can be taken");
            if !folder.exists() {
                install_into(&folder, manifest, on_path.is_some());
            }
        }
        let node = on_path
            .or_else(|| node_of_packages(&folder))
            .unwrap_or_else(|| {
                panic!(
                    "these tests need Node.js {NODE_MAJOR} or newer on PATH; the npm registry has none \
                     for this platform that they know"
                )
            });
        Self { folder, node }
    }
}

/// Changes whenever the installation would be another.
fn fingerprint(manifest: &Path, has_node: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in ["package.json", "package-lock.json"] {
        let text = fs::read(manifest.join(file))
            .unwrap_or_else(|error| panic!("{file} in {}: {error}", manifest.display()));
        text.hash(&mut hasher);
    }
    has_node.hash(&mut hasher);
    hasher.finish()
}

/// Installs beside `folder` and then renames, so that a folder of that name is always complete.
fn install_into(folder: &Path, manifest: &Path, has_node: bool) {
    let unfinished = folder.with_extension("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    fs::create_dir_all(&unfinished).expect("a folder for packages can be made");
    for file in ["package.json", "package-lock.json"] {
        fs::copy(manifest.join(file), unfinished.join(file)).expect("the manifest can be copied");
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .args(has_node.then_some("--omit=optional"))
        .current_dir(&unfinished)
        .stdin(Stdio::null());
    let done = npm
        .output()
        .unwrap_or_else(|error| panic!("{NO_NPM} ({error})"));
    assert!(
        done.status.success(),
        "npm cannot install the packages in {}; is the registry within reach?\n{}",
        manifest.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    fs::rename(&unfinished, folder).expect("the installed packages can be moved into place");
}

/// The first `node` on PATH, if it is recent enough.
fn node_on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let node = env::split_paths(&path)
        .map(|folder| folder.join("node"))
        .find(|node| node.is_file())?;
    (major_version(&node)? >= NODE_MAJOR).then_some(node)
}

fn major_version(node: &Path) -> Option<u32> {
    let told = Command::new(node).arg("--version").output().ok()?;
    let version = String::from_utf8(told.stdout).ok()?;
    let major = version.trim().strip_prefix('v')?.split('.').next()?;
    major.parse().ok()
}

fn node_of_packages(folder: &Path) -> Option<PathBuf> {
    let modules = fs::read_dir(folder.join("node_modules")).ok()?;
    modules
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|package| {
            let name = package.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("node-"))
        })
        .map(|package| package.join("bin/node"))
        .find(|node| node.is_file() && major_version(node).is_some())
}
