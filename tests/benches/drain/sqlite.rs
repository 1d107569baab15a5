//! SQLite: a file per measurement, and commits without an engine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use openworkflow::Sqlite;
use rusqlite::{Connection, params};

use crate::Result;
use crate::target::{Database, Target};

/// More than the log takes of bare commits while they are measured.
const LOG_BYTES: usize = 32 * 1024 * 1024;

pub(crate) struct SqliteTarget {
    folder: PathBuf,
}

impl SqliteTarget {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    fn folder(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new()
            .prefix("drain-")
            .tempdir_in(&self.folder)?)
    }
}

impl Target for SqliteTarget {
    const NAME: &'static str = "sqlite";
    const FLEETS: bool = false;

    type Store = Sqlite;

    fn create(&self) -> Result<Database> {
        let folder = self.folder()?;
        let path = folder.path().join("runs.db");
        let address = path.to_str().ok_or("the folder's name is not UTF-8")?;
        Ok(Database {
            address: address.to_owned(),
            _cleanup: Box::new(folder),
        })
    }

    async fn open(address: &str) -> Result<Sqlite> {
        Ok(Sqlite::open(address).await?)
    }

    async fn close(store: Sqlite) {
        store.close().await;
    }

    /// SQLite has one writer at a time.
    fn connections(_concurrency: u32) -> u32 {
        1
    }

    fn bare_commits(&self, _connections: u32, length: Duration) -> Result<f64> {
        let folder = self.folder()?;
        let conn = Connection::open(folder.path().join("bare.db"))?;
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        conn.execute_batch(
            "PRAGMA synchronous = FULL; CREATE TABLE bare (id INTEGER PRIMARY KEY, value TEXT);",
        )?;
        let mut insert = conn.prepare("INSERT INTO bare (value) VALUES (?1)")?;
        // A log that still grows costs the file system more per commit than one that is written
        // anew from its begin, and a drain has filled its log before it begins.
        insert.execute([" ".repeat(LOG_BYTES)])?;
        conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        let begin = Instant::now();
        let mut commits = 0_u32;
        while begin.elapsed() < length {
            // Outside a transaction each statement is one.
            insert.execute(params!["a small row, as a step's is"])?;
            commits += 1;
        }
        Ok(f64::from(commits) / begin.elapsed().as_secs_f64())
    }
}
