//! The database behind clients and workers.

pub(crate) mod codec;
mod copies;
mod counts;
mod error;
pub(crate) mod executions;
mod orphans;
mod page;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
mod request;
mod run_record;
#[cfg(feature = "sqlite")]
mod sqlite;
mod wakeups;

use std::time::Duration;

use async_trait::async_trait;

pub use copies::{CopiedAttempt, CopyKind, CopyOutcome, RelatedRun, RelatedRuns, RunCopy};
pub use counts::{Connections, QueueCounts};
/// The crate of the pools that [`Postgres::from_pool`] takes. A breaking version of it is one of this
/// library's.
#[cfg(feature = "postgres")]
pub use deadpool_postgres;
pub use error::BackendError;
pub use executions::{ClaimTimes, ExecutionRecord, RecordedEnding};
pub use orphans::{OrphanSearch, Orphans};
pub use page::{Cursor, Page};
#[cfg(feature = "postgres")]
pub use postgres::{Postgres, PostgresOptions, TlsMode};
pub use record::{
    ChildRun, ClaimedRun, History, ReceivedSignal, RunCounts, RunStatus, StepAttempt,
    StepAttemptKind, StepStatus, StoredError, UnknownWord, WorkflowRun,
};
pub use request::{
    CanceledRun, Cancellation, Claim, EndedStep, ExecutionEnd, ListRuns, ListSteps, NewRun,
    NewSignal, NewStepAttempt, Owner, PageEdge, Window, WorkflowKey,
};
pub use run_record::{AttemptRecord, ChildRecord, RunRecord};
#[cfg(feature = "sqlite")]
pub use sqlite::{Sqlite, SqliteOptions};
pub(crate) use wakeups::WorkNews;
pub use wakeups::{OverdueRun, Wakeups};

use crate::{Clock, ClockOffset};

/// How often a process searches a namespace for passed deadlines.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How many waits of runs that are over a signal closes of those that it met: no sending takes much longer
/// for it, and none of a hundred thousand is met more than a hundred times.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
const CLOSED_AT_ONCE: usize = 1000;

/// The result of a backend's operation.
pub type BackendResult<T> = std::result::Result<T, BackendError>;

/// What clients and workers need of a database.
///
/// Each method is one atomic operation of the database protocol (`docs/protocol.md`, which also says
/// what an implementation owes, method by method): when it returns `Ok`, what it did is durable, and
/// when it returns `Err`, nothing was written, unless the answer was lost with a connection. The
/// future of an operation may be dropped at any time; the operation then may or may not have
/// happened, but never in part.
///
/// Operations that take an [`Owner`] are guarded: they happen only while the run is `running` and
/// claimed by that worker, and fail with [`BackendError::OwnershipLost`] otherwise.
///
/// After a commit, the backend tells [`wakeups`](Self::wakeups) what became due and what ended, so
/// that workers and handles in the same process need not wait for their next poll; and of which runs it
/// failed for their deadline, which nobody else knows.
///
/// What a worker does with it, in short:
///
/// ```
/// use std::time::Duration;
/// use openworkflow::Sqlite;
/// use openworkflow::backend::{
///     Backend, Claim, EndedStep, ExecutionEnd, NewRun, NewStepAttempt, Owner, StepAttemptKind,
/// };
/// use workflow_core::Payload;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Sqlite::open_in_memory().await?;
/// store.create_run(NewRun::new("default", "run-1", "greet", Payload::NULL)).await?;
///
/// let lease = Duration::from_secs(30);
/// let claim = Claim::new("default".into(), vec!["slot-1".into()], None, lease);
/// let claimed = store.claim_runs(claim).await?;
/// assert_eq!(claimed[0].attempts, 1);
///
/// let owner = Owner::new("default", "run-1", "slot-1", claimed[0].attempts);
/// let kind = StepAttemptKind::Function;
/// let attempt = NewStepAttempt::new("attempt-1".into(), "compose".into(), kind, None);
/// store.begin_step(&owner, attempt.clone()).await?;
/// store.extend_lease(&owner, lease).await?;
/// let output = Payload::from_json(r#""Hello""#);
/// store.end_step(&owner, EndedStep::new(attempt, Ok(output.clone()))).await?;
/// store.end_execution(&owner, ExecutionEnd::Complete { output }).await?;
///
/// // It is over, and nobody's to write any more.
/// assert!(store.extend_lease(&owner, lease).await.is_err());
/// assert_eq!(store.count_runs("default").await?.completed, 1);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The clock of everything that is decided on this side of the database.
    fn clock(&self) -> &Clock;

    /// How far this machine's clock is off, as far as the database has told: for reports of health.
    /// Nothing depends on it, since [`clock`](Self::clock) is put right. Where the machine's clock is
    /// the only one, as on SQLite, it is never off.
    ///
    /// ```
    /// use std::time::Duration;
    /// use openworkflow::backend::Backend;
    ///
    /// fn clock_is_right(store: &impl Backend) -> bool {
    ///     store.clock_offset().by() <= Duration::from_secs(1)
    /// }
    /// ```
    fn clock_offset(&self) -> ClockOffset {
        ClockOffset::NONE
    }

    /// Where the process is told of work and of ends.
    fn wakeups(&self) -> &Wakeups;

    /// What people call the database, for the log: its path, or its server and name. Holds no secret.
    fn label(&self) -> String {
        std::any::type_name::<Self>().to_owned()
    }

    /// A round trip, for reports of health: to a database that would take a write, as far as it can find
    /// out without one. The default reads a run that is not there.
    async fn ping(&self) -> BackendResult<()> {
        self.get_run("", "").await.map(drop)
    }

    /// Creates a run, or finds the one that its idempotency key already created within 24 hours.
    /// The flag says whether it was found.
    async fn create_run(&self, run: NewRun) -> BackendResult<(WorkflowRun, bool)>;

    /// Reads a run.
    async fn get_run(&self, namespace_id: &str, id: &str) -> BackendResult<Option<WorkflowRun>>;

    /// Lists runs, newest first.
    async fn list_runs(&self, query: ListRuns) -> BackendResult<Page<WorkflowRun>>;

    /// Counts runs by status.
    async fn count_runs(&self, namespace_id: &str) -> BackendResult<RunCounts>;

    /// Counts what stands in a namespace, `limit` runs of each kind at most: for metrics, now and then. It
    /// reads no more than it counts, and what it counts need not be of one moment. A backend that does not
    /// count, which is the default, gives nothing.
    async fn count_queue(
        &self,
        namespace_id: &str,
        limit: u32,
    ) -> BackendResult<Option<QueueCounts>> {
        let _ = (namespace_id, limit);
        Ok(None)
    }

    /// The connections that there are at the moment, on all runtimes, where there is a pool of them.
    fn connections(&self) -> Option<Connections> {
        None
    }

    /// Lists a run's step attempts, oldest first.
    async fn list_step_attempts(&self, query: ListSteps) -> BackendResult<Page<StepAttempt>>;

    /// Reads a run with its step attempts and what was delivered to them, from one snapshot, without what
    /// went in and came out. A step attempt that cannot be read is an error in its place; a run that
    /// cannot be is the operation's.
    async fn load_record(
        &self,
        namespace_id: &str,
        run_id: &str,
    ) -> BackendResult<Option<RunRecord>>;

    /// Cancels a run, those of its children that are to be canceled with it
    /// ([`NewRun::cancel_with_parent`]), and theirs; wakes the run's parent.
    async fn cancel_run(&self, namespace_id: &str, id: &str) -> BackendResult<Cancellation>;

    /// Makes a run of one that is over, with copies of step attempts and of the signals that were delivered
    /// to them, and notes in both which the other is. Called again with the same copy it makes no second
    /// run. A backend that cannot copy, which is the default, says so.
    async fn copy_run(&self, copy: RunCopy) -> BackendResult<CopyOutcome> {
        Err(BackendError::Driver {
            message: format!("this database cannot make a run of run {}", copy.origin_id),
            transient: false,
            source: "the backend does not implement `copy_run`".into(),
        })
    }

    /// Delivers a signal to every waiting step attempt and wakes their runs. Returns the ids of the
    /// runs that received it.
    async fn send_signal(&self, signal: NewSignal) -> BackendResult<Vec<String>>;

    /// Fails runs whose deadline passed (waking their parents), about once a second; then claims due
    /// runs: one at most for each of `claim.worker_ids`, `pending` ones first, then by `available_at`
    /// and `created_at`. A claimed run that cannot be read is an `Err` inside of its [`ClaimedRun`].
    async fn claim_runs(&self, claim: Claim) -> BackendResult<Vec<ClaimedRun>>;

    /// Looks for due runs of workflows that a worker does not have, the group that waits for the longest time
    /// first. Reads no more than `search.limit` runs of each status, however many there are. For the log: a
    /// backend that does not look, which is the default, finds none.
    async fn find_orphans(&self, search: OrphanSearch) -> BackendResult<Vec<Orphans>> {
        let _ = search;
        Ok(Vec::new())
    }

    /// Loads what a run did so far, from one snapshot.
    async fn load_history(&self, namespace_id: &str, run_id: &str) -> BackendResult<History>;

    /// Extends the claim to `lease` from now.
    async fn extend_lease(&self, owner: &Owner, lease: Duration) -> BackendResult<()>;

    /// Writes a `running` step attempt. If that attempt exists already, only the members of its `config`
    /// are added, where it has one: this is how a step saves its progress. An attempt that has ended is
    /// left as it is; where something was to be added, the operation fails with
    /// [`BackendError::OwnershipLost`].
    async fn begin_step(&self, owner: &Owner, attempt: NewStepAttempt) -> BackendResult<()>;

    /// Writes a `running` attempt of kind `workflow` (if it does not exist yet), creates the child
    /// run (or finds it by its idempotency key) and links the two. Returns the child; where the
    /// attempt is linked already, that one.
    async fn begin_child(
        &self,
        owner: &Owner,
        attempt: NewStepAttempt,
        child: NewRun,
    ) -> BackendResult<WorkflowRun>;

    /// Writes a completed or failed step attempt: the whole row where it does not exist yet, the
    /// result where it does. An attempt that has that status already keeps its first result; for one
    /// that has the other, the operation fails with [`BackendError::OwnershipLost`].
    async fn end_step(&self, owner: &Owner, ended: EndedStep) -> BackendResult<()>;

    /// Ends an execution: completes, fails, reschedules or parks the run, and wakes its parent where
    /// the run is over. A run that is put away is due at once if what one of its waits waits for is
    /// there by now.
    async fn end_execution(&self, owner: &Owner, end: ExecutionEnd) -> BackendResult<()>;
}
