//! What a worker that does not own a run may not do.

use super::*;

#[tokio::test]
async fn a_former_owner_writes_nothing() {
    let f = Fixture::new().await;
    let former = f.claimed("r", "former").await;
    f.begin(&former, function("s")).await;
    f.sql("UPDATE {schema}.workflow_runs SET available_at = now()")
        .await;
    f.claim(&["owner"]).await;
    refuses_every_write(&f, &former, Interruption::LeaseLost).await;
    // The new owner may finish what the former one began.
    let owner = Owner::new(NS, "r", "owner", 2);
    f.backend.end_step(&owner, done("s", "1")).await.unwrap();
    assert_eq!(f.step("s").await["status"], "completed");
}

#[tokio::test]
async fn an_earlier_claim_under_the_same_worker_id_writes_nothing() {
    let f = Fixture::new().await;
    let earlier = f.claimed("r", "w").await;
    f.begin(&earlier, function("s")).await;
    f.sql("UPDATE {schema}.workflow_runs SET available_at = now()")
        .await;
    let claimed = f.claim(&["w"]).await;
    let owner = Owner::new(NS, "r", "w", claimed[0].attempts);
    refuses_every_write(&f, &earlier, Interruption::LeaseLost).await;
    // Among the writes of others, which share a statement, it is refused as well.
    let results = at_once((0..50).map(|n| {
        let backend = f.backend.clone();
        let late = n % 2 == 0;
        let owner = if late { &earlier } else { &owner }.clone();
        async move {
            (
                late,
                backend.end_step(&owner, done(&format!("s{n}"), "1")).await,
            )
        }
    }))
    .await;
    for (late, result) in results {
        match late {
            true => assert_lost(result, Interruption::LeaseLost),
            false => result.unwrap(),
        }
    }
    assert_eq!(
        f.rows("step_attempts", "status = 'completed'").await.len(),
        25
    );
    assert_lost(
        f.backend.end_execution(&earlier, complete("1")).await,
        Interruption::LeaseLost,
    );
    f.end(&owner, complete("2")).await;
}

#[tokio::test]
async fn a_run_whose_count_of_claims_is_damaged_can_be_put_back() {
    let f = Fixture::new().await;
    f.create("r").await;
    for damaged in [-7, 2_147_483_647] {
        f.sql(&format!(
            "UPDATE {{schema}}.workflow_runs SET attempts = {damaged}, available_at = now()"
        ))
        .await;
        let claimed = f.claim(&["w"]).await;
        let owner = Owner::new(NS, "r", "w", claimed[0].attempts);
        f.end(&owner, park(HOUR, &[])).await;
    }
}

#[tokio::test]
async fn nobody_writes_to_a_canceled_run() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.backend.cancel_run(NS, "r").await.unwrap();
    refuses_every_write(&f, &owner, Interruption::Canceled).await;
}

#[tokio::test]
async fn nobody_writes_to_a_finished_or_parked_run() {
    let f = Fixture::new().await;
    // An end that the owner has made already is no other; the answer could have been lost.
    let owner = f.claimed("done", "w").await;
    f.end(&owner, complete("1")).await;
    let is_done = |end: &ExecutionEnd| matches!(end, ExecutionEnd::Complete { .. });
    refuses_every_write_but(is_done, &f, &owner, Interruption::LeaseLost).await;
    let owner = f.claimed("parked", "w").await;
    f.end(&owner, park(HOUR, &[])).await;
    let is_done = |end: &ExecutionEnd| matches!(end, ExecutionEnd::Park { .. });
    refuses_every_write_but(is_done, &f, &owner, Interruption::LeaseLost).await;
    let nowhere = Owner::new(NS, "missing", "w", 1);
    refuses_every_write(&f, &nowhere, Interruption::LeaseLost).await;
}

async fn refuses_every_write(f: &Fixture, owner: &Owner, reason: Interruption) {
    refuses_every_write_but(|_| false, f, owner, reason).await;
}

async fn refuses_every_write_but(
    is_done: impl Fn(&ExecutionEnd) -> bool,
    f: &Fixture,
    owner: &Owner,
    reason: Interruption,
) {
    let before = f.everything().await;
    let b = &f.backend;
    assert_lost(b.extend_lease(owner, LEASE).await, reason);
    assert_lost(b.begin_step(owner, function("new")).await, reason);
    assert_lost(b.end_step(owner, done("new", "1")).await, reason);
    assert_lost(b.end_step(owner, failed("s")).await, reason);
    let wait = step("new", "child", StepAttemptKind::Workflow);
    let child = NewRun::new(NS, "new-child", "part", Payload::NULL);
    let begun = b.begin_child(owner, wait, child).await;
    assert_lost(begun.map(|_| ()), reason);
    let retry = |waits: &[&str]| ExecutionEnd::Retry {
        error: ERROR.to_owned(),
        at: SystemTime::now(),
        waits: waits.iter().map(|id| Arc::from(*id)).collect(),
    };
    for end in [
        complete("1"),
        fail(),
        retry(&[]),
        retry(&["s"]),
        park(HOUR, &[]),
        park(HOUR, &["s"]),
    ] {
        let is_done = is_done(&end);
        let result = b.end_execution(owner, end).await;
        match is_done {
            true => result.unwrap(),
            false => assert_lost(result, reason),
        }
    }
    let mut sent = signal("anything", "1");
    sent.sender = Some(owner.clone());
    assert_lost(b.send_signal(sent).await.map(|_| ()), reason);
    assert_eq!(f.everything().await, before);
}

#[tokio::test]
async fn a_heartbeat_extends_the_lease() {
    let f = Fixture::new().await;
    let owner = f.claimed("r", "w").await;
    f.backend.extend_lease(&owner, HOUR).await.unwrap();
    let extended = "available_at BETWEEN now() + interval '59 min' AND now() + interval '1 h'";
    assert!(f.holds("r", extended).await);
    // Absurd leases do not overflow anything.
    f.backend.extend_lease(&owner, Duration::MAX).await.unwrap();
}
