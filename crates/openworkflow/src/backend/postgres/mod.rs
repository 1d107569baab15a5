//! The backend on a PostgreSQL server.

mod cancel;
mod claims;
mod copies;
mod counts;
mod executions;
mod fault;
mod homes;
mod indexes;
mod lists;
mod migrate;
mod news;
mod options;
mod passfile;
mod plans;
mod record;
mod rows;
mod runs;
mod schema;
mod session;
mod signals;
mod standing;
mod statements;
mod steps;
mod successor;
#[cfg(test)]
mod tests;
mod time;
mod tls;
mod writer;
mod writes;

use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use deadpool_postgres::{Object, Pool, PoolError};
use tokio::sync::oneshot;

pub use options::PostgresOptions;
pub use tls::TlsMode;

use self::claims::{Margin, Sweeps};
use self::homes::Source;
use self::indexes::Indexes;
use self::migrate::Tables;
use self::news::{Announcer, Listener, Listening};
use self::session::Sessions;
use self::statements::Statements;
use self::time::ServerTime;
use super::{
    Backend, BackendError, BackendResult, Cancellation, Claim, ClaimedRun, Connections,
    CopyOutcome, EndedStep, ExecutionEnd, History, ListRuns, ListSteps, NewRun, NewSignal,
    NewStepAttempt, OrphanSearch, Orphans, Owner, Page, QueueCounts, RunCopy, RunCounts, RunRecord,
    StepAttempt, Wakeups, WorkflowRun,
};
use crate::{Clock, ClockOffset};

/// The schema that every SDK uses unless told otherwise.
const DEFAULT_SCHEMA: &str = "openworkflow";

/// Runs and steps in a PostgreSQL database (version 13 or newer), for any number of worker
/// processes, shared with OpenWorkflow for TypeScript where it runs on the same schema.
///
/// A value is a handle: clones share the connections, which are closed with the last one. It can be used
/// on any Tokio runtime, also on another than it was opened on, as a static is that several tests share:
/// each runtime has connections of its own, which end with it. News
/// travel between processes by LISTEN and NOTIFY; where that is not possible, as behind a pooler in
/// transaction mode, polling finds the same work a little later.
///
/// ```no_run
/// # async fn doc() -> Result<(), openworkflow::backend::BackendError> {
/// use openworkflow::Postgres;
///
/// let backend = Postgres::connect("postgresql://app:secret@localhost/orders").await?;
/// # drop(backend); Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Postgres(Arc<Inner>);

pub(super) struct Inner {
    sessions: Sessions,
    sql: Statements,
    continue_as: session::Query,
    copy_run: session::Query,
    announcer: Announcer,
    wakeups: Arc<Wakeups>,
    /// The server's, as far as it is known.
    clock: Clock,
    /// Whether there is a table to record executions in.
    is_recording: bool,
    schema: String,
    label: String,
    indexes: Indexes,
    sweeps: Sweeps,
    margin: Margin,
    /// None behind a pooler in transaction mode, nor where only a pool is known.
    listener: Option<Arc<Listener>>,
}

impl Postgres {
    /// Connects with a connection string and otherwise the default options, and creates or upgrades
    /// the tables.
    ///
    /// # Errors
    ///
    /// As [`PostgresOptions::connect`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and I/O enabled.
    pub async fn connect(url: impl Into<String>) -> BackendResult<Self> {
        Self::options().url(url).connect().await
    }

    /// Uses connections of the application's own pool, with otherwise the default options, and creates or
    /// upgrades the tables. See [`PostgresOptions::connect_with`].
    ///
    /// # Errors
    ///
    /// As [`PostgresOptions::connect`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime with time and I/O enabled.
    pub async fn from_pool(pool: Pool) -> BackendResult<Self> {
        Self::options().connect_with(pool).await
    }

    /// Options to connect with.
    pub fn options() -> PostgresOptions {
        PostgresOptions::new()
    }

    /// Closes the connections, but those of a pool of the application's. Operations fail with
    /// [`BackendError::Closed`] from now on, on all clones.
    pub fn close(&self) {
        self.0.stop_listening();
        self.0.indexes.stop();
        self.0.sessions.homes().close();
    }

    /// Does what a step asks for in a task. Code may hold the future of a step and poll it no more,
    /// and with it a connection that others wait for.
    async fn apart<T: Send + 'static>(
        &self,
        operation: impl Future<Output = BackendResult<T>> + Send + 'static,
    ) -> BackendResult<T> {
        let (done, result) = oneshot::channel();
        self.0.sessions.here()?.spawn(async move {
            // A caller that is gone needs no answer.
            let _ = done.send(operation.await);
        });
        result.await.unwrap_or(Err(BackendError::Closed))
    }

    async fn open(options: PostgresOptions, given: Option<Pool>) -> BackendResult<Self> {
        options.check_schema()?;
        let mut label = "postgresql, by a pool of the application's".to_owned();
        let mut direct = None;
        if given.is_none() || options.names_a_server() {
            let target = options
                .target(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
            let tls = target.tls.connector();
            let tls = tls.map_err(|problem| BackendError::Unavailable {
                database: target.label.clone(),
                problem,
                source: None,
            })?;
            label = target.label;
            direct = Some((target.config, tls));
        }
        let is_given = given.is_some();
        let source = match (given, &direct) {
            (Some(pool), _) => Source::Given(pool),
            (None, Some((config, tls))) => Source::Own {
                config: Box::new(config.clone()),
                tls: tls.clone(),
                // Two at first: a pooler between us and the server shows on two connections only.
                size: AtomicUsize::new(options.pool_size.max(2)),
            },
            (None, None) => return Err(BackendError::Closed),
        };
        let (clock, following) = options.clock.clone().following();
        let time = ServerTime::new(Arc::clone(&following), &label);
        let sessions = Sessions::new(source, &options.schema, time);
        let tables = Tables {
            schema: &options.schema,
            label: &label,
        };
        let Contact {
            pooled,
            indexed,
            is_recording,
        } = first_contact(&sessions, &tables, &options, is_given).await?;
        sessions.homes().resize(options.pool_size);
        // Sessions that are not ours alone are neither told anything nor keep anything of ours.
        let shared = pooled || is_given;
        if is_given {
            sessions.do_without_preparing();
        } else if pooled {
            tracing::info!(
                database = label,
                "behind a pooler in transaction mode: statements are not prepared, and work of other processes is found by polling"
            );
            sessions.do_without_preparing();
        } else {
            sessions.plans().apply();
        }

        let channel = news::channel(&options.schema);
        let wakeups = Arc::new(Wakeups::new());
        let inner = Arc::new_cyclic(|inner| Inner {
            sessions,
            sql: Statements::new(&options.schema, &channel, is_recording),
            continue_as: successor::query(&options.schema),
            copy_run: copies::query(&options.schema),
            announcer: Announcer::new(),
            listener: direct.filter(|_| !pooled).map(|(config, tls)| {
                Arc::new(Listener {
                    config,
                    tls,
                    channel,
                    clock: clock.clone(),
                    wakeups: Arc::clone(&wakeups),
                    backend: Weak::clone(inner),
                    state: Listening::default(),
                })
            }),
            wakeups,
            clock,
            label,
            is_recording,
            schema: options.schema,
            // Making them beside the work takes two connections for long.
            indexes: Indexes::new(indexed, options.migrate && !is_given, shared),
            sweeps: Sweeps::default(),
            margin: Margin::default(),
        });
        let asked = Arc::downgrade(&inner);
        following.ask_by(move || {
            let asked = asked.upgrade();
            Box::pin(async move {
                match asked {
                    Some(inner) => inner.sessions.ask_time().await,
                    None => Ok(()),
                }
            })
        });
        inner.listen();
        inner.index();
        Ok(Self(inner))
    }
}

/// What the first contact showed.
struct Contact {
    /// Whether there is a pooler in transaction mode before the server.
    pooled: bool,
    /// Whether our own indexes are there.
    indexed: bool,
    /// Whether there is a table to record executions in.
    is_recording: bool,
}

/// Prepares the tables, and looks at what there is. A server that goes down meanwhile is waited for like
/// one that was down before.
async fn first_contact(
    sessions: &Sessions,
    tables: &Tables<'_>,
    options: &PostgresOptions,
    is_given: bool,
) -> BackendResult<Contact> {
    let began = Instant::now();
    loop {
        let left = options.connect_retry.saturating_sub(began.elapsed());
        let contact = async {
            let mut session = first_session(sessions, left, tables.label).await?;
            tables.prepare(&mut session, options.migrate).await?;
            let indexed = tables.index(&mut session, options.migrate).await;
            let is_recording = tables.add_own(&mut session, options.migrate).await;
            // A pool of the application's may hold one connection only, and is treated alike either way.
            let other = match is_given {
                false => Some(first_session(sessions, Duration::ZERO, tables.label).await?),
                true => None,
            };
            let contact = async {
                let (indexed, is_recording) = (indexed?, is_recording?);
                let pooled = match &other {
                    Some(other) => news::pooled_by_transaction(&session, other).await?,
                    None => false,
                };
                sessions.time().ask(&session).await?;
                Ok(Contact {
                    pooled,
                    indexed,
                    is_recording,
                })
            };
            let contact = contact.await;
            contact.map_err(|error| fault::unavailable(error, tables.label))
        };
        match contact.await {
            Err(error) if fault::may_pass(&error) && began.elapsed() < options.connect_retry => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            result => return result,
        }
    }
}

/// A connection, waiting for a server that is down for up to `patience`.
async fn first_session(
    sessions: &Sessions,
    patience: Duration,
    label: &str,
) -> BackendResult<Object> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match sessions.connection().await? {
            Ok(session) => return Ok(session),
            Err(PoolError::Backend(error)) => error,
            Err(error) => return Err(fault::pool(error)),
        };
        let left = patience.saturating_sub(began.elapsed());
        if !fault::is_worth_waiting(&error) || left.is_zero() {
            return Err(fault::unavailable(error, label));
        }
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

impl Inner {
    /// Listens to other processes, where nobody does: the runtime that did may be gone.
    fn listen(&self) {
        if let Some(listener) = &self.listener {
            listener.start();
        }
    }

    fn stop_listening(&self) {
        if let Some(listener) = &self.listener {
            listener.stop();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_listening();
        self.indexes.stop();
    }
}

#[async_trait]
impl Backend for Postgres {
    fn label(&self) -> String {
        self.0.label.clone()
    }

    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    fn clock_offset(&self) -> ClockOffset {
        self.0.sessions.time().offset()
    }

    fn wakeups(&self) -> &Wakeups {
        &self.0.wakeups
    }

    async fn ping(&self) -> BackendResult<()> {
        // So the clock's offset is known, too.
        self.0.sessions.ask_time().await
    }

    async fn create_run(&self, run: NewRun) -> BackendResult<(WorkflowRun, bool)> {
        self.0.create_run(run).await
    }

    async fn get_run(&self, namespace_id: &str, id: &str) -> BackendResult<Option<WorkflowRun>> {
        self.0.get_run(namespace_id, id).await
    }

    async fn list_runs(&self, query: ListRuns) -> BackendResult<Page<WorkflowRun>> {
        self.0.list_runs(query).await
    }

    async fn count_runs(&self, namespace_id: &str) -> BackendResult<RunCounts> {
        self.0.count_runs(namespace_id).await
    }

    async fn count_queue(
        &self,
        namespace_id: &str,
        limit: u32,
    ) -> BackendResult<Option<QueueCounts>> {
        self.0.count_queue(namespace_id, limit).await.map(Some)
    }

    fn connections(&self) -> Option<Connections> {
        Some(self.0.connections())
    }

    async fn list_step_attempts(&self, query: ListSteps) -> BackendResult<Page<StepAttempt>> {
        self.0.list_step_attempts(query).await
    }

    async fn load_record(
        &self,
        namespace_id: &str,
        run_id: &str,
    ) -> BackendResult<Option<RunRecord>> {
        self.0.load_record(namespace_id, run_id).await
    }

    async fn cancel_run(&self, namespace_id: &str, id: &str) -> BackendResult<Cancellation> {
        self.0.cancel_run(namespace_id, id).await
    }

    async fn copy_run(&self, copy: RunCopy) -> BackendResult<CopyOutcome> {
        let inner = Arc::clone(&self.0);
        self.apart(async move { inner.copy_run(&copy).await }).await
    }

    async fn send_signal(&self, signal: NewSignal) -> BackendResult<Vec<String>> {
        let inner = Arc::clone(&self.0);
        self.apart(async move { inner.send_signal(signal).await })
            .await
    }

    async fn claim_runs(&self, claim: Claim) -> BackendResult<Vec<ClaimedRun>> {
        self.0.claim_runs(claim).await
    }

    async fn find_orphans(&self, search: OrphanSearch) -> BackendResult<Vec<Orphans>> {
        self.0.find_orphans(search).await
    }

    async fn load_history(&self, namespace_id: &str, run_id: &str) -> BackendResult<History> {
        self.0.load_history(namespace_id, run_id).await
    }

    async fn extend_lease(&self, owner: &Owner, lease: Duration) -> BackendResult<()> {
        self.0.extend_lease(owner, lease).await
    }

    async fn begin_step(&self, owner: &Owner, attempt: NewStepAttempt) -> BackendResult<()> {
        self.0.begin_step(owner, attempt).await
    }

    async fn begin_child(
        &self,
        owner: &Owner,
        attempt: NewStepAttempt,
        child: NewRun,
    ) -> BackendResult<WorkflowRun> {
        let (inner, owner) = (Arc::clone(&self.0), owner.clone());
        self.apart(async move { inner.begin_child(&owner, attempt, child).await })
            .await
    }

    async fn end_step(&self, owner: &Owner, ended: EndedStep) -> BackendResult<()> {
        self.0.end_step(owner, ended).await
    }

    async fn end_execution(&self, owner: &Owner, end: ExecutionEnd) -> BackendResult<()> {
        self.0.end_execution(owner, end).await
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("database", &self.0.label)
            .field("schema", &self.0.schema)
            .finish_non_exhaustive()
    }
}
