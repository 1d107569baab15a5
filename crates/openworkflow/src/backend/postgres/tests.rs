//! What travels between processes: two handles on one schema stand for two processes, since they
//! share nothing but the server.

#[path = "../../../tests/support/postgres.rs"]
mod support;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use workflow_core::Payload;

use super::{Postgres, news};
use crate::backend::wakeups::WorkNews;
use crate::backend::{
    Backend, Claim, ExecutionEnd, NewRun, NewSignal, NewStepAttempt, Owner, StepAttemptKind, codec,
};

const NS: &str = "default";
const HOUR: Duration = Duration::from_secs(3600);

struct Pair {
    teller: Postgres,
    hearer: Postgres,
    admin: tokio_postgres::Client,
    schema: String,
    /// What the hearer hears of work.
    work: Arc<WorkNews>,
}

impl Pair {
    async fn new() -> Self {
        let schema = support::schema();
        let connect = async |name: &str| {
            let options = Postgres::options().url(support::url()).schema(&schema);
            let options = options.application_name(format!("{schema}-{name}"));
            options.connect().await.unwrap()
        };
        let hearer = connect("hearer").await;
        let pair = Self {
            teller: connect("teller").await,
            work: hearer.wakeups().work_in(NS),
            hearer,
            admin: support::client().await,
            schema: schema.clone(),
        };
        pair.listening().await;
        pair
    }

    /// The process id of the hearer's listening session, once it listens and is idle.
    async fn listening(&self) -> i32 {
        let name = format!("{}-hearer", self.schema);
        let sql = "SELECT pid FROM pg_stat_activity
             WHERE application_name = $1 AND query LIKE 'LISTEN%' AND state = 'idle'";
        within(async {
            loop {
                if let Some(row) = self.admin.query_opt(sql, &[&name]).await.unwrap() {
                    // It announces work when it begins to listen; that is not what we wait for.
                    let work = self.work.announced();
                    let _ = tokio::time::timeout(Duration::from_millis(100), work).await;
                    return row.get(0);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }

    async fn claimed(&self, id: &str) -> Owner {
        let run = NewRun::new(NS, id, "order", Payload::NULL);
        self.teller.create_run(run).await.unwrap();
        let claim = Claim::new(NS.into(), vec!["w".into()], None, HOUR);
        let claimed = self.teller.claim_runs(claim).await.unwrap();
        assert_eq!(claimed[0].id, id);
        self.quiet().await;
        Owner::new(NS, id, "w", 1)
    }

    /// Waits until no news are on their way.
    async fn quiet(&self) {
        loop {
            let work = self.work.announced();
            if tokio::time::timeout(Duration::from_millis(100), work)
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("news within 30 seconds")
}

#[tokio::test]
async fn another_process_hears_of_new_work() {
    let pair = Pair::new().await;
    for keyed in [false, true] {
        let work = pair.work.announced();
        let mut run = NewRun::new(NS, format!("r{keyed}"), "order", Payload::NULL);
        run.idempotency_key = keyed.then(|| "k".to_owned());
        pair.teller.create_run(run).await.unwrap();
        within(work).await;
        pair.quiet().await;
    }
}

#[tokio::test]
async fn news_of_a_namespace_wake_nobody_in_another() {
    let pair = Pair::new().await;
    let elsewhere = pair.hearer.wakeups().work_in("elsewhere");
    let mut unheard = std::pin::pin!(elsewhere.announced());
    unheard.as_mut().enable();
    let mut due_unheard = std::pin::pin!(elsewhere.due_changed());
    due_unheard.as_mut().enable();
    // One goes with its transaction, the others are gathered.
    for n in 0..20 {
        let work = pair.work.announced();
        let run = NewRun::new(NS, format!("r{n}"), "order", Payload::NULL);
        pair.teller.create_run(run).await.unwrap();
        let mut later = NewRun::new(NS, format!("later{n}"), "order", Payload::NULL);
        later.available_at = Some(SystemTime::now() + HOUR / 2);
        pair.teller.create_run(later).await.unwrap();
        within(work).await;
    }
    pair.quiet().await;
    assert!(futures_util::poll!(&mut unheard).is_pending());
    assert!(futures_util::poll!(&mut due_unheard).is_pending());
    let run = NewRun::new("elsewhere", "r", "order", Payload::NULL);
    pair.teller.create_run(run).await.unwrap();
    within(unheard).await;
}

#[tokio::test]
async fn news_of_many_namespaces_travel_in_texts_that_the_server_takes() {
    let pair = Pair::new().await;
    let names: Vec<String> = (0..40)
        .map(|n| format!("\u{1}{n}-{}", "ü".repeat(400)))
        .collect();
    let work: Vec<_> = names
        .iter()
        .map(|name| pair.hearer.wakeups().work_in(name))
        .collect();
    let heard: Vec<_> = work.iter().map(|work| work.announced()).collect();
    for name in &names {
        let run = NewRun::new(name.as_str(), "r", "order", Payload::NULL);
        pair.teller.create_run(run).await.unwrap();
    }
    within(futures_util::future::join_all(heard)).await;
}

#[tokio::test]
async fn another_process_hears_when_work_becomes_due() {
    let pair = Pair::new().await;
    let at = codec::whole_millis(SystemTime::now() + HOUR / 2);
    let work = pair.work.due_changed();
    let mut run = NewRun::new(NS, "r", "order", Payload::NULL);
    run.available_at = Some(at);
    pair.teller.create_run(run).await.unwrap();
    within(work).await;
    assert_eq!(pair.work.next_due(SystemTime::now()), Some(at));
}

#[tokio::test]
async fn another_process_hears_of_ends() {
    let pair = Pair::new().await;
    let output = Payload::NULL;
    let error = r#"{"message":"no"}"#.to_owned();
    let ends = [
        Some(ExecutionEnd::Complete { output }),
        Some(ExecutionEnd::Fail { error }),
        None,
    ];
    for (n, end) in ends.into_iter().enumerate() {
        let id = format!("r{n}");
        let owner = pair.claimed(&id).await;
        let watcher = pair.hearer.wakeups().watch(&id);
        let ended = watcher.notified();
        match end {
            Some(end) => pair.teller.end_execution(&owner, end).await.unwrap(),
            None => drop(pair.teller.cancel_run(NS, &id).await.unwrap()),
        }
        within(ended).await;
    }
}

#[tokio::test]
async fn another_process_hears_of_woken_runs() {
    let pair = Pair::new().await;
    // By a signal.
    let owner = pair.claimed("waits").await;
    let context = r#"{"kind":"signal-wait","signal":"go"}"#.to_owned();
    let kind = StepAttemptKind::SignalWait;
    let wait = NewStepAttempt::new("a".into(), "a".into(), kind, Some(context));
    pair.teller.begin_step(&owner, wait).await.unwrap();
    let park = |wait: &str| ExecutionEnd::Park {
        until: SystemTime::now() + HOUR,
        waits: vec![Arc::from(wait)],
    };
    pair.teller.end_execution(&owner, park("a")).await.unwrap();
    let work = pair.work.announced();
    let signal = NewSignal::new(NS, "go", Payload::NULL);
    assert_eq!(pair.teller.send_signal(signal).await.unwrap(), ["waits"]);
    within(work).await;
    pair.teller.cancel_run(NS, "waits").await.unwrap();

    // By a child, which is heard of when it is created, too.
    let owner = pair.claimed("parent").await;
    let kind = StepAttemptKind::Workflow;
    let wait = NewStepAttempt::new("b".into(), "b".into(), kind, None);
    let work = pair.work.announced();
    let child = NewRun::new(NS, "child", "part", Payload::NULL);
    pair.teller.begin_child(&owner, wait, child).await.unwrap();
    within(work).await;
    pair.teller.end_execution(&owner, park("b")).await.unwrap();
    pair.quiet().await;
    let work = pair.work.announced();
    pair.teller.cancel_run(NS, "child").await.unwrap();
    within(work).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_burst_is_lost() {
    let pair = Pair::new().await;
    let ids: Vec<String> = (0..400).map(|n| format!("r{n}")).collect();
    let watchers: Vec<_> = ids
        .iter()
        .map(|id| pair.hearer.wakeups().watch(id))
        .collect();
    let ends: Vec<_> = watchers.iter().map(|watcher| watcher.notified()).collect();
    let tasks: Vec<_> = ids
        .iter()
        .map(|id| {
            let (teller, id) = (pair.teller.clone(), id.clone());
            tokio::spawn(async move {
                let run = NewRun::new(NS, id.as_str(), "order", Payload::NULL);
                teller.create_run(run).await.unwrap();
                teller.cancel_run(NS, &id).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    within(async {
        for end in ends {
            end.await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_lost_listener_comes_back_and_makes_up_for_it() {
    let pair = Pair::new().await;
    let pid = pair.listening().await;
    let work = pair.work.announced();
    let sql = "SELECT pg_terminate_backend($1)";
    pair.admin.execute(sql, &[&pid]).await.unwrap();
    // Work that was announced meanwhile is looked for as soon as it listens again.
    within(work).await;
    assert_ne!(pair.listening().await, pid);
    let work = pair.work.announced();
    let run = NewRun::new(NS, "r", "order", Payload::NULL);
    pair.teller.create_run(run).await.unwrap();
    within(work).await;
}

#[test]
fn news_are_heard_and_told_on_the_next_runtime() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let mut pair = runtime().block_on(Pair::new());
    for n in 0..2 {
        runtime().block_on(async {
            pair.admin = support::client().await;
            // Who looks for a run makes the backend listen.
            assert!(pair.hearer.get_run(NS, "r").await.unwrap().is_none());
            pair.listening().await;
            // The first goes with its transaction; what follows is told by a task.
            for id in [format!("first-{n}"), format!("second-{n}")] {
                let run = NewRun::new(NS, id.as_str(), "order", Payload::NULL);
                pair.teller.create_run(run).await.unwrap();
                let watcher = pair.hearer.wakeups().watch(&id);
                let ended = watcher.notified();
                pair.teller.cancel_run(NS, &id).await.unwrap();
                within(ended).await;
            }
        });
    }
}

#[tokio::test]
async fn strangers_on_the_channel_do_no_harm() {
    let pair = Pair::new().await;
    let channel = news::channel(&pair.schema);
    let long = format!(r#"{{"from":"x","ended":["{}"]}}"#, "y".repeat(7000));
    let far = format!(r#"{{"from":"x","due":{{"{NS}":[{}]}}}}"#, u64::MAX);
    for text in [
        "",
        "nonsense",
        r#"{"from":1}"#,
        r#"{"from":"x","due":[0]}"#,
        r#"{"from":"x","due":{"default":[-1]}}"#,
        &long,
        &far,
    ] {
        let sql = "SELECT pg_notify($1, $2)";
        pair.admin.execute(sql, &[&channel, &text]).await.unwrap();
    }
    pair.quiet().await;
    let work = pair.work.announced();
    let run = NewRun::new(NS, "r", "order", Payload::NULL);
    pair.teller.create_run(run).await.unwrap();
    within(work).await;
}

#[test]
fn schemas_with_long_names_have_channels_of_their_own() {
    let (a, b) = ("x".repeat(63), format!("{}y", "x".repeat(62)));
    assert_ne!(news::channel(&a), news::channel(&b));
    assert!(news::channel(&a).len() <= 63);
    assert_eq!(news::channel("openworkflow"), "openworkflow:openworkflow");
}
