//! A PostgreSQL schema that two languages share.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use openworkflow::Postgres;
use openworkflow::backend::BackendResult;
use openworkflow_tests::{Database, PostgresDatabase, postgres_server};
use serde_json::{Value, json};

use super::SharedDatabase;

/// A schema of its own on the server that the process's tests share.
#[derive(Debug)]
pub(crate) struct SharedPostgres {
    opened: OnceLock<PostgresDatabase>,
    schema: String,
}

impl SharedPostgres {
    fn opened(&self) -> &PostgresDatabase {
        self.opened.get().expect("the database was opened")
    }
}

impl SharedDatabase for SharedPostgres {
    const HAS_ONE_WRITER: bool = false;

    fn unopened() -> Self {
        Self {
            opened: OnceLock::new(),
            schema: postgres_server::schema(),
        }
    }

    async fn try_open(&self) -> BackendResult<Postgres> {
        let options = Postgres::options().url(postgres_server::url());
        let store = options.schema(&self.schema).pool_size(4).connect().await?;
        if self.opened.get().is_none() {
            let database = PostgresDatabase::create_in(&self.schema).await;
            // Another may have been faster.
            let _ = self.opened.set(database);
        }
        Ok(store)
    }

    fn peer(&self) -> Value {
        json!({ "postgres": { "url": postgres_server::url(), "schema": self.schema } })
    }

    async fn structure(&self) -> Vec<Vec<Option<String>>> {
        let session = postgres_server::client().await;
        let schema = &self.schema;
        let mut structure = Vec::new();
        for sql in [
            format!(
                "SELECT table_name, column_name, data_type, is_nullable,
                     column_default IS NULL FROM information_schema.columns
                 WHERE table_schema = '{schema}' ORDER BY 1, 2"
            ),
            // Those that only this library makes may come later.
            format!(
                "SELECT indexdef FROM pg_indexes WHERE schemaname = '{schema}'
                     AND NOT starts_with(indexname::text, 'openworkflow_rs_') ORDER BY 1"
            ),
            format!(
                "SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
                 WHERE connamespace = '{schema}'::regnamespace ORDER BY 1"
            ),
        ] {
            let messages = session
                .simple_query(&sql)
                .await
                .expect("the catalog answers");
            for message in messages {
                if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                    let text = |at| row.get(at).map(|text: &str| text.replace(schema, "SCHEMA"));
                    structure.push((0..row.len()).map(text).collect());
                }
            }
        }
        super::without_own_tables(structure)
    }

    fn assert_time_text(&self, table: &str, column: &str, text: &str) {
        // Finer than a millisecond, a time of creation would break the pages of the other language,
        // which has none of signals.
        let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
        let digits = fraction.trim_end_matches("+00").len();
        if column == "created_at" && table != "workflow_signals" {
            assert!(digits <= 3, "{table}.{column} is {text:?}");
        }
        assert!(
            digits <= 6 && text.ends_with("+00"),
            "{table}.{column} is {text:?}"
        );
    }
}

impl Database for SharedPostgres {
    type Store = Postgres;

    const CLOCK_TOLERANCE: Duration = PostgresDatabase::CLOCK_TOLERANCE;

    async fn create() -> Self {
        let database = Self::unopened();
        database.try_open().await.expect("the database opens");
        database
    }

    fn store(&self) -> Postgres {
        self.opened().store()
    }

    async fn open(&self) -> Postgres {
        self.opened().open().await
    }

    fn url(&self) -> String {
        self.opened().url()
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn advance(&self, by: Duration) {
        self.opened().advance(by).await;
    }

    async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.opened().query(sql).await
    }

    async fn execute(&self, sql: &str) {
        self.opened().execute(sql).await;
    }
}
