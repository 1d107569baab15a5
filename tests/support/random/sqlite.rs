//! Random programs on SQLite.

use std::path::PathBuf;

use openworkflow::{Clock, Sqlite};
use rusqlite::types::Value;
use tempfile::TempDir;

use super::drive::{Database, mask_times};

/// A SQLite file in a folder of its own.
#[derive(Debug)]
pub struct SqliteFile {
    path: PathBuf,
    _folder: TempDir,
}

#[expect(clippy::new_without_default, reason = "it makes a folder")]
impl SqliteFile {
    /// A file that does not exist yet.
    ///
    /// # Panics
    ///
    /// Where no folder can be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder is made");
        Self {
            path: folder.path().join("random.db"),
            _folder: folder,
        }
    }
}

const ROWS: [&str; 3] = [
    "SELECT 'run', id, namespace_id, workflow_name, version, status, idempotency_key, config,
         context, input, output, error, parent_step_attempt_namespace_id, parent_step_attempt_id,
         worker_id IS NULL, available_at IS NULL, deadline_at IS NULL, started_at IS NULL,
         finished_at IS NULL FROM workflow_runs",
    "SELECT 'step', id, namespace_id, workflow_run_id, step_name, kind, status, config, context,
         output, error, child_workflow_run_namespace_id, child_workflow_run_id, started_at IS NULL,
         finished_at IS NULL FROM step_attempts",
    "SELECT 'signal', namespace_id, signal, data, sender_idempotency_key, workflow_run_id,
         step_attempt_id FROM workflow_signals",
];

impl Database for SqliteFile {
    type Store = Sqlite;

    async fn open(&self, clock: &Clock) -> Sqlite {
        let options = Sqlite::options().clock(clock.clone());
        options.open(&self.path).await.expect("the database opens")
    }

    async fn close(&self, store: Sqlite) {
        store.close().await;
    }

    async fn rows(&self) -> Vec<String> {
        let conn = rusqlite::Connection::open(&self.path).expect("the database opens");
        let mut found = Vec::new();
        for sql in ROWS {
            let mut statement = conn.prepare(sql).expect("the query fits the schema");
            let columns = statement.column_count();
            let mut rows = statement.query([]).expect("the query runs");
            while let Some(row) = rows.next().expect("a row is read") {
                let values: Vec<String> = (0..columns)
                    .map(|column| match row.get(column).expect("a column is read") {
                        Value::Null => "NULL".to_owned(),
                        Value::Text(text) => mask_times(&text),
                        other => format!("{other:?}"),
                    })
                    .collect();
                found.push(values.join(" | "));
            }
        }
        found
    }
}
