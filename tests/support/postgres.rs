//! PostgreSQL under test: a schema of its own on a server that the process's tests share.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openworkflow::backend::Backend;
use openworkflow::{Clock, Postgres};
use tokio::sync::Mutex;
use tokio_postgres::SimpleQueryMessage;

use crate::postgres_server;
use crate::{Database, TIME_COLUMNS};

/// A schema on the server that `OPENWORKFLOW_TEST_POSTGRES_URL` names, or on a throw-away one.
pub struct PostgresDatabase {
    store: Postgres,
    schema: String,
    /// For looking at rows, past the library.
    session: Mutex<Arc<tokio_postgres::Client>>,
}

impl PostgresDatabase {
    /// The schema's name, which is the application name of the backend's sessions too.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Opens a schema of this name, and makes its tables where nobody did.
    pub async fn create_in(schema: &str) -> Self {
        let store = connect(&postgres_server::url(), schema).await;
        let session = Mutex::new(Arc::new(session(schema).await));
        Self {
            store,
            schema: schema.to_owned(),
            session,
        }
    }

    /// Opens the backend by another way to the same server, such as a proxy.
    ///
    /// # Panics
    ///
    /// Where the server does not answer.
    pub async fn open_at(&self, server: &str) -> Postgres {
        connect(server, &self.schema).await
    }

    /// A connection, made anew where the runtime that the last one lived in is gone.
    async fn session(&self) -> Arc<tokio_postgres::Client> {
        let mut current = self.session.lock().await;
        if current.is_closed() {
            *current = Arc::new(session(&self.schema).await);
        }
        Arc::clone(&current)
    }
}

/// Opens a schema on a server; the sessions are named after it.
pub(crate) async fn connect(server: &str, schema: &str) -> Postgres {
    connect_with(server, schema, Clock::system()).await
}

/// The same, with a clock.
pub(crate) async fn connect_with(server: &str, schema: &str, clock: Clock) -> Postgres {
    let options = Postgres::options().url(server).schema(schema).clock(clock);
    // Suites run their tests side by side, and the server has a limit.
    let options = options.application_name(schema).pool_size(4);
    options.connect().await.expect("the schema opens")
}

/// A connection that sees a schema's tables.
pub(crate) async fn session(schema: &str) -> tokio_postgres::Client {
    let session = postgres_server::client().await;
    let settings = format!("SET search_path TO {schema}; SET TIME ZONE 'UTC'");
    let done = session.batch_execute(&settings).await;
    done.expect("the settings fit");
    session
}

impl Database for PostgresDatabase {
    type Store = Postgres;

    /// What a loaded machine takes between a row's time and a test's look at the clock.
    const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

    async fn create() -> Self {
        Self::create_in(&postgres_server::schema()).await
    }

    fn store(&self) -> Postgres {
        self.store.clone()
    }

    async fn open(&self) -> Postgres {
        self.open_at(&postgres_server::url()).await
    }

    /// The server's URL, with the schema as its fragment.
    fn url(&self) -> String {
        format!("{}#{}", postgres_server::url(), self.schema)
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn advance(&self, by: Duration) {
        shift(&*self.session().await, by).await;
        let now = SystemTime::now();
        self.store.wakeups().work_due(now, now);
    }

    async fn query(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        text_rows(&*self.session().await, sql).await
    }

    async fn execute(&self, sql: &str) {
        let done = self.session().await.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

impl fmt::Debug for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

/// Moves every time in the tables into the past, which is to the rows as if time had passed.
pub(crate) async fn shift(session: &tokio_postgres::Client, by: Duration) {
    let by = format!("interval '{} seconds'", by.as_secs_f64());
    let moved = TIME_COLUMNS.map(|(table, columns)| {
        let columns: Vec<_> = columns
            .iter()
            .map(|c| format!("{c} = {c} - {by}"))
            .collect();
        format!("UPDATE {table} SET {};", columns.join(", "))
    });
    let waits: Vec<_> = ["resumeAt", "timeoutAt"]
        .iter()
        .map(|member| {
            format!(
                "UPDATE step_attempts SET context = jsonb_set(context, '{{{member}}}', to_jsonb(
                    to_char((context->>'{member}')::timestamptz - {by},
                        'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')))
                 WHERE context->>'{member}' IS NOT NULL;"
            )
        })
        .collect();
    let claim = |json: &str| {
        format!(
            "{json} || jsonb_build_object('dueAt', ({json}->>'dueAt')::timestamptz - {by},
                 'beganAt', ({json}->>'beganAt')::timestamptz - {by})"
        )
    };
    // What is recorded of executions beside the protocol.
    let executions = format!(
        "UPDATE workflow_runs SET config = config || jsonb_build_object('claim', {})
         WHERE config->'claim'->>'dueAt' IS NOT NULL;
         UPDATE workflow_runs SET config = config || jsonb_build_object('executions', (
             SELECT jsonb_agg({} || jsonb_build_object(
                 'endedAt', (e->>'endedAt')::timestamptz - {by}
             )) FROM jsonb_array_elements(config->'executions') e
         )) WHERE jsonb_path_exists(config, '$.executions[*].endedAt');
         UPDATE openworkflow_executions SET due_at = due_at - {by}, began_at = began_at - {by},
             ended_at = ended_at - {by};",
        claim("(config->'claim')"),
        claim("e"),
    );
    let sql = format!(
        "BEGIN;
         LOCK TABLE workflow_runs, step_attempts, workflow_signals IN EXCLUSIVE MODE;
         {}
         {}
         {executions}
         COMMIT",
        moved.concat(),
        waits.concat()
    );
    // Those who hold a row and want another may wait for us as we wait for them.
    for _ in 0..10 {
        let Err(error) = session.batch_execute(&sql).await else {
            return;
        };
        let deadlock = tokio_postgres::error::SqlState::T_R_DEADLOCK_DETECTED;
        assert_eq!(error.code(), Some(&deadlock), "{error:?}");
        session.batch_execute("ROLLBACK").await.expect("it ends");
    }
    panic!("the tables cannot be locked");
}

/// The rows that `sql` gives, every value as text.
pub async fn text_rows(session: &tokio_postgres::Client, sql: &str) -> Vec<Vec<Option<String>>> {
    // The simple protocol gives them so.
    let messages = session.simple_query(sql).await;
    let messages = messages.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| (0..row.len()).map(|at| row.get(at).map(str::to_owned)))
        .map(Iterator::collect)
        .collect()
}
