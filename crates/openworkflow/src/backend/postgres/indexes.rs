//! Indexes of our own, beside the protocol's: made where they are missing, and done without where they
//! may not be made.
//!
//! They are no migration, since the versions of the tables are everybody's. Other SDKs keep them up to
//! date without knowing of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::Inner;
use super::migrate::Tables;

/// What begins the names of all of our indexes.
const PREFIX: &str = "openworkflow_rs_";

/// What the indexes hold, after their names.
///
/// The first has a queue for each namespace, workflow, version and status; a hash of the first three
/// stands for them, because names may be longer than an entry of an index. It holds what may be claimed
/// some day: runs that are over have no `available_at`. The second holds runs that have a deadline and
/// are not over.
const INDEXES: [(&str, &str); 2] = [
    (
        "workflow_runs_due_idx",
        r#"{schema}."workflow_runs" (
            (hashtextextended("namespace_id", hashtextextended("workflow_name",
                hashtextextended(coalesce("version", ''), 0)))),
            "status", "available_at", "created_at"
        ) WHERE "available_at" IS NOT NULL"#,
    ),
    (
        "workflow_runs_deadline_idx",
        r#"{schema}."workflow_runs" ("namespace_id", "deadline_at")
        WHERE "deadline_at" IS NOT NULL AND "status" IN ('pending', 'running', 'sleeping')"#,
    ),
];

/// How long to wait for a lock on tables that hold nothing yet.
const LOCK_TIMEOUT: &str = "2s";

/// How often it is looked whether somebody else has made the indexes, or tried again to make them.
const INTERVAL: Duration = Duration::from_secs(60);

/// The same while somebody is making them.
const SOON: Duration = Duration::from_secs(5);

/// How much longer than the last time to wait after each attempt that failed.
const BACK_OFF: u32 = 4;
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Whether our indexes can be used.
pub(super) struct Indexes {
    there: AtomicBool,
    /// Whether this library may make tables, and indexes.
    migrate: bool,
    pooled: bool,
    /// Who makes them, or waits for them.
    making: Mutex<Option<AbortHandle>>,
}

impl Indexes {
    pub(super) fn new(there: bool, migrate: bool, pooled: bool) -> Self {
        Self {
            there: AtomicBool::new(there),
            migrate,
            pooled,
            making: Mutex::default(),
        }
    }

    pub(super) fn are_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(making) = &*making {
            making.abort();
        }
    }
}

impl Inner {
    /// Makes the indexes beside everything else, or waits for somebody else to do so, where nobody does:
    /// the runtime that did may be gone.
    pub(super) fn index(self: &Arc<Self>) {
        if self.indexes.are_there() {
            return;
        }
        let Ok(home) = self.sessions.here() else {
            return;
        };
        let making = self.indexes.making.lock();
        let mut making = making.unwrap_or_else(PoisonError::into_inner);
        if making.as_ref().is_some_and(|making| !making.is_finished()) {
            return;
        }
        let maker = Maker {
            backend: Arc::downgrade(self),
            pool: home.pool().clone(),
            schema: self.schema.clone(),
            label: self.label.clone(),
            pooled: self.indexes.pooled,
        };
        *making = Some(home.spawn(maker.work(self.indexes.migrate)));
    }
}

impl Tables<'_> {
    /// Makes the indexes where the table is still empty, so that nobody waits for them. Says whether
    /// they are there.
    pub(super) async fn index(&self, session: &mut Object, migrate: bool) -> Result<bool, Error> {
        if missing(session, self.schema).await?.is_empty() {
            return Ok(true);
        }
        if !migrate {
            return Ok(false);
        }
        match self.index_if_empty(session).await {
            Ok(()) => {}
            // Whatever it was, it is looked into again, without haste.
            Err(error) if error.code().is_some() => {
                tracing::debug!(%error, "no indexes of our own yet");
            }
            Err(error) => return Err(error),
        }
        Ok(missing(session, self.schema).await?.is_empty())
    }

    async fn index_if_empty(&self, session: &mut Object) -> Result<(), Error> {
        let transaction = session.transaction().await?;
        transaction
            .batch_execute(&format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            .await?;
        self.lock(transaction.client()).await?;
        let runs = format!(r#"SELECT 1 FROM "{}"."workflow_runs" LIMIT 1"#, self.schema);
        if !transaction.query_typed(&runs, &[]).await?.is_empty() {
            return transaction.rollback().await;
        }
        for (name, _) in INDEXES {
            transaction
                .batch_execute(&create(name, self.schema, ""))
                .await?;
        }
        transaction.commit().await
    }
}

/// An index that is missing, by the end of its name, and whether a part of it is there: then somebody is
/// making it, or gave up doing so.
type Missing = (&'static str, bool);

async fn missing(client: &Client, schema: &str) -> Result<Vec<Missing>, Error> {
    let rows = client
        .query_typed(
            "SELECT c.relname::text, i.indisvalid FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND starts_with(c.relname::text, $2)",
            &[(&schema, Type::TEXT), (&PREFIX, Type::TEXT)],
        )
        .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.push((row.try_get::<_, String>(0)?, row.try_get::<_, bool>(1)?));
    }
    let wanted = INDEXES.iter().filter_map(|(name, _)| {
        let found = found
            .iter()
            .find(|(found, _)| found.strip_prefix(PREFIX) == Some(name));
        match found {
            Some((_, true)) => None,
            Some((_, false)) => Some((*name, true)),
            None => Some((*name, false)),
        }
    });
    Ok(wanted.collect())
}

/// The statement that makes an index, `how`.
fn create(name: &str, schema: &str, how: &str) -> String {
    let holds = INDEXES.iter().find(|(index, _)| *index == name);
    let holds = holds.map_or("", |(_, holds)| holds);
    let holds = holds.replace("{schema}", &format!("\"{schema}\""));
    format!(r#"CREATE INDEX {how} IF NOT EXISTS "{PREFIX}{name}" ON {holds}"#)
}

/// Makes indexes of tables that are in use.
struct Maker {
    backend: Weak<Inner>,
    pool: Pool,
    schema: String,
    label: String,
    pooled: bool,
}

/// What came of an attempt.
enum Made {
    All,
    /// Somebody else is making them.
    Elsewhere,
    /// This role may not, or something is in the way.
    Not(String),
}

impl Maker {
    async fn work(self, mut may: bool) {
        let mut pause = INTERVAL;
        let mut told = false;
        while self.backend.strong_count() > 0 {
            let (made, again) = match self.make(may).await {
                Ok(made) => (made, true),
                Err(error) => {
                    let again = error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE);
                    (Made::Not(super::fault::text(&error)), again)
                }
            };
            may &= again;
            match made {
                Made::All => {
                    if let Some(backend) = self.backend.upgrade() {
                        backend.indexes.there.store(true, Ordering::Relaxed);
                    }
                    return;
                }
                Made::Elsewhere => {
                    tokio::time::sleep(SOON).await;
                    continue;
                }
                Made::Not(problem) => {
                    if !std::mem::replace(&mut told, true) {
                        let statements: Vec<_> = INDEXES
                            .iter()
                            .map(|(name, _)| {
                                let text = create(name, &self.schema, "CONCURRENTLY");
                                text.split_whitespace().collect::<Vec<_>>().join(" ") + ";"
                            })
                            .collect();
                        tracing::warn!(
                            database = self.label,
                            problem,
                            "indexes are missing: with many runs, claims and deadlines become slow. Let the owner of the tables connect once, or execute: {}",
                            statements.join(" ")
                        );
                    }
                    if may {
                        pause = (pause * BACK_OFF).min(LONGEST_PAUSE);
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn make(&self, may: bool) -> Result<Made, Error> {
        let session = match self.pool.get().await {
            Ok(session) => session,
            Err(error) => return Ok(Made::Not(error.to_string())),
        };
        if missing(&session, &self.schema).await?.is_empty() {
            return Ok(Made::All);
        }
        if !may {
            return Ok(Made::Not("connected without migrations".to_owned()));
        }
        if self.pool.status().max_size < 2 {
            return Ok(Made::Not(
                "it takes two connections, and the pool has one".to_owned(),
            ));
        }
        // Who makes them holds this lock; its transaction has no snapshot that the making would wait for.
        let alone = match self.pool.get().await {
            Ok(alone) => alone,
            Err(error) => return Ok(Made::Not(error.to_string())),
        };
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
        alone.batch_execute(begin).await?;
        // Not as a statement with parameters, whose portal would keep a snapshot.
        let lock = format!(
            "SELECT pg_try_advisory_xact_lock(hashtextextended('openworkflow indexes of {}', 0))",
            self.schema
        );
        let locked = alone.simple_query(&lock).await?.iter().any(
            |message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("t")),
        );
        let made = if locked {
            self.make_alone(&session).await
        } else {
            Ok(Made::Elsewhere)
        };
        alone.batch_execute("ROLLBACK").await?;
        // Its settings were changed.
        drop(Object::take(session));
        made
    }

    async fn make_alone(&self, session: &Client) -> Result<Made, Error> {
        if !self.pooled {
            // It takes as long as it takes, and nobody waits for it.
            session
                .batch_execute("SET statement_timeout = 0; SET lock_timeout = 0")
                .await?;
        }
        for (name, begun) in missing(session, &self.schema).await? {
            tracing::info!(
                database = self.label,
                index = format!("{PREFIX}{name}"),
                "making an index beside the work; claims use it from then on"
            );
            if begun {
                let drop = format!(
                    r#"DROP INDEX CONCURRENTLY IF EXISTS "{}"."{PREFIX}{name}""#,
                    self.schema
                );
                session.batch_execute(&drop).await?;
            }
            session
                .batch_execute(&create(name, &self.schema, "CONCURRENTLY"))
                .await?;
        }
        Ok(Made::All)
    }
}
