//! Claims, and those who take or have the same run.

use super::play::{LEASE, Play, complete, done, owners, was_written};

on_both_databases! {
    two_claim
    a_claimed_run_is_canceled
    an_expired_run_is_claimed_twice
    a_lease_is_extended_too_late
    a_run_is_parked_too_late
    a_former_owner_writes
    a_former_owner_completes
}

async fn two_claim(play: &mut Play<'_>) {
    play.pending("run").await;
    let claims = ["claims", "claims, too"].map(|name| {
        let claim = play.claim(name);
        play.actor(name, async move |db| {
            db.claim_runs(claim).await.unwrap().len()
        })
    });
    play.run().await;
    assert_eq!(claims[0].get() + claims[1].get(), 1);
    assert_eq!(play.look("run").await.attempts, 1);
}

async fn a_claimed_run_is_canceled(play: &mut Play<'_>) {
    play.pending("run").await;
    let (namespace, claim) = (play.namespace(), play.claim("next"));
    let completed = play.actor("executes", async move |db| {
        let claimed = owners(&namespace, &db.claim_runs(claim).await.unwrap());
        match claimed.as_slice() {
            [owner] => was_written(db.end_execution(owner, complete()).await),
            _ => false,
        }
    });
    let namespace = play.namespace();
    play.actor("cancels", async move |db| {
        db.cancel_run(&namespace, "run").await.unwrap();
    });
    play.run().await;
    let status = play.look("run").await.status;
    let expected = if *completed.get() {
        "completed"
    } else {
        "canceled"
    };
    assert_eq!(status.as_str(), expected);
}

async fn an_expired_run_is_claimed_twice(play: &mut Play<'_>) {
    play.pending("run").await;
    play.let_expire("run").await;
    for name in ["claims", "claims, too"] {
        let claim = play.claim(name);
        play.actor(name, async move |db| {
            assert!(db.claim_runs(claim).await.unwrap().is_empty());
        });
    }
    play.run().await;
    assert_eq!(play.look("run").await.status.as_str(), "failed");
}

async fn a_lease_is_extended_too_late(play: &mut Play<'_>) {
    let run = play.running("run").await;
    play.let_lapse("run").await;
    let extended = play.actor("extends", async move |db| {
        was_written(db.extend_lease(&run, LEASE).await)
    });
    let claim = play.claim("next");
    let claimed = play.actor("claims", async move |db| {
        db.claim_runs(claim).await.unwrap().len()
    });
    play.run().await;
    assert_eq!(*claimed.get() == 1, !extended.get(), "one has it");
}

async fn a_run_is_parked_too_late(play: &mut Play<'_>) {
    let run = play.waiting("run", "go").await;
    play.let_lapse("run").await;
    let park = play.park(&["run-go"]);
    let parked = play.actor("parks", async move |db| {
        was_written(db.end_execution(&run, park).await)
    });
    let claim = play.claim("next");
    let claimed = play.actor("claims", async move |db| {
        db.claim_runs(claim).await.unwrap().len()
    });
    play.run().await;
    assert_eq!(*claimed.get() == 1, !parked.get(), "one has it");
}

async fn a_former_owner_writes(play: &mut Play<'_>) {
    let former = play.running("run").await;
    play.let_lapse("run").await;
    let step = done(&former, "step");
    let id = step.attempt.id.to_string();
    let written = play.actor("writes", async move |db| {
        was_written(db.end_step(&former, step).await)
    });
    let (namespace, claim) = (play.namespace(), play.claim("next"));
    let seen = play.actor("takes over", async move |db| {
        match owners(&namespace, &db.claim_runs(claim).await.unwrap()).as_slice() {
            [owner] => {
                let history = db.load_history(&namespace, "run").await.unwrap();
                let step = done(owner, "step");
                db.end_step(owner, step).await.unwrap();
                Some(history.attempts.len())
            }
            // Its row was being written at that moment.
            _ => None,
        }
    });
    play.run().await;
    let history = play.backend().load_history(&play.namespace(), "run").await;
    let ids: Vec<_> = history
        .unwrap()
        .attempts
        .into_iter()
        .map(|step| step.id)
        .collect();
    assert_eq!(ids.contains(&id), *written.get());
    if let Some(seen) = seen.get() {
        assert_eq!(
            *seen,
            usize::from(*written.get()),
            "nothing is written behind its back"
        );
    }
}

async fn a_former_owner_completes(play: &mut Play<'_>) {
    let former = play.running("run").await;
    play.let_lapse("run").await;
    let late = play.actor("completes", async move |db| {
        was_written(db.end_execution(&former, complete()).await)
    });
    let (namespace, claim) = (play.namespace(), play.claim("next"));
    let mine = play.actor("takes over", async move |db| {
        match owners(&namespace, &db.claim_runs(claim).await.unwrap()).as_slice() {
            [owner] => was_written(db.end_execution(owner, complete()).await),
            _ => false,
        }
    });
    play.run().await;
    assert!(late.get() ^ mine.get(), "one of them completes it");
    let worker = play.look("run").await.worker_id;
    let expected = if *late.get() { "worker-run" } else { "next" };
    assert_eq!(worker.as_deref(), Some(expected));
}
