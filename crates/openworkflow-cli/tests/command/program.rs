//! Running the program.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const VARIABLES: [&str; 10] = [
    "COLUMNS",
    "OPENWORKFLOW_DASHBOARD_TOKEN",
    "OPENWORKFLOW_DATABASE_URL",
    "OPENWORKFLOW_POSTGRES_URL",
    "OPENWORKFLOW_NAMESPACE_ID",
    "OPENWORKFLOW_SCHEMA",
    "NO_COLOR",
    "CLICOLOR_FORCE",
    "CLICOLOR",
    "PGAPPNAME",
];

/// What came of it.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// All of it, for a snapshot.
    pub(crate) fn told(&self) -> String {
        format!(
            "exit {}\n{}--- stderr\n{}",
            self.code, self.stdout, self.stderr
        )
    }

    /// Each line of the output, as JSON.
    pub(crate) fn objects(&self) -> Vec<serde_json::Value> {
        assert_eq!(self.code, 0, "{}", self.stderr);
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect()
    }

    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

pub(crate) fn run(args: &[&str]) -> Ran {
    run_with(args, &[], "")
}

/// Runs it with variables and an input. It has 60 s.
pub(crate) fn run_with(args: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_openworkflow"));
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command.args(args).envs(variables.iter().copied());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("there is a pipe");
    stdin
        .write_all(input.as_bytes())
        .expect("it reads, or the pipe holds it");
    drop(stdin);
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    let output = told.recv_timeout(Duration::from_secs(60));
    let output = output.unwrap_or_else(|_| panic!("{args:?} does not end"));
    let output = output.expect("its output can be read");
    Ran {
        code: output.status.code().expect("it was not killed"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// What differs from run to run, and the folder of the database, are replaced by what is as long.
pub(crate) fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    let id = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    settings.add_filter(id, "01234567-89ab-7cde-8123-456789abcdef");
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path("../snapshots");
    settings
}

/// Compares with what is kept under this name.
#[track_caller]
pub(crate) fn snapshot(name: &str, text: impl AsRef<str>) {
    settings().bind(|| insta::assert_snapshot!(name, text.as_ref()));
}
