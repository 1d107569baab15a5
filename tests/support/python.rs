//! Python environments with pinned packages, for suites that hold what we write against what others read.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An environment that has these packages (lines of pip), under `home`, a folder that stays. Made once.
///
/// # Panics
///
/// Where there is no Python with its modules `venv` and `pip`, or a package cannot be had.
#[must_use]
pub fn environment(home: &Path, name: &str, requirements: &str) -> PathBuf {
    fs::create_dir_all(home).unwrap();
    let lock = File::create(home.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let environment = home.join(name);
    let installed = environment.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|text| text == requirements) {
        return environment;
    }
    let _ = fs::remove_dir_all(&environment);
    let list = home.join(format!("{name}-requirements.txt"));
    fs::write(&list, requirements).unwrap();
    run(Command::new("python3")
        .args(["-m", "venv"])
        .arg(&environment));
    run(Command::new(environment.join("bin/pip"))
        .args(["install", "--quiet", "--requirement"])
        .arg(&list));
    fs::write(&installed, requirements).unwrap();
    environment
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!(
            "{command:?} cannot be started: {error}. These tests need python3 with its modules \
             venv and pip (Debian: apt-get install python3-venv)"
        )
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {errors}");
}
