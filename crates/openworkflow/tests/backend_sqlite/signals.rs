//! Delivering signals.

use openworkflow::backend::{Backend, ExecutionEnd, NewSignal};
use workflow_core::{Interruption, Payload};

use crate::kit::*;

fn signal(name: &str, data: &str) -> NewSignal {
    NewSignal::new(NS, name, Payload::from_json(data))
}

fn keyed(name: &str, key: &str) -> NewSignal {
    let mut new = signal(name, "1");
    new.idempotency_key = Some(key.to_owned());
    new
}

/// A run that waits for each of the signals, parked for an hour.
async fn waiting(db: &Db, id: &str, signals: &[&str]) {
    let owner = db.running(id, "w").await;
    for (i, name) in signals.iter().enumerate() {
        db.begin_step(&owner, wait_for(&format!("{id}-{i}"), name, name))
            .await
            .unwrap();
    }
    let park = ExecutionEnd::Park {
        until: start() + HOUR,
        waits: vec![],
    };
    db.end_execution(&owner, park).await.unwrap();
}

fn due(db: &Db, id: &str) -> String {
    db.query(&format!(
        "SELECT available_at FROM workflow_runs WHERE id = '{id}'"
    ))
    .remove(0)
}

#[tokio::test]
async fn a_signal_reaches_every_waiter_once_and_wakes_it() {
    let db = Db::new().await;
    waiting(&db, "a", &["go"]).await;
    waiting(&db, "b", &["go", "go"]).await;
    waiting(&db, "c", &["stop"]).await;
    db.clock.advance(SECOND);
    let mut received = db.send_signal(signal("go", r#"{"x":1}"#)).await.unwrap();
    received.sort();
    assert_eq!(received, ["a", "b"]);
    let rows = db.query(
        "SELECT namespace_id, signal, data, sender_idempotency_key, workflow_run_id,
             step_attempt_id, created_at, length(id)
         FROM workflow_signals ORDER BY step_attempt_id",
    );
    let at = text_at(SECOND);
    assert_eq!(
        rows,
        [("a", "a-0"), ("b", "b-0"), ("b", "b-1")]
            .map(|(run, step)| format!(r#"default|go|{{"x":1}}|-|{run}|{step}|{at}|36"#))
    );
    assert_eq!(
        (due(&db, "a"), due(&db, "b"), due(&db, "c")),
        (at.clone(), at, text_at(HOUR))
    );
    // One delivery per attempt, however often it is sent before they wake.
    assert!(db.send_signal(signal("go", "2")).await.unwrap().is_empty());
    assert_eq!(db.query("SELECT count(*) FROM workflow_signals"), ["3"]);
}

#[tokio::test]
async fn a_signal_without_a_waiter_is_dropped() {
    let db = Db::new().await;
    assert!(db.send_signal(keyed("go", "k")).await.unwrap().is_empty());
    let owner = db.running("a", "w").await;
    assert!(db.send_signal(keyed("go", "k")).await.unwrap().is_empty());
    db.begin_step(&owner, wait_for("s", "s", "go"))
        .await
        .unwrap();
    let mut other = signal("go", "1");
    other.namespace_id = "other".to_owned();
    assert!(db.send_signal(other).await.unwrap().is_empty());
    // The same key can deliver later.
    assert_eq!(db.send_signal(keyed("go", "k")).await.unwrap(), ["a"]);
    db.end_step(&owner, completed("s", "1")).await.unwrap();
    assert!(db.send_signal(signal("go", "1")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_key_delivers_once_per_signal() {
    let db = Db::new().await;
    waiting(&db, "a", &["go", "stop"]).await;
    assert_eq!(db.send_signal(keyed("go", "")).await.unwrap(), ["a"]);
    waiting(&db, "b", &["go"]).await;
    // The same answer as before, and nothing new.
    assert_eq!(db.send_signal(keyed("go", "")).await.unwrap(), ["a"]);
    assert_eq!(due(&db, "b"), text_at(HOUR));
    assert_eq!(db.send_signal(keyed("stop", "")).await.unwrap(), ["a"]);
    assert_eq!(db.send_signal(keyed("go", "2")).await.unwrap(), ["b"]);
}

#[tokio::test]
async fn null_data_is_delivered() {
    let db = Db::new().await;
    waiting(&db, "a", &["go"]).await;
    assert_eq!(
        db.send_signal(NewSignal::new(NS, "go", Payload::NULL))
            .await
            .unwrap(),
        ["a"]
    );
    assert_eq!(db.query("SELECT data FROM workflow_signals"), ["-"]);
    assert!(
        db.load_history(NS, "a").await.unwrap().signals["a-0"]
            .data
            .is_null()
    );
}

#[tokio::test]
async fn names_are_compared_as_they_are() {
    let db = Db::new().await;
    let names = ["", "it's \"quoted\" 🎉", "$.signal", "GO"];
    let owner = db.running("a", "w").await;
    for (i, name) in names.iter().enumerate() {
        let mut wait = wait_for(&i.to_string(), "x", "x");
        wait.context = Some(serde_json::json!({"kind": "signal-wait", "signal": name}).to_string());
        db.begin_step(&owner, wait).await.unwrap();
    }
    assert!(db.send_signal(signal("go", "1")).await.unwrap().is_empty());
    for name in names {
        assert_eq!(
            db.send_signal(signal(name, "1")).await.unwrap(),
            ["a"],
            "{name}"
        );
    }
    assert_eq!(db.query("SELECT count(*) FROM workflow_signals"), ["4"]);
}

#[tokio::test]
async fn a_run_that_is_over_receives_nothing() {
    let db = Db::new().await;
    waiting(&db, "a", &["go"]).await;
    db.cancel_run(NS, "a").await.unwrap();
    let before = db.run_row("a");
    let received = db.send_signal(signal("go", "1")).await.unwrap();
    assert!(received.is_empty(), "{received:?}");
    assert_eq!(db.run_row("a"), before);
    assert_eq!(db.query("SELECT count(*) FROM workflow_signals"), ["0"]);
    assert_eq!(
        db.query("SELECT status FROM step_attempts"),
        ["completed"],
        "no signal reads the wait again"
    );
}

#[tokio::test]
async fn only_waits_of_runs_that_are_over_are_closed() {
    let db = Db::new().await;
    waiting(&db, "a", &["go"]).await;
    waiting(&db, "odd", &["go"]).await;
    db.execute("UPDATE workflow_runs SET status = 'odd' WHERE id = 'odd'");
    for _ in 0..2 {
        db.send_signal(signal("go", "1")).await.unwrap();
        let waits = db.query("SELECT DISTINCT status FROM step_attempts");
        assert_eq!(waits, ["running"]);
    }
}

#[tokio::test]
async fn a_signal_cuts_a_retry_short_but_leaves_an_execution_alone() {
    let db = Db::new().await;
    let owner = db.running("a", "w").await;
    db.begin_step(&owner, wait_for("s", "s", "go"))
        .await
        .unwrap();
    db.begin_step(&owner, wait_for("t", "t", "stop"))
        .await
        .unwrap();
    db.clock.advance(SECOND);
    db.send_signal(signal("go", "1")).await.unwrap();
    assert_eq!(due(&db, "a"), text_at(LEASE));
    let retry = ExecutionEnd::Retry {
        error: "{}".to_owned(),
        at: start() + HOUR,
        waits: vec![],
    };
    db.end_execution(&owner, retry).await.unwrap();
    assert_eq!(due(&db, "a"), text_at(HOUR));
    db.send_signal(signal("stop", "1")).await.unwrap();
    assert_eq!(due(&db, "a"), text_at(SECOND));
    assert_eq!(db.query("SELECT status FROM workflow_runs"), ["pending"]);
}

#[tokio::test]
async fn a_sender_must_own_its_run() {
    let db = Db::new().await;
    waiting(&db, "a", &["go"]).await;
    let sender = db.running("sender", "w").await;
    let mut first = signal("go", "1");
    first.sender = Some(owner("sender", "thief"));
    assert_lost(db.send_signal(first.clone()).await, Interruption::LeaseLost);
    assert_eq!(db.query("SELECT count(*) FROM workflow_signals"), ["0"]);
    first.sender = Some(sender);
    assert_eq!(db.send_signal(first.clone()).await.unwrap(), ["a"]);
    db.cancel_run(NS, "sender").await.unwrap();
    assert_lost(db.send_signal(first).await, Interruption::Canceled);
}
