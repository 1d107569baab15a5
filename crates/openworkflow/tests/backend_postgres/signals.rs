//! Signals.

use super::*;

#[tokio::test]
async fn a_signal_reaches_every_waiting_attempt_and_wakes_its_run() {
    let f = Fixture::new().await;
    for id in ["r1", "r2", "r3"] {
        let owner = f.claimed(id, "w").await;
        let name = if id == "r3" { "other" } else { "go" };
        let attempt = format!("{id}-a");
        f.begin(&owner, signal_wait(&attempt, name)).await;
        if id == "r2" {
            // Twice in one run: told once.
            f.begin(&owner, signal_wait("r2-b", name)).await;
        }
        f.end(&owner, park(HOUR, &[&attempt])).await;
    }
    let mut received = f
        .backend
        .send_signal(signal("go", r#"{"n":1}"#))
        .await
        .unwrap();
    received.sort();
    assert_eq!(received, ["r1", "r2"]);
    for (id, due) in [("r1", true), ("r2", true), ("r3", false)] {
        assert_eq!(f.holds(id, "available_at <= now()").await, due, "{id}");
    }
    let rows = f.rows("workflow_signals", "true").await;
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert_eq!(row["signal"], "go");
        assert_eq!(row["data"], json!({"n": 1}));
        assert_eq!(row["sender_idempotency_key"], Value::Null);
    }
    // One delivery per attempt.
    let again = f.backend.send_signal(signal("go", "2")).await.unwrap();
    assert!(again.is_empty());
    let history = f.backend.load_history(NS, "r1").await.unwrap();
    assert_eq!(history.signals["r1-a"].data.expose(), r#"{"n": 1}"#);
}

#[tokio::test]
async fn a_signal_without_receivers_is_dropped() {
    let f = Fixture::new().await;
    let mut sent = signal("go", "1");
    sent.idempotency_key = Some("k".into());
    assert!(
        f.backend
            .send_signal(sent.clone())
            .await
            .unwrap()
            .is_empty()
    );
    assert!(f.rows("workflow_signals", "true").await.is_empty());
    // The same key can deliver later, once, and is answered alike from then on.
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    assert_eq!(f.backend.send_signal(sent.clone()).await.unwrap(), ["r"]);
    f.begin(&owner, signal_wait("b", "go")).await;
    assert_eq!(f.backend.send_signal(sent.clone()).await.unwrap(), ["r"]);
    assert_eq!(f.rows("workflow_signals", "true").await.len(), 1);
    sent.idempotency_key = Some("k2".into());
    assert_eq!(f.backend.send_signal(sent).await.unwrap(), ["r"]);
}

#[tokio::test]
async fn delivered_null_is_a_delivery() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    f.backend.send_signal(signal("go", "null")).await.unwrap();
    assert_eq!(f.rows("workflow_signals", "data IS NULL").await.len(), 1);
    let history = f.backend.load_history(NS, "r").await.unwrap();
    assert!(history.signals["a"].data.is_null());
    // It came before the run was put away.
    f.end(&owner, park(HOUR, &["a"])).await;
    assert!(f.holds("r", "available_at <= now()").await);
}

#[tokio::test]
async fn a_signal_cuts_a_retry_delay_short() {
    let f = Fixture::new().await;
    let retry = |waits: &[&str]| ExecutionEnd::Retry {
        error: ERROR.to_owned(),
        at: SystemTime::now() + HOUR,
        waits: waits.iter().map(|id| Arc::from(*id)).collect(),
    };
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    f.end(&owner, retry(&["a"])).await;
    assert!(f.holds("r", "available_at > now()").await);
    f.backend.send_signal(signal("go", "1")).await.unwrap();
    assert!(
        f.holds("r", "available_at <= now() AND status = 'pending'")
            .await
    );
    // Also where it came first.
    f.claim(&["w"]).await;
    let owner = Owner::new(NS, "r", "w", 2);
    f.end(&owner, retry(&["a"])).await;
    assert!(
        f.holds("r", "available_at <= now() AND status = 'pending'")
            .await
    );
}

#[tokio::test]
async fn a_run_that_is_over_receives_nothing() {
    let f = Fixture::new().await;
    let owner = f.claimed("canceled", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    f.backend.cancel_run(NS, "canceled").await.unwrap();
    let owner = f.claimed("failed", "w").await;
    f.begin(&owner, signal_wait("b", "go")).await;
    f.end(&owner, fail()).await;
    // Of these nobody knows whether they are over.
    let owner = f.claimed("odd", "w").await;
    f.begin(&owner, signal_wait("c", "go")).await;
    f.sql("UPDATE {schema}.workflow_runs SET status = 'odd' WHERE id = 'odd'")
        .await;
    let before = f.everything().await;
    let received = f.backend.send_signal(signal("go", "1")).await.unwrap();
    assert!(received.is_empty(), "{received:?}");
    for (wait, status) in [("a", "completed"), ("b", "completed"), ("c", "running")] {
        assert_eq!(f.step(wait).await["status"], status);
    }
    let after = f.everything().await;
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
}

#[tokio::test]
async fn waits_of_live_runs_stay_open_whether_they_were_served_or_not() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    assert_eq!(
        f.backend.send_signal(signal("go", "1")).await.unwrap(),
        ["r"]
    );
    let second = f.backend.send_signal(signal("go", "2")).await.unwrap();
    assert!(second.is_empty(), "{second:?}");
    assert_eq!(f.step("a").await["status"], "running");
    // What was delivered is not received any more once the run is over.
    f.backend.cancel_run(NS, "r").await.unwrap();
    f.backend.send_signal(signal("go", "3")).await.unwrap();
    let wait = f.step("a").await;
    assert_eq!(
        (&wait["status"], &wait["output"]),
        (&"completed".into(), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn a_run_sends_a_signal_only_while_it_has_an_owner() {
    let f = Fixture::new().await;
    let receiver = f.claimed("receiver", "w1").await;
    f.begin(&receiver, signal_wait("a", "go")).await;
    let mut sent = signal("go", "1");
    sent.idempotency_key = Some("__signal:sender:notify".into());
    sent.sender = Some(f.claimed("sender", "w2").await);
    assert_eq!(f.backend.send_signal(sent).await.unwrap(), ["receiver"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_signals_with_one_key_are_answered_alike() {
    let f = Fixture::new().await;
    for n in 0..5 {
        let owner = f.claimed(&format!("r{n}"), "w").await;
        f.begin(&owner, signal_wait(&format!("a{n}"), "go")).await;
    }
    let answers = at_once((0..20).map(|_| {
        let backend = f.backend.clone();
        async move {
            let mut sent = signal("go", "1");
            sent.idempotency_key = Some("k".into());
            let mut received = backend.send_signal(sent).await.unwrap();
            received.sort();
            received
        }
    }))
    .await;
    for answer in answers {
        assert_eq!(answer, ["r0", "r1", "r2", "r3", "r4"]);
    }
    assert_eq!(f.rows("workflow_signals", "true").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parking_and_a_signal_never_miss_each_other() {
    let f = Fixture::new().await;
    for n in 0..60 {
        let id = format!("r{n}");
        let attempt = format!("a{n}");
        let owner = f.claimed(&id, "w").await;
        f.begin(&owner, signal_wait(&attempt, "go")).await;
        let (b1, b2) = (f.backend.clone(), f.backend.clone());
        let parks = tokio::spawn(async move {
            b1.end_execution(&owner, park(HOUR, &[&attempt]))
                .await
                .unwrap();
        });
        let sends = tokio::spawn(async move { b2.send_signal(signal("go", "1")).await.unwrap() });
        parks.await.unwrap();
        assert_eq!(sends.await.unwrap(), [id.as_str()]);
        assert!(f.holds(&id, "available_at <= now()").await, "round {n}");
        f.backend.cancel_run(NS, &id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_and_steps_in_opposite_directions_do_not_block_each_other() {
    let f = Fixture::new().await;
    let mut owners = Vec::new();
    for n in 0..10 {
        let owner = f.claimed(&format!("r{n}"), &format!("w{n}")).await;
        f.begin(&owner, signal_wait(&format!("a{n}"), "go")).await;
        owners.push(owner);
    }
    let steps = owners.into_iter().enumerate().map(|(n, owner)| {
        let backend = f.backend.clone();
        tokio::spawn(async move {
            for round in 0..20 {
                let wait = signal_wait(&format!("a{n}"), "go");
                let ended = EndedStep::new(wait, Ok(Payload::from_json("1")));
                backend.end_step(&owner, ended).await.unwrap();
                let wait = signal_wait(&format!("a{n}-{round}"), "go");
                backend.begin_step(&owner, wait).await.unwrap();
            }
        })
    });
    let sends = (0..4).map(|_| {
        let backend = f.backend.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                backend.send_signal(signal("go", "1")).await.unwrap();
            }
        })
    });
    for task in steps.chain(sends).collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_begins_while_a_signal_is_sent_is_woken_or_gets_nothing() {
    let f = Fixture::new().await;
    let early = f.claimed("early", "w").await;
    f.begin(&early, signal_wait("z", "go")).await;
    f.end(&early, park(HOUR, &["z"])).await;
    let late = f.claimed("late", "w").await;
    // The sending is held at the run that waits already …
    f.sql("BEGIN; SELECT 1 FROM {schema}.workflow_runs WHERE id = 'early' FOR UPDATE")
        .await;
    let backend = f.backend.clone();
    let sends = tokio::spawn(async move { backend.send_signal(signal("go", "1")).await.unwrap() });
    f.blocked().await;
    // … while the other begins to wait …
    f.begin(&late, signal_wait("a", "go")).await;
    // … and then, if it comes so far, at the attempt of the first, so that the other can park.
    let attempts = support::client().await;
    let lock = "BEGIN; SELECT 1 FROM {schema}.step_attempts WHERE id = 'z' FOR UPDATE";
    let lock = lock.replace("{schema}", &f.schema);
    attempts.batch_execute(&lock).await.unwrap();
    f.sql("COMMIT").await;
    while !sends.is_finished() && !f.is_blocked().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    f.end(&late, park(HOUR, &["a"])).await;
    attempts.batch_execute("COMMIT").await.unwrap();
    sends.await.unwrap();
    let delivered = !f
        .rows("workflow_signals", "step_attempt_id = 'a'")
        .await
        .is_empty();
    assert_eq!(f.holds("late", "available_at <= now()").await, delivered);
}

/// The first half of what OpenWorkflow for TypeScript does when it sends a signal, and the second.
const TYPESCRIPT_DELIVERS: &str = "
    BEGIN;
    SELECT id, workflow_run_id FROM {schema}.step_attempts
    WHERE kind = 'signal-wait' AND status = 'running' AND context->>'signal' = 'go' FOR UPDATE;
    INSERT INTO {schema}.workflow_signals
    SELECT 'default', gen_random_uuid(), 'go', '1', NULL, workflow_run_id, id, now()
    FROM {schema}.step_attempts";
const TYPESCRIPT_WAKES: &str = "
    UPDATE {schema}.workflow_runs SET available_at = now()
    WHERE status IN ('pending', 'running', 'sleeping') AND worker_id IS NULL AND id = 'r';
    COMMIT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parking_waits_for_a_signal_that_typescript_is_delivering() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    f.sql(TYPESCRIPT_DELIVERS).await;
    let backend = f.backend.clone();
    let parks =
        tokio::spawn(async move { backend.end_execution(&owner, park(HOUR, &["a"])).await });
    f.blocked().await;
    // It finds a run that is being executed, and leaves it alone.
    f.sql(TYPESCRIPT_WAKES).await;
    parks.await.unwrap().unwrap();
    assert!(
        f.holds("r", "worker_id IS NULL AND available_at <= now()")
            .await
    );
}

#[tokio::test]
async fn a_signal_that_typescript_is_delivering_is_not_waited_for() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    f.end(&owner, park(HOUR, &["a"])).await;
    f.sql(TYPESCRIPT_DELIVERS).await;
    // It came second. Waiting would be for somebody who is about to wait for the run that we hold.
    let received = f.backend.send_signal(signal("go", "2")).await.unwrap();
    assert!(received.is_empty(), "{received:?}");
    f.sql(TYPESCRIPT_WAKES).await;
    assert!(f.holds("r", "available_at <= now()").await);
    assert_eq!(f.rows("workflow_signals", "data = '1'").await.len(), 1);
}
