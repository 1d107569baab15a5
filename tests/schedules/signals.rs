//! Signals, while those who wait for them begin to wait, park, end, or send themselves.

use openworkflow::backend::Owner;

use super::play::{Play, done, owners, wait_for, was_written};

on_both_databases! {
    a_run_begins_to_wait_and_parks
    a_run_is_put_away_to_be_tried_again
    two_runs_are_put_away
    runs_signal_each_other
    a_run_signals_itself_and_another
    a_signal_is_sent_twice
    a_signal_is_sent_twice_under_one_key
    a_waiter_is_claimed
    a_waiter_is_canceled
    a_wait_ends
    a_sender_is_canceled
    typescript_sends_and_we_park
    we_send_and_typescript_parks
    typescript_and_we_send
    typescript_and_we_send_where_a_run_is_over
}

async fn a_run_begins_to_wait_and_parks(play: &mut Play<'_>) {
    play.parked("early", "go").await;
    let late = play.running("late").await;
    let (wait, park) = (wait_for(&late, "go"), play.park(&["late-go"]));
    play.actor("waits", async move |db| {
        db.begin_step(&late, wait).await.unwrap();
        db.end_execution(&late, park).await.unwrap();
    });
    let signal = play.signal("go");
    let received = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
    assert!(received.get().contains(&"early".to_owned()));
    let is_told = received.get().contains(&"late".to_owned());
    assert_eq!(play.is_due("late").await, is_told);
}

async fn a_run_is_put_away_to_be_tried_again(play: &mut Play<'_>) {
    let run = play.waiting("run", "go").await;
    let retry = play.retry(&["run-go"]);
    play.actor("fails", async move |db| {
        db.end_execution(&run, retry).await.unwrap();
    });
    let signal = play.signal("go");
    let received = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
    assert_eq!(received.get(), &["run"]);
    assert!(play.is_due("run").await);
}

async fn two_runs_are_put_away(play: &mut Play<'_>) {
    let a = play.waiting("a", "go").await;
    let b = play.waiting("b", "go").await;
    let (park, retry) = (play.park(&["a-go"]), play.retry(&["b-go"]));
    for (name, run, end) in [("a parks", a, park), ("b fails", b, retry)] {
        play.actor(name, async move |db| {
            db.end_execution(&run, end).await.unwrap();
        });
    }
    let signal = play.signal("go");
    let received = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
    assert_eq!(received.get().len(), 2);
    assert!(play.is_due("a").await && play.is_due("b").await);
}

/// Sends from a run, as a step does.
fn sends(
    play: &mut Play<'_>,
    name: &'static str,
    sender: Owner,
    signal: &str,
) -> super::play::Outcome<Vec<String>> {
    let mut signal = play.signal(signal);
    signal.idempotency_key = Some(format!("__signal:{}:send", sender.run_id));
    signal.sender = Some(sender);
    play.actor(name, async move |db| db.send_signal(signal).await.unwrap())
}

async fn runs_signal_each_other(play: &mut Play<'_>) {
    let a = play.waiting("a", "to-a").await;
    let b = play.waiting("b", "to-b").await;
    let by_a = sends(play, "a sends", a, "to-b");
    let by_b = sends(play, "b sends", b, "to-a");
    play.run().await;
    assert_eq!(
        (by_a.get(), by_b.get()),
        (&vec!["b".to_owned()], &vec!["a".to_owned()])
    );
}

async fn a_run_signals_itself_and_another(play: &mut Play<'_>) {
    let a = play.waiting("a", "go").await;
    let b = play.waiting("b", "go").await;
    let (park, wait) = (play.park(&["a-go"]), done(&a, "step"));
    let by_b = sends(play, "b sends", b, "go");
    play.actor("a parks", async move |db| {
        db.end_step(&a, wait).await.unwrap();
        db.end_execution(&a, park).await.unwrap();
    });
    play.run().await;
    assert_eq!(by_b.get().len(), 2);
    assert!(play.is_due("a").await);
}

async fn a_signal_is_sent_twice(play: &mut Play<'_>) {
    play.parked("a", "go").await;
    play.parked("b", "go").await;
    let sendings = ["sends", "sends, too"].map(|name| {
        let signal = play.signal("go");
        play.actor(name, async move |db| db.send_signal(signal).await.unwrap())
    });
    play.run().await;
    let mut received: Vec<_> = sendings
        .iter()
        .flat_map(|sent| sent.get().clone())
        .collect();
    received.sort();
    assert_eq!(received, ["a", "b"], "each wait is served once");
}

async fn a_signal_is_sent_twice_under_one_key(play: &mut Play<'_>) {
    play.parked("a", "go").await;
    play.parked("b", "go").await;
    let sendings = ["sends", "sends, too"].map(|name| {
        let mut signal = play.signal("go");
        signal.idempotency_key = Some("key".to_owned());
        play.actor(name, async move |db| {
            let mut received = db.send_signal(signal).await.unwrap();
            received.sort();
            received
        })
    });
    play.run().await;
    for sent in sendings {
        assert_eq!(sent.get(), &["a", "b"]);
    }
}

async fn a_waiter_is_claimed(play: &mut Play<'_>) {
    play.parked("run", "go").await;
    play.let_lapse("run").await;
    let (namespace, claim) = (play.namespace(), play.claim("next"));
    let park = play.park(&["run-go"]);
    play.actor("executes", async move |db| {
        for owner in owners(&namespace, &db.claim_runs(claim).await.unwrap()) {
            db.end_execution(&owner, park.clone()).await.unwrap();
        }
    });
    let signal = play.signal("go");
    let received = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
    assert_eq!(received.get(), &["run"]);
    assert!(play.is_due("run").await);
}

async fn a_waiter_is_canceled(play: &mut Play<'_>) {
    play.parked("run", "go").await;
    let namespace = play.namespace();
    play.actor("cancels", async move |db| {
        db.cancel_run(&namespace, "run").await.unwrap();
    });
    let signal = play.signal("go");
    play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
    assert_eq!(play.look("run").await.status.as_str(), "canceled");
}

async fn a_wait_ends(play: &mut Play<'_>) {
    let run = play.waiting("run", "go").await;
    let mut ended = done(&run, "go");
    ended.attempt = wait_for(&run, "go");
    let park = play.park(&[]);
    play.actor("times out", async move |db| {
        db.end_step(&run, ended).await.unwrap();
        db.end_execution(&run, park).await.unwrap();
    });
    let signal = play.signal("go");
    play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
}

async fn a_sender_is_canceled(play: &mut Play<'_>) {
    play.parked("receiver", "go").await;
    let sender = play.running("sender").await;
    let namespace = play.namespace();
    play.actor("cancels", async move |db| {
        db.cancel_run(&namespace, "sender").await.unwrap();
    });
    let mut signal = play.signal("go");
    signal.sender = Some(sender);
    let sent = play.actor("sends", async move |db| {
        was_written(db.send_signal(signal).await.map(|_| ()))
    });
    play.run().await;
    assert_eq!(play.is_due("receiver").await, *sent.get());
}

async fn typescript_sends_and_we_park(play: &mut Play<'_>) {
    let run = play.waiting("run", "go").await;
    let park = play.park(&["run-go"]);
    play.actor("parks", async move |db| {
        db.end_execution(&run, park).await.unwrap();
    });
    let received = play
        .peer("sends", async |peer| peer.send_signal("go").await)
        .await;
    play.run().await;
    assert_eq!(received.get(), &["run"]);
    assert!(play.is_due("run").await);
}

async fn we_send_and_typescript_parks(play: &mut Play<'_>) {
    let run = play.waiting("run", "go").await;
    play.peer("parks", async move |peer| peer.park(&run).await)
        .await;
    let signal = play.signal("go");
    let received = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    play.run().await;
    assert_eq!(received.get(), &["run"]);
    assert!(play.is_due("run").await);
}

async fn typescript_and_we_send(play: &mut Play<'_>) {
    play.parked("a", "go").await;
    play.parked("b", "go").await;
    let signal = play.signal("go");
    let ours = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    let theirs = play
        .peer("sends, too", async |peer| peer.send_signal("go").await)
        .await;
    play.run().await;
    let mut received = [ours.get().as_slice(), theirs.get()].concat();
    received.sort();
    assert_eq!(received, ["a", "b"], "each wait is served once");
    assert!(play.is_due("a").await && play.is_due("b").await);
}

async fn typescript_and_we_send_where_a_run_is_over(play: &mut Play<'_>) {
    play.parked("a", "go").await;
    play.parked("over", "go").await;
    let canceled = play.backend().cancel_run(&play.namespace(), "over").await;
    canceled.unwrap();
    let signal = play.signal("go");
    let ours = play.actor("sends", async move |db| {
        db.send_signal(signal).await.unwrap()
    });
    let theirs = play
        .peer("sends, too", async |peer| peer.send_signal("go").await)
        .await;
    play.run().await;
    let (ours, theirs) = (ours.get(), theirs.get());
    assert!(ours == &["a"] || ours.is_empty(), "{ours:?}");
    let is_theirs = theirs.contains(&"a".to_owned());
    assert_eq!(ours.is_empty(), is_theirs, "each wait is served once");
    // The wait of the other stays open where TypeScript had it locked, until the next signal.
    play.backend().send_signal(play.signal("go")).await.unwrap();
    let history = play.backend().load_history(&play.namespace(), "over").await;
    let wait = history.unwrap().attempts.remove(0);
    assert_eq!(wait.status.as_str(), "completed");
}
