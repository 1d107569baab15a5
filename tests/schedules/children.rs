//! Parents that begin to wait and park while their children end.

use openworkflow::backend::{ExecutionEnd, Owner};

use super::play::{Play, child_wait, complete, fail, owners, wait_for, was_written};

on_both_databases! {
    a_child_completes
    a_child_fails
    a_child_is_canceled
    a_child_is_swept
    a_child_is_created_and_ends
    a_child_and_its_parent_are_signalled
    a_swept_child_and_its_parent_are_signalled
    siblings_end
    a_parent_is_canceled_and_its_child_ends
    a_parent_is_canceled_and_its_child_begins_one
    a_parent_is_canceled_and_a_new_grandchild_is_held
    a_parent_is_canceled_and_its_family_is_signalled
    a_parent_and_its_child_are_canceled
    typescript_completes_the_child
    typescript_cancels_the_child
    typescript_parks_the_parent
}

/// A parent that parks beside what happens to its child.
fn parks(play: &mut Play<'_>, parent: Owner) {
    let park = play.park(&[&child_wait(&parent).id]);
    play.actor("parks", async move |db| {
        db.end_execution(&parent, park).await.unwrap();
    });
}

async fn a_child_ends(play: &mut Play<'_>, end: ExecutionEnd) {
    let (parent, child) = play.family("run").await;
    parks(play, parent);
    play.actor("ends", async move |db| {
        db.end_execution(&child, end).await.unwrap();
    });
    play.run().await;
    assert!(play.is_due("run").await);
}

async fn a_child_completes(play: &mut Play<'_>) {
    a_child_ends(play, complete()).await;
}

async fn a_child_fails(play: &mut Play<'_>) {
    a_child_ends(play, fail()).await;
}

async fn a_child_is_canceled(play: &mut Play<'_>) {
    let (parent, child) = play.family("run").await;
    parks(play, parent);
    play.actor("cancels", async move |db| {
        db.cancel_run(&child.namespace_id, &child.run_id)
            .await
            .unwrap();
    });
    play.run().await;
    assert!(play.is_due("run").await);
}

async fn a_child_is_swept(play: &mut Play<'_>) {
    let (parent, _) = play.family("run").await;
    play.let_expire("run-child").await;
    parks(play, parent);
    let claim = play.claim("next");
    let claimed = play.actor("sweeps", async move |db| {
        db.claim_runs(claim).await.unwrap().len()
    });
    play.run().await;
    let child = play.look("run-child").await;
    // What somebody writes at that moment is left to the next sweep.
    let is_over = child.status.is_terminal();
    assert!(is_over || child.worker_id.is_some(), "{child:?}");
    assert_eq!(is_over, play.is_due("run").await || *claimed.get() == 1);
}

async fn a_child_is_created_and_ends(play: &mut Play<'_>) {
    let parent = play.running("run").await;
    let (wait, child) = (child_wait(&parent), play.child_of(&parent));
    let park = play.park(&[&wait.id]);
    play.actor("waits", async move |db| {
        db.begin_child(&parent, wait, child).await.unwrap();
        db.end_execution(&parent, park).await.unwrap();
    });
    let (namespace, claim) = (play.namespace(), play.claim("next"));
    let claimed = play.actor("executes", async move |db| {
        let claimed = owners(&namespace, &db.claim_runs(claim).await.unwrap());
        for child in &claimed {
            db.end_execution(child, complete()).await.unwrap();
        }
        claimed.len() == 1
    });
    play.run().await;
    assert_eq!(play.is_due("run").await, *claimed.get());
}

/// A parent and a child that wait for the same signal, the parent parked.
async fn both_wait(play: &mut Play<'_>) -> Owner {
    let (parent, child) = play.family("run").await;
    for owner in [&parent, &child] {
        let wait = wait_for(owner, "go");
        play.backend().begin_step(owner, wait).await.unwrap();
    }
    let park = play.park(&["run-wait", "run-go"]);
    play.backend().end_execution(&parent, park).await.unwrap();
    child
}

async fn a_child_and_its_parent_are_signalled(play: &mut Play<'_>) {
    let child = both_wait(play).await;
    // Whoever locks the runs in their order is held up between the two.
    let third = play.waiting("run-between", "go").await;
    let park = play.park(&["run-between-go"]);
    play.actor("parks", async move |db| {
        db.end_execution(&third, park).await.unwrap();
    });
    play.actor("cancels", async move |db| {
        db.cancel_run(&child.namespace_id, &child.run_id)
            .await
            .unwrap();
    });
    let signal = play.signal("go");
    let received = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
    assert!(received.get().contains(&"run".to_owned()));
    assert!(play.is_due("run").await);
}

async fn a_swept_child_and_its_parent_are_signalled(play: &mut Play<'_>) {
    both_wait(play).await;
    play.let_expire("run-child").await;
    let claim = play.claim("next");
    play.actor("sweeps", async move |db| {
        db.claim_runs(claim).await.unwrap();
    });
    let signal = play.signal("go");
    let received = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
    assert!(received.get().contains(&"run".to_owned()));
}

async fn siblings_end(play: &mut Play<'_>) {
    let (parent, first) = play.family("run").await;
    let mut wait = child_wait(&parent);
    (wait.id, wait.step_name) = ("run-wait-too".into(), "child-too".into());
    let mut sibling = play.new_run("sibling");
    sibling.parent_step_attempt_id = Some(wait.id.to_string());
    let begun = play.backend().begin_child(&parent, wait, sibling);
    begun.await.unwrap();
    let second = play.claimed("sibling").await;
    let park = play.park(&["run-wait", "run-wait-too"]);
    play.backend().end_execution(&parent, park).await.unwrap();
    for (name, child) in [("ends", first), ("ends, too", second)] {
        play.actor(name, async move |db| {
            db.end_execution(&child, complete()).await.unwrap();
        });
    }
    play.run().await;
    assert!(play.is_due("run").await);
}

/// A parent that is parked, on a signal too, and a child that is at work and to be canceled with it.
async fn bound_family(play: &mut Play<'_>) -> Owner {
    let parent = play.running("run").await;
    let mut child = play.child_of(&parent);
    child.cancel_with_parent = true;
    let wait = child_wait(&parent);
    let park = play.park(&[&wait.id, "run-go"]);
    let begun = play.backend().begin_child(&parent, wait, child);
    begun.await.unwrap();
    let signal = wait_for(&parent, "go");
    play.backend().begin_step(&parent, signal).await.unwrap();
    play.backend().end_execution(&parent, park).await.unwrap();
    play.claimed("run-child").await
}

fn cancels(play: &mut Play<'_>, name: &'static str, run_id: &'static str) {
    let namespace = play.namespace();
    play.actor(name, async move |db| {
        db.cancel_run(&namespace, run_id).await.unwrap();
    });
}

async fn a_parent_is_canceled_and_its_child_ends(play: &mut Play<'_>) {
    let child = bound_family(play).await;
    cancels(play, "cancels", "run");
    let ended = play.actor("ends", async move |db| {
        was_written(db.end_execution(&child, complete()).await)
    });
    play.run().await;
    assert_eq!(play.look("run").await.status.as_str(), "canceled");
    let status = play.look("run-child").await.status;
    let expected = ["canceled", "completed"][usize::from(*ended.get())];
    assert_eq!(status.as_str(), expected);
}

async fn a_parent_is_canceled_and_its_child_begins_one(play: &mut Play<'_>) {
    let child = bound_family(play).await;
    cancels(play, "cancels", "run");
    let wait = child_wait(&child);
    // Before both in the order in which runs are locked.
    let mut grandchild = play.new_run("a-grandchild");
    grandchild.parent_step_attempt_id = Some(wait.id.to_string());
    grandchild.cancel_with_parent = true;
    let begun = play.actor("begins", async move |db| {
        was_written(db.begin_child(&child, wait, grandchild).await.map(|_| ()))
    });
    let claim = play.claim("next");
    play.actor("claims", async move |db| {
        db.claim_runs(claim).await.unwrap();
    });
    play.run().await;
    for run_id in ["run", "run-child"] {
        assert_eq!(play.look(run_id).await.status.as_str(), "canceled");
    }
    if *begun.get() {
        let grandchild = play.look("a-grandchild").await;
        assert_eq!(grandchild.status.as_str(), "canceled");
    }
}

/// The grandchild is created while the parent's tree is being locked, and somebody has it when the tree is
/// canceled.
async fn a_parent_is_canceled_and_a_new_grandchild_is_held(play: &mut Play<'_>) {
    let child = bound_family(play).await;
    cancels(play, "cancels", "run");
    let wait = child_wait(&child);
    let mut grandchild = play.child_of(&child);
    grandchild.cancel_with_parent = true;
    // To look after a wait it locks the run, whether there is one or not.
    let park = play.park(&["run-child-child-wait"]);
    let (namespace, claim) = (play.namespace(), play.claim("next"));
    let begun = play.actor("begins, and parks", async move |db| {
        let begun = was_written(db.begin_child(&child, wait, grandchild).await.map(|_| ()));
        for claimed in owners(&namespace, &db.claim_runs(claim).await.unwrap()) {
            was_written(db.end_execution(&claimed, park.clone()).await);
        }
        begun
    });
    play.run().await;
    for run_id in ["run", "run-child"] {
        assert_eq!(play.look(run_id).await.status.as_str(), "canceled");
    }
    if *begun.get() {
        let grandchild = play.look("run-child-child").await;
        assert_eq!(grandchild.status.as_str(), "canceled");
    }
}

async fn a_parent_is_canceled_and_its_family_is_signalled(play: &mut Play<'_>) {
    let child = bound_family(play).await;
    let wait = wait_for(&child, "go");
    play.backend().begin_step(&child, wait).await.unwrap();
    // Whoever locks the runs in their order is held up between the two.
    let third = play.waiting("run-between", "go").await;
    let park = play.park(&["run-between-go"]);
    play.actor("parks", async move |db| {
        db.end_execution(&third, park).await.unwrap();
    });
    cancels(play, "cancels", "run");
    let signal = play.signal("go");
    let received = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
    assert!(received.get().contains(&"run-between".to_owned()));
    for run_id in ["run", "run-child"] {
        assert_eq!(play.look(run_id).await.status.as_str(), "canceled");
    }
}

async fn a_parent_and_its_child_are_canceled(play: &mut Play<'_>) {
    bound_family(play).await;
    cancels(play, "cancels", "run");
    cancels(play, "cancels the child", "run-child");
    play.run().await;
    for run_id in ["run", "run-child"] {
        assert_eq!(play.look(run_id).await.status.as_str(), "canceled");
    }
}

async fn typescript_completes_the_child(play: &mut Play<'_>) {
    let (parent, child) = play.family("run").await;
    parks(play, parent);
    play.peer("completes", async move |peer| peer.complete(&child).await)
        .await;
    play.run().await;
    assert!(play.is_due("run").await);
}

async fn typescript_cancels_the_child(play: &mut Play<'_>) {
    let (parent, child) = play.family("run").await;
    parks(play, parent);
    play.peer("cancels", async move |peer| {
        peer.cancel(&child.run_id).await;
    })
    .await;
    play.run().await;
    assert!(play.is_due("run").await);
}

async fn typescript_parks_the_parent(play: &mut Play<'_>) {
    let (parent, child) = play.family("run").await;
    play.peer("parks", async move |peer| peer.park(&parent).await)
        .await;
    play.actor("ends", async move |db| {
        db.end_execution(&child, complete()).await.unwrap();
    });
    play.run().await;
    assert!(play.is_due("run").await);
}
