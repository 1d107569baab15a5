//! Runs that end while somebody else ends or writes them, and what is created once.

use openworkflow::backend::ExecutionEnd;

use super::play::{Play, child_wait, complete, done, fail, was_written};

on_both_databases! {
    a_run_completes_and_is_canceled
    a_run_fails_and_is_canceled
    a_run_is_to_be_tried_again_and_is_canceled
    a_run_parks_and_is_canceled
    a_step_is_written_and_its_run_canceled
    a_run_completes_and_its_deadline_passes
    a_run_is_created_twice_under_one_key
    a_former_and_a_new_owner_begin_a_child
}

/// Whether the end was written, and the run afterwards.
async fn ends_and_is_canceled(play: &mut Play<'_>, end: ExecutionEnd) -> (bool, String) {
    let run = play.waiting("run", "go").await;
    let ended = play.actor("ends", async move |db| {
        was_written(db.end_execution(&run, end).await)
    });
    let namespace = play.namespace();
    play.actor("cancels", async move |db| {
        db.cancel_run(&namespace, "run").await.unwrap();
    });
    play.run().await;
    (*ended.get(), play.look("run").await.status.to_string())
}

async fn a_run_completes_and_is_canceled(play: &mut Play<'_>) {
    let (ended, status) = ends_and_is_canceled(play, complete()).await;
    assert_eq!(status, if ended { "completed" } else { "canceled" });
}

async fn a_run_fails_and_is_canceled(play: &mut Play<'_>) {
    let (ended, status) = ends_and_is_canceled(play, fail()).await;
    assert_eq!(status, if ended { "failed" } else { "canceled" });
}

async fn a_run_is_to_be_tried_again_and_is_canceled(play: &mut Play<'_>) {
    let retry = play.retry(&["run-go"]);
    let (_, status) = ends_and_is_canceled(play, retry).await;
    assert_eq!(status, "canceled");
}

async fn a_run_parks_and_is_canceled(play: &mut Play<'_>) {
    let park = play.park(&["run-go"]);
    let (_, status) = ends_and_is_canceled(play, park).await;
    assert_eq!(status, "canceled");
}

async fn a_step_is_written_and_its_run_canceled(play: &mut Play<'_>) {
    let run = play.running("run").await;
    let step = done(&run, "step");
    let written = play.actor("writes", async move |db| {
        was_written(db.end_step(&run, step).await)
    });
    let namespace = play.namespace();
    let seen = play.actor("cancels", async move |db| {
        db.cancel_run(&namespace, "run").await.unwrap();
        let history = db.load_history(&namespace, "run").await.unwrap();
        history.attempts.len()
    });
    play.run().await;
    assert_eq!(
        *seen.get(),
        usize::from(*written.get()),
        "a canceled run is not written"
    );
}

async fn a_run_completes_and_its_deadline_passes(play: &mut Play<'_>) {
    let run = play.running("run").await;
    play.let_expire("run").await;
    let completed = play.actor("completes", async move |db| {
        was_written(db.end_execution(&run, complete()).await)
    });
    let claim = play.claim("next");
    play.actor("sweeps", async move |db| {
        db.claim_runs(claim).await.unwrap();
    });
    play.run().await;
    let status = play.look("run").await.status;
    let expected = if *completed.get() {
        "completed"
    } else {
        "failed"
    };
    assert_eq!(status.as_str(), expected);
}

async fn a_run_is_created_twice_under_one_key(play: &mut Play<'_>) {
    let creations = ["creates", "creates, too"].map(|name| {
        let mut run = play.new_run(name);
        run.idempotency_key = Some("key".to_owned());
        play.actor(name, async move |db| db.create_run(run).await.unwrap())
    });
    play.run().await;
    let [(one, found_one), (other, found_other)] = creations.each_ref().map(|c| c.get());
    assert_eq!(one.id, other.id);
    assert!(found_one ^ found_other, "one of them created it");
}

async fn a_former_and_a_new_owner_begin_a_child(play: &mut Play<'_>) {
    let former = play.running("run").await;
    // The attempt was recorded, but not linked, when the run changed hands.
    let wait = child_wait(&former);
    play.backend().begin_step(&former, wait).await.unwrap();
    let begin = |name: &'static str, owner: openworkflow::backend::Owner| {
        let (wait, mut child) = (child_wait(&owner), play.child_of(&owner));
        child.id = format!("{name}'s child");
        (name, owner, wait, child)
    };
    let late = begin("former owner", former);
    play.let_lapse("run").await;
    let new = begin("new owner", play.claimed("run").await);
    let children = [late, new].map(|(name, owner, wait, child)| {
        play.actor(name, async move |db| {
            let begun = db.begin_child(&owner, wait, child).await;
            was_written(begun.map(|_| ()))
        })
    });
    play.run().await;
    assert_eq!(children.map(|begun| *begun.get()), [false, true]);
    play.look("new owner's child").await;
}
