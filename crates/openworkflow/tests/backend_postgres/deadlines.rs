//! Runs whose deadline passed.

use super::*;

#[tokio::test]
async fn runs_past_their_deadline_fail_and_wake_their_parents() {
    let f = Fixture::new().await;
    let (_, child) = f.family("parent", "child").await;
    f.create("pending").await;
    f.create("done").await;
    f.sql("UPDATE {schema}.workflow_runs SET status = 'completed' WHERE id = 'done'")
        .await;
    f.sql("UPDATE {schema}.workflow_runs SET deadline_at = now() WHERE id <> 'parent'")
        .await;
    // Each process looks about once per second.
    tokio::time::timeout(HOUR, async {
        while f.run("child").await["status"] != "failed" {
            let claimed = f.claim(&["w"]).await;
            assert!(claimed.iter().all(|c| c.id == "parent"), "{claimed:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    for id in ["child", "pending"] {
        let row = f.run(id).await;
        assert_eq!(row["status"], "failed", "{id}");
        assert_eq!(
            row["error"],
            json!({"message": "Workflow run deadline exceeded"})
        );
        assert_eq!(
            (&row["worker_id"], &row["available_at"]),
            (&Value::Null, &Value::Null)
        );
        assert_ne!(row["finished_at"], Value::Null);
    }
    assert_ne!(f.run("child").await["started_at"], Value::Null);
    assert_eq!(f.run("done").await["status"], "completed");
    let parent_is_due_or_claimed = "available_at <= now() OR worker_id = 'w'";
    assert!(f.holds("parent", parent_is_due_or_claimed).await);
    let result = f.backend.extend_lease(&child, LEASE).await;
    assert_lost(result, Interruption::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_that_pass_together_are_all_swept_and_no_claim_waits_for_them() {
    const EXPIRED: usize = 3_000;
    let f = Fixture::new().await;
    f.sql(&format!(
        "INSERT INTO {{schema}}.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, deadline_at, created_at, updated_at)
         SELECT 'default', 'expired-' || n, 'other', 'running', '{{}}', 1, now() + interval '1 day', now() - interval '1 s', now(), now()
         FROM generate_series(1, {EXPIRED}) n;
         CREATE FUNCTION {{schema}}.hold() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_advisory_xact_lock(hashtext('{{schema}}')); RETURN NEW; END $$;
         CREATE TRIGGER hold BEFORE UPDATE ON {{schema}}.workflow_runs FOR EACH ROW
             WHEN (NEW.status = 'failed') EXECUTE FUNCTION {{schema}}.hold()"
    ))
    .await;
    f.create("mine").await;
    let held = format!("SELECT pg_advisory_lock(hashtext('{}'))", f.schema);
    f.client.batch_execute(&held).await.unwrap();
    // The sweep cannot get on.
    let claimed = f.claim(&["w"]).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].id, "mine");
    f.client
        .batch_execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();
    // Nobody claims any more.
    while f.rows("workflow_runs", "status = 'failed'").await.len() < EXPIRED {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(f.run("mine").await["status"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_are_locked_are_left_to_the_next_sweep() {
    let f = Fixture::new().await;
    f.sql(
        "INSERT INTO {schema}.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, deadline_at, created_at, updated_at)
         SELECT 'default', 'expired-' || n, 'other', 'pending', '{}', 1, now(), now() - interval '1 s', now(), now()
         FROM generate_series(1, 600) n",
    )
    .await;
    f.sql("BEGIN; SELECT 1 FROM {schema}.workflow_runs FOR UPDATE")
        .await;
    // What a claim for nobody waits for is the sweep's first transaction.
    assert!(f.claim(&[]).await.is_empty());
    f.sql("COMMIT").await;
    while f.rows("workflow_runs", "status = 'failed'").await.len() < 600 {
        f.claim(&[]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
