//! A database with runs of all kinds, a worker at it, and the dashboard.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use openworkflow::backend::Backend;
use openworkflow::{Client, Error, Sqlite, Worker, WorkerHandle, WorkflowSpec};
use openworkflow_dashboard::Dashboard;
use openworkflow_examples::{Order, PROCESS_ORDER, confirm, fulfill_shipment, process_order};
use openworkflow_tests::npm::Npm;
use openworkflow_tests::{Database as _, PostgresDatabase};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::browser::browser;
use crate::shop;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// What a page may obey, and a reader be deceived by.
const HOSTILE: &str =
    "</th></td>\"'><script>alert(1)</script><img src=x onerror=alert(2)>\u{1b}[31m\u{202e}";
const STEPS: usize = 900;

pub(crate) static CHARGE: WorkflowSpec<String, ()> = WorkflowSpec::new("charge-card");
pub(crate) static PATIENT: WorkflowSpec<String, String> = WorkflowSpec::new("patient");
static THOUSAND: WorkflowSpec<(), ()> = WorkflowSpec::new("charge-many");
static HOSTILE_ONE: WorkflowSpec<String, ()> = WorkflowSpec::new("<script>alert(0)</script>");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    /// On SQLite, with nothing hostile: for the pictures in the documentation.
    Shop,
    /// On SQLite, with runs of TypeScript beside the others.
    TypeScript,
}

pub(crate) struct Site {
    base: String,
    runs: BTreeMap<&'static str, String>,
    serving: JoinHandle<()>,
    _worker: WorkerHandle,
    _folder: TempDir,
    _postgres: Option<PostgresDatabase>,
}

impl Site {
    pub(crate) async fn open(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        match kind {
            Kind::Sqlite => {
                let store = Sqlite::open(folder.path().join("test.db")).await;
                Self::on(store.expect("SQLite opens"), folder, None, false).await
            }
            Kind::TypeScript => {
                let path = folder.path().join("test.db");
                let store = Sqlite::open(&path).await.expect("SQLite opens");
                // Before there is a worker here: that SDK does not wait for its turn.
                let theirs = typescript(&path).await;
                let mut site = Self::on(store, folder, None, false).await;
                site.runs.extend(theirs);
                site
            }
            Kind::Shop => {
                let path = folder.path().join("test.db");
                let store = Sqlite::open(&path).await.expect("SQLite opens");
                shop::fill(&store, &path).await;
                Self::on(store, folder, None, true).await
            }
            Kind::Postgres => {
                let database = PostgresDatabase::create().await;
                Self::on(database.store(), folder, Some(database), false).await
            }
        }
    }

    async fn on(
        store: impl Backend + Clone,
        folder: TempDir,
        postgres: Option<PostgresDatabase>,
        is_shop: bool,
    ) -> Self {
        let client = Client::builder(store.clone()).interceptor(Traced).build();
        let worker = worker(store);
        let runs = match is_shop {
            true => shop::open(&client).await,
            false => runs(&client).await,
        };
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let dashboard = Dashboard::new(client)
            .trace_link("Jaeger", "http://localhost:16686/trace/{trace_id}")
            .expect("the link is one");
        let serving = tokio::spawn(async move {
            let served = dashboard.serve(listener, std::future::pending()).await;
            served.expect("it serves");
        });
        Self {
            base: format!("http://{address}"),
            runs,
            serving,
            _worker: worker,
            _folder: folder,
            _postgres: postgres,
        }
    }

    /// Has a browser look at it.
    pub(crate) async fn visit(&self, visit: &str) {
        let browser = browser();
        let given = json!({
            "visit": visit,
            "base": self.base,
            "runs": self.runs,
            "trace": TRACE,
            "browser": browser.chromium,
            "images": images(),
        });
        let visited = Command::new(&browser.node)
            .arg(&browser.script)
            .arg(given.to_string())
            .kill_on_drop(true)
            .output()
            .await
            .expect("Node.js starts");
        let stderr = String::from_utf8_lossy(&visited.stderr);
        assert!(visited.status.success(), "{visit}: {stderr}");
    }
}

/// Has TypeScript's worker execute runs of its own.
async fn typescript(database: &Path) -> [(&'static str, String); 2] {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let npm = Npm::install(&tests.join("interop"), home);
    // Scripts find packages beside themselves.
    let script = npm.folder.join("page-typescript.mjs");
    std::fs::copy(tests.join("page/typescript.mjs"), &script).expect("the script can be copied");
    let done = Command::new(&npm.node)
        .arg(&script)
        .arg(database)
        .kill_on_drop(true)
        .output()
        .await
        .expect("Node.js starts");
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "TypeScript: {stderr}");
    let told = String::from_utf8_lossy(&done.stdout);
    let last = told.lines().last().expect("it says their ids");
    let ids: serde_json::Value = serde_json::from_str(last).expect("it says their ids");
    ["parcel", "lost"].map(|name| (name, ids[name].as_str().expect("an id").to_owned()))
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn images() -> std::path::PathBuf {
    if std::env::var_os("OPENWORKFLOW_UPDATE_IMAGES").is_some() {
        return Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    }
    let images = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    std::fs::create_dir_all(&images).expect("a folder can be made");
    images
}

/// Puts every run below one trace, as an application that is traced does.
struct Traced;

#[openworkflow::async_trait]
impl openworkflow::Interceptor for Traced {
    async fn create_run(
        &self,
        mut call: openworkflow::CreateRun,
        next: openworkflow::Next<'_, openworkflow::CreateRun>,
    ) -> openworkflow::Result<openworkflow::CreatedRun> {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        call.run.carrier.insert("traceparent", parent);
        next.run(call).await
    }
}

pub(crate) fn worker(store: impl Backend + Clone) -> WorkerHandle {
    let charge = CHARGE.implement(|wf, _: String| async move {
        wf.run("authorize", || async { Ok(()) }).await?;
        wf.run("charge", || async {
            let causes = "caused by: the bank said no\ncaused by: insufficient funds";
            Err(Error::new("CardDeclined", "the card was declined")
                .with_stack(causes)
                .non_retryable())
        })
        .await
    });
    let patient = PATIENT.implement(|wf, signal: String| async move {
        let sent: Option<String> = wf.wait_for_signal(signal).await?;
        wf.run("after", || async { Ok(sent.unwrap_or_default()) })
            .await
    });
    let thousand = THOUSAND.implement(|wf, ()| async move {
        for n in 0..STEPS {
            wf.run(format!("charge:{n}"), || async { Ok(()) }).await?;
        }
        Ok(())
    });
    let hostile = HOSTILE_ONE.implement(|wf, text: String| async move {
        wf.run(HOSTILE, || async { Ok(()) }).await?;
        wf.run("fails", || async {
            Err(Error::new("<script>", text.clone()).non_retryable())
        })
        .await
    });
    let worker = Worker::builder(store)
        .workflow(process_order(Duration::from_secs(2)))
        .workflow(fulfill_shipment())
        .workflow(charge)
        .workflow(patient)
        .workflow(thousand)
        .workflow(hostile);
    worker.build().expect("the worker is fit").start()
}

async fn runs(client: &Client) -> BTreeMap<&'static str, String> {
    let order = Order::sample();
    let started = client
        .start(&PROCESS_ORDER, &order)
        .idempotency_key(&order.id);
    let started = started.await.expect("it starts");
    let failed = client.start(&CHARGE, &"4242".to_owned()).await;
    let waiting = client.start(&PATIENT, &"go".to_owned()).await;
    let canceled = client.start(&PATIENT, &"never".to_owned()).await;
    let thousand = client.start(&THOUSAND, &()).await;
    let hostile = client.start(&HOSTILE_ONE, &HOSTILE.to_owned()).await;
    let text = format!("{HOSTILE}{}", "x".repeat(1 << 20));
    let large = client.start(&HOSTILE_ONE, &text).await;
    confirm(client, &order).await.expect("it waits");
    started.result().await.expect("it ends well");
    let (thousand, hostile, large) = (
        thousand.expect("it starts"),
        hostile.expect("it starts"),
        large.expect("it starts"),
    );
    thousand.result().await.expect("it ends well");
    for run in [&hostile, &large] {
        run.result().await.expect_err("it fails");
    }
    let failed = failed.expect("it starts");
    failed.result().await.expect_err("it fails");
    let ids = [
        ("order", started.id()),
        ("failed", failed.id()),
        ("waiting", waiting.as_ref().expect("it starts").id()),
        ("canceled", canceled.as_ref().expect("it starts").id()),
        ("thousand", thousand.id()),
        ("hostile", hostile.id()),
        ("large", large.id()),
    ];
    ids.map(|(name, id)| (name, id.to_owned())).into()
}
