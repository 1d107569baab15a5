//! SQLite: a file in a folder of its own.

use std::path::Path;

use openworkflow::Sqlite;
use openworkflow_tests::scale::{self, Amount, Dialect, PagesRead, Readings, State};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::Result;
use crate::ground::{EXPIRED, Ground};
use crate::options::Options;

/// What one operation may read.
const MOST: Amount = Amount {
    rows: 0.0,
    blocks: 300.0,
};

pub(crate) struct OnSqlite {
    folder: TempDir,
}

impl OnSqlite {
    fn connect(&self) -> Result<Connection> {
        let conn = Connection::open(self.folder.path().join("runs.db"))?;
        conn.busy_timeout(std::time::Duration::from_secs(60))?;
        Ok(conn)
    }
}

impl Ground for OnSqlite {
    const NAME: &'static str = "sqlite";
    const DIALECT: Dialect = Dialect::Sqlite;

    type Store = Sqlite;
    type Reader = PagesRead;

    async fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let ground = Self {
            folder: tempfile::Builder::new()
                .prefix("scale-")
                .tempdir_in(folder)?,
        };
        ground.open("first").await?.close().await;
        Ok(ground)
    }

    async fn fill(&self, options: &Options) -> Result<()> {
        let conn = self.connect()?;
        // Nobody else looks, and what is lost with the machine is made again.
        conn.execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;
             PRAGMA cache_size = -500000; PRAGMA temp_store = FILE",
        )?;
        // What is kept up to date for each row takes far longer than what is made for all of them.
        let indexes = conn
            .prepare(
                "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<(String, String)>>>()?;
        for (name, _) in &indexes {
            conn.execute_batch(&format!("DROP INDEX {name}"))?;
        }
        let states = |state: &State| options.has(state);
        for statement in scale::fill_some(Dialect::Sqlite, options.rows, states) {
            conn.execute_batch(&statement)?;
        }
        for (_, statement) in &indexes {
            conn.execute_batch(statement)?;
        }
        conn.execute_batch("PRAGMA journal_mode = WAL")?;
        Ok(())
    }

    async fn analyze(&self) -> Result<()> {
        self.execute("ANALYZE").await
    }

    async fn open(&self, _name: &str) -> Result<Sqlite> {
        Ok(Sqlite::open(self.folder.path().join("runs.db")).await?)
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        Ok(self.connect()?.execute_batch(sql)?)
    }

    async fn has_expired(&self) -> Result<bool> {
        let sql = EXPIRED.replace("{now}", "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')");
        let found: i64 = self.connect()?.query_row(&sql, [], |row| row.get(0))?;
        Ok(found > 0)
    }

    async fn begin_to_tell(&self) -> Result<()> {
        // What is copied from the log to the file is read, too.
        self.connect()?
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(())
    }

    async fn end_to_tell(&self) -> Result<()> {
        Ok(())
    }

    fn reader(&self, _name: &str) -> PagesRead {
        PagesRead::new(&self.folder.path().join("runs.db"), MOST)
    }

    fn readings(reader: &PagesRead) -> &Readings {
        reader.readings()
    }
}
