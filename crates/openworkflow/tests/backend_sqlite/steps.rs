//! Step attempts and the history that is read back.

use openworkflow::backend::{
    Backend, BackendError, ExecutionEnd, NewRun, Owner, RunStatus, StepAttemptKind, StepStatus,
};
use workflow_core::{Interruption, Payload};

use crate::kit::*;

const COLUMNS: &str =
    "SELECT id, workflow_run_id, step_name, kind, status, config, context, output,
     error, child_workflow_run_id, started_at, finished_at, created_at, updated_at
     FROM step_attempts ORDER BY id";

#[tokio::test]
async fn a_step_begins_and_ends() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    db.begin_step(&owner, attempt("s", "pay", StepAttemptKind::Function))
        .await
        .unwrap();
    assert_eq!(
        db.query(COLUMNS),
        [format!(
            "s|a|pay|function|running|{{}}|-|-|-|-|{START}|-|{START}|{START}"
        )]
    );
    db.clock.advance(SECOND);
    // Beginning it twice changes nothing.
    db.begin_step(&owner, attempt("s", "other", StepAttemptKind::Sleep))
        .await
        .unwrap();
    db.end_step(&owner, completed("s", r#"{"ok":true}"#))
        .await
        .unwrap();
    let at = text_at(SECOND);
    assert_eq!(
        db.query(COLUMNS),
        [format!(
            r#"s|a|pay|function|completed|{{}}|-|{{"ok":true}}|-|-|{START}|{at}|{START}|{at}"#
        )]
    );
}

#[tokio::test]
async fn a_step_that_never_began_is_written_whole() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    db.clock.advance(SECOND);
    let mut ok = completed("ok", "null");
    ok.attempt.begun_ago = SECOND / 4;
    db.end_step(&owner, ok).await.unwrap();
    let mut no = failed("no", r#"{"message":"no"}"#);
    no.attempt.context = Some("{}".to_owned());
    db.end_step(&owner, no).await.unwrap();
    let (begun, at) = (text_at(SECOND * 3 / 4), text_at(SECOND));
    assert_eq!(
        db.query(COLUMNS),
        [
            format!(
                r#"no|a|no|function|failed|{{}}|{{}}|-|{{"message":"no"}}|-|{at}|{at}|{at}|{at}"#
            ),
            format!("ok|a|ok|function|completed|{{}}|-|-|-|-|{begun}|{at}|{begun}|{at}"),
        ]
    );
}

/// The first makes the row, the others add to it: whole where a member is a list, and nothing beside it is
/// touched. One that has ended is left alone.
#[tokio::test]
async fn what_is_added_to_the_config_of_an_attempt_that_runs() {
    const CONFIG: &str = "SELECT status, config, created_at, updated_at FROM step_attempts";
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    let adding = |config: &str| attempt("s", "s", StepAttemptKind::Function).with_config(config);
    let add = async |config: &str| db.begin_step(&owner, adding(config)).await;
    add(r#"{"at":[{"a":1,"b":null}]}"#).await.unwrap();
    db.clock.advance(SECOND);
    add(r#"{"at":[{"b":null,"c":2}],"x":1}"#).await.unwrap();
    let at = text_at(SECOND);
    let config = r#"{"at":[{"b":null,"c":2}],"x":1}"#;
    assert_eq!(db.query(CONFIG), [format!("running|{config}|{START}|{at}")]);
    db.clock.advance(SECOND);
    let plain = attempt("s", "s", StepAttemptKind::Function);
    db.begin_step(&owner, plain.clone()).await.unwrap();
    assert_eq!(db.query(CONFIG), [format!("running|{config}|{START}|{at}")]);
    db.execute("UPDATE step_attempts SET config = 'what is this'");
    add(r#"{"at":[null]}"#).await.unwrap();
    let mut end = completed("s", "1");
    end.attempt = end.attempt.with_config(r#"{"order":1}"#);
    db.end_step(&owner, end).await.unwrap();
    let ended = db.query(CONFIG);
    let at = text_at(2 * SECOND);
    let config = r#"{"at":[null],"order":1}"#;
    assert_eq!(ended, [format!("completed|{config}|{START}|{at}")]);
    db.clock.advance(SECOND);
    assert_lost(add(r#"{"at":[3]}"#).await, Interruption::LeaseLost);
    db.begin_step(&owner, plain).await.unwrap();
    assert_eq!(db.query(CONFIG), ended);
    // Nor does the attempt of another run change, or a stranger write.
    let other = db.running("b", "w").await;
    assert_lost(
        db.begin_step(&other, adding("{}")).await,
        Interruption::LeaseLost,
    );
    let stranger = Owner::new("default", "a", "stranger", 1);
    let new = attempt("t", "t", StepAttemptKind::Function).with_config(r#"{"at":[1]}"#);
    assert_lost(db.begin_step(&stranger, new).await, Interruption::LeaseLost);
    assert_eq!(db.query(CONFIG), ended);
}

#[tokio::test]
async fn the_first_result_of_a_step_stays() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    db.end_step(&owner, completed("ok", "1")).await.unwrap();
    db.end_step(&owner, failed("no", r#"{"message":"1"}"#))
        .await
        .unwrap();
    db.execute(
        "INSERT INTO step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status,
             config, output, created_at, updated_at)
         VALUES ('default', 'legacy', 'a', 'x', 'function', 'succeeded', '{}', '0',
             '2026-01-31T12:00:00.123Z', '2026-01-31T12:00:00.123Z')",
    );
    let before = db.query(COLUMNS);
    db.clock.advance(SECOND);
    db.end_step(&owner, completed("ok", "2")).await.unwrap();
    db.end_step(&owner, failed("no", r#"{"message":"2"}"#))
        .await
        .unwrap();
    db.end_step(&owner, completed("legacy", "2")).await.unwrap();
    // The other result is refused: the execution that has it lives in another history.
    assert_lost(
        db.end_step(&owner, failed("ok", "{}")).await,
        Interruption::LeaseLost,
    );
    assert_lost(
        db.end_step(&owner, completed("no", "2")).await,
        Interruption::LeaseLost,
    );
    assert_eq!(db.query(COLUMNS), before);
}

#[tokio::test]
async fn only_the_owner_writes_steps() {
    let db = Db::new().await;
    let former = db.running("a", "w1").await;
    db.begin_step(&former, attempt("s", "s", StepAttemptKind::Function))
        .await
        .unwrap();
    db.clock.advance(LEASE);
    let owner = db.claim_one("w2").await;
    let before = db.query(COLUMNS);
    let lost = Interruption::LeaseLost;
    let function = || attempt("t", "t", StepAttemptKind::Function);
    let child = || attempt("u", "u", StepAttemptKind::Workflow);
    assert_lost(db.begin_step(&former, function()).await, lost);
    assert_lost(db.end_step(&former, completed("s", "1")).await, lost);
    assert_lost(db.end_step(&former, completed("t", "1")).await, lost);
    assert_lost(
        db.begin_child(&former, child(), new_run("child")).await,
        lost,
    );
    assert_lost(
        db.begin_step(&crate::kit::owner("b", "w2"), function())
            .await,
        lost,
    );
    assert_eq!(db.query(COLUMNS), before);
    assert_eq!(db.query("SELECT count(*) FROM workflow_runs"), ["1"]);

    // The new owner may complete its predecessor's attempt.
    db.end_step(&owner, completed("s", "1")).await.unwrap();
    db.cancel_run(NS, "a").await.unwrap();
    assert_lost(
        db.begin_step(&owner, function()).await,
        Interruption::Canceled,
    );
    assert_lost(
        db.end_step(&owner, completed("t", "1")).await,
        Interruption::Canceled,
    );
    assert_lost(
        db.begin_child(&owner, child(), new_run("child")).await,
        Interruption::Canceled,
    );
}

#[tokio::test]
async fn a_child_is_created_linked_and_found_again() {
    let db = Db::new().await;
    let owner = db.running("parent", "w").await;
    let mut step = attempt("step", "ship", StepAttemptKind::Workflow);
    step.context = Some(r#"{"kind":"workflow","timeoutAt":"2027-01-31T12:00:00.123Z"}"#.to_owned());
    let child = |id: &str| {
        let mut child = NewRun::new(NS, id, "shipment", Payload::NULL);
        child.idempotency_key = Some("__workflow:default:step".to_owned());
        child.parent_step_attempt_id = Some("step".to_owned());
        child
    };
    let run = db
        .begin_child(&owner, step.clone(), child("child"))
        .await
        .unwrap();
    assert_eq!((&*run.id, run.status), ("child", RunStatus::Pending));
    let links = "SELECT r.parent_step_attempt_namespace_id, r.parent_step_attempt_id,
             a.child_workflow_run_namespace_id, a.child_workflow_run_id, a.status
         FROM workflow_runs r, step_attempts a WHERE r.id = 'child'";
    let linked = ["default|step|default|child|running"];
    assert_eq!(db.query(links), linked);
    // Once more: nothing new.
    let run = db
        .begin_child(&owner, step.clone(), child("second"))
        .await
        .unwrap();
    assert_eq!(run.id, "child");
    // A worker died between the creation and the link, days ago.
    db.execute("UPDATE step_attempts SET child_workflow_run_namespace_id = NULL, child_workflow_run_id = NULL");
    db.clock.advance(SECOND * 20);
    db.execute(
        "UPDATE workflow_runs SET created_at = '2026-01-20T12:00:00.000Z' WHERE id = 'child'",
    );
    let run = db.begin_child(&owner, step, child("third")).await.unwrap();
    assert_eq!(run.id, "child");
    assert_eq!(db.query(links), linked);
    assert_eq!(db.query("SELECT count(*) FROM workflow_runs"), ["2"]);
}

#[tokio::test]
async fn a_child_that_cannot_be_created_leaves_no_attempt() {
    let db = Db::new().await;
    let owner = db.running("parent", "w").await;
    // The id is taken.
    let step = attempt("step", "ship", StepAttemptKind::Workflow);
    let error = db
        .begin_child(&owner, step, new_run("parent"))
        .await
        .unwrap_err();
    assert!(matches!(error, BackendError::Driver { .. }), "{error}");
    assert_eq!(db.query(COLUMNS), [""; 0]);
}

#[tokio::test]
async fn history_holds_what_waits_were_waiting_for() {
    let db = Db::new().await;
    let owner = db.running("parent", "w").await;
    db.end_step(&owner, completed("a", "1")).await.unwrap();
    db.clock.advance(SECOND / 1000);
    for id in ["pending", "done"] {
        let step = attempt(&format!("{id}-step"), id, StepAttemptKind::Workflow);
        let mut child = new_run(id);
        child.parent_step_attempt_id = Some(format!("{id}-step"));
        db.begin_child(&owner, step, child).await.unwrap();
    }
    let unlinked = attempt("unlinked-step", "unlinked", StepAttemptKind::Workflow);
    db.begin_step(&owner, unlinked).await.unwrap();
    db.execute(
        "UPDATE workflow_runs SET status = 'failed', error = '{\"message\":\"no\"}', output = '7',
             finished_at = '2026-01-31T12:00:01.000Z' WHERE id = 'done'",
    );
    db.begin_step(&owner, wait_for("got", "got", "s1"))
        .await
        .unwrap();
    db.begin_step(&owner, wait_for("empty", "empty", "s2"))
        .await
        .unwrap();
    db.begin_step(&owner, wait_for("none", "none", "s3"))
        .await
        .unwrap();
    for (signal, data) in [("s1", Payload::from_json("[1]")), ("s2", Payload::NULL)] {
        db.send_signal(openworkflow::backend::NewSignal::new(NS, signal, data))
            .await
            .unwrap();
    }

    let history = db.load_history(NS, "parent").await.unwrap();
    let order: Vec<&str> = history
        .attempts
        .iter()
        .map(|attempt| &*attempt.id)
        .collect();
    assert_eq!(
        order,
        [
            "a",
            "done-step",
            "empty",
            "got",
            "none",
            "pending-step",
            "unlinked-step"
        ]
    );
    let first = &history.attempts[0];
    assert_eq!(
        (&first.status, first.output.expose()),
        (&StepStatus::Completed, "1")
    );
    assert_eq!(
        history.attempts[1].child_workflow_run_id.as_deref(),
        Some("done")
    );
    assert!(history.attempts[3].context.as_ref().unwrap().contains("s1"));

    let mut children: Vec<&String> = history.children.keys().collect();
    children.sort();
    assert_eq!(children, ["done-step", "pending-step"]);
    let done = &history.children["done-step"];
    assert_eq!(
        (&*done.id, &done.status, done.output.expose()),
        ("done", &RunStatus::Failed, "7")
    );
    assert_eq!(done.error.as_ref().unwrap().message, "no");
    assert!(done.finished_at.is_some());
    assert_eq!(history.children["pending-step"].status, RunStatus::Pending);

    assert_eq!(history.signals.len(), 2);
    assert_eq!(history.signals["got"].data.expose(), "[1]");
    assert!(history.signals["empty"].data.is_null());

    // What has ended needs none of that.
    db.end_step(&owner, completed("got", "[1]")).await.unwrap();
    db.end_step(&owner, failed("done-step", "{}"))
        .await
        .unwrap();
    let history = db.load_history(NS, "parent").await.unwrap();
    assert!(!history.signals.contains_key("got"));
    assert!(!history.children.contains_key("done-step"));
    assert!(
        db.load_history(NS, "nobody")
            .await
            .unwrap()
            .attempts
            .is_empty()
    );
}

#[tokio::test]
async fn history_bears_unknown_words_and_names_malformed_rows() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    db.end_step(&owner, completed("s", "1")).await.unwrap();
    db.execute("UPDATE step_attempts SET kind = 'dance', status = 'odd', context = '{'");
    let history = db.load_history(NS, "a").await.unwrap();
    assert_eq!(
        history.attempts[0].kind,
        StepAttemptKind::Other("dance".to_owned())
    );
    assert_eq!(
        history.attempts[0].status,
        StepStatus::Other("odd".to_owned())
    );
    db.execute("UPDATE step_attempts SET created_at = '31.1.2026'");
    match db.load_history(NS, "a").await {
        Err(BackendError::MalformedRow {
            table, id, column, ..
        }) => {
            assert_eq!((table, &*id, column), ("step_attempts", "s", "created_at"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_time_has_the_one_format() {
    let db = Db::new().await;
    let owner = db.running("parent", "w").await;
    db.end_step(&owner, completed("a", "1")).await.unwrap();
    let mut slow = failed("b", "{}");
    slow.attempt.begun_ago = std::time::Duration::from_nanos(1_234_567);
    db.end_step(&owner, slow).await.unwrap();
    let mut child = new_run("child");
    child.parent_step_attempt_id = Some("c".to_owned());
    child.deadline_at = Some(start() + std::time::Duration::from_nanos(999_999_999));
    child.available_at = Some(start() + std::time::Duration::from_nanos(1));
    db.begin_child(&owner, attempt("c", "c", StepAttemptKind::Workflow), child)
        .await
        .unwrap();
    db.begin_step(&owner, wait_for("d", "d", "s"))
        .await
        .unwrap();
    db.send_signal(openworkflow::backend::NewSignal::new(
        NS,
        "s",
        Payload::NULL,
    ))
    .await
    .unwrap();
    let until = start() + std::time::Duration::from_nanos(5_555_555_555);
    db.extend_lease(&owner, std::time::Duration::from_nanos(1_999_999_999))
        .await
        .unwrap();
    db.end_execution(
        &owner,
        ExecutionEnd::Park {
            until,
            waits: vec![],
        },
    )
    .await
    .unwrap();
    for id in ["x", "y", "z"] {
        let mut new = new_run(id);
        new.deadline_at = (id == "x").then(|| start() + SECOND);
        db.create_run(new).await.unwrap();
    }
    db.cancel_run(NS, "y").await.unwrap();
    db.clock
        .advance(std::time::Duration::from_micros(1_000_500));
    let claimed = db.claim(&["1", "2"]).await;
    for (claimed, end) in claimed.iter().zip([
        ExecutionEnd::Complete {
            output: Payload::NULL,
        },
        ExecutionEnd::Retry {
            error: "{}".to_owned(),
            at: until,
            waits: vec![],
        },
    ]) {
        let (id, worker) = (claimed.id.as_str(), claimed.worker_id.as_str());
        let owner = Owner::new(NS, id, worker, claimed.attempts);
        db.end_execution(&owner, end).await.unwrap();
    }
    let mut seen = 0;
    for (table, columns) in [
        (
            "workflow_runs",
            "available_at deadline_at started_at finished_at created_at updated_at",
        ),
        (
            "step_attempts",
            "started_at finished_at created_at updated_at",
        ),
        ("workflow_signals", "created_at"),
    ] {
        for column in columns.split(' ') {
            let values = db.query(&format!(
                "SELECT {column} FROM {table} WHERE {column} IS NOT NULL"
            ));
            assert!(!values.is_empty(), "{table}.{column} is never set");
            for value in values {
                seen += 1;
                let shape: String = value
                    .chars()
                    .map(|c| if c.is_ascii_digit() { '9' } else { c })
                    .collect();
                assert_eq!(shape, "9999-99-99T99:99:99.999Z", "{table}.{column}");
            }
        }
    }
    assert!(seen > 30);
}
