//! How executions end.

use super::*;

#[tokio::test]
async fn completion_keeps_the_worker_and_clears_the_error() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.sql(r#"UPDATE {schema}.workflow_runs SET error = '{"message":"earlier"}'"#)
        .await;
    f.end(&owner, complete(r#"{"ok":true}"#)).await;
    let row = f.run("r").await;
    assert_eq!(row["status"], "completed");
    assert_eq!(row["output"], json!({"ok": true}));
    assert_eq!(
        (&row["error"], &row["available_at"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(row["worker_id"], "w");
    assert_ne!(row["started_at"], Value::Null);
    assert_ne!(row["finished_at"], Value::Null);
}

#[tokio::test]
async fn failure_clears_the_worker_and_the_start() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.end(&owner, fail()).await;
    let row = f.run("r").await;
    assert_eq!(row["status"], "failed");
    assert_eq!(row["error"], json!({"name": "Error", "message": "boom"}));
    for column in ["worker_id", "available_at", "started_at", "output"] {
        assert_eq!(row[column], Value::Null, "{column}");
    }
    assert_ne!(row["finished_at"], Value::Null);
}

#[tokio::test]
async fn a_retry_makes_the_run_pending_again() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(4_000_000_000_123);
    let retry = ExecutionEnd::Retry {
        error: ERROR.to_owned(),
        at,
        waits: Vec::new(),
    };
    f.end(&owner, retry).await;
    let row = f.run("r").await;
    assert_eq!(row["status"], "pending");
    assert_eq!(row["error"], json!({"name": "Error", "message": "boom"}));
    assert_eq!(row["attempts"], 1);
    for column in ["worker_id", "started_at", "finished_at"] {
        assert_eq!(row[column], Value::Null, "{column}");
    }
    let run = f.backend.get_run(NS, "r").await.unwrap().unwrap();
    assert_eq!(run.available_at, Some(at));
    assert_eq!(run.error.unwrap().message, "boom");
}

#[tokio::test]
async fn a_parked_run_runs_without_a_worker_until_its_time() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.end(&owner, park(HOUR, &[])).await;
    let row = f.run("r").await;
    assert_eq!(
        (&row["status"], &row["worker_id"]),
        (&json!("running"), &Value::Null)
    );
    assert_ne!(row["started_at"], Value::Null);
    assert!(
        f.holds("r", "available_at > now() + interval '59 min'")
            .await
    );
    // As far away as anybody may ask.
    let owner = f.claimed("far", "w").await;
    f.end(&owner, park(Duration::from_secs(1 << 40), &[])).await;
    assert!(f.holds("far", "available_at > '9999-01-01'").await);
}

#[tokio::test]
async fn a_run_can_be_canceled_until_it_has_ended() {
    let f = Fixture::new().await;
    let cancel = async |id| f.backend.cancel_run(NS, id).await.unwrap();
    f.create("pending").await;
    assert!(matches!(
        cancel("pending").await,
        Cancellation::Canceled { .. }
    ));
    f.claimed("running", "w").await;
    f.sql(r#"UPDATE {schema}.workflow_runs SET error = '{"message":"x"}' WHERE id = 'running'"#)
        .await;
    f.sql(
        "UPDATE {schema}.workflow_runs SET created_at = now() - interval '1 hour' WHERE id = 'running'",
    )
    .await;
    for told in [1, 0] {
        let Cancellation::Canceled { runs } = cancel("running").await else {
            panic!("it can be canceled");
        };
        assert_eq!(runs.len(), told, "once");
        for run in runs {
            assert_eq!((&*run.run_id, &*run.workflow_name), ("running", "order"));
            let age = run.age.unwrap().as_secs();
            assert!((3600..7200).contains(&age), "{age} s");
        }
    }
    let row = f.run("running").await;
    assert_eq!(row["status"], "canceled");
    assert_eq!(row["error"], json!({"message": "x"}));
    assert_eq!(
        (&row["worker_id"], &row["available_at"]),
        (&Value::Null, &Value::Null)
    );
    assert_ne!(
        (&row["started_at"], &row["finished_at"]),
        (&Value::Null, &Value::Null)
    );
    let owner = f.claimed("done", "w").await;
    f.end(&owner, complete("1")).await;
    assert!(matches!(
        cancel("done").await,
        Cancellation::AlreadyEnded(RunStatus::Completed)
    ));
    assert!(matches!(cancel("missing").await, Cancellation::NotFound));
    f.create("old").await;
    f.sql("UPDATE {schema}.workflow_runs SET status = 'sleeping' WHERE id = 'old'")
        .await;
    assert!(matches!(cancel("old").await, Cancellation::Canceled { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_completed_together_do_not_share_their_troubles() {
    complete_together(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_is_refused_is_refused_alone() {
    complete_together(Some(3)).await;
}

/// Completes runs at the same time, one of them with an output that jsonb cannot hold.
async fn complete_together(refused: Option<usize>) {
    let f = Fixture::new().await;
    let mut owners = Vec::new();
    for n in 0..60 {
        let id = format!("r{n}");
        owners.push(match n % 6 {
            // Its parent waits.
            4 => f.family(&format!("parent-of-{id}"), &id).await.1,
            _ => f.claimed(&id, "w").await,
        });
    }
    let stolen = |n: usize| n % 6 == 1;
    let results = at_once(owners.into_iter().enumerate().map(|(n, mut owner)| {
        let backend = f.backend.clone();
        if stolen(n) {
            owner = Owner::new(NS, &*owner.run_id, "not-the-owner", 1);
        }
        let output = match refused == Some(n) {
            true => r#""\u0000""#.to_owned(),
            false => n.to_string(),
        };
        async move {
            // Among writes of steps, as in a worker.
            let step = done(&format!("s{n}"), "1");
            let written = backend.end_step(&owner, step).await;
            assert_eq!(written.is_ok(), !stolen(n), "{written:?}");
            (n, backend.end_execution(&owner, complete(&output)).await)
        }
    }))
    .await;
    for (n, result) in results {
        let id = format!("r{n}");
        if stolen(n) || refused == Some(n) {
            match stolen(n) {
                true => assert_lost(result, Interruption::LeaseLost),
                false => assert!(!result.unwrap_err().is_transient()),
            }
            assert!(f.holds(&id, "status = 'running' AND worker_id = 'w'").await);
            continue;
        }
        result.unwrap();
        let row = f.run(&id).await;
        assert_eq!(
            (&row["status"], &row["output"]),
            (&json!("completed"), &json!(n))
        );
        assert_eq!(row["available_at"], Value::Null);
        assert_ne!(row["finished_at"], Value::Null);
        if n % 6 == 4 {
            let parent = format!("parent-of-{id}");
            assert!(f.holds(&parent, "available_at <= now()").await, "{parent}");
        }
    }
}

fn continue_as(id: &str) -> ExecutionEnd {
    let mut successor = NewRun::new(NS, id, "w", Payload::from_json("7"));
    successor.version = Some("v2".to_owned());
    successor.carrier.insert("tenant", "acme");
    ExecutionEnd::Continue {
        successor: Box::new(successor),
    }
}

#[tokio::test]
async fn a_run_that_continues_is_completed_and_another_is_due() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.sql(r#"UPDATE {schema}.workflow_runs SET config = '{"theirs":1}'"#)
        .await;
    f.end(&owner, continue_as("next")).await;
    // Once more, as after an answer that was lost.
    f.end(&owner, continue_as("next")).await;
    let row = f.run("r").await;
    assert_eq!(row["status"], "completed");
    assert_eq!(row["config"], json!({"theirs": 1, "continuedAs": "next"}));
    for column in ["output", "error", "available_at"] {
        assert_eq!(row[column], Value::Null, "{column}");
    }
    let next = f.run("next").await;
    assert_eq!(
        (&next["status"], &next["attempts"], &next["input"]),
        (&json!("pending"), &json!(0), &json!(7))
    );
    assert_eq!(
        (&next["version"], &next["config"]),
        (&json!("v2"), &json!({}))
    );
    assert_eq!(next["context"]["telemetry"]["tenant"], "acme");
    assert!(f.holds("next", "available_at <= now()").await);
    let run = f.backend.get_run(NS, "r").await.unwrap().unwrap();
    assert_eq!(run.continued_as.as_deref(), Some("next"));
    let run = f.backend.get_run(NS, "next").await.unwrap().unwrap();
    assert_eq!(run.continued_as, None);
}

#[tokio::test]
async fn a_run_continues_whole_or_not_at_all() {
    let f = Fixture::new().await;
    let (_, child) = f.family("parent", "child").await;
    let owner = f.claimed("r", "w").await;
    let former = Owner::new(NS, "r", "another", owner.attempts);
    let end = |owner: Owner, id: &'static str| {
        let backend = f.backend.clone();
        async move { backend.end_execution(&owner, continue_as(id)).await }
    };
    assert_lost(end(former, "by-a-former").await, Interruption::LeaseLost);
    f.create("taken").await;
    assert!(!end(owner, "taken").await.unwrap_err().is_transient());
    assert!(f.holds("r", "status = 'running' AND config = '{}'").await);
    end(child, "of-a-child").await.unwrap_err();
    for id in ["by-a-former", "of-a-child"] {
        assert!(f.backend.get_run(NS, id).await.unwrap().is_none(), "{id}");
    }
}
