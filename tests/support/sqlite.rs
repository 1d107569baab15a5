//! SQLite under test: a real file, and a clock that stands still until it is advanced.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use openworkflow::{Clock, Sqlite};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tempfile::TempDir;

use crate::Database;

/// A SQLite file in a folder of its own.
#[derive(Debug)]
pub struct SqliteDatabase {
    store: Sqlite,
    clock: Clock,
    path: PathBuf,
    _folder: TempDir,
}

impl SqliteDatabase {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn raw(&self) -> RawSqlite<'_> {
        RawSqlite(&self.path)
    }

    /// The clock that everything in the database goes by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl Database for SqliteDatabase {
    type Store = Sqlite;

    const CLOCK_TOLERANCE: Duration = Duration::ZERO;

    async fn create() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("test.db");
        let clock = Clock::manual(SystemTime::now());
        let store = Sqlite::options().clock(clock.clone()).open(&path).await;
        Self {
            store: store.expect("the database opens"),
            clock,
            path,
            _folder: folder,
        }
    }

    fn store(&self) -> Sqlite {
        self.store.clone()
    }

    async fn open(&self) -> Sqlite {
        let options = Sqlite::options().clock(self.clock.clone());
        options.open(&self.path).await.expect("the database opens")
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    fn now(&self) -> SystemTime {
        self.clock.now()
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.raw().query(sql)
    }

    async fn execute(&self, sql: &str) {
        self.raw().execute(sql);
    }
}

/// A SQLite file past the library, for looking at rows and for changing them.
#[derive(Debug)]
pub struct RawSqlite<'a>(pub &'a Path);

impl RawSqlite<'_> {
    /// A connection, which waits for its turn.
    ///
    /// # Panics
    ///
    /// Where the file does not open.
    #[must_use]
    pub fn connect(&self) -> Connection {
        let connection = Connection::open(self.0).expect("the file opens");
        connection
            .busy_timeout(Duration::from_secs(10))
            .expect("a busy timeout can be set");
        connection
            .execute_batch("PRAGMA foreign_keys = ON; PRAGMA synchronous = OFF")
            .expect("pragmas can be set");
        connection
    }

    /// The rows of a query, as text.
    ///
    /// # Panics
    ///
    /// Where SQLite refuses it.
    #[must_use]
    pub fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        Self::query_on(&self.connect(), sql)
    }

    /// The same on a connection that may be in a transaction.
    ///
    /// # Panics
    ///
    /// Where SQLite refuses it.
    #[must_use]
    pub fn query_on(connection: &Connection, sql: &str) -> Vec<Vec<Option<String>>> {
        let mut statement = connection
            .prepare(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..columns)
                .map(|index| Ok(text(row.get_ref(index)?)))
                .collect()
        });
        rows.and_then(Iterator::collect)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Executes statements.
    ///
    /// # Panics
    ///
    /// Where SQLite refuses one.
    pub fn execute(&self, sql: &str) {
        self.connect()
            .execute_batch(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Some(format!("{} bytes", bytes.len())),
    }
}
