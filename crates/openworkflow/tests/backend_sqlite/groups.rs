//! Jobs that share a transaction, other processes that hold the lock, and the end of it all.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all, poll_immediate};
use openworkflow::Sqlite;
use openworkflow::backend::{Backend, BackendError, ListRuns, ListSteps, Owner, StepAttemptKind};

use crate::kit::*;

type Outcome = Result<(), BackendError>;

/// Runs operations while a foreign process holds the lock until all of them are queued, so that
/// they share a transaction.
async fn together(db: &Db, jobs: Vec<BoxFuture<'_, Outcome>>) -> Vec<Outcome> {
    let foreign = db.raw();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let release: BoxFuture<'_, Outcome> = Box::pin(async move {
        foreign.execute_batch("COMMIT").unwrap();
        Ok(())
    });
    let mut outcomes = join_all(jobs.into_iter().chain([release])).await;
    outcomes.pop();
    outcomes
}

fn end<'a>(db: &'a Db, owner: &'a Owner, id: &'a str) -> BoxFuture<'a, Outcome> {
    Box::pin(db.end_step(owner, completed(id, "1")))
}

fn steps(db: &Db) -> Vec<String> {
    db.query("SELECT id FROM step_attempts WHERE status = 'completed' ORDER BY id")
}

#[tokio::test]
async fn hundreds_of_writes_at_once_are_all_there() {
    let db = Db::new().await;
    let mut owners = Vec::new();
    for i in 0..10 {
        owners.push(db.running(&format!("run-{i}"), &format!("w{i}")).await);
    }
    let ids: Vec<String> = (0..1500).map(|i| format!("step-{i:04}")).collect();
    let jobs = ids
        .iter()
        .enumerate()
        .map(|(i, id)| end(&db, &owners[i % 10], id));
    for outcome in together(&db, jobs.collect()).await {
        outcome.unwrap();
    }
    assert_eq!(steps(&db), ids);
}

#[tokio::test]
async fn a_failure_harms_no_other_job_of_its_transaction() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    let thief = crate::kit::owner("a", "thief");
    // SQLite itself undoes: a statement; a statement, with an error that is no constraint's; the
    // whole transaction.
    db.execute(
        "CREATE TRIGGER abort BEFORE INSERT ON step_attempts WHEN NEW.step_name LIKE 'abort%'
         BEGIN SELECT RAISE(ABORT, 'abort'); END;
         CREATE TRIGGER error BEFORE INSERT ON step_attempts WHEN NEW.step_name LIKE 'error%'
         BEGIN SELECT json_extract('{', '$'); END;
         CREATE TRIGGER rollback BEFORE INSERT ON step_attempts WHEN NEW.step_name LIKE 'rollback%'
         BEGIN SELECT RAISE(ROLLBACK, 'rollback'); END;",
    );
    for kind in [
        "lost",
        "duplicate",
        "abort",
        "error",
        "rollback",
        "child-abort",
        "child-rollback",
    ] {
        let good: Vec<String> = (0..20).map(|i| format!("{kind}-{i:02}")).collect();
        let good: Vec<String> = good.iter().map(|id| format!("good-{id}")).collect();
        let bad = || -> BoxFuture<'_, Outcome> {
            match kind {
                "lost" => end(&db, &thief, "stolen"),
                "duplicate" => {
                    let create = db.create_run(new_run("a"));
                    Box::pin(async { create.await.map(drop) })
                }
                "child-abort" | "child-rollback" => {
                    let name = kind.trim_start_matches("child-");
                    let step = attempt(kind, name, StepAttemptKind::Workflow);
                    let begin = db.begin_child(&owner, step, new_run("child"));
                    Box::pin(async { begin.await.map(drop) })
                }
                _ => end(&db, &owner, kind),
            }
        };
        let mut jobs: Vec<BoxFuture<'_, Outcome>> =
            good.iter().map(|id| end(&db, &owner, id)).collect();
        jobs.insert(15, bad());
        jobs.insert(5, bad());
        for (i, outcome) in together(&db, jobs).await.into_iter().enumerate() {
            assert_eq!(
                outcome.is_err(),
                i == 5 || i == 16,
                "{kind}, job {i}: {outcome:?}"
            );
        }
        let mut expected = good.clone();
        expected.sort();
        let found = db.query(&format!(
            "SELECT id FROM step_attempts WHERE id LIKE 'good-{kind}-%' ORDER BY id"
        ));
        assert_eq!(found, expected, "{kind}");
    }
    assert_eq!(
        db.query("SELECT count(*) FROM step_attempts WHERE id NOT LIKE 'good%'"),
        ["0"]
    );
    assert_eq!(db.query("SELECT count(*) FROM workflow_runs"), ["1"]);
}

#[tokio::test]
async fn an_operation_of_several_statements_happens_wholly_or_not_at_all() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    // The last of three statements fails.
    db.execute(
        "CREATE TRIGGER no_link BEFORE UPDATE ON step_attempts
         BEGIN SELECT RAISE(ABORT, 'no'); END;",
    );
    let begin = db.begin_child(
        &owner,
        attempt("s", "s", StepAttemptKind::Workflow),
        new_run("child"),
    );
    let child: BoxFuture<'_, Outcome> = Box::pin(async { begin.await.map(drop) });
    let outcomes = together(
        &db,
        vec![end(&db, &owner, "x"), child, end(&db, &owner, "y")],
    )
    .await;
    assert_eq!(
        outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [true, false, true]
    );
    assert_eq!(steps(&db), ["x", "y"]);
    assert_eq!(db.query("SELECT count(*) FROM workflow_runs"), ["1"]);
}

#[tokio::test]
async fn a_dropped_operation_happens_wholly_or_not_at_all() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    for i in 0..50 {
        let id = format!("s{i}");
        let child = new_run(&format!("child-{i}"));
        let mut begin =
            pin!(db.begin_child(&owner, attempt(&id, &id, StepAttemptKind::Workflow), child));
        assert!(poll_immediate(&mut begin).await.is_none() || i > 0);
    }
    db.close().await;
    let halves = db.query(
        "SELECT a.id FROM step_attempts a
         LEFT JOIN workflow_runs c ON c.id = a.child_workflow_run_id WHERE c.id IS NULL
         UNION ALL
         SELECT c.id FROM workflow_runs c
         LEFT JOIN step_attempts a ON c.id = a.child_workflow_run_id
         WHERE c.id != 'a' AND a.id IS NULL",
    );
    assert_eq!(halves, [""; 0]);
}

#[tokio::test]
async fn a_foreign_lock_is_waited_for_and_then_reported() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    let impatient = Sqlite::options()
        .clock(db.clock.clone())
        .busy_timeout(Duration::from_millis(100))
        .open(&db.path)
        .await
        .unwrap();
    let foreign = db.raw();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = impatient
        .end_step(&owner, completed("s", "1"))
        .await
        .unwrap_err();
    assert!(error.is_transient());
    match error {
        BackendError::Busy { waited_ms } => assert!(waited_ms >= 90, "{waited_ms}"),
        other => panic!("{other:?}"),
    }
    // Readers do not wait.
    let begun = Instant::now();
    assert!(impatient.get_run(NS, "a").await.unwrap().is_some());
    assert_eq!(
        impatient
            .list_runs(ListRuns::new(NS))
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    assert_eq!(impatient.count_runs(NS).await.unwrap().running, 1);
    assert!(
        impatient
            .load_history(NS, "a")
            .await
            .unwrap()
            .attempts
            .is_empty()
    );
    let steps_of_a = impatient
        .list_step_attempts(ListSteps::new(NS, "a"))
        .await
        .unwrap();
    assert!(steps_of_a.items.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(4));

    // The patient one gets through once the lock is gone; so does the other.
    let patient = end(&db, &owner, "t");
    let release: BoxFuture<'_, Outcome> = Box::pin(async move {
        foreign.execute_batch("ROLLBACK").unwrap();
        Ok(())
    });
    for outcome in join_all([patient, release]).await {
        outcome.unwrap();
    }
    impatient
        .end_step(&owner, completed("s", "1"))
        .await
        .unwrap();
    assert_eq!(steps(&db), ["s", "t"]);
}

#[tokio::test]
async fn a_closed_database_says_so() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    let clone = db.store.clone();
    // What was asked for before is still done.
    let mut ending = pin!(db.end_step(&owner, completed("s", "1")));
    let early = poll_immediate(&mut ending).await;
    clone.close().await;
    match early {
        Some(outcome) => outcome.unwrap(),
        None => ending.await.unwrap(),
    }
    clone.close().await;
    db.close().await;
    assert!(matches!(
        db.get_run(NS, "a").await,
        Err(BackendError::Closed)
    ));
    assert!(matches!(
        db.create_run(new_run("b")).await,
        Err(BackendError::Closed)
    ));
    assert!(matches!(db.count_runs(NS).await, Err(BackendError::Closed)));
    // The last connection tidied up, and what was written is there.
    assert!(!db.path.with_extension("db-wal").exists());
    assert_eq!(steps(&db), ["s"]);
}

#[tokio::test]
async fn dropping_the_last_clone_ends_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let wal = folder.path().join("test.db-wal");
    let store = Sqlite::open(&path).await.unwrap();
    let clone = store.clone();
    drop(store);
    clone.create_run(new_run("a")).await.unwrap();
    assert!(wal.exists());
    drop(clone);
    // The threads own the connections, and the last one to close removes the log.
    let begun = Instant::now();
    while wal.exists() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the log is still there"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn databases_in_memory_are_apart() {
    let first = Sqlite::open_in_memory().await.unwrap();
    let second = Sqlite::open(":memory:").await.unwrap();
    first.create_run(new_run("a")).await.unwrap();
    assert!(first.get_run(NS, "a").await.unwrap().is_some());
    assert!(second.get_run(NS, "a").await.unwrap().is_none());
    let claimed = first.claim_runs(claim_of(&["w"])).await.unwrap();
    let owner = owner("a", &claimed[0].worker_id);
    first.end_step(&owner, completed("s", "1")).await.unwrap();
    assert_eq!(first.load_history(NS, "a").await.unwrap().attempts.len(), 1);
    first.close().await;
    assert!(matches!(
        first.count_runs(NS).await,
        Err(BackendError::Closed)
    ));
}
