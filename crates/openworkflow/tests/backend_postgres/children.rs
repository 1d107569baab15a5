//! Parents and children.

use super::*;

#[tokio::test]
async fn a_child_is_created_once_and_linked() {
    let f = Fixture::new().await;
    let owner = f.claimed("parent", "w").await;
    let begin = async |id: &str| {
        let wait = step("attempt", "child", StepAttemptKind::Workflow);
        let mut child = NewRun::new(NS, id, "part", Payload::from_json("[1]"));
        child.idempotency_key = Some("__workflow:default:attempt".into());
        f.backend.begin_child(&owner, wait, child).await.unwrap()
    };
    let child = begin("child").await;
    assert_eq!(child.parent_step_attempt_id.as_deref(), Some("attempt"));
    let row = f.run("child").await;
    assert_eq!(row["idempotency_key"], "__workflow:default:attempt");
    assert_eq!(row["parent_step_attempt_namespace_id"], NS);
    assert_eq!(row["input"], json!([1]));
    let attempt = f.step("attempt").await;
    assert_eq!(attempt["kind"], "workflow");
    assert_eq!(attempt["child_workflow_run_id"], "child");
    assert_eq!(attempt["child_workflow_run_namespace_id"], NS);
    assert_eq!(begin("other").await.id, "child");

    // A crash between the creation and the link is repaired.
    f.sql(
        "UPDATE {schema}.step_attempts
         SET child_workflow_run_id = NULL, child_workflow_run_namespace_id = NULL",
    )
    .await;
    // However long ago that was.
    f.sql("UPDATE {schema}.workflow_runs SET created_at = '2020-01-01' WHERE id = 'child'")
        .await;
    assert_eq!(begin("another").await.id, "child");
    assert_eq!(f.step("attempt").await["child_workflow_run_id"], "child");
    // What the attempt is linked to is its child, whatever the key.
    f.sql("UPDATE {schema}.workflow_runs SET idempotency_key = NULL WHERE id = 'child'")
        .await;
    assert_eq!(begin("yet-another").await.id, "child");
    assert_eq!(f.rows("workflow_runs", "true").await.len(), 2);
}

#[tokio::test]
async fn every_end_of_a_child_wakes_its_parked_parent() {
    let f = Fixture::new().await;
    let due = "available_at <= now() AND worker_id IS NULL AND status = 'running'";
    for (n, end) in [complete("1"), fail()].into_iter().enumerate() {
        let (parent, child) = (format!("parent{n}"), format!("child{n}"));
        let (_, owner) = f.family(&parent, &child).await;
        f.end(&owner, end).await;
        assert!(f.holds(&parent, due).await, "{n}");
        f.claim(&["sink"]).await;
    }
    f.family("parent", "child").await;
    f.backend.cancel_run(NS, "child").await.unwrap();
    assert!(f.holds("parent", due).await);
}

#[tokio::test]
async fn a_parent_that_does_not_wait_for_this_child_is_left_alone() {
    let f = Fixture::new().await;
    // A retry of the child.
    let (_, child) = f.family("p1", "c1").await;
    let retry = ExecutionEnd::Retry {
        error: ERROR.to_owned(),
        at: SystemTime::now() + HOUR,
        waits: Vec::new(),
    };
    f.end(&child, retry).await;
    assert!(f.holds("p1", "available_at > now()").await);
    // A parent that executes, or waits to be retried.
    for (n, state) in ["worker_id = 'x'", "status = 'pending'"]
        .into_iter()
        .enumerate()
    {
        let (parent, child) = (format!("q{n}"), format!("d{n}"));
        let (_, owner) = f.family(&parent, &child).await;
        f.sql(&format!(
            "UPDATE {{schema}}.workflow_runs SET {state} WHERE id = '{parent}'"
        ))
        .await;
        let before = f.run(&parent).await;
        f.end(&owner, complete("1")).await;
        assert_eq!(f.run(&parent).await, before, "{state}");
    }
    // An attempt that is over, or linked to another child.
    for (n, change) in ["status = 'failed'", "child_workflow_run_id = 'c1'"]
        .into_iter()
        .enumerate()
    {
        let (parent, child) = (format!("s{n}"), format!("e{n}"));
        let (_, owner) = f.family(&parent, &child).await;
        f.sql(&format!(
            "UPDATE {{schema}}.step_attempts SET {change} WHERE workflow_run_id = '{parent}'"
        ))
        .await;
        let before = f.run(&parent).await;
        f.end(&owner, complete("1")).await;
        assert_eq!(f.run(&parent).await, before, "{change}");
    }
}

#[tokio::test]
async fn a_run_that_parks_after_its_child_ended_is_due_at_once() {
    let f = Fixture::new().await;
    for (id, waits, due) in [("p1", vec!["p1-a"], true), ("p2", vec!["other"], false)] {
        let owner = f.claimed(id, "w").await;
        let wait = step(&format!("{id}-a"), "child", StepAttemptKind::Workflow);
        let child = NewRun::new(NS, format!("{id}-c"), "part", Payload::NULL);
        f.backend.begin_child(&owner, wait, child).await.unwrap();
        f.backend.cancel_run(NS, &format!("{id}-c")).await.unwrap();
        f.end(&owner, park(HOUR, &waits)).await;
        assert_eq!(f.holds(id, "available_at <= now()").await, due, "{id}");
        f.backend.cancel_run(NS, id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parking_and_the_childs_end_never_miss_each_other() {
    let f = Fixture::new().await;
    for n in 0..60 {
        let (parent, child) = (format!("p{n}"), format!("c{n}"));
        let owner = f.claimed(&parent, "w").await;
        let attempt = format!("a{n}");
        let wait = step(&attempt, "child", StepAttemptKind::Workflow);
        let new = NewRun::new(NS, child.as_str(), "part", Payload::NULL);
        f.backend.begin_child(&owner, wait, new).await.unwrap();
        f.claim(&["cw"]).await;
        let (b1, b2) = (f.backend.clone(), f.backend.clone());
        let parks = tokio::spawn(async move {
            b1.end_execution(&owner, park(HOUR, &[&attempt]))
                .await
                .unwrap();
        });
        let ends = tokio::spawn(async move {
            let id = child;
            match n % 3 {
                0 => drop(b2.cancel_run(NS, &id).await.unwrap()),
                1 => {
                    let owner = Owner::new(NS, id.as_str(), "cw", 1);
                    b2.end_execution(&owner, complete("1")).await.unwrap();
                }
                _ => {
                    let owner = Owner::new(NS, id.as_str(), "cw", 1);
                    b2.end_execution(&owner, fail()).await.unwrap();
                }
            }
        });
        parks.await.unwrap();
        ends.await.unwrap();
        assert!(f.holds(&parent, "available_at <= now()").await, "round {n}");
        f.backend.cancel_run(NS, &parent).await.unwrap();
    }
}
