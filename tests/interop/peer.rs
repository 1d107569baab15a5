//! Drives the TypeScript side, `peer.mjs`.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use openworkflow_tests::npm::Npm;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;

use super::SharedDatabase;
use crate::Db;

/// A release of openworkflow for TypeScript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// 0.10.1.
    Current,
    /// 0.9.2, the last without telemetry.
    Previous,
}

impl Sdk {
    /// What `package.json` calls it.
    fn package(self) -> &'static str {
        match self {
            Self::Current => "openworkflow",
            Self::Previous => "openworkflow-0-9",
        }
    }
}

/// What an operation of the peer failed with.
#[derive(Debug, Deserialize)]
pub(crate) struct PeerError {
    pub(crate) message: String,
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
    #[serde(default)]
    value: Value,
    error: Option<PeerError>,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, PeerError>>>>>;

/// A process with openworkflow for TypeScript. Killed when dropped.
pub(crate) struct Peer {
    process: Child,
    stdin: tokio::sync::Mutex<ChildStdin>,
    waiting: Waiting,
    stderr: Arc<Mutex<String>>,
    calls: AtomicU64,
}

impl Peer {
    /// A process that has opened the database.
    pub(crate) async fn connected(db: &Db, sdk: Sdk) -> Self {
        let peer = Self::spawn(db, sdk, false);
        peer.call("connect", json!({})).await;
        peer
    }

    /// A process that has opened the database and records its spans.
    pub(crate) async fn traced(db: &Db) -> Self {
        let peer = Self::spawn(db, Sdk::Current, true);
        peer.call("connect", json!({})).await;
        peer
    }

    /// A process that has not opened the database yet.
    pub(crate) fn spawn(db: &Db, sdk: Sdk, traced: bool) -> Self {
        let npm = packages();
        let setup = json!({
            "modules": npm.folder,
            "sdk": sdk.package(),
            "database": db.peer(),
            "traced": traced,
        });
        let mut process = Command::new(&npm.node)
            .arg(folder().join("peer.mjs"))
            .arg(setup.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        let stdin = process.stdin.take().expect("stdin is piped");
        let mut lines = BufReader::new(process.stdout.take().expect("stdout is piped")).lines();
        let waiting = Waiting::default();
        let answered = Arc::clone(&waiting);
        let stderr = Arc::<Mutex<String>>::default();
        let chatter = Arc::clone(&stderr);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(answer) = serde_json::from_str::<Answer>(&line) else {
                    // The PostgreSQL driver prints the server's notices.
                    let mut chatter = chatter.lock().unwrap();
                    chatter.push_str(&line);
                    chatter.push('\n');
                    continue;
                };
                let asked = answered.lock().unwrap().remove(&answer.id);
                let result = answer.error.map_or(Ok(answer.value), Err);
                // Who asked may have given up.
                let _ = asked.map(|asked| asked.send(result));
            }
            // Those who still wait see that nobody will answer.
            answered.lock().unwrap().clear();
        });
        let mut errors = process.stderr.take().expect("stderr is piped");
        let collected = Arc::clone(&stderr);
        tokio::spawn(async move {
            let mut bytes = vec![0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut bytes).await {
                let text = String::from_utf8_lossy(&bytes[..count]);
                collected.lock().unwrap().push_str(&text);
            }
        });
        Self {
            process,
            stdin: tokio::sync::Mutex::new(stdin),
            waiting,
            stderr,
            calls: AtomicU64::new(0),
        }
    }

    /// What an operation answers.
    ///
    /// # Panics
    ///
    /// Where it fails.
    pub(crate) async fn call(&self, operation: &str, args: Value) -> Value {
        self.try_call(operation, args)
            .await
            .unwrap_or_else(|error| panic!("{operation}: {}\n{}", error.message, self.stderr()))
    }

    /// What an operation answers, or fails with.
    pub(crate) async fn try_call(&self, operation: &str, args: Value) -> Result<Value, PeerError> {
        let id = self.calls.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, sender);
        let mut request = args;
        request["id"] = json!(id);
        request["operation"] = json!(operation);
        let line = format!("{request}\n");
        let written = self.stdin.lock().await.write_all(line.as_bytes()).await;
        written.unwrap_or_else(|error| panic!("{operation}: {error}\n{}", self.stderr()));
        answer
            .await
            .unwrap_or_else(|_| panic!("{operation}: the peer is gone\n{}", self.stderr()))
    }

    /// Starts a run and returns its id.
    pub(crate) async fn start(&self, workflow: &str, input: Value) -> String {
        self.start_with(json!({ "workflow": workflow, "input": input }))
            .await
    }

    /// As [`start`](Self::start), with all there is to say: `version`, `options`, `span`.
    pub(crate) async fn start_with(&self, args: Value) -> String {
        let id = self.call("start", args).await;
        id.as_str().expect("a run has an id").to_owned()
    }

    /// Waits for the output of a run that this process started.
    pub(crate) async fn result(&self, run: &str) -> Result<Value, PeerError> {
        self.try_call("result", json!({ "run": run })).await
    }

    /// Sends a signal and returns who got it.
    pub(crate) async fn signal(&self, signal: &str, data: Value) -> Vec<String> {
        self.signal_with(json!({ "signal": signal, "data": data }))
            .await
    }

    /// As [`signal`](Self::signal), with an idempotency key.
    pub(crate) async fn signal_with(&self, args: Value) -> Vec<String> {
        let received = self.call("signal", args).await;
        serde_json::from_value(received).expect("a list of run ids")
    }

    /// Starts the worker, with all workflows.
    pub(crate) async fn work(&self) {
        self.call("work", json!({ "concurrency": 4 })).await;
    }

    /// Starts the worker, with these workflows only.
    pub(crate) async fn work_on(&self, names: &[&str]) {
        let args = json!({ "concurrency": 4, "names": names });
        self.call("work", args).await;
    }

    /// Stops the worker.
    pub(crate) async fn rest(&self) {
        self.call("rest", json!({})).await;
    }

    /// Calls a method of the SDK's backend, as its workers, its command line and its dashboard do.
    pub(crate) async fn backend(&self, method: &str, params: Value) -> Value {
        let args = json!({ "method": method, "params": params });
        self.call("backend", args).await
    }

    /// As [`backend`](Self::backend), for what fails.
    pub(crate) async fn try_backend(
        &self,
        method: &str,
        params: Value,
    ) -> Result<Value, PeerError> {
        let args = json!({ "method": method, "params": params });
        self.try_call("backend", args).await
    }

    /// Kills the process as `kill -9` does.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.expect("the peer can be killed");
    }

    /// What the process wrote so far that is no answer: errors, mostly.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }
}

/// The packages and the Node.js that the peers of this process run with.
pub(crate) fn packages() -> &'static Npm {
    static PACKAGES: OnceLock<Npm> = OnceLock::new();
    PACKAGES.get_or_init(|| Npm::install(&folder(), Path::new(env!("CARGO_TARGET_TMPDIR"))))
}

/// Where `peer.mjs` and `package.json` are.
fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop")
}
