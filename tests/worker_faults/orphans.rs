//! What is left of the trace of a run whose worker was killed: one tree, whoever ends the run.

use std::fs::File;
use std::future::Future;
use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

use openworkflow::backend::RunStatus;
use openworkflow::otel::ids;
use openworkflow::{Client, RunHandle};
use openworkflow_tests::faults::{Ground, PostgresGround, SqliteGround};
use openworkflow_tests::traced::{Folder, Point, TRACED, WrittenSpan, tree};
use openworkflow_tests::wait_until;
use tempfile::TempDir;

use crate::PROGRAM;

/// Keeps everybody from writing.
trait Lockable: Ground {
    type Lock: Send;

    fn lock(&self) -> impl Future<Output = Self::Lock>;

    /// Forgets what dead processes still want to write, and lets the others go on.
    fn unlock(&self, lock: Self::Lock) -> impl Future<Output = ()>;
}

impl Lockable for SqliteGround {
    type Lock = rusqlite::Connection;

    async fn lock(&self) -> rusqlite::Connection {
        let url = self.url();
        let path = url.strip_prefix("sqlite:").expect("it is a path");
        let lock = rusqlite::Connection::open(path).expect("the file opens");
        lock.busy_timeout(Duration::from_secs(10))
            .expect("it waits");
        lock.execute_batch("BEGIN IMMEDIATE")
            .expect("it is its turn");
        lock
    }

    async fn unlock(&self, lock: rusqlite::Connection) {
        lock.execute_batch("ROLLBACK").expect("it has the lock");
    }
}

impl Lockable for PostgresGround {
    type Lock = tokio_postgres::Client;

    async fn lock(&self) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(&self.server, tokio_postgres::NoTls).await;
        let (lock, connection) = connected.expect("the server answers");
        tokio::spawn(connection);
        let schema = &self.schema;
        let sql = format!(
            "BEGIN; LOCK TABLE {schema}.workflow_runs, {schema}.step_attempts IN EXCLUSIVE MODE"
        );
        lock.batch_execute(&sql).await.expect("it is its turn");
        lock
    }

    async fn unlock(&self, lock: tokio_postgres::Client) {
        // The server goes on with a statement whose client is dead.
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = '{}' AND wait_event_type = 'Lock'",
            self.schema
        );
        lock.batch_execute(&sql).await.expect("they end");
        lock.batch_execute("ROLLBACK")
            .await
            .expect("it has the lock");
    }
}

/// A database, a client of it, and processes whose spans come to one file.
struct Scene<G> {
    ground: G,
    client: Client,
    folder: Folder,
    _keep: TempDir,
}

/// A worker process, killed at the end if not before.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        self.0.kill().expect("the process is killed");
        self.0.wait().expect("the process is gone");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<G: Lockable> Scene<G> {
    async fn new() -> Self {
        let keep = tempfile::tempdir().expect("a folder is made");
        let folder = Folder(keep.path().to_owned());
        let ground = G::make().await;
        let client = Client::builder(ground.open().await)
            .interceptor(folder.interceptor())
            .build();
        Self {
            ground,
            client,
            folder,
            _keep: keep,
        }
    }

    fn worker(&self) -> Process {
        let mut command = Command::new(PROGRAM);
        command.args(["traced", &self.ground.url()]);
        let child = command.arg(&self.folder.0).spawn();
        Process(child.expect("the process starts"))
    }

    fn has(&self, name: &str) -> bool {
        self.folder.spans().iter().any(|span| span.name == name)
    }

    /// Kills the worker at `point` of its first execution.
    async fn kill_at(&self, point: Point) {
        let mut worker = self.worker();
        let there = self.folder.there();
        wait_until("the worker is there", || async { there.exists() }).await;
        if matches!(point, Point::Step) {
            worker.kill();
            return;
        }
        let lock = self.ground.lock().await;
        File::create(self.folder.go()).expect("it may go on");
        // What it writes waits for the lock.
        wait_until("the worker writes", || async {
            match point {
                Point::Park => self.folder.parks().exists(),
                _ => self.has("step.run second"),
            }
        })
        .await;
        worker.kill();
        self.ground.unlock(lock).await;
    }

    /// Waits until the lease of the worker that was killed has run out.
    async fn until_abandoned(&self, run: &RunHandle<()>) {
        wait_until("the lease has run out", || async {
            let row = run.describe().await.expect("it is there");
            let until = row.available_at.expect("it is claimed");
            SystemTime::now() > until + Duration::from_millis(50)
        })
        .await;
    }

    async fn over(&self, run: &RunHandle<()>, status: RunStatus) {
        wait_until("the run is over", || async {
            run.describe().await.expect("it is there").status == status
        })
        .await;
    }

    async fn check(&self, run: &RunHandle<()>, expected: &[&str]) {
        // What is written may be seen before its span has ended.
        let enough = || async { self.folder.spans().len() >= expected.len() };
        wait_until("all spans have ended", enough).await;
        assert_eq!(tree(&self.folder.spans()), expected.join("\n"));
        let spans = self.folder.spans();
        let lost = |span: &&WrittenSpan| {
            span.attributes
                .get("workflow.outcome")
                .is_some_and(|o| o == "lost")
        };
        let tombstone = spans.iter().find(lost).expect("it is in the tree");
        let id = ids::execution("default", run.id(), 1);
        assert_eq!(tombstone.id, id.to_string());
        assert!(tombstone.failed);
        assert_eq!(tombstone.attributes["error.type"], "worker_lost");
        let steps = spans
            .iter()
            .filter(|s| s.parent.as_ref() == Some(&tombstone.id));
        let mut worker = None;
        for step in steps {
            assert_eq!(step.trace, tombstone.trace);
            assert!(tombstone.began_at <= step.began_at + 1_000_000, "{spans:?}");
            worker = step.attributes.get("worker.id");
        }
        assert_eq!(
            worker,
            tombstone.attributes.get("worker.id"),
            "it is the dead one's"
        );
        let mut all: Vec<_> = spans.iter().map(|span| &span.id).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), spans.len(), "no id is there twice");
    }
}

async fn taken_over<G: Lockable>(point: Point, expected: &[&str]) {
    let scene = Scene::<G>::new().await;
    let run = scene
        .client
        .start(&TRACED, &point)
        .await
        .expect("it starts");
    scene.kill_at(point).await;
    let _other = scene.worker();
    scene.over(&run, RunStatus::Completed).await;
    scene.check(&run, expected).await;
}

async fn in_a_step<G: Lockable>() {
    let tree = [
        "workflow.start traced",
        "  workflow.execute traced 1 lost",
        "    step.run first 1 completed",
        "  workflow.execute traced 2 completed",
        "    step.run second 2 completed",
    ];
    taken_over::<G>(Point::Step, &tree).await;
}

async fn in_a_commit<G: Lockable>() {
    let tree = [
        "workflow.start traced",
        "  workflow.execute traced 1 lost",
        "    step.run first 1 completed",
        "    step.run second 1 completed",
        "  workflow.execute traced 2 completed",
        "    step.run second 2 completed",
    ];
    taken_over::<G>(Point::Commit, &tree).await;
}

async fn in_parking<G: Lockable>() {
    let tree = [
        "workflow.start traced",
        "  workflow.execute traced 1 lost",
        "    step.run first 1 completed",
        "  workflow.execute traced 2 parked",
        "    step.sleep nap 2 parked",
        "  workflow.execute traced 3 completed",
    ];
    taken_over::<G>(Point::Park, &tree).await;
}

async fn canceled<G: Lockable>() {
    let scene = Scene::<G>::new().await;
    let request = scene.client.start(&TRACED, &Point::Step);
    let run = request.await.expect("it starts");
    scene.kill_at(Point::Step).await;
    scene.until_abandoned(&run).await;
    scene.client.cancel(run.id()).await.expect("it is canceled");
    let tree = [
        "workflow.start traced",
        "  workflow.execute traced 1 lost",
        "    step.run first 1 completed",
        "workflow.cancel traced",
    ];
    scene.check(&run, &tree).await;
}

async fn overdue<G: Lockable>() {
    let scene = Scene::<G>::new().await;
    let request = scene.client.start(&TRACED, &Point::Step);
    let run = request.deadline("4s").await.expect("it starts");
    scene.kill_at(Point::Step).await;
    let row = run.describe().await.expect("it is there");
    let deadline = row.deadline_at.expect("it has one");
    wait_until("the deadline has passed", || async {
        SystemTime::now() > deadline
    })
    .await;
    let _other = scene.worker();
    scene.over(&run, RunStatus::Failed).await;
    let tree = [
        "workflow.start traced",
        "  workflow.execute traced 1 lost",
        "    step.run first 1 completed",
    ];
    scene.check(&run, &tree).await;
}

macro_rules! on_both {
    ($($scenario:ident: $sqlite:ident $postgres:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $sqlite() {
            $scenario::<SqliteGround>().await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $postgres() {
            $scenario::<PostgresGround>().await;
        }
    )*};
}

on_both! {
    in_a_step: killed_in_a_step_on_sqlite killed_in_a_step_on_postgres;
    in_a_commit: killed_in_a_commit_on_sqlite killed_in_a_commit_on_postgres;
    in_parking: killed_in_parking_on_sqlite killed_in_parking_on_postgres;
    canceled: canceled_after_a_kill_on_sqlite canceled_after_a_kill_on_postgres;
    overdue: overdue_after_a_kill_on_sqlite overdue_after_a_kill_on_postgres;
}
