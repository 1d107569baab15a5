//! A schema on a server, the worker processes on it, and the client that they work for.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use openworkflow::{Client, Postgres, Worker};
use openworkflow_tests::{fleet, postgres_server, wait_for, wait_until};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

/// How long everything may take. Generous: machines under load are slow.
const PATIENCE: Duration = Duration::from_secs(180);
/// How many runs are started at a time.
const STARTED_TOGETHER: usize = 50;

pub(crate) struct Site {
    pub(crate) server: String,
    pub(crate) schema: String,
    pub(crate) client: Client,
    folder: TempDir,
    /// Ends with the site.
    signaler: Option<JoinHandle<()>>,
}

/// What was asked for: a run, and its input.
pub(crate) struct Started {
    pub(crate) run_id: String,
    pub(crate) value: u64,
}

impl Site {
    /// A schema on the server that this process's tests share.
    pub(crate) async fn new() -> Self {
        Self::on(postgres_server::url()).await
    }

    /// A schema on a server.
    pub(crate) async fn on(server: String) -> Self {
        let schema = postgres_server::schema();
        let store = open(&server, &schema).await;
        let signaler = tokio::spawn(let_go(server.clone(), schema.clone(), store.clone()));
        Self {
            client: Client::new(store),
            server,
            schema,
            folder: tempfile::tempdir().unwrap(),
            signaler: Some(signaler),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The backend, opened by another way to the server.
    pub(crate) async fn open_at(&self, server: &str) -> Postgres {
        open(server, &self.schema).await
    }

    /// Starts a worker process.
    pub(crate) fn process(&self, lease: Duration) -> Process {
        self.process_at(&self.server, lease)
    }

    /// Starts a worker process that reaches the server in another way.
    pub(crate) fn process_at(&self, server: &str, lease: Duration) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_other_process"));
        command
            .args(["fleet", &format!("{server}#{}", self.schema)])
            .arg(self.folder())
            .arg(lease.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        let ready = fleet::ready(self.folder(), child.id());
        Process { child, ready }
    }

    /// Starts `count` runs. There are few different inputs.
    pub(crate) async fn start(&self, count: u64) -> Vec<Started> {
        let mut started = Vec::new();
        for at in (0..count).step_by(STARTED_TOGETHER) {
            let some = (at..count).take(STARTED_TOGETHER).map(|n| async move {
                let value = n % INPUTS;
                let run = self.client.start(&fleet::ORDER, &value).await.unwrap();
                Started {
                    run_id: run.id().to_owned(),
                    value,
                }
            });
            started.extend(futures::future::join_all(some).await);
        }
        started
    }

    /// How many runs are not over, by a connection of its own.
    pub(crate) async fn unfinished(&self) -> i64 {
        let sql = "SELECT count(*) FROM workflow_runs WHERE status IN ('pending', 'running')";
        self.look_up(sql).await.get(0)
    }

    async fn look_up(&self, sql: &str) -> tokio_postgres::Row {
        let row = self.session().await.query_one(sql, &[]).await;
        row.unwrap()
    }

    /// Waits until every run is over.
    pub(crate) async fn finish(&self) {
        let begin = std::time::Instant::now();
        while self.unfinished().await > 0 {
            assert!(
                begin.elapsed() < PATIENCE,
                "runs are stuck: {}",
                self.stuck().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stuck(&self) -> String {
        let sql = "SELECT coalesce(json_agg(r), '[]')::text FROM (
            SELECT r.*, (SELECT json_agg(s) FROM step_attempts s WHERE s.workflow_run_id = r.id)
            FROM workflow_runs r WHERE status IN ('pending', 'running') LIMIT 3) r";
        self.look_up(sql).await.get(0)
    }

    /// A connection that sees this schema's tables.
    pub(crate) async fn session(&self) -> tokio_postgres::Client {
        let session = postgres_server::connect(&self.server).await;
        let settings = format!("SET search_path TO {}; SET TIME ZONE 'UTC'", self.schema);
        session.batch_execute(&settings).await.unwrap();
        session
    }

    /// Every row of every table, as text.
    pub(crate) async fn rows(&self) -> Vec<String> {
        let session = self.session().await;
        let mut rows = Vec::new();
        for table in ["workflow_runs", "step_attempts", "workflow_signals"] {
            let sql = format!("SELECT t::text FROM {table} t ORDER BY id");
            let found = session.query(&sql, &[]).await.unwrap();
            rows.extend(found.iter().map(|row| row.get::<_, String>(0)));
        }
        rows
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(signaler) = self.signaler.take() {
            signaler.abort();
        }
    }
}

/// How many different inputs runs have.
pub(crate) const INPUTS: u64 = 12;

/// Opens a schema on a server; the sessions are named after it.
pub(crate) async fn open(server: &str, schema: &str) -> Postgres {
    let options = Postgres::options().url(server).schema(schema).pool_size(8);
    options.application_name(schema).connect().await.unwrap()
}

/// Plays the customers: sends every signal that an order waits for, through all troubles.
async fn let_go(server: String, schema: String, store: Postgres) {
    let client = Client::new(store);
    loop {
        let Ok((session, connection)) = tokio_postgres::connect(&server, NoTls).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let connection = tokio::spawn(connection);
        let sql = format!(
            "SELECT s.workflow_run_id FROM {schema}.step_attempts s
             WHERE s.kind = 'signal-wait' AND s.status = 'running' AND s.context->>'signal' LIKE 'go:%'
                AND NOT EXISTS (
                    SELECT 1 FROM {schema}.workflow_signals g WHERE g.step_attempt_id = s.id
                )"
        );
        while let Ok(waiting) = session.query(&sql, &[]).await {
            for row in waiting {
                let signal = fleet::go(row.get(0));
                let sent = client.send_signal(signal.as_str(), &GO);
                // If it fails, it is sent again when the server is back.
                let _ = sent.idempotency_key(signal.as_str()).await;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        connection.abort();
    }
}

/// What the customers' signals carry.
const GO: u64 = 1000;

/// A worker in a process of its own. It is killed at the end, if not before.
pub(crate) struct Process {
    child: Child,
    ready: PathBuf,
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop, as an orchestrator does that rolls out a new version: once it is up.
    pub(crate) async fn terminate(&self) {
        wait_until("the worker process is ready", || async {
            self.ready.exists()
        })
        .await;
        let done = Command::new("kill").arg(self.id().to_string()).status();
        assert!(done.unwrap().success());
    }

    /// Waits until it has stopped by itself.
    pub(crate) async fn stopped(&mut self) {
        let status = wait_for("the worker process stops", || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        });
        assert!(status.await.success(), "it stops without an error");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker in this process that executes the fleet's workflows, for what no process needs.
pub(crate) async fn undisturbed() -> (Site, Vec<Started>) {
    let site = Site::new().await;
    let store = site.open_at(&site.server).await;
    let builder = fleet::register(Worker::builder(store), site.folder()).unwrap();
    let mut worker = builder.build().unwrap().start();
    let started = site.start(INPUTS).await;
    site.finish().await;
    worker.stop().await.unwrap();
    (site, started)
}
