//! Random programs on SQLite.

use std::path::PathBuf;

use openworkflow::{Clock, Sqlite};
use rusqlite::types::Value;
use tempfile::TempDir;

use super::drive::{Database, ROWS, mask_times};

/// A SQLite file in a folder of its own.
#[derive(Debug)]
pub struct SqliteFile {
    path: PathBuf,
    _folder: TempDir,
}

impl Database for SqliteFile {
    type Store = Sqlite;

    async fn create() -> Self {
        let folder = tempfile::tempdir().expect("a folder is made");
        Self {
            path: folder.path().join("random.db"),
            _folder: folder,
        }
    }

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
