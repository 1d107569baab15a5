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
async fn a_waiter_of_a_run_that_is_over_counts_as_receiver() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.begin(&owner, signal_wait("a", "go")).await;
    f.backend.cancel_run(NS, "r").await.unwrap();
    let before = f.run("r").await;
    assert_eq!(
        f.backend.send_signal(signal("go", "1")).await.unwrap(),
        ["r"]
    );
    assert_eq!(f.run("r").await, before);
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
