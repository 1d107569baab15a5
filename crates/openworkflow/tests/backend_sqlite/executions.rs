//! How executions end, who may end them, and whom that wakes.

use openworkflow::backend::{Backend, ExecutionEnd, NewRun, NewSignal, Owner, StepAttemptKind};
use workflow_core::{Interruption, Payload};

use crate::kit::*;

fn complete(output: &str) -> ExecutionEnd {
    ExecutionEnd::Complete {
        output: Payload::from_json(output),
    }
}

fn fail() -> ExecutionEnd {
    ExecutionEnd::Fail {
        error: r#"{"message":"no"}"#.to_owned(),
    }
}

fn retry_at(seconds: u32, waits: &[&str]) -> ExecutionEnd {
    ExecutionEnd::Retry {
        error: r#"{"message":"no"}"#.to_owned(),
        at: start() + SECOND * seconds,
        waits: waits.iter().map(|id| (*id).into()).collect(),
    }
}

fn park_until(seconds: u32, waits: &[&str]) -> ExecutionEnd {
    ExecutionEnd::Park {
        until: start() + SECOND * seconds,
        waits: waits.iter().map(|id| (*id).into()).collect(),
    }
}

#[tokio::test]
async fn each_end_leaves_its_row() {
    let db = Db::new().await;
    let at = text_at(SECOND);
    let error = r#"{"message":"no"}"#;
    for (id, end, expected) in [
        (
            "complete",
            complete("7"),
            format!("completed|1|w|-|{START}|{at}|-"),
        ),
        ("fail", fail(), format!("failed|1|-|-|-|{at}|{error}")),
        (
            "retry",
            retry_at(500, &[]),
            format!("pending|1|-|{}|-|-|{error}", text_at(SECOND * 500)),
        ),
        (
            "park",
            park_until(600, &[]),
            format!("running|1|-|{}|{START}|-|-", text_at(SECOND * 600)),
        ),
    ] {
        let owner = db.running(id, "w").await;
        db.execute(&format!(
            "UPDATE workflow_runs SET started_at = '{START}' WHERE id = '{id}'"
        ));
        if db.clock.now() == start() {
            db.clock.advance(SECOND);
        }
        db.end_execution(&owner, end).await.unwrap();
        assert_eq!(db.run_row(id), expected);
        assert_eq!(
            db.query(&format!(
                "SELECT updated_at FROM workflow_runs WHERE id = '{id}'"
            )),
            [at.as_str()]
        );
        // It is over, for this worker.
        assert_lost(
            db.end_execution(&owner, complete("8")).await,
            Interruption::LeaseLost,
        );
        assert_eq!(db.run_row(id), expected);
    }
    assert_eq!(
        db.query("SELECT output FROM workflow_runs ORDER BY id"),
        ["7", "-", "-", "-"]
    );
}

#[tokio::test]
async fn an_error_survives_until_completion_and_the_start_until_a_failure() {
    let db = Db::new().await;
    let owner = db.running("a", "w1").await;
    db.end_execution(&owner, retry_at(1, &[])).await.unwrap();
    db.clock.advance(SECOND);
    let owner = db.claim_one("w2").await;
    let error = r#"{"message":"no"}"#;
    let at = text_at(SECOND);
    assert_eq!(
        db.run_row("a"),
        format!("running|2|w2|{}|{at}|-|{error}", text_at(SECOND * 31))
    );
    db.end_execution(&owner, park_until(2, &[])).await.unwrap();
    db.clock.advance(SECOND);
    let owner = db.claim_one("w3").await;
    assert_eq!(
        db.run_row("a"),
        format!("running|3|w3|{}|{at}|-|{error}", text_at(SECOND * 32))
    );
    db.end_execution(&owner, complete("null")).await.unwrap();
    assert_eq!(
        db.run_row("a"),
        format!("completed|3|w3|-|{at}|{}|-", text_at(SECOND * 2))
    );
}

#[tokio::test]
async fn an_earlier_claim_under_the_same_worker_id_writes_nothing() {
    let db = Db::new().await;
    let earlier = db.running("a", "w").await;
    db.begin_step(&earlier, attempt("s", "s", StepAttemptKind::Function))
        .await
        .unwrap();
    db.clock.advance(LEASE);
    let owner = db.claim_one("w").await;
    let before = (db.run_row("a"), db.query("SELECT * FROM step_attempts"));
    let lost = Interruption::LeaseLost;
    let function = attempt("t", "t", StepAttemptKind::Function);
    let child = attempt("u", "u", StepAttemptKind::Workflow);
    assert_lost(db.extend_lease(&earlier, LEASE).await, lost);
    assert_lost(db.begin_step(&earlier, function).await, lost);
    assert_lost(db.end_step(&earlier, completed("s", "1")).await, lost);
    assert_lost(db.end_step(&earlier, completed("t", "1")).await, lost);
    let begun = db.begin_child(&earlier, child, new_run("child")).await;
    assert_lost(begun, lost);
    let mut signal = NewSignal::new(NS, "go", Payload::NULL);
    signal.sender = Some(earlier.clone());
    assert_lost(db.send_signal(signal).await, lost);
    for end in [complete("1"), fail(), retry_at(1, &[]), park_until(1, &[])] {
        assert_lost(db.end_execution(&earlier, end).await, lost);
    }
    let after = (db.run_row("a"), db.query("SELECT * FROM step_attempts"));
    assert_eq!(after, before);
    assert_eq!(db.query("SELECT count(*) FROM workflow_runs"), ["1"]);
    db.end_step(&owner, completed("s", "1")).await.unwrap();
    db.end_execution(&owner, complete("1")).await.unwrap();
}

#[tokio::test]
async fn a_run_whose_count_of_claims_is_damaged_can_be_put_back() {
    let db = Db::new().await;
    db.create("a").await;
    for damaged in ["-7", "'many'", "2.5", "4294967295", "9223372036854775807"] {
        db.execute(&format!(
            "UPDATE workflow_runs SET attempts = {damaged}, available_at = '2026-01-01T00:00:00.000Z'"
        ));
        let owner = db.claim_one("w").await;
        db.end_execution(&owner, retry_at(1, &[])).await.unwrap();
    }
}

#[tokio::test]
async fn nobody_but_the_owner_ends_an_execution() {
    let db = Db::new().await;
    for end in [complete("1"), fail(), retry_at(1, &[]), park_until(1, &[])] {
        let id = format!("{end:?}");
        let id = id.split(' ').next().unwrap();
        db.running(id, "w").await;
        let before = db.run_row(id);
        let thief = owner(id, "thief");
        assert_lost(
            db.end_execution(&thief, end.clone()).await,
            Interruption::LeaseLost,
        );
        assert_eq!(db.run_row(id), before);
        db.cancel_run(NS, id).await.unwrap();
        assert_lost(
            db.end_execution(&owner(id, "w"), end.clone()).await,
            Interruption::Canceled,
        );
        db.execute(&format!("DELETE FROM workflow_runs WHERE id = '{id}'"));
        assert_lost(
            db.end_execution(&owner(id, "w"), end).await,
            Interruption::LeaseLost,
        );
    }
    // A failure without a passed deadline is no deadline's doing.
    let owner = db.running("failed", "w").await;
    db.execute(
        "UPDATE workflow_runs SET status = 'failed', deadline_at = '2026-02-01T00:00:00.000Z'",
    );
    assert_lost(
        db.extend_lease(&owner, LEASE).await,
        Interruption::LeaseLost,
    );
    db.clock.advance(HOUR * 24);
    assert_lost(
        db.extend_lease(&owner, LEASE).await,
        Interruption::DeadlineExceeded,
    );
}

#[tokio::test]
async fn a_heartbeat_extends_the_lease_only() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    db.clock.advance(SECOND * 15);
    db.extend_lease(&owner, LEASE).await.unwrap();
    assert_eq!(
        db.run_row("a"),
        format!("running|1|w|{}|{START}|-|-", text_at(SECOND * 45))
    );
}

/// A parent with a linked child of attempt `step`, both claimed.
async fn family(db: &Db) -> (Owner, Owner) {
    let parent = db.running("parent", "p").await;
    let mut child = new_run("child");
    child.parent_step_attempt_id = Some("step".to_owned());
    db.begin_child(
        &parent,
        attempt("step", "child", StepAttemptKind::Workflow),
        child,
    )
    .await
    .unwrap();
    let child = db.claim_one("c").await;
    (parent, child)
}

fn parent_due(db: &Db) -> String {
    db.query("SELECT available_at FROM workflow_runs WHERE id = 'parent'")
        .remove(0)
}

#[tokio::test]
async fn the_end_of_a_child_wakes_its_parked_parent() {
    for how in ["complete", "fail", "cancel"] {
        let db = Db::new().await;
        let (parent, child) = family(&db).await;
        db.end_execution(&parent, park_until(3600, &["step"]))
            .await
            .unwrap();
        assert_eq!(parent_due(&db), text_at(HOUR));
        if how == "complete" {
            db.execute("UPDATE workflow_runs SET status = 'sleeping' WHERE id = 'parent'");
        }
        db.clock.advance(SECOND);
        match how {
            "complete" => db.end_execution(&child, complete("1")).await.unwrap(),
            "fail" => db.end_execution(&child, fail()).await.unwrap(),
            _ => drop(db.cancel_run(NS, "child").await.unwrap()),
        }
        assert_eq!(parent_due(&db), text_at(SECOND), "{how}");
        assert_eq!(ids(&db.claim(&["w"]).await), ["parent"]);
    }
}

#[tokio::test]
async fn a_child_that_is_not_over_wakes_nobody() {
    let db = Db::new().await;
    let (parent, child) = family(&db).await;
    db.end_execution(&parent, park_until(3600, &["step"]))
        .await
        .unwrap();
    db.end_execution(&child, retry_at(60, &[])).await.unwrap();
    assert_eq!(parent_due(&db), text_at(HOUR));
}

#[tokio::test]
async fn only_a_parked_parent_that_waits_for_this_child_is_woken() {
    let untouched = [
        (
            "executing",
            "UPDATE workflow_runs SET worker_id = 'x' WHERE id = 'parent'",
        ),
        (
            "retrying",
            "UPDATE workflow_runs SET status = 'pending' WHERE id = 'parent'",
        ),
        (
            "canceled",
            "UPDATE workflow_runs SET status = 'canceled' WHERE id = 'parent'",
        ),
        ("step over", "UPDATE step_attempts SET status = 'failed'"),
        ("other kind", "UPDATE step_attempts SET kind = 'function'"),
        (
            "unlinked",
            "UPDATE step_attempts SET child_workflow_run_id = NULL",
        ),
        (
            "linked to another",
            "UPDATE step_attempts SET child_workflow_run_id = 'parent'",
        ),
    ];
    for (case, change) in untouched {
        let db = Db::new().await;
        let (parent, child) = family(&db).await;
        db.end_execution(&parent, park_until(3600, &["step"]))
            .await
            .unwrap();
        db.execute(change);
        db.end_execution(&child, complete("1")).await.unwrap();
        assert_eq!(parent_due(&db), text_at(HOUR), "{case}");
    }
    // One that is due already stays where it is in the queue.
    let db = Db::new().await;
    let (parent, child) = family(&db).await;
    db.end_execution(&parent, park_until(1, &["step"]))
        .await
        .unwrap();
    db.clock.advance(SECOND * 2);
    db.end_execution(&child, complete("1")).await.unwrap();
    assert_eq!(parent_due(&db), text_at(SECOND));
}

#[tokio::test]
async fn what_arrived_before_the_park_makes_it_short() {
    // The child ended, or the signal came, while the parent was still executing.
    for (end, arrives) in [
        (park_until(3600, &["other", "step"]), "child"),
        (park_until(3600, &["wait"]), "signal"),
        (retry_at(3600, &["step"]), "child"),
        (retry_at(3600, &["wait"]), "signal"),
    ] {
        let db = Db::new().await;
        let (parent, child) = family(&db).await;
        db.begin_step(&parent, wait_for("wait", "wait", "go"))
            .await
            .unwrap();
        db.clock.advance(SECOND);
        if arrives == "child" {
            db.end_execution(&child, complete("1")).await.unwrap();
        } else {
            let recipients = db
                .send_signal(NewSignal::new(NS, "go", Payload::NULL))
                .await
                .unwrap();
            assert_eq!(recipients, ["parent"]);
        }
        assert_eq!(
            parent_due(&db),
            text_at(LEASE),
            "an executing run is left alone"
        );
        db.end_execution(&parent, end.clone()).await.unwrap();
        assert_eq!(parent_due(&db), text_at(SECOND), "{end:?}");
    }
}

#[tokio::test]
async fn what_is_not_waited_for_does_not_make_a_park_short() {
    let db = Db::new().await;
    let (parent, child) = family(&db).await;
    db.begin_step(&parent, wait_for("wait", "wait", "go"))
        .await
        .unwrap();
    db.end_execution(&child, complete("1")).await.unwrap();
    db.send_signal(NewSignal::new(NS, "go", Payload::NULL))
        .await
        .unwrap();
    db.end_step(&parent, completed("step", "1")).await.unwrap();
    // `step` is over, and `wait` is not among the waits.
    db.end_execution(&parent, park_until(3600, &["step", "missing"]))
        .await
        .unwrap();
    assert_eq!(parent_due(&db), text_at(HOUR));
}

#[tokio::test]
async fn the_process_order_walk_through() {
    let db = Db::new().await;
    db.create("parent").await;
    assert_eq!(db.run_row("parent"), format!("pending|0|-|{START}|-|-|-"));
    let w1 = db.claim_one("w1").await;
    assert_eq!(
        db.run_row("parent"),
        format!("running|1|w1|{}|{START}|-|-", text_at(LEASE))
    );
    db.end_step(&w1, completed("validate", "true"))
        .await
        .unwrap();
    let mut child = new_run("child");
    child.parent_step_attempt_id = Some("ship".to_owned());
    db.begin_child(
        &w1,
        attempt("ship", "ship", StepAttemptKind::Workflow),
        child,
    )
    .await
    .unwrap();
    db.end_execution(&w1, park_until(36000, &["ship"]))
        .await
        .unwrap();
    assert_eq!(
        db.run_row("parent"),
        format!("running|1|-|{}|{START}|-|-", text_at(HOUR * 10))
    );
    db.clock.advance(SECOND);
    let c = db.claim_one("c").await;
    db.end_execution(&c, complete("1")).await.unwrap();
    let w2 = db.claim_one("w2").await;
    assert_eq!(
        db.run_row("parent"),
        format!("running|2|w2|{}|{START}|-|-", text_at(SECOND * 31))
    );
    db.end_step(&w2, completed("ship", "1")).await.unwrap();
    db.begin_step(&w2, wait_for("confirm", "confirm", "go"))
        .await
        .unwrap();
    db.end_execution(&w2, park_until(3600, &["confirm"]))
        .await
        .unwrap();
    db.clock.advance(SECOND);
    db.send_signal(NewSignal::new(NS, "go", Payload::NULL))
        .await
        .unwrap();
    let w1 = db.claim_one("w1").await;
    assert_eq!(
        db.run_row("parent"),
        format!("running|3|w1|{}|{START}|-|-", text_at(SECOND * 32))
    );
    db.end_step(&w1, completed("confirm", r#"{"data":null}"#))
        .await
        .unwrap();
    db.begin_step(&w1, attempt("cool", "cool", StepAttemptKind::Sleep))
        .await
        .unwrap();
    db.end_execution(&w1, park_until(10, &["cool"]))
        .await
        .unwrap();
    assert_eq!(
        db.run_row("parent"),
        format!("running|3|-|{}|{START}|-|-", text_at(SECOND * 10))
    );
    db.clock.advance(SECOND * 8);
    let w1 = db.claim_one("w1").await;
    db.end_step(&w1, completed("cool", "null")).await.unwrap();
    db.end_step(&w1, failed("notify-1", r#"{"message":"no"}"#))
        .await
        .unwrap();
    db.end_execution(&w1, retry_at(11, &[])).await.unwrap();
    let error = r#"{"message":"no"}"#;
    assert_eq!(
        db.run_row("parent"),
        format!("pending|4|-|{}|-|-|{error}", text_at(SECOND * 11))
    );
    db.clock.advance(SECOND);
    let w5 = db.claim_one("w5").await;
    let t5 = text_at(SECOND * 11);
    assert_eq!(
        db.run_row("parent"),
        format!("running|5|w5|{}|{t5}|-|{error}", text_at(SECOND * 41))
    );
    db.end_step(&w5, completed("notify-2", "1")).await.unwrap();
    db.end_execution(&w5, complete("1")).await.unwrap();
    assert_eq!(
        db.run_row("parent"),
        format!("completed|5|w5|-|{t5}|{t5}|-")
    );
}

fn continue_as(id: &str) -> ExecutionEnd {
    let mut successor = NewRun::new(NS, id, "w", Payload::from_json("7"));
    successor.version = Some("v2".to_owned());
    ExecutionEnd::Continue {
        successor: Box::new(successor),
    }
}

#[tokio::test]
async fn a_run_that_continues_is_completed_and_another_is_due() {
    let db = Db::new().await;
    // All of them first, since what continues is due.
    let owners = [
        db.running("a", "w1").await,
        db.running("b", "w2").await,
        db.running("c", "w3").await,
    ];
    let cases = [
        (
            "a",
            r#"{"theirs":1}"#,
            r#"{"theirs":1,"continuedAs":"next-a"}"#,
        ),
        ("b", "[]", r#"{"continuedAs":"next-b"}"#),
        ("c", "{ no JSON", r#"{"continuedAs":"next-c"}"#),
    ];
    for ((id, config, expected), owner) in cases.into_iter().zip(owners) {
        db.execute(&format!(
            "UPDATE workflow_runs SET config = '{config}' WHERE id = '{id}'"
        ));
        let next = format!("next-{id}");
        db.end_execution(&owner, continue_as(&next)).await.unwrap();
        let run = db.get_run(NS, id).await.unwrap().unwrap();
        assert_eq!(
            (run.status.as_str(), run.output.is_null()),
            ("completed", true)
        );
        assert_eq!(run.continued_as.as_deref(), Some(&*next));
        let row = db.query(&format!(
            "SELECT config FROM workflow_runs WHERE id = '{id}'"
        ));
        assert_eq!(row, [expected]);
        let run = db.get_run(NS, &next).await.unwrap().unwrap();
        assert_eq!((run.status.as_str(), run.attempts), ("pending", 0));
        assert_eq!(
            (run.version.as_deref(), run.input.expose()),
            (Some("v2"), "7")
        );
        assert!(run.available_at <= Some(start()));
    }
}

#[tokio::test]
async fn a_run_continues_whole_or_not_at_all() {
    let db = Db::new().await;
    let owner = db.running("r", "w").await;
    let former = Owner::new(NS, "r", "another", 1);
    let lost = db.end_execution(&former, continue_as("by-a-former")).await;
    assert_lost(lost, Interruption::LeaseLost);
    db.end_execution(&owner, continue_as("r"))
        .await
        .unwrap_err();
    let run = db.get_run(NS, "r").await.unwrap().unwrap();
    assert_eq!((run.status.as_str(), run.continued_as), ("running", None));
    assert!(db.get_run(NS, "by-a-former").await.unwrap().is_none());
}
