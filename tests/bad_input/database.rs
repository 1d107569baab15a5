//! Databases that cannot be opened, or that stop working.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openworkflow::backend::BackendError;
use openworkflow::{Client, ClientError, Sqlite, Worker, WorkflowSpec};

use crate::kit::{Db, assert_words, eventually, result};

static WORK: WorkflowSpec<u32, u32> = WorkflowSpec::new("work");

#[track_caller]
fn assert_unavailable(opened: Result<Sqlite, BackendError>, words: &[&str]) {
    let error = opened.expect_err("the database does not open");
    assert_words(&error.to_string(), words);
    assert!(
        matches!(error, BackendError::Unavailable { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_path_that_leads_nowhere_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("file"), "text").unwrap();

    let missing_folder = Sqlite::open(path("no/such/folder/x.db")).await;
    assert_unavailable(
        missing_folder,
        &["no/such/folder", "does not exist", "create it first"],
    );
    assert_unavailable(
        Sqlite::open(folder.path()).await,
        &["is a folder", "path of a file"],
    );
    assert_unavailable(Sqlite::open("").await, &["the path is empty"]);
    assert_unavailable(Sqlite::open(path("file/x.db")).await, &["file"]);
    let existing = Sqlite::options().create_if_missing(false);
    assert_unavailable(
        existing.open(path("x.db")).await,
        &["x.db", "does not exist", "creating it is switched off"],
    );
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing is created: {names:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let text = "dear diary, ".repeat(1000);
    fs::write(&path, &text).unwrap();
    assert_unavailable(
        Sqlite::open(&path).await,
        &["notes.txt", "not a SQLite database"],
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_as_it_is() {
    let db = Db::new().await;
    db.store.close().await;
    db.execute("INSERT INTO openworkflow_migrations (version) VALUES (6)");
    let error = Sqlite::open(&db.path).await.expect_err("it does not open");
    let words = ["test.db", "version 6", "up to 5", "upgrade the library"];
    assert_words(&error.to_string(), &words);
    let BackendError::NewerSchema {
        found, supported, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((found, supported), (6, 5));
    let versions = db.query("SELECT max(version) FROM openworkflow_migrations");
    assert_eq!(versions, ["Integer(6)"]);
}

#[tokio::test]
async fn a_database_without_tables_is_not_migrated_against_ones_will() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.db");
    fs::write(&path, "").unwrap();
    let opened = Sqlite::options().migrate(false).open(&path).await;
    assert_unavailable(opened, &["no OpenWorkflow tables", "switched off"]);
}

/// A database, or the folder around it, that another user may only read.
#[tokio::test]
async fn a_database_that_is_read_only_says_so() {
    let db = Db::new().await;
    db.store.close().await;
    let before = fs::read(&db.path).unwrap();
    // A user without privileges may not reach where the tests are built.
    let program = db.folder.path().join("other_process");
    // By a process of its own: one that another test starts meanwhile would inherit the open file, and
    // what is open for writing cannot be executed.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_other_process"))
        .arg(&program)
        .status();
    assert!(copied.expect("cp starts").success());
    let open_with = |folder_mode: u32, file_mode: u32| {
        fs::set_permissions(&db.path, fs::Permissions::from_mode(file_mode)).unwrap();
        fs::set_permissions(db.folder.path(), fs::Permissions::from_mode(folder_mode)).unwrap();
        let mut command = Command::new(&program);
        command.arg("open").arg(&db.path);
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            // Permissions do not concern the superuser.
            command.uid(65_534).gid(65_534);
        }
        let output = command.output().expect("a process starts");
        fs::set_permissions(db.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let words = ["ReadOnly", "test.db", "read-only", "check the permissions"];
    assert_words(&open_with(0o555, 0o444), &words);
    assert_words(&open_with(0o555, 0o666), &words);
    assert_words(
        &open_with(0o755, 0o000),
        &["Unavailable", "permission denied"],
    );
    assert_eq!(fs::read(&db.path).unwrap(), before);
}

/// SQLite's locks are those of a process, and gone once it closes the file in any way. Another
/// process, such as a command line of an older SQLite, then believes to be the last that closes the
/// file, and deletes a write-ahead log that is in use.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_that_is_opened_twice_stays_locked() {
    let db = Db::new().await;
    let file = format!(":{} ", fs::metadata(&db.path).unwrap().ino());
    let is_locked = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|lock| lock.contains(&file))
    };
    assert!(is_locked());
    let _again = Sqlite::open(&db.path).await.unwrap();
    assert!(is_locked());
}

/// Another process that holds the write lock while this lives.
struct Lock(Child);

impl Lock {
    fn take(path: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_other_process"));
        command.arg("lock").arg(path);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process starts");
        let said = BufReader::new(process.stdout.as_mut().expect("it is a pipe"));
        let line = said.lines().next().expect("it says something");
        assert_eq!(line.expect("it is text"), "locked");
        Self(process)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_lock_of_another_process_is_waited_for() {
    let db = Db::new().await;
    let lock = Lock::take(&db.path);
    let client = db.client.clone();
    let starting = tokio::spawn(async move { client.start(&WORK, &1).await });
    // Reads do not wait.
    assert_eq!(db.client.count_runs().await.unwrap().pending, 0);
    assert!(!starting.is_finished());
    drop(lock);
    starting.await.unwrap().unwrap();
    assert_eq!(db.client.count_runs().await.unwrap().pending, 1);
}

#[tokio::test]
async fn a_lock_that_stays_is_reported_and_costs_no_work() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locked.db");
    let patience = Duration::from_millis(50);
    let store = Sqlite::options()
        .busy_timeout(patience)
        .open(&path)
        .await
        .unwrap();
    let client = Client::new(store.clone());
    let ran = Arc::new(AtomicU32::new(0));
    let (counter, lock) = (Arc::clone(&ran), Arc::new(tokio::sync::Mutex::new(None)));
    let (locking, to_lock) = (Arc::clone(&lock), path.clone());
    let workflow = WORK.implement(move |wf, number| {
        let (counter, lock, path) = (counter.clone(), locking.clone(), to_lock.clone());
        async move {
            let step = || async {
                counter.fetch_add(1, Ordering::SeqCst);
                // From here on nothing can be written.
                *lock.lock().await = Some(Lock::take(&path));
                Ok(number + 1)
            };
            wf.run("work", step).await
        }
    });
    let builder = Worker::builder(store.clone()).workflow(workflow);
    let mut worker = builder.build().unwrap().start();
    let run = client.start(&WORK, &1).await.unwrap();
    eventually(|| async { lock.lock().await.is_some().then_some(()) }).await;

    let impatient = Client::builder(store.clone()).retry_for(Duration::ZERO);
    let error = impatient.build().start(&WORK, &2).await.unwrap_err();
    let words = [
        "stayed locked for",
        "another process",
        "long write transaction",
    ];
    assert_words(&error.to_string(), &words);
    let ClientError::Backend(error @ BackendError::Busy { waited_ms }) = error else {
        panic!("{error:?}");
    };
    assert!((50..30_000).contains(&waited_ms), "{waited_ms}");
    assert!(error.is_transient());
    let opened = Sqlite::options().busy_timeout(patience).open(&path).await;
    assert!(
        opened.is_ok(),
        "what is up to date opens without a write: {opened:?}"
    );

    assert_eq!(client.count_runs().await.unwrap().running, 1);
    let patient = client.clone();
    // It would take the lock again, were it executed.
    let starting = tokio::spawn(async move { patient.start(&WORK, &3).delay("1 hour").await });
    // Longer than SQLite itself waits for the lock.
    tokio::time::sleep(patience * 3).await;
    assert!(!starting.is_finished());
    lock.lock().await.take();
    starting.await.unwrap().unwrap();
    assert_eq!(result(&run).await, Ok(2));
    assert_eq!(
        ran.load(Ordering::SeqCst),
        1,
        "the step's result was not lost"
    );
    assert_eq!(
        client.count_runs().await.unwrap().completed,
        1,
        "the refused run does not exist"
    );
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn a_closed_database_says_so() {
    let db = Db::new().await;
    db.store.close().await;
    let error = db.client.start(&WORK, &1).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Backend(BackendError::Closed)),
        "{error:?}"
    );
    assert_words(&error.to_string(), &["closed"]);
    let worker = Worker::builder(db.store.clone()).claim_unregistered(true);
    let worker = worker.build().unwrap();
    let ended = worker.run_until(std::future::pending()).await;
    assert!(matches!(ended, Err(BackendError::Closed)), "{ended:?}");
}
