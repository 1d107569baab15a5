//! Clients and workers whose clocks are off, on PostgreSQL: everything goes by the server's.

use std::time::{Duration, SystemTime};

use futures::future::join_all;
use openworkflow::backend::{Backend as _, Claim};
use openworkflow::{
    Client, ClientError, Clock, ClockOffset, Postgres, RunHandle, StartRunRequest, Worker,
};
use openworkflow_tests::faults::{
    Ground as _, OFFSETS, PostgresGround, Process, Site, Time, any, set,
};
use openworkflow_tests::timely::{
    ALARM, ANXIOUS, BUSY, DEAF, DELAY, ENDLESS, NAP, RESTLESS, STUBBORN, let_go, register_busy,
};
use openworkflow_tests::{fleet, wait_until};
use serde::de::DeserializeOwned;

use crate::{PROGRAM, is_long};

/// Long enough for a process that is alive to show it, and no longer than clocks are off.
const LEASE: Duration = Duration::from_secs(2);

/// How exactly clocks follow the server's on a machine under load, at least.
const EXACTNESS: u64 = 1_000_000;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_and_workers_whose_clocks_are_off_go_by_the_servers() {
    go_by_the_servers(&OFFSETS.map(Time::Given)).await;
    if is_long() {
        go_by_the_servers(&OFFSETS.map(Time::Faked)).await;
        go_by_the_servers(&[Time::Set; 2]).await;
    }
}

async fn go_by_the_servers(times: &[Time]) {
    join_all(times.iter().map(|time| async move {
        let scene = Scene::new(*time).await;
        let played = async {
            tokio::join!(
                scene.sleeps(),
                scene.alarms(),
                scene.step_retries(),
                scene.run_retries(),
                scene.time_outs(),
                scene.deadlines(),
                scene.leases(),
                scene.keys(),
            )
        };
        tokio::select! {
            _ = played => {}
            () = scene.set_the_clock(), if matches!(time, Time::Set) => {}
        }
    }))
    .await;
}

/// A client and a worker process whose clocks are off alike.
struct Scene {
    time: Time,
    site: Site<PostgresGround>,
    store: Postgres,
    client: Client,
    _worker: Process,
}

impl Scene {
    async fn new(time: Time) -> Self {
        let site = Site::<PostgresGround>::new(PROGRAM).await;
        let clock = match time {
            Time::Right | Time::Set => Clock::system(),
            Time::Given(offset) | Time::Faked(offset) => Clock::off_by(offset),
        };
        let store = site.ground.open_with(clock).await;
        Self {
            time,
            _worker: site.process_by(time, LEASE),
            site,
            client: Client::new(store.clone()),
            store,
        }
    }

    /// Sets the worker's clock, again and again.
    async fn set_the_clock(&self) {
        for offset in OFFSETS.into_iter().cycle() {
            set(self.site.folder(), offset);
            tokio::time::sleep(any(20, 400)).await;
        }
    }

    /// No shorter than asked for, and with one claim afterwards.
    async fn sleeps(&self) {
        let run = started(self.client.start(&NAP, &())).await;
        self.result(&run).await;
        let sql = format!(
            "SELECT r.attempts, {}, {}, {}, {}
             FROM workflow_runs r JOIN step_attempts s ON s.workflow_run_id = r.id
             WHERE r.id = '{}'",
            micros("r.started_at"),
            micros("s.created_at"),
            micros("(s.context->>'resumeAt')::timestamptz"),
            micros("s.finished_at"),
            run.id()
        );
        let [claims, claimed, recorded, until, ended] = self.numbers(&sql).await;
        assert_eq!(claims, 2, "{:?}", self.time);
        let asked = until - 1_000_000;
        // Rows have whole milliseconds.
        assert!(claimed <= asked + 1000, "{:?}: too short", self.time);
        assert!(asked <= recorded + EXACTNESS, "{:?}: too long", self.time);
        assert!(until <= ended, "{:?}: ended too early", self.time);
    }

    /// An instant that the user names stays what it is.
    async fn alarms(&self) {
        let [now] = self.numbers(&format!("SELECT {}", micros("now()"))).await;
        let at = now / 1000 + 500;
        let run = started(self.client.start(&ALARM, &at)).await;
        self.result(&run).await;
        let sql = format!(
            "SELECT {}, {} FROM step_attempts s WHERE workflow_run_id = '{}'",
            micros("(s.context->>'resumeAt')::timestamptz"),
            micros("s.finished_at"),
            run.id()
        );
        let [until, ended] = self.numbers(&sql).await;
        assert_eq!(until, at * 1000, "{:?}", self.time);
        assert!(until <= ended, "{:?}: ended too early", self.time);

        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at) + DAY;
        let request = self.client.start(&ENDLESS, &());
        let run = started(request.delay(at).deadline(at + DAY)).await;
        let of = |column| format!("SELECT {} FROM {}", micros(column), is(run.id()));
        let [available] = self.numbers(&of("available_at")).await;
        let [deadline] = self.numbers(&of("deadline_at")).await;
        assert_eq!(available, fleet::micros(at), "{:?}", self.time);
        assert_eq!(deadline, fleet::micros(at + DAY), "{:?}", self.time);
    }

    /// All of them are made, none too early, and with hardly more claims than that takes.
    async fn step_retries(&self) {
        let run = started(self.client.start(&STUBBORN, &())).await;
        assert_eq!(self.result(&run).await, 4, "{:?}", self.time);
        // An answer that took long makes a clock follow a little late; then a claim can be in vain.
        let claims = self.claims(run.id()).await;
        assert!((4..=7).contains(&claims), "{:?}: {claims}", self.time);
        let sql = format!(
            "SELECT {}, {} FROM step_attempts s WHERE workflow_run_id = '{}' ORDER BY created_at, id",
            micros("s.started_at"),
            micros("s.finished_at"),
            run.id()
        );
        let tried = self.rows(&sql).await;
        assert_eq!(tried.len(), 4, "{:?}", self.time);
        for pair in tried.windows(2) {
            let wait = u64::try_from(DELAY.as_micros()).expect("a short time");
            assert!(pair[0][1] + wait <= pair[1][0], "{:?}: {pair:?}", self.time);
        }
    }

    /// Those of a workflow's own code count claims, so that none may be in vain.
    async fn run_retries(&self) {
        let run = started(self.client.start(&RESTLESS, &())).await;
        assert_eq!(self.result(&run).await, 4, "{:?}", self.time);
        assert_eq!(self.claims(run.id()).await, 4, "{:?}", self.time);
    }

    /// Of waits, and of whoever awaits a result.
    async fn time_outs(&self) {
        let deaf = started(self.client.start(&DEAF, &())).await;
        let anxious = started(self.client.start(&ANXIOUS, &())).await;
        assert!(!self.result(&deaf).await, "{:?}", self.time);
        let told = self.result(&anxious).await;
        assert!(told.contains("imed out"), "{:?}: {told}", self.time);
        for run in [deaf.id(), anxious.id()] {
            // A machine under load may be at it when the time is over.
            let claims = self.claims(run).await;
            assert!(claims <= 2, "{:?}: {claims}", self.time);
        }

        let endless = started(self.client.start(&ENDLESS, &())).await;
        let waited = endless.result_within(Duration::from_millis(300)).await;
        let timed_out = matches!(waited, Err(ClientError::TimedOut { .. }));
        assert!(timed_out, "{:?}: {waited:?}", self.time);
    }

    async fn deadlines(&self) {
        let [before] = self.numbers(&format!("SELECT {}", micros("now()"))).await;
        let request = self.client.start(&ENDLESS, &()).deadline("1s");
        let run = started(request).await;
        let ended = run.result().await;
        let Err(ClientError::RunFailed { error, .. }) = ended else {
            panic!("{:?}: {ended:?}", self.time);
        };
        assert_eq!(error.message, "Workflow run deadline exceeded");
        let sql = format!(
            "SELECT {}, {}, {} FROM {}",
            micros("created_at"),
            micros("deadline_at"),
            micros("finished_at"),
            is(run.id())
        );
        let [created, deadline, ended] = self.numbers(&sql).await;
        assert!(deadline <= ended, "{:?}: ended too early", self.time);
        let asked = deadline - 1_000_000;
        assert!(before <= asked + EXACTNESS, "{:?}: too early", self.time);
        assert!(asked <= created + EXACTNESS, "{:?}: too late", self.time);
    }

    /// A worker keeps its run, beside one whose clock is right.
    async fn leases(&self) {
        let run = started(self.client.start(&BUSY, &())).await;
        let claimed = format!("started_at IS NOT NULL AND {}", is_at(run.id()));
        self.comes_true(&claimed).await;
        let rival = Worker::builder(self.site.ground.open().await).lease(LEASE);
        let rival = register_busy(rival, self.site.folder());
        let mut rival = rival.build().expect("it is set up well").start();
        let long_ago = format!(
            "started_at < now() - interval '{} seconds' AND {}",
            LEASE.as_secs() * 2,
            is_at(run.id())
        );
        self.comes_true(&long_ago).await;
        let_go(self.site.folder(), run.id());
        assert_eq!(
            self.result(&run).await,
            1,
            "{:?}: executed twice",
            self.time
        );
        assert_eq!(self.claims(run.id()).await, 1, "{:?}", self.time);
        rival.stop().await.expect("it stops");
    }

    /// Keys count for a day of the server's.
    async fn keys(&self) {
        let start = || async {
            let request = self.client.start(&ENDLESS, &()).delay("1d");
            started(request.idempotency_key("once"))
                .await
                .id()
                .to_owned()
        };
        let first = start().await;
        let age = |by: &str| {
            format!(
                "UPDATE workflow_runs SET created_at = created_at - interval '{by}' WHERE {}",
                is_at(&first)
            )
        };
        self.site.query(&age("23 hours 59 minutes")).await;
        assert_eq!(start().await, first, "{:?}", self.time);
        self.site.query(&age("1 minute")).await;
        assert_ne!(start().await, first, "{:?}", self.time);
        self.tells_how_far().await;
    }

    /// What is known for sure is that the clock is off by no more than it is, and by as much as that but
    /// for the time that the answer took.
    async fn tells_how_far(&self) {
        let (Time::Given(offset) | Time::Faked(offset)) = self.time else {
            return;
        };
        let is_behind = |offset| matches!(offset, ClockOffset::Behind(_));
        wait_until("the offset is told", || async {
            // It brings the time along.
            let claim = Claim::new("nobody's".into(), vec!["x".into()], None, LEASE);
            self.store.claim_runs(claim).await.expect("a claim");
            let told = self.store.clock_offset();
            assert!(told.by() <= offset.by(), "{offset}: {told}");
            let side = told.by().is_zero() || is_behind(told) == is_behind(offset);
            assert!(side, "{offset}: {told}");
            told.by() >= offset.by() / 2
        })
        .await;
    }

    async fn result<T: DeserializeOwned>(&self, run: &RunHandle<T>) -> T {
        let ended = run.result_within(Duration::from_secs(60)).await;
        ended.unwrap_or_else(|error| panic!("{:?}: {error:?}", self.time))
    }

    async fn claims(&self, run_id: &str) -> u64 {
        let [claims] = self
            .numbers(&format!("SELECT attempts FROM {}", is(run_id)))
            .await;
        claims
    }

    async fn comes_true(&self, condition: &str) {
        let sql = format!("SELECT 1 FROM workflow_runs WHERE {condition}");
        wait_until(condition, || async {
            !self.site.query(&sql).await.is_empty()
        })
        .await;
    }

    async fn numbers<const N: usize>(&self, sql: &str) -> [u64; N] {
        let rows = self.rows(sql).await;
        assert_eq!(rows.len(), 1, "{sql}");
        rows[0].as_slice().try_into().expect("as many columns")
    }

    async fn rows(&self, sql: &str) -> Vec<Vec<u64>> {
        let number = |text: Option<String>| text?.parse().ok();
        let rows = self.site.query(sql).await.into_iter();
        rows.map(|row| {
            row.into_iter()
                .map(|text| number(text).expect(sql))
                .collect()
        })
        .collect()
    }
}

async fn started<T: 'static>(request: StartRunRequest<T>) -> RunHandle<T> {
    request.await.expect("a run starts")
}

/// A time in microseconds since 1970.
fn micros(column: &str) -> String {
    format!("(extract(epoch FROM {column}) * 1000000)::bigint")
}

fn is(run_id: &str) -> String {
    format!("workflow_runs WHERE {}", is_at(run_id))
}

fn is_at(run_id: &str) -> String {
    format!("id = '{run_id}'")
}
