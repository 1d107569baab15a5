//! Opening: the schema that is made, and every way in which it can go wrong.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use openworkflow::backend::{Backend, BackendError, BackendResult, ExecutionEnd, Owner};
use openworkflow::{Sqlite, SqliteOptions};
use rusqlite::Connection;

use crate::kit::*;

/// Columns (name, type, not null, place in the primary key), foreign keys and indexes, as
/// OpenWorkflow for TypeScript makes them, beside our own.
const SCHEMA: &str = "\
openworkflow_executions
  namespace_id TEXT 1 1
  workflow_run_id TEXT 1 2
  attempt INTEGER 1 3
  worker_id TEXT 1 0
  outcome TEXT 1 0
  due_at TEXT 1 0
  began_at TEXT 1 0
  ended_at TEXT 1 0
  sqlite_autoindex_openworkflow_executions_1 unique: namespace_id, workflow_run_id, attempt
openworkflow_migrations
  version INTEGER 1 1
openworkflow_rust_migrations
  version INTEGER 1 1
step_attempts
  namespace_id TEXT 1 1
  id TEXT 1 2
  workflow_run_id TEXT 1 0
  step_name TEXT 1 0
  kind TEXT 1 0
  status TEXT 1 0
  config TEXT 1 0
  context TEXT 0 0
  output TEXT 0 0
  error TEXT 0 0
  child_workflow_run_namespace_id TEXT 0 0
  child_workflow_run_id TEXT 0 0
  started_at TEXT 0 0
  finished_at TEXT 0 0
  created_at TEXT 1 0
  updated_at TEXT 1 0
  -> workflow_runs child_workflow_run_id=id SET NULL
  -> workflow_runs child_workflow_run_namespace_id=namespace_id SET NULL
  -> workflow_runs namespace_id=namespace_id CASCADE
  -> workflow_runs workflow_run_id=id CASCADE
  sqlite_autoindex_step_attempts_1 unique: namespace_id, id
  step_attempts_child_workflow_run_idx partial: child_workflow_run_namespace_id, child_workflow_run_id
  step_attempts_signal_wait_idx partial: namespace_id, an expression
  step_attempts_workflow_run_created_at_idx: namespace_id, workflow_run_id, created_at
  step_attempts_workflow_run_step_name_created_at_idx: namespace_id, workflow_run_id, step_name, created_at
workflow_runs
  namespace_id TEXT 1 1
  id TEXT 1 2
  workflow_name TEXT 1 0
  version TEXT 0 0
  status TEXT 1 0
  idempotency_key TEXT 0 0
  config TEXT 1 0
  context TEXT 0 0
  input TEXT 0 0
  output TEXT 0 0
  error TEXT 0 0
  attempts INTEGER 1 0
  parent_step_attempt_namespace_id TEXT 0 0
  parent_step_attempt_id TEXT 0 0
  worker_id TEXT 0 0
  available_at TEXT 0 0
  deadline_at TEXT 0 0
  started_at TEXT 0 0
  finished_at TEXT 0 0
  created_at TEXT 1 0
  updated_at TEXT 1 0
  -> step_attempts parent_step_attempt_id=id SET NULL
  -> step_attempts parent_step_attempt_namespace_id=namespace_id SET NULL
  openworkflow_rs_workflow_runs_deadline_idx partial: namespace_id, deadline_at
  openworkflow_rs_workflow_runs_due_idx partial: namespace_id, workflow_name, version, status, available_at, created_at
  sqlite_autoindex_workflow_runs_1 unique: namespace_id, id
  workflow_runs_created_at_desc_idx: namespace_id, created_at desc
  workflow_runs_parent_step_idx partial: parent_step_attempt_namespace_id, parent_step_attempt_id
  workflow_runs_status_available_at_created_at_idx: namespace_id, status, available_at, created_at
  workflow_runs_status_created_at_desc_idx: namespace_id, status, created_at desc
  workflow_runs_workflow_name_idempotency_key_created_at_idx: namespace_id, workflow_name, idempotency_key, created_at
  workflow_runs_workflow_name_status_created_at_desc_idx: namespace_id, workflow_name, status, created_at desc
workflow_signals
  namespace_id TEXT 1 1
  id TEXT 1 2
  signal TEXT 1 0
  data TEXT 0 0
  sender_idempotency_key TEXT 0 0
  workflow_run_id TEXT 1 0
  step_attempt_id TEXT 1 0
  created_at TEXT 1 0
  sqlite_autoindex_workflow_signals_1 unique: namespace_id, id
  workflow_signals_idempotency_idx partial: namespace_id, signal, sender_idempotency_key
  workflow_signals_step_attempt_idx unique: namespace_id, step_attempt_id
";

fn strings(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).unwrap();
    let found = statement.query_map([], |row| row.get(0)).unwrap();
    found.collect::<Result<_, _>>().unwrap()
}

fn schema(path: &Path) -> String {
    let conn = Connection::open(path).unwrap();
    let mut text = String::new();
    for table in strings(
        &conn,
        "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1",
    ) {
        let columns = format!(
            "SELECT format('%s %s %d %d', name, type, \"notnull\", pk)
             FROM pragma_table_info('{table}')"
        );
        let keys = format!(
            "SELECT format('-> %s %s=%s %s', \"table\", \"from\", \"to\", on_delete)
             FROM pragma_foreign_key_list('{table}') ORDER BY 1"
        );
        let indexes = format!(
            "SELECT format('%s%s%s: %s', l.name, iif(l.\"unique\", ' unique', ''),
                 iif(l.partial, ' partial', ''),
                 (SELECT group_concat(coalesce(c.name, 'an expression') || iif(c.desc, ' desc', ''), ', ')
                  FROM pragma_index_xinfo(l.name) c WHERE c.key))
             FROM pragma_index_list('{table}') l ORDER BY 1"
        );
        text += &format!("{table}\n");
        for line in [columns, keys, indexes]
            .iter()
            .flat_map(|sql| strings(&conn, sql))
        {
            text += &format!("  {line}\n");
        }
    }
    text
}

/// The conditions of the partial indexes, without quotes and line breaks.
fn conditions(path: &Path) -> Vec<String> {
    let conn = Connection::open(path).unwrap();
    let found = strings(
        &conn,
        "SELECT name || substr(sql, instr(sql, ' ON ')) FROM sqlite_master
         WHERE sql LIKE '%WHERE%' AND type = 'index' ORDER BY 1",
    );
    found
        .iter()
        .map(|sql| {
            sql.replace('"', "")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        })
        .map(|sql| {
            sql.replace(" ON step_attempts", "")
                .replace(" ON workflow_runs", "")
        })
        .collect()
}

fn versions(path: &Path) -> Vec<i64> {
    let conn = Connection::open(path).unwrap();
    let mut statement = conn
        .prepare("SELECT version FROM openworkflow_migrations ORDER BY 1")
        .unwrap();
    let found = statement.query_map([], |row| row.get(0)).unwrap();
    found.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn the_schema_is_the_protocols() {
    let db = Db::new().await;
    assert_eq!(schema(&db.path), SCHEMA);
    assert_eq!(versions(&db.path), [0, 1, 2, 3, 4, 5]);
    let conditions = conditions(&db.path).join("\n");
    for expected in [
        "(namespace_id, json_extract(context, '$.signal')) WHERE kind = 'signal-wait' AND status = 'running'",
        "WHERE child_workflow_run_namespace_id IS NOT NULL AND child_workflow_run_id IS NOT NULL",
        "WHERE parent_step_attempt_namespace_id IS NOT NULL AND parent_step_attempt_id IS NOT NULL",
        "WHERE sender_idempotency_key IS NOT NULL",
        // Those of our own.
        "WHERE available_at IS NOT NULL",
        "WHERE deadline_at IS NOT NULL AND status IN ('pending', 'running', 'sleeping')",
    ] {
        assert!(
            conditions.contains(expected),
            "{expected} is not in {conditions}"
        );
    }
    assert_eq!(db.query("PRAGMA journal_mode"), ["wal"]);
    // Opening it again changes nothing.
    let again = Sqlite::open(&db.path).await.unwrap();
    assert_eq!(schema(&db.path), SCHEMA);
    assert_eq!(versions(&db.path), [0, 1, 2, 3, 4, 5]);
    again.close().await;
}

#[tokio::test]
async fn our_own_table_is_made_where_it_is_missing_and_done_without_where_it_may_not_be() {
    for (migrate, expected) in [(false, 0), (true, 1)] {
        let db = Db::new().await;
        db.create("a").await;
        db.close().await;
        db.execute("DROP TABLE openworkflow_executions; DROP TABLE openworkflow_rust_migrations");
        let store = Sqlite::options()
            .migrate(migrate)
            .open(&db.path)
            .await
            .unwrap();
        let claimed = store
            .claim_runs(claim_only(&["w"], &[("order", None)]))
            .await
            .unwrap();
        let owner = Owner::new("default", "a", "w", 1).claimed(claimed[0].times.unwrap());
        let end = ExecutionEnd::Park {
            until: std::time::SystemTime::now(),
            waits: Vec::new(),
        };
        store.end_execution(&owner, end).await.unwrap();
        let record = store.load_record("default", "a").await.unwrap().unwrap();
        assert_eq!(record.executions.len(), expected, "migrate: {migrate}");
        assert_eq!(schema(&db.path) == SCHEMA, migrate);
        store.close().await;
    }
}

#[tokio::test]
async fn our_own_indexes_are_made_anew_where_they_are_missing() {
    let db = Db::new().await;
    db.create("a").await;
    db.close().await;
    let without = "DROP INDEX openworkflow_rs_workflow_runs_due_idx;
         DROP INDEX openworkflow_rs_workflow_runs_deadline_idx;";
    db.execute(without);
    // Whoever may not make them works without.
    let options = Sqlite::options().migrate(false);
    let store = options.open(&db.path).await.unwrap();
    let claim = claim_only(&["w"], &[("order", None)]);
    assert_eq!(store.claim_runs(claim).await.unwrap().len(), 1);
    assert_ne!(schema(&db.path), SCHEMA);
    Sqlite::open(&db.path).await.unwrap();
    assert_eq!(schema(&db.path), SCHEMA);
}

#[tokio::test]
async fn older_schemas_are_brought_up_to_date_and_keep_their_runs() {
    for version in 0..5 {
        let db = Db::new().await;
        if version > 0 {
            db.create("a").await;
        }
        db.close().await;
        let mut undo = format!(
            "DROP TABLE workflow_signals; DROP INDEX step_attempts_signal_wait_idx;
             DELETE FROM openworkflow_migrations WHERE version > {version};"
        );
        if version < 4 {
            let conn = db.raw();
            for index in strings(
                &conn,
                "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL
                     AND tbl_name IN ('workflow_runs', 'step_attempts')
                     AND name != 'step_attempts_signal_wait_idx'",
            ) {
                undo += &format!("DROP INDEX {index};");
            }
        }
        if version < 1 {
            undo += "DROP TABLE step_attempts; DROP TABLE workflow_runs;";
        }
        db.execute(&undo);
        assert_ne!(schema(&db.path), SCHEMA);

        match Sqlite::options().migrate(false).open(&db.path).await {
            Err(BackendError::Unavailable { problem, .. }) => {
                assert!(
                    problem.contains(&format!("version is {version}, 5 is needed")),
                    "{problem}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert_ne!(schema(&db.path), SCHEMA);
        let store = Sqlite::open(&db.path).await.unwrap();
        assert_eq!(schema(&db.path), SCHEMA);
        assert_eq!(versions(&db.path), [0, 1, 2, 3, 4, 5]);
        assert_eq!(store.get_run(NS, "a").await.unwrap().is_some(), version > 0);
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let db = Db::new().await;
    db.close().await;
    db.execute("INSERT INTO openworkflow_migrations VALUES (7)");
    for migrate in [true, false] {
        match Sqlite::options().migrate(migrate).open(&db.path).await {
            Err(BackendError::NewerSchema {
                database,
                found,
                supported,
            }) => {
                assert_eq!((found, supported), (7, 5));
                assert_eq!(database, db.path.display().to_string());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(versions(&db.path), [0, 1, 2, 3, 4, 5, 7]);
}

#[tokio::test]
async fn tables_of_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("it's 100% #1?.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE mine (x); INSERT INTO mine VALUES (1)")
        .unwrap();
    match Sqlite::options().migrate(false).open(&path).await {
        Err(BackendError::Unavailable { problem, .. }) => {
            assert!(problem.contains("no OpenWorkflow tables"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(strings(&conn, "PRAGMA journal_mode"), ["delete"]);
    let store = Sqlite::open(&path).await.unwrap();
    store.create_run(new_run("a")).await.unwrap();
    assert_eq!(strings(&conn, "SELECT CAST(x AS TEXT) FROM mine"), ["1"]);
}

#[track_caller]
fn assert_unavailable(opened: BackendResult<Sqlite>, path: &Path, expected: &str) {
    match opened {
        Err(BackendError::Unavailable {
            database, problem, ..
        }) => {
            assert_eq!(database, path.display().to_string());
            assert!(
                problem.contains(expected),
                "{problem:?} does not say {expected:?}"
            );
        }
        other => panic!("expected {expected:?}, got {other:?}"),
    }
}

#[tokio::test]
async fn a_path_that_leads_nowhere_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();

    let path = folder.join("no/such/folder/test.db");
    let missing = format!(
        "the folder {} does not exist",
        folder.join("no/such/folder").display()
    );
    assert_unavailable(Sqlite::open(&path).await, &path, &missing);
    assert!(!folder.join("no").exists());

    let path = folder.join("missing.db");
    let options = || Sqlite::options().create_if_missing(false);
    assert_unavailable(
        options().open(&path).await,
        &path,
        "the file does not exist",
    );
    assert!(!path.exists());
    Sqlite::open(&path).await.unwrap().close().await;
    options().open(&path).await.unwrap().close().await;

    assert_unavailable(Sqlite::open(folder).await, folder, "it is a folder");
    assert_unavailable(Sqlite::open("").await, Path::new(""), "the path is empty");
    assert_unavailable(Sqlite::open("a\0b").await, Path::new("a\0b"), "NUL byte");

    let file = folder.join("file");
    std::fs::write(&file, "").unwrap();
    let path = file.join("test.db");
    assert_unavailable(Sqlite::open(&path).await, &path, "is a file");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let text = "not a database, but somebody's notes. ".repeat(100);
    std::fs::write(&path, &text).unwrap();
    assert_unavailable(Sqlite::open(&path).await, &path, "not a SQLite database");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);

    // An empty file is an empty database.
    let path = folder.path().join("empty.db");
    std::fs::write(&path, "").unwrap();
    Sqlite::open(&path).await.unwrap().close().await;
}

#[tokio::test]
async fn a_damaged_database_is_explained() {
    let db = Db::new().await;
    db.close().await;
    let mut bytes = std::fs::read(&db.path).unwrap();
    bytes[100..4096].fill(0xa5);
    std::fs::write(&db.path, bytes).unwrap();
    assert_unavailable(Sqlite::open(&db.path).await, &db.path, "damaged");
}

fn impatient() -> SqliteOptions {
    Sqlite::options().busy_timeout(Duration::from_millis(80))
}

#[track_caller]
fn assert_busy(opened: BackendResult<Sqlite>) {
    match opened {
        Err(BackendError::Busy { waited_ms }) => assert!(waited_ms >= 70, "{waited_ms}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_locked_database_is_waited_for_and_then_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    // A new file that another process is just filling.
    let foreign = Connection::open(&path).unwrap();
    foreign
        .execute_batch("BEGIN EXCLUSIVE; CREATE TABLE x (y)")
        .unwrap();
    assert_busy(impatient().open(&path).await);
    foreign
        .execute_batch("COMMIT; PRAGMA journal_mode = WAL")
        .unwrap();
    // One whose migration another process holds up.
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_busy(impatient().open(&path).await);
    foreign.execute_batch("ROLLBACK").unwrap();
    let store = impatient().open(&path).await.unwrap();
    // With the schema in place, opening needs no lock.
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    impatient().open(&path).await.unwrap().close().await;
    foreign.execute_batch("ROLLBACK").unwrap();
    store.close().await;
    // One that a process keeps for itself.
    foreign
        .execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; INSERT INTO x VALUES (1); COMMIT",
        )
        .unwrap();
    assert_busy(impatient().open(&path).await);
}

/// Starts this test binary once more, for one test, which finds `variable` set.
fn child_process(executable: &Path, test: &str, variable: &str, value: &Path) -> Command {
    let mut command = Command::new(executable);
    command
        .args([test, "--exact", "--nocapture"])
        .env(variable, value);
    command
}

#[test]
fn processes_and_threads_that_open_a_new_file_at_once_all_succeed() {
    const VARIABLE: &str = "OPENWORKFLOW_TEST_OPEN_AT_ONCE";
    let open = |path: &Path, id: String| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = Sqlite::open(path).await.unwrap();
            store.create_run(new_run(&id)).await.unwrap();
            store.close().await;
        });
    };
    if let Some(path) = std::env::var_os(VARIABLE) {
        open(Path::new(&path), format!("process-{}", std::process::id()));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let name = "open::processes_and_threads_that_open_a_new_file_at_once_all_succeed";
    let executable = std::env::current_exe().unwrap();
    let children: Vec<Child> = (0..4)
        .map(|_| {
            child_process(&executable, name, VARIABLE, &path)
                .spawn()
                .unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for i in 0..6 {
            let path = &path;
            scope.spawn(move || open(path, format!("thread-{i}")));
        }
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(schema(&path), SCHEMA);
    assert_eq!(versions(&path), [0, 1, 2, 3, 4, 5]);
    let conn = Connection::open(&path).unwrap();
    assert_eq!(
        strings(&conn, "SELECT CAST(count(*) AS TEXT) FROM workflow_runs"),
        ["10"]
    );
}

#[cfg(unix)]
mod permissions {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Permissions do not stop everyone: not root, who then runs this test once more as nobody.
    #[test]
    fn missing_permissions_are_explained() {
        const VARIABLE: &str = "OPENWORKFLOW_TEST_PERMISSIONS";
        if let Some(folder) = std::env::var_os(VARIABLE) {
            return check(Path::new(&folder));
        }
        let folder = tempfile::tempdir().unwrap();
        let probe = folder.path().join("probe");
        fs::write(&probe, "").unwrap();
        set_mode(&probe, 0o000);
        if fs::File::open(&probe).is_err() {
            return check(folder.path());
        }
        set_mode(folder.path(), 0o777);
        // Where this binary lies, nobody may be allowed to read it.
        let executable = folder.path().join("test");
        fs::copy(std::env::current_exe().unwrap(), &executable).unwrap();
        set_mode(&executable, 0o755);
        let name = "open::permissions::missing_permissions_are_explained";
        let status = child_process(&executable, name, VARIABLE, folder.path())
            .current_dir(folder.path())
            .uid(65534)
            .gid(65534)
            .status()
            .unwrap();
        assert!(status.success());
    }

    fn check(folder: &Path) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let open = folder.join("open");
            let shut = folder.join("shut");
            for folder in [&open, &shut] {
                fs::create_dir(folder).unwrap();
                Sqlite::open(folder.join("test.db"))
                    .await
                    .unwrap()
                    .close()
                    .await;
            }
            let path = open.join("test.db");

            set_mode(&path, 0o444);
            assert_read_only(Sqlite::open(&path).await, &path);
            set_mode(&path, 0o000);
            assert_unavailable(Sqlite::open(&path).await, &path, "permission denied");
            set_mode(&path, 0o644);
            Sqlite::open(&path).await.unwrap().close().await;

            // SQLite keeps its log beside the file.
            set_mode(&shut, 0o555);
            let path = shut.join("test.db");
            assert_read_only(Sqlite::open(&path).await, &path);
            let path = shut.join("new.db");
            assert_unavailable(Sqlite::open(&path).await, &path, "cannot be created");
            set_mode(&shut, 0o000);
            let path = shut.join("test.db");
            assert_unavailable(Sqlite::open(&path).await, &path, "permission denied");
            set_mode(&shut, 0o755);
        });
    }

    #[track_caller]
    fn assert_read_only(opened: BackendResult<Sqlite>, path: &Path) {
        match opened {
            Err(BackendError::ReadOnly { database }) => {
                assert_eq!(database, path.display().to_string());
            }
            other => panic!("{other:?}"),
        }
    }
}
