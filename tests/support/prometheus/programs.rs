//! Where the programs `prometheus` and `promtool` come from.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Debian's package. Where the archive has moved on, its successor of the same line does as well.
const PACKAGE: &str = "prometheus";
const VERSION: &str = "2.42.0+ds-5+deb12u1";

/// The line whose semantics the tests of the rules are written for: version 3 draws the edges of ranges
/// otherwise, which shifts what is told minute by minute.
const MAJOR: u32 = 2;
/// The first with what the tests use.
const OLDEST_MINOR: u32 = 40;

const REMEDY: &str = "these tests need the programs prometheus and promtool, version 2.40 or newer of the \
    line 2: have them on PATH (Debian: `apt-get install prometheus`; elsewhere unpack a release from \
    prometheus.io/download)";

/// The programs of Prometheus.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The server.
    pub prometheus: PathBuf,
    /// The tool that checks and tests rules.
    pub promtool: PathBuf,
}

impl Programs {
    /// Those on PATH, where they are of the right version. Otherwise Debian's, which are fetched once, by
    /// its own package client and without root, into a folder below `cache`; what is there already is used
    /// without a network.
    ///
    /// # Panics
    ///
    /// Where they cannot be had.
    #[must_use]
    pub fn find(cache: &Path) -> Self {
        Self::on_path().unwrap_or_else(|| Self::fetched(cache))
    }

    fn on_path() -> Option<Self> {
        let programs = Self {
            prometheus: "prometheus".into(),
            promtool: "promtool".into(),
        };
        programs.unfit().is_none().then_some(programs)
    }

    fn fetched(cache: &Path) -> Self {
        let folder = cache.join(format!("prometheus-{VERSION}"));
        let programs = Self {
            prometheus: folder.join("usr/bin/prometheus"),
            promtool: folder.join("usr/bin/promtool"),
        };
        if folder.exists() {
            return programs;
        }
        fs::create_dir_all(cache).expect("the folder of the cache can be made");
        // One process fetches, the others wait. The lock goes with the process.
        let lock = fs::File::create(cache.join("prometheus.lock")).expect("the lock can be made");
        lock.lock().expect("the lock can be taken");
        if !folder.exists() {
            let unfinished = cache.join("prometheus.unfinished");
            let _ = fs::remove_dir_all(&unfinished);
            fetch_into(&unfinished).unwrap_or_else(|why| panic!("{REMEDY}. {why}"));
            // So that a folder of that name is always complete.
            fs::rename(&unfinished, &folder).expect("the programs can be moved into place");
        }
        if let Some(why) = programs.unfit() {
            panic!("{REMEDY}. Debian's do not fit: {why}");
        }
        programs
    }

    /// Why they cannot be used.
    fn unfit(&self) -> Option<String> {
        [&self.prometheus, &self.promtool]
            .into_iter()
            .find_map(|program| {
                let told = Command::new(program).arg("--version").output();
                let told = match told {
                    Ok(told) => String::from_utf8_lossy(&told.stdout).into_owned(),
                    Err(error) => return Some(format!("{}: {error}", program.display())),
                };
                let fits = version(&told)
                    .is_some_and(|(major, minor)| major == MAJOR && minor >= OLDEST_MINOR);
                (!fits).then(|| format!("{} is {told:?}", program.display()))
            })
    }
}

/// Of `prometheus, version 2.42.0+ds (branch: …`.
fn version(told: &str) -> Option<(u32, u32)> {
    let (_, version) = told.split_once("version ")?;
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn fetch_into(folder: &Path) -> Result<(), String> {
    // Not `eprintln!`, which a test keeps to itself as long as it goes well.
    let _ = writeln!(
        io::stderr(),
        "fetching Prometheus ({PACKAGE} {VERSION} from Debian, 20 MB, once)"
    );
    let unpacked = folder.join("unpacked");
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let package = match download(folder, &[]) {
        Ok(package) => package,
        // The lists of packages may be missing or old; whoever is not root cannot renew the system's.
        Err(_) => {
            let own = own_lists(folder)?;
            let own: Vec<_> = own.iter().map(String::as_str).collect();
            run(apt(folder, &own).arg("update"))?;
            download(folder, &own)?
        }
    };
    run(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
    fs::create_dir_all(folder.join("usr")).map_err(|error| error.to_string())?;
    let programs = unpacked.join("usr/bin");
    fs::rename(programs, folder.join("usr/bin")).map_err(|error| error.to_string())?;
    for rest in ["unpacked", "lists", "cache"] {
        let _ = fs::remove_dir_all(folder.join(rest));
    }
    let _ = fs::remove_file(package);
    Ok(())
}

/// Settings with which apt keeps lists of its own below `folder`.
fn own_lists(folder: &Path) -> Result<Vec<String>, String> {
    let (lists, cache) = (folder.join("lists"), folder.join("cache"));
    for made in [lists.join("partial"), cache.join("archives/partial")] {
        fs::create_dir_all(&made).map_err(|error| format!("{}: {error}", made.display()))?;
    }
    Ok(vec![
        format!("Dir::State::lists={}", lists.display()),
        format!("Dir::Cache={}", cache.display()),
        "Acquire::Languages=none".to_owned(),
    ])
}

/// The pinned version, or else the archive's, as a file in `folder`.
fn download(folder: &Path, settings: &[&str]) -> Result<PathBuf, String> {
    let pinned = format!("{PACKAGE}={VERSION}");
    run(apt(folder, settings).args(["download", &pinned]))
        .or_else(|_| run(apt(folder, settings).args(["download", PACKAGE])))?;
    let files = fs::read_dir(folder).map_err(|error| error.to_string())?;
    files
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|file| file.extension().is_some_and(|it| it == "deb"))
        .ok_or_else(|| "apt-get downloaded nothing".to_owned())
}

fn apt(folder: &Path, settings: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    apt.current_dir(folder).stdin(Stdio::null());
    for setting in settings {
        apt.args(["-o", setting]);
    }
    apt
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} failed: {told}"))
}
