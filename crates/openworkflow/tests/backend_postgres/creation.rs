//! Creating runs.

use super::*;

#[tokio::test]
async fn a_created_run_is_pending_and_due() {
    let f = Fixture::new().await;
    let mut run = NewRun::new(
        NS,
        "r",
        "order",
        Payload::from_json(r#"{"b":1,"aKey":null}"#),
    );
    run.version = Some("v2".into());
    let (created, found) = f.backend.create_run(run).await.unwrap();
    assert!(!found);
    assert_eq!(created.status, RunStatus::Pending);
    assert_eq!(created.version.as_deref(), Some("v2"));

    let row = f.run("r").await;
    for (column, expected) in [
        ("namespace_id", json!(NS)),
        ("workflow_name", json!("order")),
        ("version", json!("v2")),
        ("status", json!("pending")),
        ("idempotency_key", Value::Null),
        ("config", json!({})),
        ("context", Value::Null),
        ("input", json!({"b": 1, "aKey": null})),
        ("output", Value::Null),
        ("attempts", json!(0)),
        ("parent_step_attempt_id", Value::Null),
        ("parent_step_attempt_namespace_id", Value::Null),
        ("worker_id", Value::Null),
        ("deadline_at", Value::Null),
        ("started_at", Value::Null),
        ("finished_at", Value::Null),
    ] {
        assert_eq!(row[column], expected, "{column}");
    }
    assert!(
        f.holds(
            "r",
            "available_at BETWEEN now() - interval '1 min' AND now()
             AND created_at = date_trunc('milliseconds', created_at) AND input IS NOT NULL"
        )
        .await
    );
}

#[tokio::test]
async fn absent_values_are_null_in_sql() {
    let f = Fixture::new().await;
    f.create("r").await;
    assert!(f.holds("r", "input IS NULL AND context IS NULL").await);
    let owner = Owner::new(NS, "r", "w", 1);
    f.claim(&["w"]).await;
    f.backend.end_step(&owner, done("s", "null")).await.unwrap();
    f.end(&owner, complete("null")).await;
    assert!(f.holds("r", "output IS NULL AND error IS NULL").await);
    let steps = f
        .rows("step_attempts", "output IS NULL AND error IS NULL")
        .await;
    assert_eq!(steps.len(), 1);
}

#[tokio::test]
async fn the_requested_times_and_the_carrier_are_kept() {
    let f = Fixture::new().await;
    let mut run = NewRun::new(NS, "r", "order", Payload::NULL);
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(4_000_000_000_123);
    run.available_at = Some(at);
    run.deadline_at = Some(at + HOUR);
    run.carrier.insert("traceparent", "00-aa-bb-01");
    let (created, _) = f.backend.create_run(run).await.unwrap();
    assert_eq!(created.available_at, Some(at));
    assert_eq!(created.deadline_at, Some(at + HOUR));
    assert_eq!(created.carrier.get("traceparent"), Some("00-aa-bb-01"));
    let context = &f.run("r").await["context"];
    assert_eq!(context["traceContext"]["traceparent"], "00-aa-bb-01");
    assert!(f.claim(&["w"]).await.is_empty());
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_can_be_repeated() {
    let f = Fixture::new().await;
    f.create("r").await;
    let run = NewRun::new(NS, "r", "order", Payload::NULL);
    let (again, found) = f.backend.create_run(run).await.unwrap();
    assert_eq!((again.id.as_str(), found), ("r", false));
    assert_eq!(f.rows("workflow_runs", "true").await.len(), 1);
}

#[tokio::test]
async fn an_idempotency_key_finds_the_run_it_created() {
    let f = Fixture::new().await;
    let keyed = |id: &str, name: &str, key: &str| {
        let mut run = NewRun::new(NS, id, name, Payload::NULL);
        run.idempotency_key = Some(key.to_owned());
        run
    };
    let create = async |run| {
        let (run, found) = f.backend.create_run(run).await.unwrap();
        (run.id, found)
    };
    assert_eq!(create(keyed("a", "order", "k")).await, ("a".into(), false));
    // Whatever has become of it.
    f.backend.cancel_run(NS, "a").await.unwrap();
    assert_eq!(create(keyed("b", "order", "k")).await, ("a".into(), true));
    // The name is part of it, and the empty key is one.
    assert_eq!(create(keyed("c", "other", "k")).await, ("c".into(), false));
    assert_eq!(create(keyed("d", "order", "")).await, ("d".into(), false));
    assert_eq!(create(keyed("e", "order", "")).await, ("d".into(), true));
    // For 24 hours.
    f.sql("UPDATE {schema}.workflow_runs SET created_at = now() - interval '23 h 59 min' WHERE id = 'a'").await;
    assert_eq!(create(keyed("g", "order", "k")).await, ("a".into(), true));
    f.sql("UPDATE {schema}.workflow_runs SET created_at = now() - interval '24 h 1 min' WHERE id = 'a'").await;
    assert_eq!(create(keyed("h", "order", "k")).await, ("h".into(), false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_creations_with_one_key_make_one_run() {
    let f = Fixture::new().await;
    let results = at_once((0..40).map(|n| {
        let backend = f.backend.clone();
        async move {
            let mut run = NewRun::new(NS, format!("r{n}"), "order", Payload::NULL);
            run.idempotency_key = Some("k".into());
            backend.create_run(run).await.unwrap()
        }
    }))
    .await;
    let ids: HashSet<_> = results.iter().map(|(run, _)| run.id.clone()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(results.iter().filter(|(_, found)| !found).count(), 1);
    assert_eq!(f.rows("workflow_runs", "true").await.len(), 1);
}

#[tokio::test]
async fn creations_lock_what_typescript_locks() {
    let f = Fixture::new().await;
    let text = r#"{"namespaceId":"default","workflowName":"größe","idempotencyKey":"a\"b"}"#;
    f.client.batch_execute("BEGIN").await.unwrap();
    f.client
        .query(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
            &[&text],
        )
        .await
        .unwrap();
    let backend = f.backend.clone();
    let creation = tokio::spawn(async move {
        let mut run = NewRun::new(NS, "r", "größe", Payload::NULL);
        run.idempotency_key = Some("a\"b".into());
        backend.create_run(run).await.unwrap()
    });
    // It shows up among those who wait for a lock: nothing else here takes advisory locks.
    let other = support::client().await;
    loop {
        let waiting = "SELECT 1 FROM pg_stat_activity
            WHERE wait_event = 'advisory' AND query LIKE '%' || 'hashtextextended' || '%'";
        if !other.query(waiting, &[]).await.unwrap().is_empty() {
            break;
        }
        assert!(!creation.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    f.client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(creation.await.unwrap().0.id, "r");
}
