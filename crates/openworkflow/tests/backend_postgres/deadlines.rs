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
