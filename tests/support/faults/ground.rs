//! Databases that several processes share, by the system's clock.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use openworkflow::backend::Backend;
use openworkflow::{Clock, Postgres, Sqlite};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio_postgres::error::DbError;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::sqlite::RawSqlite;
use crate::{postgres, postgres_server};

/// Rows as text, `None` for SQL NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// What a [`Site`](super::Site) stands on.
pub trait Ground: Send + Sync + 'static {
    /// The backend's type.
    type Store: Backend + Clone;

    /// A fresh database.
    fn make() -> impl Future<Output = Self> + Send;

    /// What [`store::worker`](crate::store::worker) opens it by, in another process.
    fn url(&self) -> String;

    /// Opens it.
    fn open(&self) -> impl Future<Output = Self::Store> + Send;

    /// Whether nobody keeps the others from writing.
    fn is_unlocked(&self) -> impl Future<Output = bool> + Send;

    /// Runs a query past the library; `None` while the database is out of reach.
    fn query(&self, sql: &str) -> impl Future<Output = Option<Rows>> + Send;
}

/// A SQLite file in a folder of its own.
#[derive(Debug)]
pub struct SqliteGround {
    path: PathBuf,
    _folder: TempDir,
}

impl Ground for SqliteGround {
    type Store = Sqlite;

    async fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        Self {
            path: folder.path().join("shared.db"),
            _folder: folder,
        }
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    async fn open(&self) -> Sqlite {
        Sqlite::open(&self.path).await.expect("the database opens")
    }

    async fn is_unlocked(&self) -> bool {
        let locked = rusqlite::Connection::open(&self.path).and_then(|connection| {
            connection.busy_timeout(std::time::Duration::ZERO)?;
            connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK")
        });
        locked.is_ok()
    }

    async fn query(&self, sql: &str) -> Option<Rows> {
        Some(RawSqlite(&self.path).query(sql))
    }
}

/// A schema on a PostgreSQL server.
pub struct PostgresGround {
    /// The server's connection string.
    pub server: String,
    /// The schema, which is the application name of the backends' sessions too.
    pub schema: String,
    session: Mutex<Option<Arc<tokio_postgres::Client>>>,
}

impl PostgresGround {
    /// A fresh schema on a server.
    #[must_use]
    pub fn on(server: String) -> Self {
        Self {
            server,
            schema: postgres_server::schema(),
            session: Mutex::default(),
        }
    }

    /// Opens it by another way to the server.
    ///
    /// # Panics
    ///
    /// Where the server does not answer.
    pub async fn open_at(&self, server: &str) -> Postgres {
        postgres::connect(server, &self.schema).await
    }

    /// Opens it with a clock.
    pub async fn open_with(&self, clock: Clock) -> Postgres {
        postgres::connect_with(&self.server, &self.schema, clock).await
    }

    /// A connection that sees the schema's tables, if the server answers.
    async fn session(&self) -> Option<Arc<tokio_postgres::Client>> {
        let mut current = self.session.lock().await;
        if let Some(session) = current.as_ref().filter(|session| !session.is_closed()) {
            return Some(Arc::clone(session));
        }
        let (session, connection) = tokio_postgres::connect(&self.server, NoTls).await.ok()?;
        tokio::spawn(connection);
        let settings = format!("SET search_path TO {}; SET TIME ZONE 'UTC'", self.schema);
        session.batch_execute(&settings).await.ok()?;
        let session = Arc::new(session);
        *current = Some(Arc::clone(&session));
        Some(session)
    }
}

impl Ground for PostgresGround {
    type Store = Postgres;

    async fn make() -> Self {
        Self::on(postgres_server::url())
    }

    fn url(&self) -> String {
        format!("{}#{}", self.server, self.schema)
    }

    async fn open(&self) -> Postgres {
        self.open_at(&self.server).await
    }

    async fn is_unlocked(&self) -> bool {
        true
    }

    async fn query(&self, sql: &str) -> Option<Rows> {
        let session = self.session().await?;
        // The simple protocol gives every value as text.
        let messages = match session.simple_query(sql).await {
            Ok(messages) => messages,
            // What ends the session is the server's going down; anything else is a mistake in the query.
            Err(error) => match error.as_db_error().map(DbError::severity) {
                None | Some("FATAL" | "PANIC") => return None,
                Some(_) => panic!("{sql}: {error:?}"),
            },
        };
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let texts = rows.map(|row| (0..row.len()).map(|at| row.get(at).map(str::to_owned)));
        Some(texts.map(Iterator::collect).collect())
    }
}

impl std::fmt::Debug for PostgresGround {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresGround")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
