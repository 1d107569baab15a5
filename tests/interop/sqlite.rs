//! A SQLite file that two languages share: it goes by the system's clock.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use openworkflow::Sqlite;
use openworkflow::backend::{Backend, BackendResult};
use openworkflow_tests::{Database, RawSqlite, TIME_COLUMNS};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::SharedDatabase;

/// A file in a folder of its own.
#[derive(Debug)]
pub(crate) struct SharedSqlite {
    store: OnceLock<Sqlite>,
    path: PathBuf,
    _folder: TempDir,
}

impl SharedDatabase for SharedSqlite {
    const HAS_ONE_WRITER: bool = true;

    fn unopened() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        Self {
            store: OnceLock::new(),
            path: folder.path().join("shared.db"),
            _folder: folder,
        }
    }

    async fn try_open(&self) -> BackendResult<Sqlite> {
        let store = Sqlite::open(&self.path).await?;
        Ok(self.store.get_or_init(|| store.clone()).clone())
    }

    fn peer(&self) -> Value {
        json!({ "sqlite": self.path })
    }

    async fn structure(&self) -> Vec<Vec<Option<String>>> {
        let columns = self
            .query(
                "SELECT m.name, c.name, c.type, c.\"notnull\", c.pk FROM sqlite_master m
                 JOIN pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY 1, 2",
            )
            .await;
        let indexes = self
            .query(
                "SELECT m.name, m.tbl_name, l.\"unique\", l.partial, i.seqno, i.name, i.\"desc\"
                 FROM sqlite_master m JOIN pragma_index_list(m.tbl_name) l ON l.name = m.name
                 JOIN pragma_index_xinfo(m.name) i WHERE m.type = 'index' AND i.key
                     AND m.name NOT GLOB 'openworkflow_rs_*'
                 ORDER BY 1, 5",
            )
            .await;
        let keys = self
            .query(
                "SELECT m.name, k.\"table\", k.\"from\", k.\"to\", k.on_delete FROM sqlite_master m
                 JOIN pragma_foreign_key_list(m.name) k WHERE m.type = 'table' ORDER BY 1, 2, 3",
            )
            .await;
        super::without_own_tables([columns, indexes, keys].concat())
    }

    fn assert_time_text(&self, table: &str, column: &str, text: &str) {
        assert!(super::is_time_text(text), "{table}.{column} is {text:?}");
    }
}

impl Database for SharedSqlite {
    type Store = Sqlite;

    const CLOCK_TOLERANCE: Duration = Duration::from_secs(3);

    async fn create() -> Self {
        let database = Self::unopened();
        database.try_open().await.expect("the database opens");
        database
    }

    fn store(&self) -> Sqlite {
        self.store.get().expect("the database was opened").clone()
    }

    async fn open(&self) -> Sqlite {
        Sqlite::open(&self.path).await.expect("the database opens")
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn advance(&self, by: Duration) {
        let earlier = |time: &str| {
            let seconds = by.as_secs_f64();
            format!("strftime('%Y-%m-%dT%H:%M:%fZ', {time}, '-{seconds:.3} seconds')")
        };
        let mut statements = String::from("BEGIN IMMEDIATE;");
        for (table, columns) in TIME_COLUMNS {
            for column in columns {
                let set = earlier(column);
                statements += &format!("UPDATE {table} SET {column} = {set};");
            }
        }
        for member in ["resumeAt", "timeoutAt"] {
            let set = earlier(&format!("context ->> '{member}'"));
            statements += &format!(
                "UPDATE step_attempts SET context = json_set(context, '$.{member}', {set})
                 WHERE context ->> '{member}' IS NOT NULL;"
            );
        }
        self.execute(&(statements + "COMMIT")).await;
        let now = self.now();
        self.store().wakeups().work_due(now, now);
    }

    async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        RawSqlite(&self.path).query(sql)
    }

    async fn execute(&self, sql: &str) {
        RawSqlite(&self.path).execute(sql);
    }
}
