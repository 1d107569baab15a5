//! A database that a test can damage, and workers that come across the damage.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use openworkflow::{
    Client, Clock, RunHandle, Sqlite, Worker, WorkerHandle, Workflow, WorkflowSpec,
};
use rusqlite::types::Value;
use tempfile::TempDir;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A workflow that nothing is wrong with.
pub(crate) static SOUND: WorkflowSpec<u32, u32> = WorkflowSpec::new("sound");

pub(crate) struct Db {
    pub(crate) store: Sqlite,
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    pub(crate) path: PathBuf,
    pub(crate) folder: TempDir,
}

impl Db {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder is made");
        let path = folder.path().join("test.db");
        let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800));
        let options = Sqlite::options().clock(clock.clone());
        let store = options.open(&path).await.expect("the database opens");
        Self {
            client: Client::new(store.clone()),
            store,
            clock,
            path,
            folder,
        }
    }

    /// A connection of somebody else's.
    pub(crate) fn raw(&self) -> rusqlite::Connection {
        let conn = rusqlite::Connection::open(&self.path).expect("the database opens");
        conn.busy_timeout(Duration::from_secs(5))
            .expect("a timeout is set");
        conn
    }

    pub(crate) fn execute(&self, sql: &str) {
        self.raw().execute_batch(sql).expect("the statement runs");
    }

    /// The columns of the rows that a query finds, as `a|b|c`.
    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        let conn = self.raw();
        let mut statement = conn.prepare(sql).expect("the query fits the schema");
        let columns = statement.column_count();
        let mut rows = statement.query([]).expect("the query runs");
        let mut found = Vec::new();
        while let Some(row) = rows.next().expect("a row is read") {
            let values: Vec<_> = (0..columns)
                .map(|column| match row.get(column).expect("a column is read") {
                    Value::Null => "NULL".to_owned(),
                    Value::Text(text) => text,
                    other => format!("{other:?}"),
                })
                .collect();
            found.push(values.join("|"));
        }
        found
    }

    /// Everything that is stored.
    pub(crate) fn everything(&self) -> Vec<String> {
        let mut rows = self.query("SELECT * FROM workflow_runs");
        rows.extend(self.query("SELECT * FROM step_attempts"));
        rows.extend(self.query("SELECT * FROM workflow_signals"));
        rows
    }

    /// A worker that knows `workflow`, and the one that nothing is wrong with.
    pub(crate) fn worker(&self, workflow: Workflow) -> WorkerHandle {
        let sound = SOUND.implement(|wf, number| async move {
            wf.run("count", || async move { Ok(number + 1) }).await
        });
        let builder = Worker::builder(self.store.clone());
        // No lease runs out when the clock is moved.
        let builder = builder.lease(1000 * DAY).workflow(workflow).workflow(sound);
        builder.build().expect("the worker builds").start()
    }

    /// Other runs go on.
    pub(crate) async fn assert_others_go_on(&self) {
        let run = self.client.start(&SOUND, &1).await.expect("a run starts");
        assert_eq!(result(&run).await, Ok(2));
    }

    /// Waits until the run is put back with an error that says all of `words`: it has not ended, and is
    /// tried again.
    pub(crate) async fn assert_put_back(&self, run_id: &str, words: &[&str]) {
        let sql = format!(
            "SELECT status, error FROM workflow_runs
             WHERE id = '{run_id}' AND error IS NOT NULL AND worker_id IS NULL"
        );
        let row = eventually(|| async { self.query(&sql).pop() }).await;
        assert!(row.starts_with("pending|"), "{row}");
        assert_words(&row, words);
    }

    /// Moves the clock on, hour by hour, until the run ends.
    pub(crate) async fn result_later<O>(&self, run: &RunHandle<O>) -> Result<O, String>
    where
        O: serde::de::DeserializeOwned,
    {
        let hours = async {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.clock.advance(HOUR);
            }
        };
        tokio::select! {
            ended = result(run) => ended,
            () = hours => unreachable!("the hours do not end"),
        }
    }
}

/// The run's output, or what its error says.
pub(crate) async fn result<O>(run: &RunHandle<O>) -> Result<O, String>
where
    O: serde::de::DeserializeOwned,
{
    let result = run.result_within(Duration::from_secs(30)).await;
    result.map_err(|error| error.to_string())
}

#[track_caller]
pub(crate) fn assert_words(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

/// Waits for a condition.
pub(crate) async fn eventually<T, F, Fut>(condition: F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "it does not come"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
