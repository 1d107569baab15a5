//! Databases with runs in them, which the engine itself wrote, at times that are always the same.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use openworkflow::{Client, Clock, Error, RetryPolicy, RunStatus, Sqlite, Worker, WorkflowSpec};
use tempfile::TempDir;

use crate::program::{Ran, run};

pub(crate) static ORDER: WorkflowSpec<u64, u64> = WorkflowSpec::new("process-order").version("2");
static SHIPMENT: WorkflowSpec<u64, u64> = WorkflowSpec::new("fulfill-shipment");
pub(crate) static BROKEN: WorkflowSpec<(), ()> = WorkflowSpec::new("broken");
pub(crate) static LONG: WorkflowSpec<u64, ()> = WorkflowSpec::new("bill-everybody");

pub(crate) struct Site {
    pub(crate) path: PathBuf,
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    worker: Worker,
    store: Sqlite,
    _folder: TempDir,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("app.db");
        // 2026-01-02T03:04:05.678Z
        let clock =
            Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_678));
        let options = Sqlite::options().clock(clock.clone());
        let store = options.open(&path).await.expect("the database opens");
        let worker = worker(store.clone(), clock.clone());
        Self {
            path,
            client: Client::new(store.clone()),
            clock,
            worker,
            store,
            _folder: folder,
        }
    }

    /// Goes by the time that the program goes by.
    pub(crate) fn catch_up(&self) {
        self.clock.set(SystemTime::now());
    }

    /// One round of the worker.
    pub(crate) async fn tick(&self) -> usize {
        self.worker.tick().await.expect("the database answers")
    }

    /// An order that was processed: with a child, a signal, a month's sleep, and a second try.
    pub(crate) async fn order(&self) -> String {
        let run = self
            .client
            .start(&ORDER, &4711)
            .idempotency_key("order-4711");
        let run = run.await.expect("it starts").id().to_owned();
        self.clock.advance(Duration::from_millis(4));
        let mut signaled = false;
        for _ in 0..20 {
            self.tick().await;
            let now = self.client.describe(&run).await.expect("it is there");
            match now.status {
                RunStatus::Completed => return run,
                RunStatus::Pending => self.clock.advance(Duration::from_secs(1)),
                _ if signaled => self.clock.advance(Duration::from_secs(30 * 86_400)),
                _ => {
                    self.clock.advance(Duration::from_millis(20));
                    let sent = self.client.send_signal("confirmed:4711", "yes").await;
                    signaled = !sent.expect("it is sent").is_empty();
                }
            }
        }
        panic!("the order is not processed after 20 rounds");
    }

    /// A run that failed.
    pub(crate) async fn broken(&self) -> String {
        let run = self.client.start(&BROKEN, &()).await.expect("it starts");
        self.tick().await;
        self.clock.advance(Duration::from_secs(5));
        self.tick().await;
        run.id().to_owned()
    }

    /// A run of many steps, of which a few fail at first.
    pub(crate) async fn long(&self, steps: u64) -> String {
        let run = self.client.start(&LONG, &steps).await.expect("it starts");
        for _ in 0..20 {
            self.tick().await;
            let now = run.describe().await.expect("it is there");
            if now.status.is_terminal() {
                return run.id().to_owned();
            }
            self.clock.advance(Duration::from_secs(1));
        }
        panic!("it is not over after 20 rounds");
    }

    /// Runs the program on this database.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let database = self.path.to_str().expect("text");
        run(&[&["--database", database], args].concat())
    }

    /// Writes past the engine.
    pub(crate) fn execute(&self, sql: &str, parameters: impl rusqlite::Params) {
        let connection = rusqlite::Connection::open(&self.path).expect("the database opens");
        connection
            .busy_timeout(Duration::from_secs(10))
            .expect("it waits");
        connection
            .execute_batch("PRAGMA foreign_keys = OFF")
            .expect("it is off");
        connection
            .execute(sql, parameters)
            .expect("SQLite takes it");
    }

    pub(crate) async fn close(&self) {
        self.store.close().await;
    }
}

pub(crate) fn worker(store: impl openworkflow::backend::Backend, clock: Clock) -> Worker {
    let order = ORDER.implement({
        let clock = clock.clone();
        move |wf, order: u64| {
            let clock = clock.clone();
            async move {
                let work = |millis| clock.advance(Duration::from_millis(millis));
                wf.run("validate-order", async || {
                    work(3);
                    Ok(order)
                })
                .await?;
                wf.run_workflow(&SHIPMENT, &order).await?;
                let _: Option<String> = wf.wait_for_signal(format!("confirmed:{order}")).await?;
                wf.sleep("cooldown", "30 days").await?;
                let attempt = wf.attempt();
                let notify = async || {
                    work(5);
                    match attempt % 2 {
                        _ if attempt > 4 => Ok(()),
                        _ => Err(Error::new("MailError", "the mail server does not answer")),
                    }
                };
                let policy = RetryPolicy::attempts(9).initial_interval(Duration::from_secs(1));
                wf.run("notify-customer", notify).retry(policy).await?;
                Ok(order)
            }
        }
    });
    let shipment = SHIPMENT.implement({
        let clock = clock.clone();
        move |wf, order: u64| {
            let clock = clock.clone();
            async move {
                for (step, millis) in [("reserve-inventory", 2), ("dispatch-courier", 6)] {
                    wf.run(step, async || {
                        clock.advance(Duration::from_millis(millis));
                        Ok(())
                    })
                    .await?;
                }
                Ok(order)
            }
        }
    });
    let broken = BROKEN.implement(async |wf, ()| {
        let fail = async || Err::<(), _>(Error::new("CardError", "declined").non_retryable());
        wf.run("charge", fail).await
    });
    let long = LONG.implement(move |wf, steps: u64| {
        let clock = clock.clone();
        async move {
            let attempt = wf.attempt();
            for n in 0..steps {
                let bill = async || {
                    clock.advance(Duration::from_millis(2));
                    match n % 400 == 399 && u64::from(attempt) <= n / 400 + 1 {
                        true => Err(Error::new("Busy", "the bank does not answer")),
                        false => Ok(()),
                    }
                };
                wf.run("bill", bill).await?;
                if n % 250 == 249 {
                    wf.run(format!("report-{}", n / 250), async || Ok(()))
                        .await?;
                }
            }
            Ok(())
        }
    });
    let builder = Worker::builder(store).workflow(order).workflow(shipment);
    let builder = builder.workflow(broken).workflow(long);
    builder.build().expect("the worker can be built")
}
