//! Claiming, leases, and the sweep of deadlines.

use std::collections::HashSet;
use std::time::Instant;

use openworkflow::backend::{Backend, BackendError, ExecutionEnd, RunStatus, StepAttemptKind};
use workflow_core::Interruption;

use crate::kit::*;

#[tokio::test]
async fn a_claim_takes_the_run_for_the_lease() {
    let db = Db::new().await;
    db.create("a").await;
    db.clock.advance(SECOND);
    let claimed = db.claim(&["w1", "w2"]).await;
    assert_eq!(ids(&claimed), ["a"]);
    let claimed = &claimed[0];
    assert_eq!(
        (&*claimed.worker_id, claimed.attempts, claimed.taken_over),
        ("w1", 1, false)
    );
    let expected = format!(
        "running|1|w1|{}|{}|-|-",
        text_at(SECOND * 31),
        text_at(SECOND)
    );
    assert_eq!(db.run_row("a"), expected);
    let run = claimed.run.as_ref().unwrap();
    let read = db.get_run(NS, "a").await.unwrap().unwrap();
    assert_eq!(format!("{run:?}"), format!("{read:?}"));
    assert_eq!(run.status, RunStatus::Running);
    assert!(db.claim(&["w2"]).await.is_empty());
}

#[tokio::test]
async fn pending_runs_come_before_all_others_then_the_longest_due() {
    let db = Db::new().await;
    // Two parked runs, due long before any of the pending ones, one of them by its legacy name.
    for id in ["parked", "sleeping"] {
        let owner = db.running(id, "w").await;
        let park = ExecutionEnd::Park {
            until: start(),
            waits: vec![],
        };
        db.end_execution(&owner, park).await.unwrap();
        db.clock.advance(SECOND / 1000);
        if id == "parked" {
            // Out of the way of the next claim.
            db.execute("UPDATE workflow_runs SET available_at = '2026-01-31T13:00:00.000Z'");
        }
    }
    db.execute("UPDATE workflow_runs SET status = 'sleeping' WHERE id = 'sleeping'");
    db.clock.advance(HOUR * 2);
    for (id, due) in [("late", 3), ("early", 1), ("tie-2", 2)] {
        let mut new = new_run(id);
        new.available_at = Some(start() + HOUR + SECOND * due);
        db.create_run(new).await.unwrap();
    }
    db.clock.advance(SECOND);
    // Created later than all these, but due no later than one of them, or before.
    for (id, due) in [("tie-1", 2), ("first", 0)] {
        let mut new = new_run(id);
        new.available_at = Some(start() + HOUR + SECOND * due);
        db.create_run(new).await.unwrap();
    }
    db.create("now").await;
    let mut new = new_run("future");
    new.available_at = Some(start() + HOUR * 9);
    db.create_run(new).await.unwrap();

    let claimed = db.claim(&["1", "2"]).await;
    assert_eq!(ids(&claimed), ["first", "early"]);
    let workers: Vec<String> = (0..9).map(|i| format!("w{i}")).collect();
    let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
    let claimed = db.claim(&workers).await;
    assert_eq!(
        ids(&claimed),
        ["tie-2", "tie-1", "late", "now", "sleeping", "parked"]
    );
    assert!(claimed.iter().all(|run| !run.taken_over));
    assert_eq!(
        db.query("SELECT DISTINCT status FROM workflow_runs WHERE id != 'future'"),
        ["running"]
    );
}

#[tokio::test]
async fn slots_for_runs_that_were_started_get_the_longest_due_of_them() {
    let db = Db::new().await;
    for id in ["new-1", "new-2", "new-3", "asleep", "twin-b", "twin-a"] {
        db.create(id).await;
        db.clock.advance(SECOND);
    }
    // Of the twins, the table has the second first.
    db.execute(
        "UPDATE workflow_runs SET status = 'sleeping', available_at = '2026-01-31T11:00:00.000Z'
         WHERE id = 'asleep';
         UPDATE workflow_runs SET status = 'running', available_at = '2026-01-31T11:30:00.000Z',
             created_at = '2026-01-31T11:30:00.000Z'
         WHERE id GLOB 'twin-*'",
    );
    let claim = async |workers: &[&str], started_first| {
        let mut claim = claim_of(workers);
        claim.started_first = started_first;
        let claimed = db.claim_runs(claim).await.unwrap();
        claimed.into_iter().map(|run| run.id).collect::<Vec<_>>()
    };
    assert_eq!(claim(&["1", "2"], 1).await, ["asleep", "new-1"]);
    assert_eq!(claim(&["3"], 0).await, ["new-2"]);
    let mut claimed = claim(&["4", "5", "6"], 1).await;
    assert_eq!(claimed.remove(1), "new-3");
    claimed.sort();
    assert_eq!(claimed, ["twin-a", "twin-b"]);
    // Where there is nothing for them, they are slots like any.
    db.create("new-4").await;
    assert_eq!(claim(&["7", "8"], 2).await, ["new-4"]);
}

#[tokio::test]
async fn an_expired_lease_is_taken_over() {
    let db = Db::new().await;
    let first = db.running("a", "w1").await;
    db.clock.advance(LEASE - SECOND / 1000);
    assert!(db.claim(&["w2"]).await.is_empty());
    db.extend_lease(&first, LEASE).await.unwrap();
    db.clock.advance(LEASE - SECOND / 1000);
    assert!(db.claim(&["w2"]).await.is_empty());
    db.clock.advance(SECOND / 1000);
    let claimed = db.claim(&["w2"]).await;
    assert_eq!((claimed[0].attempts, claimed[0].taken_over), (2, true));
    // The start survives, and the former owner is refused.
    assert_eq!(db.query("SELECT started_at FROM workflow_runs"), [START]);
    assert_lost(
        db.extend_lease(&first, LEASE).await,
        Interruption::LeaseLost,
    );
}

#[tokio::test]
async fn a_lease_may_be_absurdly_long() {
    let db = Db::new().await;
    db.create("a").await;
    let mut claim = claim_of(&["w"]);
    claim.lease = std::time::Duration::MAX;
    assert_eq!(db.claim_runs(claim).await.unwrap().len(), 1);
    assert_eq!(
        db.query("SELECT length(available_at), available_at > '9999' FROM workflow_runs"),
        ["24|1"]
    );
}

#[tokio::test]
async fn claims_are_filtered_by_exact_name_and_version() {
    let db = Db::new().await;
    for (id, name, version) in [
        ("1", "order", None),
        ("2", "order", Some("v1")),
        ("3", "order", Some("")),
        ("4", "Order", None),
        ("5", "refund", Some("v1")),
        ("6", "order", Some("v2")),
    ] {
        let mut new = new_run(id);
        new.workflow_name = name.to_owned();
        new.version = version.map(str::to_owned);
        db.create_run(new).await.unwrap();
        db.clock.advance(SECOND / 1000);
    }
    let claim = |keys| db.claim_runs(claim_only(&["a", "b", "c", "d", "e", "f"], keys));
    assert_eq!(ids(&claim(&[]).await.unwrap()), [""; 0]);
    assert_eq!(ids(&claim(&[("order", None)]).await.unwrap()), ["1"]);
    let both = [("order", Some("v2")), ("refund", Some("v1"))];
    assert_eq!(ids(&claim(&both).await.unwrap()), ["5", "6"]);
    assert_eq!(ids(&db.claim(&["a", "b", "c", "d"]).await), ["2", "3", "4"]);
}

#[tokio::test]
async fn a_backlog_of_other_workflows_hides_nothing_and_costs_little() {
    let db = Db::new().await;
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO workflow_runs (namespace_id, id, workflow_name, status, config, attempts,
             available_at, created_at, updated_at)
         SELECT 'default', 'other-' || i, 'other', 'pending', '{}', 0,
             '2026-01-31T12:00:00.000Z', '2026-01-31T12:00:00.000Z', '2026-01-31T12:00:00.000Z'
         FROM n",
    );
    for id in ["a", "b", "c"] {
        db.create(id).await;
        db.clock.advance(SECOND / 1000);
    }
    let mut versioned = new_run("v");
    versioned.version = Some("v1".to_owned());
    db.create_run(versioned).await.unwrap();

    let keys = [("order", None), ("order", Some("v1")), ("order", None)];
    let claimed = db.claim_runs(claim_only(&["1", "2"], &keys)).await.unwrap();
    assert_eq!(ids(&claimed), ["a", "b"]);
    let claimed = db
        .claim_runs(claim_only(&["3", "4", "5"], &keys))
        .await
        .unwrap();
    assert_eq!(ids(&claimed), ["c", "v"]);

    // A hundred claims are faster than a hundred walks through the backlog.
    let conn = db.raw();
    let mut walk = conn
        .prepare(
            "SELECT count(*) FROM workflow_runs WHERE namespace_id = 'default'
                 AND status = 'pending' AND +workflow_name = 'order'",
        )
        .unwrap();
    let begun = Instant::now();
    for _ in 0..100 {
        walk.query_row([], |_| Ok(())).unwrap();
    }
    drop(walk);
    let walks = begun.elapsed();
    let begun = Instant::now();
    for _ in 0..100 {
        let claimed = db.claim_runs(claim_only(&["6"], &keys)).await.unwrap();
        assert!(claimed.is_empty());
    }
    let claims = begun.elapsed();
    assert!(claims < walks, "claims took {claims:?}, walks {walks:?}");

    let workers: Vec<String> = (0..100).map(|i| format!("w{i}")).collect();
    let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
    let claimed = db
        .claim_runs(claim_only(&workers, &[("other", None)]))
        .await
        .unwrap();
    assert_eq!(claimed.len(), 100);
}

#[tokio::test]
async fn two_workers_never_get_the_same_run() {
    let db = Db::new().await;
    let other = openworkflow::Sqlite::options()
        .clock(db.clock.clone())
        .open(&db.path)
        .await
        .unwrap();
    for i in 0..200 {
        db.create(&format!("run-{i}")).await;
    }
    let claims = (0..40).map(|i| {
        let store = if i % 2 == 0 {
            db.store.clone()
        } else {
            other.clone()
        };
        tokio::spawn(async move {
            let workers: Vec<String> = (0..5).map(|slot| format!("{i}-{slot}")).collect();
            let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
            store.claim_runs(claim_of(&workers)).await.unwrap()
        })
    });
    let mut runs = HashSet::new();
    for claim in claims.collect::<Vec<_>>() {
        for claimed in claim.await.unwrap() {
            assert!(runs.insert(claimed.id), "claimed twice");
        }
    }
    assert_eq!(runs.len(), 200);
    assert_eq!(
        db.query("SELECT count(DISTINCT worker_id), max(attempts) FROM workflow_runs"),
        ["200|1"]
    );
}

#[tokio::test]
async fn the_sweep_fails_whatever_its_deadline_passed() {
    let db = Db::new().await;
    let deadline = start() + MINUTE;
    for (id, name) in [
        ("executing", "order"),
        ("parked", "order"),
        ("pending", "foreign"),
    ] {
        let mut new = new_run(id);
        new.workflow_name = name.to_owned();
        new.deadline_at = Some(deadline);
        db.create_run(new).await.unwrap();
        if name == "order" {
            let owner = db.claim_one(id).await;
            if id == "parked" {
                let park = ExecutionEnd::Park {
                    until: start() + HOUR,
                    waits: vec![],
                };
                db.end_execution(&owner, park).await.unwrap();
            }
        }
    }
    db.create("without").await;
    db.clock.advance(MINUTE - SECOND / 1000);
    db.claim(&[]).await;
    assert_eq!(
        db.query("SELECT count(*) FROM workflow_runs WHERE status = 'failed'"),
        ["0"]
    );
    db.clock.advance(SECOND);
    // Even a claim for other workflows, with no free slot, sweeps.
    assert!(
        db.claim_runs(claim_only(&[], &[("x", None)]))
            .await
            .unwrap()
            .is_empty()
    );
    let at = text_at(MINUTE + SECOND - SECOND / 1000);
    let error = r#"{"message":"Workflow run deadline exceeded"}"#;
    assert_eq!(
        db.run_row("executing"),
        format!("failed|1|-|-|{START}|{at}|{error}")
    );
    assert_eq!(
        db.run_row("parked"),
        format!("failed|1|-|-|{START}|{at}|{error}")
    );
    assert_eq!(
        db.run_row("pending"),
        format!("failed|0|-|-|-|{at}|{error}")
    );
    assert_eq!(
        db.query("SELECT status FROM workflow_runs WHERE id = 'without'"),
        ["pending"]
    );
    assert_lost(
        db.end_step(&owner("executing", "executing"), completed("s", "1"))
            .await,
        Interruption::DeadlineExceeded,
    );
}

#[tokio::test]
async fn the_sweep_runs_once_a_second_and_no_claim_takes_an_expired_run() {
    let db = Db::new().await;
    db.claim(&["w"]).await;
    let mut new = new_run("a");
    new.deadline_at = Some(start() + SECOND / 2);
    db.create_run(new).await.unwrap();
    db.clock.advance(SECOND / 2);
    assert!(db.claim(&["w"]).await.is_empty());
    assert_eq!(db.query("SELECT status FROM workflow_runs"), ["pending"]);
    db.clock.advance(SECOND / 2);
    assert!(db.claim(&["w"]).await.is_empty());
    assert_eq!(db.query("SELECT status FROM workflow_runs"), ["failed"]);
}

#[tokio::test]
async fn a_swept_child_wakes_its_parent_in_the_same_claim() {
    let db = Db::new().await;
    let parent = db.running("parent", "w").await;
    let mut child = new_run("child");
    child.deadline_at = Some(start() + MINUTE);
    child.parent_step_attempt_id = Some("step".to_owned());
    child.available_at = Some(start() + HOUR);
    db.begin_child(
        &parent,
        attempt("step", "child", StepAttemptKind::Workflow),
        child,
    )
    .await
    .unwrap();
    let park = ExecutionEnd::Park {
        until: start() + HOUR,
        waits: vec!["step".into()],
    };
    db.end_execution(&parent, park).await.unwrap();
    db.clock.advance(MINUTE);
    let claimed = db.claim(&["w2"]).await;
    assert_eq!(ids(&claimed), ["parent"]);
    assert_eq!(
        db.get_run(NS, "child").await.unwrap().unwrap().status,
        RunStatus::Failed
    );
}

#[tokio::test]
async fn deadlines_that_pass_together_are_all_swept_and_no_claim_waits_for_them() {
    const EXPIRED: usize = 5_000;
    let db = Db::new().await;
    db.execute(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {EXPIRED})
         INSERT INTO workflow_runs (namespace_id, id, workflow_name, status, config, attempts,
             available_at, deadline_at, created_at, updated_at)
         SELECT 'default', 'run-' || i, 'order', 'pending', '{{}}', 0, '2026-01-31T12:00:00.000Z',
             '2026-01-31T12:00:00.100Z', '2026-01-31T12:00:00.000Z', '2026-01-31T12:00:00.000Z'
         FROM n"
    ));
    db.create("mine").await;
    db.execute(
        "CREATE TABLE swept_before (count INTEGER);
         CREATE TRIGGER claimed AFTER UPDATE ON workflow_runs WHEN new.status = 'running' BEGIN
             INSERT INTO swept_before
             SELECT count(*) FROM workflow_runs WHERE status = 'failed';
         END",
    );
    assert_eq!(ids(&db.claim(&["w"]).await), ["mine"]);
    // Nobody claims any more, and the clock stands still.
    while db.query("SELECT count(*) FROM workflow_runs WHERE status = 'pending'") != ["0"] {
        tokio::time::sleep(SECOND / 100).await;
    }
    assert_eq!(
        db.query("SELECT count > 0, count < 500 FROM swept_before"),
        ["1|1"]
    );
    assert_eq!(
        db.query("SELECT count(*) FROM workflow_runs WHERE status = 'failed'"),
        [EXPIRED.to_string()]
    );
}

#[tokio::test]
async fn what_cannot_be_named_does_not_keep_the_sweep_busy() {
    let db = Db::new().await;
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO workflow_runs (namespace_id, id, workflow_name, status, config, attempts,
             available_at, deadline_at, created_at, updated_at)
         SELECT 'default', CAST(i AS BLOB), 'order', 'pending', '{}', 0,
             '2026-01-31T12:00:00.000Z', '2026-01-31T12:00:00.100Z', '2026-01-31T12:00:00.000Z',
             '2026-01-31T12:00:00.000Z'
         FROM n",
    );
    assert!(db.claim(&["w"]).await.is_empty());
    // Closing waits for what is under way.
    db.close().await;
}

#[tokio::test]
async fn a_malformed_run_is_claimed_with_its_problem_and_can_be_put_back() {
    let db = Db::new().await;
    db.create("good").await;
    db.create("bad").await;
    db.execute("UPDATE workflow_runs SET deadline_at = 'tomorrow' WHERE id = 'bad'");
    let claimed = db.claim(&["w1", "w2"]).await;
    let bad = claimed.iter().find(|run| run.id == "bad").unwrap();
    match &bad.run {
        Err(BackendError::MalformedRow { column, .. }) => assert_eq!(*column, "deadline_at"),
        other => panic!("{other:?}"),
    }
    assert_eq!(bad.attempts, 1);
    assert!(
        claimed
            .iter()
            .any(|run| run.id == "good" && run.run.is_ok())
    );
    let retry = ExecutionEnd::Retry {
        error: "{}".to_owned(),
        at: start() + MINUTE,
        waits: vec![],
    };
    db.end_execution(&owner("bad", &bad.worker_id), retry)
        .await
        .unwrap();
    assert_eq!(
        db.query("SELECT status FROM workflow_runs WHERE id = 'bad'"),
        ["pending"]
    );
}
