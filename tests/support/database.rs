//! A database under test, and a look at its rows without the library in between.

use std::future::Future;
use std::time::{Duration, SystemTime};

use openworkflow::backend::Backend;
use serde_json::Value;

/// A database of a test's own. The [crate's documentation](crate) tells how to write one.
pub trait Database: Sized + Send + Sync + 'static {
    /// The backend's type.
    type Store: Backend + Clone;

    /// How far a time in a row may lie from the time that a test expects: zero where the clock
    /// stands still.
    const CLOCK_TOLERANCE: Duration;

    /// Makes a fresh database.
    fn create() -> impl Future<Output = Self> + Send;

    /// The backend that was opened first.
    fn store(&self) -> Self::Store;

    /// Opens the same database once more, as another process would.
    fn open(&self) -> impl Future<Output = Self::Store> + Send;

    /// What [`store::worker`](crate::store::worker) opens the database by, in another process.
    fn url(&self) -> String;

    /// The time by which rows are written.
    fn now(&self) -> SystemTime;

    /// Lets time pass.
    fn advance(&self, by: Duration) -> impl Future<Output = ()> + Send;

    /// Runs a query; columns come as text, `None` for SQL NULL.
    fn query(&self, sql: &str) -> impl Future<Output = Vec<Vec<Option<String>>>> + Send;

    /// Runs statements, separated by semicolons.
    fn execute(&self, sql: &str) -> impl Future<Output = ()> + Send;

    /// The row of a run.
    fn run(&self, id: &str) -> impl Future<Output = RunRow> + Send {
        async move {
            let mut rows = self.query(&format!("{RUNS} WHERE id = '{id}'")).await;
            assert_eq!(rows.len(), 1, "one run has the id {id}");
            RunRow::read(rows.remove(0))
        }
    }

    /// The rows of all runs, the oldest first.
    fn runs(&self) -> impl Future<Output = Vec<RunRow>> + Send {
        async move {
            let rows = self.query(&format!("{RUNS} ORDER BY created_at, id")).await;
            rows.into_iter().map(RunRow::read).collect()
        }
    }

    /// The rows of a run's step attempts, in the order of their creation; by name where they were
    /// created at the same time, as they are where the clock stands still.
    fn steps(&self, run_id: &str) -> impl Future<Output = Vec<StepRow>> + Send {
        async move {
            let sql = format!(
                "{STEPS} WHERE workflow_run_id = '{run_id}' ORDER BY created_at, step_name, status"
            );
            let rows = self.query(&sql).await;
            rows.into_iter().map(StepRow::read).collect()
        }
    }

    /// The rows of the step attempts of one step.
    fn step(&self, run_id: &str, name: &str) -> impl Future<Output = Vec<StepRow>> + Send {
        async move {
            let mut steps = self.steps(run_id).await;
            steps.retain(|step| step.name == name);
            steps
        }
    }

    /// The rows of all delivered signals.
    fn signals(&self) -> impl Future<Output = Vec<SignalRow>> + Send {
        async move {
            let rows = self
                .query(
                    "SELECT signal, data, sender_idempotency_key, workflow_run_id, step_attempt_id
                     FROM workflow_signals ORDER BY created_at, id",
                )
                .await;
            rows.into_iter().map(SignalRow::read).collect()
        }
    }

    /// Asserts that `at` is `offset` after now.
    #[track_caller]
    fn assert_after_now(&self, at: Option<SystemTime>, offset: Duration) {
        self.assert_time(at, self.now() + offset);
    }

    /// Asserts that `at` is the time `expected`, as precisely as the clock allows.
    #[track_caller]
    fn assert_time(&self, at: Option<SystemTime>, expected: SystemTime) {
        let at = at.expect("the time is set");
        let off = at
            .duration_since(expected)
            .unwrap_or_else(|before| before.duration());
        // Rows have whole milliseconds.
        let tolerance = Self::CLOCK_TOLERANCE + Duration::from_millis(1);
        assert!(
            off <= tolerance,
            "the time is {at:?}, off by {off:?} from the expected {expected:?}"
        );
    }
}

pub(crate) const RUNS: &str = "SELECT id, workflow_name, version, status, attempts, worker_id, \
    idempotency_key, context, input, output, error, config, parent_step_attempt_namespace_id, \
    parent_step_attempt_id, available_at, deadline_at, started_at, finished_at, created_at, \
    updated_at FROM workflow_runs";

pub(crate) const STEPS: &str = "SELECT id, step_name, kind, status, config, context, output, error, \
    child_workflow_run_namespace_id, child_workflow_run_id, started_at, finished_at, created_at, \
    updated_at FROM step_attempts";

/// Takes a row apart, column after column.
struct Columns(std::vec::IntoIter<Option<String>>);

impl Columns {
    fn new(row: Vec<Option<String>>) -> Self {
        Self(row.into_iter())
    }

    fn optional(&mut self) -> Option<String> {
        self.0.next().expect("the query has this column")
    }

    fn text(&mut self) -> String {
        self.optional().expect("the column is not NULL")
    }

    fn json(&mut self) -> Option<Value> {
        let text = self.optional()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?} is no JSON")))
    }

    fn time(&mut self) -> Option<SystemTime> {
        let text = self.optional()?;
        let time: jiff::Timestamp = text
            .parse()
            .unwrap_or_else(|_| panic!("{text:?} is no time"));
        Some(time.into())
    }
}

/// A row of `workflow_runs`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named after the columns")]
pub struct RunRow {
    pub id: String,
    pub workflow_name: String,
    pub version: Option<String>,
    pub status: String,
    pub attempts: u32,
    pub worker_id: Option<String>,
    pub idempotency_key: Option<String>,
    pub context: Option<Value>,
    pub input: Option<Value>,
    pub output: Option<Value>,
    pub error: Option<Value>,
    pub config: Option<Value>,
    pub parent_step_attempt_namespace_id: Option<String>,
    pub parent_step_attempt_id: Option<String>,
    pub available_at: Option<SystemTime>,
    pub deadline_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    pub finished_at: Option<SystemTime>,
    pub created_at: Option<SystemTime>,
    pub updated_at: Option<SystemTime>,
}

impl RunRow {
    pub(crate) fn read(row: Vec<Option<String>>) -> Self {
        let mut columns = Columns::new(row);
        Self {
            id: columns.text(),
            workflow_name: columns.text(),
            version: columns.optional(),
            status: columns.text(),
            attempts: columns.text().parse().expect("attempts is a number"),
            worker_id: columns.optional(),
            idempotency_key: columns.optional(),
            context: columns.json(),
            input: columns.json(),
            output: columns.json(),
            error: columns.json(),
            config: columns.json(),
            parent_step_attempt_namespace_id: columns.optional(),
            parent_step_attempt_id: columns.optional(),
            available_at: columns.time(),
            deadline_at: columns.time(),
            started_at: columns.time(),
            finished_at: columns.time(),
            created_at: columns.time(),
            updated_at: columns.time(),
        }
    }

    /// Whether the run is put away until `available_at`.
    #[must_use]
    pub fn is_parked(&self, now: SystemTime) -> bool {
        self.status == "running"
            && self.worker_id.is_none()
            && self.available_at.is_some_and(|at| at > now)
    }

    /// The message of the error.
    #[must_use]
    pub fn error_message(&self) -> Option<&str> {
        self.error.as_ref()?.get("message")?.as_str()
    }
}

/// A row of `step_attempts`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named after the columns")]
pub struct StepRow {
    pub id: String,
    pub name: String,
    pub kind: String,
    pub status: String,
    pub config: Option<Value>,
    pub context: Option<Value>,
    pub output: Option<Value>,
    pub error: Option<Value>,
    pub child_workflow_run_namespace_id: Option<String>,
    pub child_workflow_run_id: Option<String>,
    pub started_at: Option<SystemTime>,
    pub finished_at: Option<SystemTime>,
    pub created_at: Option<SystemTime>,
    pub updated_at: Option<SystemTime>,
}

impl StepRow {
    pub(crate) fn read(row: Vec<Option<String>>) -> Self {
        let mut columns = Columns::new(row);
        Self {
            id: columns.text(),
            name: columns.text(),
            kind: columns.text(),
            status: columns.text(),
            config: columns.json(),
            context: columns.json(),
            output: columns.json(),
            error: columns.json(),
            child_workflow_run_namespace_id: columns.optional(),
            child_workflow_run_id: columns.optional(),
            started_at: columns.time(),
            finished_at: columns.time(),
            created_at: columns.time(),
            updated_at: columns.time(),
        }
    }

    /// `name kind status`.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{} {} {}", self.name, self.kind, self.status)
    }

    /// A time in the column `context`, such as `resumeAt`.
    #[must_use]
    pub fn context_time(&self, member: &str) -> Option<SystemTime> {
        let text = self.context.as_ref()?.get(member)?.as_str()?;
        let time: jiff::Timestamp = text.parse().ok()?;
        Some(time.into())
    }

    /// The message of the error.
    #[must_use]
    pub fn error_message(&self) -> Option<&str> {
        self.error.as_ref()?.get("message")?.as_str()
    }
}

/// A row of `workflow_signals`.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named after the columns")]
pub struct SignalRow {
    pub signal: String,
    pub data: Option<Value>,
    pub sender_idempotency_key: Option<String>,
    pub workflow_run_id: String,
    pub step_attempt_id: String,
}

impl SignalRow {
    fn read(row: Vec<Option<String>>) -> Self {
        let mut columns = Columns::new(row);
        Self {
            signal: columns.text(),
            data: columns.json(),
            sender_idempotency_key: columns.optional(),
            workflow_run_id: columns.text(),
            step_attempt_id: columns.text(),
        }
    }
}

/// The columns with times, by table.
pub const TIME_COLUMNS: [(&str, &[&str]); 3] = [
    (
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
    (
        "step_attempts",
        &["started_at", "finished_at", "created_at", "updated_at"],
    ),
    ("workflow_signals", &["created_at"]),
];
