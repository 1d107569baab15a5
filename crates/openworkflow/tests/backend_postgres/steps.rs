//! Writing step attempts.

use super::*;

#[tokio::test]
async fn a_step_is_written_when_it_begins_and_when_it_ends() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let mut attempt = function("s");
    attempt.begun_ago = Duration::from_secs(60);
    f.begin(&owner, attempt.clone()).await;
    f.begin(&owner, attempt.clone()).await;
    let row = f.step("s").await;
    for (column, expected) in [
        ("namespace_id", json!(NS)),
        ("workflow_run_id", json!("r")),
        ("step_name", json!("s")),
        ("kind", json!("function")),
        ("status", json!("running")),
        ("config", json!({})),
        ("context", Value::Null),
        ("output", Value::Null),
        ("error", Value::Null),
        ("child_workflow_run_id", Value::Null),
        ("child_workflow_run_namespace_id", Value::Null),
        ("finished_at", Value::Null),
    ] {
        assert_eq!(row[column], expected, "{column}");
    }
    let begun = f
        .rows(
            "step_attempts",
            "started_at BETWEEN now() - interval '70 s' AND now() - interval '60 s'
             AND created_at = date_trunc('milliseconds', started_at)",
        )
        .await;
    assert_eq!(begun.len(), 1);

    f.backend
        .end_step(&owner, done("s", r#"{"a":[1]}"#))
        .await
        .unwrap();
    let ended = f.step("s").await;
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["output"], json!({"a": [1]}));
    assert_eq!(ended["created_at"], row["created_at"]);
    assert_ne!(ended["finished_at"], Value::Null);

    // The first result stays, to the last column.
    f.backend.end_step(&owner, done("s", "2")).await.unwrap();
    assert_eq!(f.step("s").await, ended);
    // The other end is refused.
    assert_lost(
        f.backend.end_step(&owner, failed("s")).await,
        Interruption::LeaseLost,
    );
    assert_eq!(f.step("s").await, ended);
    // A late beginning changes nothing.
    f.begin(&owner, attempt).await;
    assert_eq!(f.step("s").await, ended);
}

/// The first makes the row, the others add to it, and nothing beside it is touched. One that has ended is
/// left alone.
#[tokio::test]
async fn what_is_added_to_the_config_of_an_attempt_that_runs() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let add = async |owner: &Owner, id: &str, config: &str| {
        let attempt = function(id).with_config(config);
        f.backend.begin_step(owner, attempt).await
    };
    add(&owner, "s", r#"{"at":[{"a":1,"b":null}]}"#)
        .await
        .unwrap();
    let first = f.step("s").await;
    assert_eq!(first["status"], "running");
    assert_eq!(first["config"], json!({"at": [{"a": 1, "b": null}]}));
    add(&owner, "s", r#"{"at":[{"b":null,"c":2}],"x":1}"#)
        .await
        .unwrap();
    let second = f.step("s").await;
    assert_eq!(
        second["config"],
        json!({"at": [{"b": null, "c": 2}], "x": 1})
    );
    for column in [
        "status",
        "created_at",
        "started_at",
        "finished_at",
        "output",
        "error",
    ] {
        assert_eq!(second[column], first[column], "{column}");
    }
    f.begin(&owner, function("s")).await;
    assert_eq!(f.step("s").await, second);
    let refused = add(&owner, "s", r#"{"at":[1e200000]}"#).await.unwrap_err();
    assert!(
        matches!(refused, BackendError::ValueRefused { .. }),
        "{refused:?}"
    );
    let mut end = done("s", "1");
    end.attempt = end.attempt.with_config(r#"{"order":1}"#);
    f.backend.end_step(&owner, end).await.unwrap();
    let ended = f.step("s").await;
    let config = json!({"at": [{"b": null, "c": 2}], "x": 1, "order": 1});
    assert_eq!(ended["config"], config);
    assert_ne!(ended["finished_at"], Value::Null);
    assert_lost(
        add(&owner, "s", r#"{"at":[3]}"#).await,
        Interruption::LeaseLost,
    );
    f.begin(&owner, function("s")).await;
    assert_eq!(f.step("s").await, ended);
    // Nor does the attempt of another run change, or a stranger write.
    let other = f.claimed("other", "w").await;
    assert_lost(
        add(&other, "s", r#"{"at":[3]}"#).await,
        Interruption::LeaseLost,
    );
    let stranger = Owner::new(NS, "r", "stranger", 1);
    assert_lost(
        add(&stranger, "t", r#"{"at":[3]}"#).await,
        Interruption::LeaseLost,
    );
    assert_eq!(f.step("s").await, ended);
    assert_eq!(f.rows("step_attempts", "true").await.len(), 1);
}

/// Each row gets what is its own, whoever else is written in the same statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_added_to_many_configs_at_once() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    at_once((0..120).map(|n| {
        let (backend, owner) = (f.backend.clone(), owner.clone());
        async move {
            let id = format!("s{}", n / 3);
            let member = ["a", "b", "c"][n % 3];
            let attempt = function(&id).with_config(format!(r#"{{"{member}":[{n}]}}"#));
            backend.begin_step(&owner, attempt).await.unwrap();
        }
    }))
    .await;
    for n in 0..40 {
        let config = json!({"a": [3 * n], "b": [3 * n + 1], "c": [3 * n + 2]});
        assert_eq!(f.step(&format!("s{n}")).await["config"], config);
    }
}

#[tokio::test]
async fn a_step_can_be_written_once_when_it_has_ended() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let mut ended = failed("s");
    ended.attempt.begun_ago = Duration::from_millis(1500);
    f.backend.end_step(&owner, ended).await.unwrap();
    let row = f.step("s").await;
    assert_eq!(row["status"], "failed");
    assert_eq!(row["error"], json!({"name": "Error", "message": "boom"}));
    assert_eq!(row["output"], Value::Null);
    let took = "finished_at - started_at BETWEEN interval '1.5 s' AND interval '20 s'";
    assert_eq!(f.rows("step_attempts", took).await.len(), 1);
    f.backend.end_step(&owner, failed("s")).await.unwrap();
    assert_eq!(f.step("s").await, row);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_were_believed_to_be_new_may_be_there_already() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let new = |id: &str, output: &str| {
        let mut ended = done(id, output);
        ended.attempt.is_unwritten = true;
        ended
    };
    f.begin(&owner, function("alone")).await;
    f.backend.end_step(&owner, new("alone", "1")).await.unwrap();
    let row = f.step("alone").await;
    assert_eq!(
        (&row["status"], &row["output"]),
        (&json!("completed"), &json!(1))
    );
    f.backend.end_step(&owner, new("alone", "1")).await.unwrap();
    assert_eq!(f.step("alone").await, row);

    for n in 0..20 {
        f.begin(&owner, function(&format!("s{n}"))).await;
    }
    let results = at_once((0..100).map(|n| {
        let (backend, owner) = (f.backend.clone(), owner.clone());
        let ended = new(&format!("s{n}"), &format!("{n}"));
        async move { backend.end_step(&owner, ended).await }
    }))
    .await;
    for (n, result) in results.into_iter().enumerate() {
        result.unwrap();
        assert_eq!(f.step(&format!("s{n}")).await["output"], n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_written_together_do_not_share_their_troubles() {
    for are_new in [false, true] {
        do_not_share_their_troubles(are_new).await;
    }
}

async fn do_not_share_their_troubles(are_new: bool) {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let stranger = Owner::new(NS, "r", "not-the-owner", 1);
    let results = at_once((0..200).map(|n| {
        let backend = f.backend.clone();
        let owner = match n % 10 {
            3 => stranger.clone(),
            _ => owner.clone(),
        };
        // What jsonb cannot hold, and what text cannot.
        let mut ended = match n % 10 {
            5 => done(&format!("s{n}"), r#""\u0000""#),
            _ => done(&format!("s{n}"), &format!("{n}")),
        };
        if n % 10 == 7 {
            ended.attempt.step_name = "a\0b".into();
        }
        ended.attempt.is_unwritten = are_new;
        async move { (n, backend.end_step(&owner, ended).await) }
    }))
    .await;
    for (n, result) in results {
        match n % 10 {
            3 => assert_lost(result, Interruption::LeaseLost),
            5 | 7 => {
                let error = result.unwrap_err();
                assert!(
                    matches!(error, BackendError::ValueRefused { .. }),
                    "{error:?}"
                );
                assert!(!error.is_transient(), "{error:?}");
            }
            _ => {
                result.unwrap();
                assert_eq!(f.step(&format!("s{n}")).await["output"], n);
            }
        }
    }
    assert_eq!(f.rows("step_attempts", "true").await.len(), 140);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beginnings_and_ends_in_any_order_leave_the_end() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    at_once((0..100).map(|n| {
        let (backend, owner) = (f.backend.clone(), owner.clone());
        async move {
            let id = format!("s{}", n / 2);
            if n % 2 == 0 {
                backend.begin_step(&owner, function(&id)).await.unwrap();
            } else {
                backend.end_step(&owner, done(&id, "1")).await.unwrap();
            }
        }
    }))
    .await;
    assert_eq!(
        f.rows("step_attempts", "status = 'completed'").await.len(),
        50
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_go_away_do_not_take_others_writes_with_them() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let tasks: Vec<_> = (0..120)
        .map(|n| {
            let (backend, owner) = (f.backend.clone(), owner.clone());
            let id = format!("s{n}");
            tokio::spawn(async move { backend.end_step(&owner, done(&id, "1")).await })
        })
        .collect();
    let mut stay = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        if n % 3 == 0 {
            task.abort();
        } else {
            stay.push(task);
        }
    }
    for task in stay {
        task.await.unwrap().unwrap();
    }
    // And the writer is still at work.
    f.backend
        .end_step(&owner, done("after", "1"))
        .await
        .unwrap();
}

#[tokio::test]
async fn attempts_of_other_runs_and_of_old_versions_are_treated_as_such() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    let other = f.claimed("other", "w2").await;
    f.begin(&other, function("theirs")).await;
    let before = f.step("theirs").await;
    let result = f.backend.end_step(&owner, done("theirs", "1")).await;
    assert_lost(result, Interruption::LeaseLost);
    assert_eq!(f.step("theirs").await, before);
    // Completed, as old versions wrote it; and a status that nobody knows, which counts as running.
    for id in ["old", "odd"] {
        f.begin(&owner, function(id)).await;
    }
    f.sql(
        "UPDATE {schema}.step_attempts SET status = 'succeeded', output = '7' WHERE id = 'old';
         UPDATE {schema}.step_attempts SET status = 'odd' WHERE id = 'odd'",
    )
    .await;
    f.backend.end_step(&owner, done("old", "8")).await.unwrap();
    assert_eq!(f.step("old").await["output"], 7);
    assert_lost(
        f.backend.end_step(&owner, failed("old")).await,
        Interruption::LeaseLost,
    );
    f.backend.end_step(&owner, done("odd", "9")).await.unwrap();
    assert_eq!(f.step("odd").await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_somebody_has_locked_holds_up_no_other() {
    let f = Fixture::new().await;
    let owner = f.claimed("locked", "w1").await;
    let other = f.claimed("other", "w2").await;
    f.sql("BEGIN; SELECT 1 FROM {schema}.workflow_runs WHERE id = 'locked' FOR UPDATE")
        .await;
    let backend = f.backend.clone();
    let held_up = tokio::spawn(async move { backend.end_step(&owner, done("late", "1")).await });
    // The server waits, with the only commit that is on its way.
    f.blocked().await;
    let backend = f.backend.clone();
    let others = async move {
        for n in 0..3 {
            let ended = done(&format!("s{n}"), "1");
            backend.end_step(&other, ended).await.unwrap();
        }
        backend.end_execution(&other, complete("1")).await.unwrap();
    };
    let others = tokio::time::timeout(Duration::from_secs(30), others).await;
    others.expect("the others go on");
    assert!(!held_up.is_finished());
    f.sql("COMMIT").await;
    held_up.await.unwrap().unwrap();
    assert_eq!(f.step("late").await["status"], "completed");
}
