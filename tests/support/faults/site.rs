//! A database, the worker processes on it, and the client that they work for.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openworkflow::{Client, Postgres};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::ground::Rows;
use super::{Ground, PostgresGround, Process, Time};
use crate::fleet;

/// How long everything may take. Generous: machines under load are slow.
const PATIENCE: Duration = Duration::from_secs(180);
/// How many runs are started at a time.
const STARTED_TOGETHER: usize = 50;

/// How many different inputs runs have.
pub const INPUTS: u64 = 12;

/// Where it all happens. Customers are at work too: they send every signal that an order waits for.
pub struct Site<G> {
    /// The database.
    pub ground: Arc<G>,
    /// Starts the runs.
    pub client: Client,
    program: &'static str,
    folder: TempDir,
    customers: JoinHandle<()>,
}

/// What was asked for: a run, and its input.
#[derive(Debug)]
pub struct Started {
    /// The run.
    pub run_id: String,
    /// Its input.
    pub value: u64,
}

impl<G: Ground> Site<G> {
    /// A fresh database. `program` is the binary `other_process`.
    pub async fn new(program: &'static str) -> Self {
        Self::on(G::make().await, program).await
    }

    /// On a database that is there.
    ///
    /// # Panics
    ///
    /// Where it cannot be opened, or no folder can be made.
    pub async fn on(ground: G, program: &'static str) -> Self {
        let ground = Arc::new(ground);
        let client = Client::new(ground.open().await);
        Self {
            customers: tokio::spawn(let_go(Arc::clone(&ground), client.clone())),
            client,
            ground,
            program,
            folder: tempfile::tempdir().expect("a folder can be made"),
        }
    }

    /// Where bodies write.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a worker process.
    #[must_use]
    pub fn process(&self, lease: Duration) -> Process {
        self.process_by(Time::Right, lease)
    }

    /// Starts a worker process that takes something for the time.
    #[must_use]
    pub fn process_by(&self, time: Time, lease: Duration) -> Process {
        let url = self.ground.url();
        Process::start(self.program, &url, self.folder(), lease, time)
    }

    /// Starts `count` runs. There are few different inputs.
    ///
    /// # Panics
    ///
    /// Where one cannot be started.
    pub async fn start(&self, count: u64) -> Vec<Started> {
        let mut started = Vec::new();
        for at in (0..count).step_by(STARTED_TOGETHER) {
            let some = (at..count).take(STARTED_TOGETHER).map(|n| async move {
                let value = n % INPUTS;
                let run = self.client.start(&fleet::ORDER, &value).await;
                Started {
                    run_id: run.expect("a run starts").id().to_owned(),
                    value,
                }
            });
            started.extend(futures::future::join_all(some).await);
        }
        started
    }

    /// How many runs are not over, by a connection of its own.
    ///
    /// # Panics
    ///
    /// While the database is out of reach.
    pub async fn unfinished(&self) -> u64 {
        let sql = "SELECT count(*) FROM workflow_runs WHERE status IN ('pending', 'running')";
        let rows = self.query(sql).await;
        let count = rows[0][0].as_deref().expect("a count");
        count.parse().expect("a number")
    }

    /// Rows of the database, past the library.
    ///
    /// # Panics
    ///
    /// While the database is out of reach.
    pub async fn query(&self, sql: &str) -> Rows {
        self.ground.query(sql).await.expect("the database answers")
    }

    /// Waits until every run is over.
    ///
    /// # Panics
    ///
    /// After three minutes.
    pub async fn finish(&self) {
        let begin = Instant::now();
        while self.unfinished().await > 0 {
            if begin.elapsed() >= PATIENCE {
                panic!("runs are stuck: {:?}", self.stuck().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stuck(&self) -> (Rows, Rows) {
        let stuck = "FROM workflow_runs WHERE status IN ('pending', 'running') ORDER BY id LIMIT 3";
        let runs = self.query(&format!("SELECT * {stuck}")).await;
        let steps = format!(
            "SELECT * FROM step_attempts WHERE workflow_run_id IN (SELECT id {stuck}) ORDER BY created_at"
        );
        (runs, self.query(&steps).await)
    }

    /// Every row of every table.
    pub async fn rows(&self) -> Rows {
        let mut rows = Vec::new();
        for table in ["workflow_runs", "step_attempts", "workflow_signals"] {
            let sql = format!("SELECT * FROM {table} ORDER BY id");
            rows.extend(self.query(&sql).await);
        }
        rows
    }
}

impl Site<PostgresGround> {
    /// The backend, opened by another way to the server.
    pub async fn open_at(&self, server: &str) -> Postgres {
        self.ground.open_at(server).await
    }

    /// Starts a worker process that reaches the server in another way.
    #[must_use]
    pub fn process_at(&self, server: &str, lease: Duration) -> Process {
        let url = format!("{server}#{}", self.ground.schema);
        Process::start(self.program, &url, self.folder(), lease, Time::Right)
    }
}

impl<G> Drop for Site<G> {
    fn drop(&mut self) {
        self.customers.abort();
    }
}

impl<G: fmt::Debug> fmt::Debug for Site<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site")
            .field("ground", &self.ground)
            .finish_non_exhaustive()
    }
}

/// Plays the customers, through all troubles.
async fn let_go<G: Ground>(ground: Arc<G>, client: Client) {
    let sql = "SELECT s.workflow_run_id FROM step_attempts s
         WHERE s.kind = 'signal-wait' AND s.status = 'running' AND s.context->>'signal' LIKE 'go:%'
            AND NOT EXISTS (SELECT 1 FROM workflow_signals g WHERE g.step_attempt_id = s.id)";
    loop {
        let waiting = ground.query(sql).await.unwrap_or_default();
        for run_id in waiting.into_iter().flatten().flatten() {
            let signal = fleet::go(&run_id);
            let sent = client.send_signal(signal.as_str(), &GO);
            // If it fails, it is sent again when the database is back.
            let _ = sent.idempotency_key(signal.as_str()).await;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// What the customers' signals carry.
const GO: u64 = 1000;
