//! PostgreSQL under test: a schema of its own on a real server, whose rows are moved into the past.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use openworkflow::Postgres;
use openworkflow::backend::Backend as _;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::Database;

/// Servers to test on.
#[path = "../../crates/openworkflow/tests/support/postgres.rs"]
pub mod server;

/// A schema on a PostgreSQL server.
pub struct PostgresDatabase {
    store: Postgres,
    schema: String,
    client: Client,
    /// Those to be told when time has passed.
    stores: Mutex<Vec<Postgres>>,
}

impl PostgresDatabase {
    async fn connect(schema: &str) -> Postgres {
        let options = Postgres::options().url(server::url()).schema(schema);
        options.connect().await.expect("the server can be used")
    }
}

impl Database for PostgresDatabase {
    type Store = Postgres;

    // Between a write and the look at it the server's time goes on; on a busy machine, by a lot.
    const CLOCK_TOLERANCE: Duration = Duration::from_secs(20);

    async fn create() -> Self {
        let schema = server::schema();
        let store = Self::connect(&schema).await;
        let client = server::client().await;
        let settings = format!("SET search_path = \"{schema}\"; SET TIME ZONE 'UTC'");
        let set = client.batch_execute(&settings).await;
        set.expect("the session can be set up");
        Self {
            stores: Mutex::new(vec![store.clone()]),
            store,
            schema,
            client,
        }
    }

    fn store(&self) -> Postgres {
        self.store.clone()
    }

    async fn open(&self) -> Postgres {
        let store = Self::connect(&self.schema).await;
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.push(store.clone());
        store
    }

    fn url(&self) -> String {
        format!("postgres:{}:{}", self.schema, server::url())
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn advance(&self, by: Duration) {
        let by = format!("interval '{} seconds'", by.as_secs_f64());
        let columns = |table: &str, columns: &[&str]| {
            let set: Vec<_> = columns
                .iter()
                .map(|c| format!("{c} = {c} - {by}"))
                .collect();
            format!("UPDATE {table} SET {};", set.join(", "))
        };
        let inside = |member: &str| {
            format!(
                "UPDATE step_attempts SET context = jsonb_set(context, '{{{member}}}', to_jsonb(
                     to_char((context->>'{member}')::timestamptz - {by},
                     'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')))
                 WHERE context->>'{member}' IS NOT NULL;"
            )
        };
        let sql = [
            "BEGIN;".to_owned(),
            columns(
                "workflow_runs",
                &[
                    "available_at",
                    "deadline_at",
                    "started_at",
                    "finished_at",
                    "created_at",
                    "updated_at",
                ],
            ),
            columns(
                "step_attempts",
                &["started_at", "finished_at", "created_at", "updated_at"],
            ),
            columns("workflow_signals", &["created_at"]),
            inside("resumeAt"),
            inside("timeoutAt"),
            "COMMIT".to_owned(),
        ]
        .concat();
        self.execute(&sql).await;
        let now = self.now();
        for store in &*self.stores.lock().unwrap_or_else(PoisonError::into_inner) {
            store.wakeups().work_due(now, now);
        }
    }

    async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = self.client.simple_query(sql).await;
        let messages = messages.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|index| row.get(index).map(str::to_owned))
                        .collect(),
                ),
                _ => None,
            })
            .collect()
    }

    async fn execute(&self, sql: &str) {
        let executed = self.client.batch_execute(sql).await;
        executed.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

impl fmt::Debug for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDatabase")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
