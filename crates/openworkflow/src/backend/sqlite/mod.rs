//! The embedded backend: one SQLite file, one thread that writes to it and two that read.

mod cancel;
mod claim;
mod connection;
mod copies;
mod counts;
mod error;
mod execution;
mod executions;
mod lists;
mod options;
mod queue;
mod record;
mod rows;
mod runs;
mod schema;
mod signals;
mod steps;
#[cfg(test)]
mod too_large;
mod writer;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    Backend, BackendError, BackendResult, Cancellation, Claim, ClaimedRun, CopyOutcome, EndedStep,
    ExecutionEnd, History, ListRuns, ListSteps, NewRun, NewSignal, NewStepAttempt, OrphanSearch,
    Orphans, Owner, Page, QueueCounts, RunCopy, RunCounts, RunRecord, SWEEP_INTERVAL, StepAttempt,
    Wakeups, WorkflowRun,
};
use crate::Clock;
use connection::{Connections, Settings};
use error::OpResult;
pub use options::SqliteOptions;
use queue::{Queue, Worker};
use writer::{Isolation, Job, Tx, Writer};

/// Runs in a SQLite file, which OpenWorkflow for TypeScript can use at the same time.
///
/// The file is kept in WAL mode with `synchronous = FULL`: what an operation wrote is on the disk
/// when it returns. Writes that come in at the same time share a commit, and reads never wait for
/// writes. The file must be on a local disk, as SQLite's locks and shared memory demand.
///
/// Clones share one database. When the last one is dropped its threads finish what was asked of
/// them and end; [`close`](Self::close) waits for that.
///
/// ```
/// use openworkflow::Sqlite;
/// use openworkflow::backend::{Backend, NewRun};
/// use workflow_core::Payload;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("orders.db");
/// let store = Sqlite::open(&path).await?;
/// let run = NewRun::new("default", "6f9c", "process-order", Payload::from_json("42"));
/// store.create_run(run).await?;
/// assert_eq!(store.count_runs("default").await?.pending, 1);
/// store.close().await;
/// # Ok(())
/// # }
/// ```
///
/// # Beside a connection of your own
///
/// The tables can be in the file of the application's own. What to share is the path: a backend has three
/// connections, each with a thread and settings of its own, and nobody else may begin a transaction on the
/// one that writes. So it is not made of a connection, and does not give one away. Your own connections see
/// what it committed. Give them time to wait for the lock, as here, and keep it for milliseconds:
///
/// ```
/// # use std::time::Duration;
/// # use openworkflow::Sqlite;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("orders.db");
/// let store = Sqlite::open(&path).await?;
/// let own = rusqlite::Connection::open(&path)?;
/// own.busy_timeout(Duration::from_secs(5))?;
/// own.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER)")?;
/// own.execute("INSERT INTO orders (total) VALUES (4200)", [])?;
/// # store.close().await;
/// # Ok(())
/// # }
/// ```
///
/// A start of a run and a row of your own are two transactions: where one must not be without the other,
/// write the row in the run's first step, or start the run under an idempotency key after the row.
#[derive(Clone)]
pub struct Sqlite(Arc<Shared>);

struct Shared {
    writer: Worker<Box<dyn Job>>,
    readers: Option<Readers>,
    clock: Clock,
    wakeups: Arc<Wakeups>,
    database: Arc<str>,
    /// When deadlines were last looked for, by namespace.
    swept_at: Mutex<HashMap<Arc<str>, SystemTime>>,
}

/// A slow list holds up other lists, but not what workers read.
struct Readers {
    records: Worker<Read>,
    lists: Worker<Read>,
}

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// Which of the readers reads.
#[derive(Clone, Copy)]
enum Reader {
    Records,
    Lists,
}

impl Sqlite {
    /// Opens the database at `path`, creating the file and its tables where they are missing. The
    /// path `:memory:` stands for a database in memory.
    ///
    /// Two databases opened at the same path within a process tell each other's workers and handles
    /// what they commit, as clones do.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] says what is wrong with the path or the file,
    /// [`BackendError::ReadOnly`] that the file or its folder takes no writes,
    /// [`BackendError::Busy`] that another process keeps it locked, and
    /// [`BackendError::NewerSchema`] that a newer library made it.
    ///
    /// If the future is dropped, the file may or may not have been created.
    pub async fn open(path: impl AsRef<Path> + Send) -> BackendResult<Self> {
        Self::options().open(path).await
    }

    /// Opens a new database in memory, for tests; see [`SqliteOptions::open_in_memory`].
    ///
    /// ```
    /// use openworkflow::{Client, Sqlite};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(Sqlite::open_in_memory().await?);
    /// assert_eq!(client.count_runs().await?.pending, 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    pub async fn open_in_memory() -> BackendResult<Self> {
        Self::options().open_in_memory().await
    }

    /// What can be set when a database is opened.
    pub fn options() -> SqliteOptions {
        SqliteOptions::default()
    }

    /// Finishes the operations under way, ends the threads and closes the file. Operations begun
    /// later, on any clone, fail with [`BackendError::Closed`].
    ///
    /// If the future is dropped, the database closes all the same. Closing twice is harmless.
    pub async fn close(&self) {
        // The writer last: the connection that closes last tidies up the write-ahead log.
        if let Some(readers) = &self.0.readers {
            readers.records.stop();
            readers.lists.stop();
        }
        self.0.writer.stop();
        if let Some(readers) = &self.0.readers {
            readers.records.ended().await;
            readers.lists.ended().await;
        }
        self.0.writer.ended().await;
    }

    async fn start(path: Option<PathBuf>, settings: Settings, clock: Clock) -> BackendResult<Self> {
        let database: Arc<str> = match &path {
            Some(path) => path.display().to_string().into(),
            None => ":memory:".into(),
        };
        let (opened, opening) = oneshot::channel();
        let writer = Worker::spawn("sqlite-writer", {
            let database = Arc::clone(&database);
            let clock = clock.clone();
            move |queue: &Queue<Box<dyn Job>>| {
                let connections = match connection::open(path.as_deref(), &database, &settings) {
                    Ok(connections) => connections,
                    Err(error) => {
                        // Nobody may be waiting any more.
                        let _ = opened.send(Err(error));
                        return;
                    }
                };
                let Connections {
                    writer,
                    readers,
                    canonical,
                } = connections;
                let wakeups = shared_wakeups(canonical);
                if opened.send(Ok((readers, Arc::clone(&wakeups)))).is_err() {
                    return;
                }
                // Whoever opened it has looked whether it can be read.
                let is_recording = schema::is_recording(&writer).unwrap_or_default();
                let writer = Writer {
                    is_recording,
                    conn: writer,
                    clock,
                    wakeups,
                    database,
                    follow_ups: RefCell::default(),
                };
                writer.work(queue);
            }
        })
        .map_err(|error| no_thread(&database, error))?;
        let (readers, wakeups) = opening.await.unwrap_or(Err(BackendError::Closed))?;
        let readers = match readers {
            None => None,
            Some([records, lists]) => Some(Readers {
                records: reader("sqlite-records", records)
                    .map_err(|error| no_thread(&database, error))?,
                lists: reader("sqlite-lists", lists)
                    .map_err(|error| no_thread(&database, error))?,
            }),
        };
        Ok(Self(Arc::new(Shared {
            writer,
            readers,
            clock,
            wakeups,
            database,
            swept_at: Mutex::default(),
        })))
    }

    async fn write<T, F>(&self, isolation: Isolation, work: F) -> BackendResult<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> OpResult<T> + Send + 'static,
    {
        let (job, result) = writer::job(isolation, work);
        self.0.writer.push(job).map_err(|_| BackendError::Closed)?;
        result.await.unwrap_or(Err(BackendError::Closed))
    }

    async fn read<T, F>(&self, reader: Reader, mut work: F) -> BackendResult<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> OpResult<T> + Send + 'static,
    {
        let Some(readers) = &self.0.readers else {
            return self
                .write(Isolation::Statement, move |tx| work(tx.conn))
                .await;
        };
        let reader = match reader {
            Reader::Records => &readers.records,
            Reader::Lists => &readers.lists,
        };
        let (reply, result) = oneshot::channel();
        let database = Arc::clone(&self.0.database);
        let job: Read = Box::new(move |conn| {
            let read = match catch_unwind(AssertUnwindSafe(|| work(conn))) {
                Ok(read) => read.map_err(|error| error.into_backend(&database, Duration::ZERO)),
                Err(panic) => Err(error::panicked(&*panic)),
            };
            // The caller may have stopped waiting.
            let _ = reply.send(read);
        });
        reader.push(job).map_err(|_| BackendError::Closed)?;
        result.await.unwrap_or(Err(BackendError::Closed))
    }

    /// Whether it is time to look for passed deadlines. If so, the next time is an interval later.
    fn sweep_is_due(&self, namespace_id: &Arc<str>, now: SystemTime) -> bool {
        let mut swept_at = self
            .0
            .swept_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes it due too.
        let is_due = swept_at.get(namespace_id).is_none_or(|last| {
            now.duration_since(*last)
                .map_or(true, |since| since >= SWEEP_INTERVAL)
        });
        if is_due {
            swept_at.insert(Arc::clone(namespace_id), now);
        }
        is_due
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sqlite").field(&self.0.database).finish()
    }
}

fn reader(name: &str, conn: Connection) -> std::io::Result<Worker<Read>> {
    Worker::spawn(name, move |queue: &Queue<Read>| {
        let mut waiting = std::collections::VecDeque::new();
        while queue.wait(&mut waiting) {
            for read in waiting.drain(..) {
                read(&conn);
            }
        }
    })
}

fn no_thread(database: &str, error: std::io::Error) -> BackendError {
    BackendError::Unavailable {
        database: database.to_owned(),
        problem: format!("a thread for it could not be started: {error}"),
        source: Some(error.into()),
    }
}

/// The news of a file: the same for all who have it open in this process.
fn shared_wakeups(canonical: Option<PathBuf>) -> Arc<Wakeups> {
    static OPEN_FILES: Mutex<BTreeMap<PathBuf, Weak<Wakeups>>> = Mutex::new(BTreeMap::new());
    let Some(path) = canonical else {
        return Arc::default();
    };
    let mut open_files = OPEN_FILES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(wakeups) = open_files.get(&path).and_then(Weak::upgrade) {
        return wakeups;
    }
    open_files.retain(|_, wakeups| wakeups.strong_count() > 0);
    let wakeups = Arc::default();
    open_files.insert(path, Arc::downgrade(&wakeups));
    wakeups
}

#[async_trait]
impl Backend for Sqlite {
    fn label(&self) -> String {
        format!("sqlite:{}", self.0.database)
    }

    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    fn wakeups(&self) -> &Wakeups {
        &self.0.wakeups
    }

    async fn ping(&self) -> BackendResult<()> {
        // By the writer, which needs the file's lock: nothing else of a file can be out of reach.
        self.write(Isolation::Statement, |_| Ok(())).await
    }

    async fn create_run(&self, run: NewRun) -> BackendResult<(WorkflowRun, bool)> {
        self.write(Isolation::Statement, move |tx| runs::create(tx, &run))
            .await
    }

    async fn get_run(&self, namespace_id: &str, id: &str) -> BackendResult<Option<WorkflowRun>> {
        let (namespace_id, id) = (namespace_id.to_owned(), id.to_owned());
        self.read(Reader::Records, move |conn| {
            runs::get(conn, &namespace_id, &id)
        })
        .await
    }

    async fn list_runs(&self, query: ListRuns) -> BackendResult<Page<WorkflowRun>> {
        self.read(Reader::Lists, move |conn| lists::runs(conn, &query))
            .await
    }

    async fn count_runs(&self, namespace_id: &str) -> BackendResult<RunCounts> {
        let namespace_id = namespace_id.to_owned();
        self.read(Reader::Lists, move |conn| {
            lists::counts(conn, &namespace_id)
        })
        .await
    }

    async fn count_queue(
        &self,
        namespace_id: &str,
        limit: u32,
    ) -> BackendResult<Option<QueueCounts>> {
        let namespace_id = namespace_id.to_owned();
        let now = self.0.clock.now();
        self.read(Reader::Lists, move |conn| {
            counts::queue(conn, &namespace_id, limit, now).map(Some)
        })
        .await
    }

    async fn list_step_attempts(&self, query: ListSteps) -> BackendResult<Page<StepAttempt>> {
        self.read(Reader::Lists, move |conn| {
            lists::step_attempts(conn, &query)
        })
        .await
    }

    async fn load_record(
        &self,
        namespace_id: &str,
        run_id: &str,
    ) -> BackendResult<Option<RunRecord>> {
        let (namespace_id, run_id) = (namespace_id.to_owned(), run_id.to_owned());
        self.read(Reader::Lists, move |conn| {
            record::load(conn, &namespace_id, &run_id)
        })
        .await
    }

    async fn cancel_run(&self, namespace_id: &str, id: &str) -> BackendResult<Cancellation> {
        let (namespace_id, id) = (namespace_id.to_owned(), id.to_owned());
        self.write(Isolation::Savepoint, move |tx| {
            cancel::cancel(tx, &namespace_id, &id)
        })
        .await
    }

    async fn copy_run(&self, copy: RunCopy) -> BackendResult<CopyOutcome> {
        self.write(Isolation::Savepoint, move |tx| copies::copy(tx, &copy))
            .await
    }

    async fn send_signal(&self, signal: NewSignal) -> BackendResult<Vec<String>> {
        self.write(Isolation::Savepoint, move |tx| signals::send(tx, &signal))
            .await
    }

    async fn claim_runs(&self, claim: Claim) -> BackendResult<Vec<ClaimedRun>> {
        if self.sweep_is_due(&claim.namespace_id, self.0.clock.now()) {
            // Before the claim, so that parents which it wakes can be claimed.
            let sweep = claim::Sweep::of(&claim.namespace_id);
            self.0
                .writer
                .push(sweep)
                .map_err(|_| BackendError::Closed)?;
        }
        self.write(Isolation::Transaction, move |tx| claim::claim(tx, &claim))
            .await
    }

    async fn find_orphans(&self, search: OrphanSearch) -> BackendResult<Vec<Orphans>> {
        let now = self.0.clock.now();
        self.read(Reader::Lists, move |conn| {
            claim::orphans(conn, &search, now)
        })
        .await
    }

    async fn load_history(&self, namespace_id: &str, run_id: &str) -> BackendResult<History> {
        let (namespace_id, run_id) = (namespace_id.to_owned(), run_id.to_owned());
        self.read(Reader::Records, move |conn| {
            steps::history(conn, &namespace_id, &run_id)
        })
        .await
    }

    async fn extend_lease(&self, owner: &Owner, lease: Duration) -> BackendResult<()> {
        let owner = owner.clone();
        self.write(Isolation::Statement, move |tx| {
            execution::extend_lease(tx, &owner, lease)
        })
        .await
    }

    async fn begin_step(&self, owner: &Owner, attempt: NewStepAttempt) -> BackendResult<()> {
        let owner = owner.clone();
        self.write(Isolation::Statement, move |tx| {
            steps::begin(tx, &owner, &attempt)
        })
        .await
    }

    async fn begin_child(
        &self,
        owner: &Owner,
        attempt: NewStepAttempt,
        child: NewRun,
    ) -> BackendResult<WorkflowRun> {
        let owner = owner.clone();
        self.write(Isolation::Savepoint, move |tx| {
            steps::begin_child(tx, &owner, &attempt, &child)
        })
        .await
    }

    async fn end_step(&self, owner: &Owner, ended: EndedStep) -> BackendResult<()> {
        let owner = owner.clone();
        self.write(Isolation::Statement, move |tx| {
            steps::end(tx, &owner, &ended)
        })
        .await
    }

    async fn end_execution(&self, owner: &Owner, end: ExecutionEnd) -> BackendResult<()> {
        let owner = owner.clone();
        let isolation = match end {
            ExecutionEnd::Continue { .. } => Isolation::Savepoint,
            _ => Isolation::Transaction,
        };
        self.write(isolation, move |tx| execution::end(tx, &owner, &end))
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::future::poll_immediate;
    use workflow_core::Payload;

    use super::*;

    fn run(id: &str) -> NewRun {
        NewRun::new("default", id, "order", Payload::NULL)
    }

    /// What one opener of a file commits is news to another, under whatever path it knows the file.
    #[tokio::test]
    async fn openers_of_one_file_share_their_news() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let clock = Clock::manual(std::time::UNIX_EPOCH);
        let options = || Sqlite::options().clock(clock.clone());
        let first = options().open(folder.path().join("a.db")).await.unwrap();
        let other_path = folder.path().join("sub/../a.db");
        let second = options().open(other_path).await.unwrap();
        let stranger = options().open(folder.path().join("b.db")).await.unwrap();

        let work = second.wakeups().work_in("default");
        let mut heard = pin!(work.announced());
        heard.as_mut().enable();
        let elsewhere = second.wakeups().work_in("another");
        let strange = stranger.wakeups().work_in("default");
        let mut unheard = [elsewhere.announced(), strange.announced()].map(Box::pin);
        for unheard in &mut unheard {
            unheard.as_mut().enable();
        }
        first.create_run(run("now")).await.unwrap();
        assert!(poll_immediate(&mut heard).await.is_some());
        for unheard in &mut unheard {
            assert!(poll_immediate(unheard).await.is_none());
        }

        let mut later = run("later");
        let due = std::time::UNIX_EPOCH + Duration::from_secs(60);
        later.available_at = Some(due);
        first.create_run(later).await.unwrap();
        assert_eq!(work.next_due(clock.now()), Some(due));

        let watch = second.wakeups().watch("now");
        let mut ended = pin!(watch.notified());
        ended.as_mut().enable();
        first.cancel_run("default", "now").await.unwrap();
        assert!(poll_immediate(&mut ended).await.is_some());
    }

    /// What is undone is no news.
    #[tokio::test]
    async fn a_failed_job_announces_nothing() {
        let store = Sqlite::open_in_memory().await.unwrap();
        store.create_run(run("a")).await.unwrap();
        let work = store.wakeups().work_in("default");
        let mut heard = pin!(work.announced());
        heard.as_mut().enable();
        store.create_run(run("a")).await.unwrap_err();
        let failed: BackendResult<()> = store
            .write(Isolation::Savepoint, |tx| {
                runs::create(tx, &run("b"))?;
                Err(BackendError::Closed.into())
            })
            .await;
        failed.unwrap_err();
        assert!(poll_immediate(&mut heard).await.is_none());
        assert!(store.get_run("default", "b").await.unwrap().is_none());
    }

    /// A panic costs the job that panics its effects, and nobody else anything.
    #[tokio::test]
    async fn a_panic_is_contained() {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(folder.path().join("a.db")).await.unwrap();
        for isolation in [
            Isolation::Statement,
            Isolation::Savepoint,
            Isolation::Transaction,
        ] {
            let good = |id: &'static str| store.create_run(run(id));
            let (before, after) = match isolation {
                Isolation::Statement => ("a", "b"),
                Isolation::Savepoint => ("c", "d"),
                Isolation::Transaction => ("e", "f"),
            };
            let panics = store.write::<(), _>(isolation, |tx| {
                runs::create(tx, &run("lost"))?;
                panic!("a defect");
            });
            let (before, panicked, after) = tokio::join!(good(before), panics, good(after));
            before.unwrap();
            after.unwrap();
            assert!(panicked.unwrap_err().to_string().contains("a defect"));
        }
        let read = store
            .read::<(), _>(Reader::Lists, |_| panic!("another"))
            .await;
        assert!(read.unwrap_err().to_string().contains("another"));
        assert_eq!(store.count_runs("default").await.unwrap().pending, 6);
    }
}
