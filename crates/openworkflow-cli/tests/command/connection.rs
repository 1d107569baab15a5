//! How the database is found, and what is said where it is not.

use crate::program::{Ran, run, run_with, snapshot};
use crate::site::Site;

/// With the folder replaced.
fn told(ran: &Ran, folder: &std::path::Path) -> String {
    ran.told()
        .replace(&folder.display().to_string(), "[folder]")
}

#[tokio::test]
async fn variables_name_the_database() {
    let site = Site::new().await;
    site.broken().await;
    site.execute("UPDATE workflow_runs SET namespace_id = 'eu'", []);
    let path = site.path.to_str().expect("text");
    let url = format!("sqlite:{path}");
    let names = [
        ("OPENWORKFLOW_DATABASE_URL", &*url),
        ("OPENWORKFLOW_NAMESPACE_ID", "eu"),
    ];
    let runs = run_with(&["runs", "--json"], &names, "").objects();
    assert_eq!(runs.len(), 1);
    // An empty variable counts as none, and what the command line says comes first.
    let names = [
        ("OPENWORKFLOW_DATABASE_URL", ""),
        ("OPENWORKFLOW_NAMESPACE_ID", "us"),
    ];
    assert_eq!(run_with(&["runs"], &names, "").code, 2);
    let args = ["runs", "--json", "--database", path, "--namespace", "eu"];
    assert_eq!(run_with(&args, &names, "").objects().len(), 1);
}

#[test]
fn a_database_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("missing.db");
    let path = path.to_str().expect("text");
    let commands: [&[&str]; 4] = [
        &["runs"],
        &["trace", "x"],
        &["stats"],
        &["run", "start", "w"],
    ];
    for command in commands {
        let ran = run(&[&["--database", path], command].concat());
        snapshot("no_file", told(&ran, folder.path()));
    }
    let left = std::fs::read_dir(folder.path())
        .expect("it is there")
        .count();
    assert_eq!(left, 0);
}

#[test]
fn a_database_of_others_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("other.db");
    let connection = rusqlite::Connection::open(&path).expect("it opens");
    connection
        .execute_batch("CREATE TABLE mine (x)")
        .expect("it is made");
    drop(connection);
    let ran = run(&["--database", path.to_str().expect("text"), "runs"]);
    snapshot("no_tables", told(&ran, folder.path()));
    let connection = rusqlite::Connection::open(&path).expect("it opens");
    let count = "SELECT count(*) FROM sqlite_master";
    let count: i64 = connection
        .query_row(count, [], |row| row.get(0))
        .expect("it counts");
    assert_eq!(count, 1);
    std::fs::write(
        folder.path().join("text.db"),
        "no database at all, but long enough",
    )
    .expect("it is written");
    let path = folder.path().join("text.db");
    let ran = run(&["--database", path.to_str().expect("text"), "runs"]);
    snapshot("no_database", told(&ran, folder.path()));
}

#[test]
fn what_makes_no_sense_is_said() {
    snapshot("no_url", run(&["runs"]).told());
    let ran = run(&["runs", "--database", "mysql://me:secret@host/db"]);
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    snapshot("unknown_scheme", ran.told());
    snapshot("in_memory", run(&["runs", "--database", ":memory:"]).told());
    snapshot(
        "unknown_status",
        run(&["runs", "--status", "compleeted", "--database", "x"]).told(),
    );
    snapshot(
        "bad_timeout",
        run(&["run", "await", "x", "--timeout", "-3s", "--database", "x"]).told(),
    );
    assert_eq!(run(&["nonsense"]).code, 2);
}

#[test]
fn help_says_no_secrets() {
    let variables = [("OPENWORKFLOW_DATABASE_URL", "postgres://me:secret@host/db")];
    let help = run_with(&["trace", "--help"], &variables, "").ok();
    assert!(
        help.contains("OPENWORKFLOW_DATABASE_URL") && !help.contains("secret"),
        "{help}"
    );
    snapshot("help", run(&["--help"]).ok());
}
