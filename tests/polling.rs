//! How a worker looks for work while there is none, how a signal is sent that nobody receives, and both
//! while the database is in trouble. Tokio's clock is paused here: it moves on by itself, from one timer to the next, whenever nothing is at work.

use std::ops::RangeInclusive;
use std::sync::mpsc;
use std::time::Duration;

use openworkflow::{Client, ClientError, Sqlite, Worker, WorkerHandle, WorkflowSpec};
use openworkflow_tests::{ClaimRecord, Recorded, logged};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");

fn start_worker(store: &Recorded<Sqlite>) -> WorkerHandle {
    let double =
        W.implement(|wf, n: u32| async move { wf.run("double", || async { Ok(n * 2) }).await });
    let worker = Worker::builder(store.clone()).workflow(double);
    worker.build().unwrap().start()
}

/// Time stands still while this lives: the paused clock does not move while a thread of the runtime's is
/// at work.
struct Standstill(#[expect(dead_code, reason = "the thread waits for its end")] mpsc::Sender<()>);

impl Standstill {
    fn begin() -> Self {
        let (ends, ended) = mpsc::channel();
        tokio::task::spawn_blocking(move || ended.recv());
        Self(ends)
    }
}

/// How long it was from each claim to the next.
fn pauses(claims: &[ClaimRecord]) -> Vec<Duration> {
    let pairs = claims.windows(2);
    pairs.map(|pair| pair[1].asked - pair[0].asked).collect()
}

/// The `n`th pause in a row after which nothing was found: it doubles from 100 ms up to a second, and is
/// shortened by half at most, as chance will have it.
fn expected(n: u32) -> RangeInclusive<Duration> {
    let longest = Duration::from_millis(100 << n.min(4)).min(Duration::from_secs(1));
    // Timers count whole milliseconds.
    longest / 2..=longest + Duration::from_millis(1)
}

#[track_caller]
fn assert_backs_off(claims: &[ClaimRecord]) {
    for (n, pause) in (0..).zip(pauses(claims)) {
        assert!(
            expected(n).contains(&pause),
            "pause {n} is {pause:?}: {claims:?}"
        );
    }
}

/// Starts a run and waits for its result, in no time.
async fn work(store: &Recorded<Sqlite>) -> Standstill {
    let standstill = Standstill::begin();
    let client = Client::new(store.clone());
    let run = client.start(&W, &4).await.unwrap();
    assert_eq!(run.result().await.unwrap(), 8);
    standstill
}

#[tokio::test(start_paused = true)]
async fn an_idle_worker_polls_ever_less_often_until_there_is_work() {
    let store = Sqlite::open_in_memory().await.unwrap();
    let store = Recorded::new(store);
    let _worker = start_worker(&store);
    store.reached(12).await;
    let standstill = work(&store).await;
    let idle = store.claims();
    let found = idle
        .iter()
        .position(|claim| claim.found == Some(1))
        .unwrap();
    assert!(idle[..found].iter().all(|claim| claim.found == Some(0)));
    // The last of these pauses was cut short by the run.
    assert_backs_off(&idle[..found]);
    assert!(pauses(&idle[..found]).len() >= 11);

    drop(standstill);
    store.reached(found + 13).await;
    let after = store.claims();
    let pauses = pauses(&after[found..]);
    let soon = Duration::from_millis(50)..=Duration::from_millis(101);
    assert!(soon.contains(&pauses[0]), "as soon as at first: {pauses:?}");
    assert_backs_off(&after[found + 1..]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_in_trouble_asks_ever_less_often_says_so_and_recovers() {
    let (log, _guard) = logged::collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locked.db");
    let options = Sqlite::options().busy_timeout(Duration::from_millis(1));
    let store = Recorded::new(options.open(&path).await.unwrap());
    let somebody = rusqlite::Connection::open(&path).unwrap();
    somebody.execute_batch("BEGIN IMMEDIATE").unwrap();
    let _worker = start_worker(&store);
    store.reached(12).await;
    let standstill = Standstill::begin();
    let troubled = store.claims();
    assert!(
        troubled.iter().all(|claim| claim.found.is_none()),
        "{troubled:?}"
    );
    assert_backs_off(&troubled);
    let told = |line: &&String| line.contains("WARN") && line.contains("cannot claim runs");
    let lines = log.lines();
    assert!(lines.iter().filter(told).count() >= 12, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("stayed locked")));

    somebody.execute_batch("COMMIT").unwrap();
    drop(standstill);
    drop(work(&store).await);
    let recovered = store.claims();
    let found = recovered
        .iter()
        .position(|claim| claim.found == Some(1))
        .unwrap();
    store.reached(found + 8).await;
    assert_backs_off(&store.claims()[found + 1..]);
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_nobody_receives_is_sent_ever_less_often_and_once_more_at_the_end() {
    let store = Recorded::new(Sqlite::open_in_memory().await.unwrap());
    let client = Client::new(store.clone());
    let sent = client.send_signal("go", &1).until_received().await;
    let Err(ClientError::NotReceived { limit, .. }) = sent else {
        panic!("{sent:?}");
    };
    assert_eq!(limit, Duration::from_secs(30));
    let times = store.sendings();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // As long as at first, doubled up to a second; the last is what is left.
    let millis = [50, 100, 200, 400, 800].into_iter().chain([1000; 28]);
    let expected: Vec<_> = millis.chain([450]).map(Duration::from_millis).collect();
    // Timers count whole milliseconds.
    let tick = Duration::from_millis(1);
    let is_near = |pause: Duration, expected| pause.abs_diff(expected) <= tick;
    let mut pairs = pauses.iter().zip(&expected);
    assert!(
        pauses.len() == expected.len() && pairs.all(|(pause, expected)| is_near(*pause, *expected)),
        "{pauses:?}"
    );
    assert!(
        is_near(times[times.len() - 1] - times[0], limit),
        "{times:?}"
    );
}

/// A sending with `limit` rides through a lock that is there for so many tries of it, by a client that
/// rides through 10 seconds otherwise.
async fn sends_through_a_lock(limit: Duration, tries: usize) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locked.db");
    let options = Sqlite::options().busy_timeout(Duration::from_millis(1));
    let store = Recorded::new(options.open(&path).await.unwrap());
    let somebody = rusqlite::Connection::open(&path).unwrap();
    somebody.execute_batch("BEGIN IMMEDIATE").unwrap();
    let client = Client::new(store.clone());
    let mut sending = client.send_signal("go", &1).within(limit).into_future();
    let given_up = tokio::select! {
        sent = &mut sending => Some(sent),
        () = store.sent(tries) => None,
    };
    assert!(given_up.is_none(), "{given_up:?}");
    somebody.execute_batch("COMMIT").unwrap();
    let sent = sending.await;
    assert!(
        matches!(sent, Err(ClientError::NotReceived { .. })),
        "{sent:?}"
    );
    let times = store.sendings();
    times[tries - 1] - times[0]
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_is_to_arrive_rides_through_a_lock_as_long_as_it_may_take() {
    let locked = sends_through_a_lock(Duration::from_secs(60), 30).await;
    assert!(locked > Duration::from_secs(20), "{locked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_is_to_arrive_at_once_rides_through_a_lock_as_any_other() {
    let locked = sends_through_a_lock(Duration::from_millis(100), 8).await;
    assert!(locked > Duration::from_secs(3), "{locked:?}");
}
