//! The rows of the database, as clients, workers and backends see them.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use workflow_core::{Carrier, Error, ErrorKind, Payload, WakeCause};

use super::{BackendError, ClaimTimes, Cursor, codec};

/// A word that is none of the known ones.
///
/// ```
/// use openworkflow::RunStatus;
///
/// let typo = "compleeted".parse::<RunStatus>().unwrap_err();
/// assert!(typo.to_string().contains(r#""compleeted" is no status of a run; use "pending", "running""#));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no {what}; use {}", quoted(.known))]
pub struct UnknownWord {
    word: String,
    what: &'static str,
    known: &'static [&'static str],
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    match words.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

macro_rules! text_enum {
    (
        $(#[$doc:meta])* $name:ident ($what:literal) {
            $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            /// Something that this library does not know, kept as it stands in the database.
            Other(String),
        }

        impl $name {
            /// The text that stands in the database.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other(text) => text,
                }
            }

            /// Reads what stands in the database, whatever it is: a newer peer may know more words. For
            /// backends. What people write is [parsed](str::parse).
            #[must_use]
            pub fn from_stored(text: &str) -> Self {
                Self::known(text).unwrap_or_else(|| Self::Other(text.to_owned()))
            }

            fn known(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                Self::known(word).ok_or_else(|| UnknownWord {
                    word: word.chars().take(80).collect(),
                    what: $what,
                    known: &[$($text),*],
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

text_enum! {
    /// The status of a run.
    ///
    /// Text of people's is [parsed](str::parse), which refuses what is no status; what stands in a row is
    /// kept, known or not.
    ///
    /// ```
    /// use openworkflow::RunStatus;
    ///
    /// assert_eq!("canceled".parse(), Ok(RunStatus::Canceled));
    /// assert!("cancelled".parse::<RunStatus>().is_err());
    /// assert_eq!(RunStatus::Canceled.as_str(), "canceled");
    /// assert!(RunStatus::Canceled.is_terminal());
    /// assert_eq!(RunStatus::from_stored("archived"), RunStatus::Other("archived".to_owned()));
    /// ```
    RunStatus ("status of a run") {
        /// Waits to be claimed, for the first time or again after a failure.
        Pending = "pending",
        /// Claimed by a worker, or parked.
        Running = "running",
        /// Ended with an output.
        Completed = "completed",
        /// Ended with an error.
        Failed = "failed",
        /// Ended by a cancellation.
        Canceled = "canceled",
        /// Parked, as older versions wrote it.
        Sleeping = "sleeping",
        /// Completed, as older versions wrote it.
        Succeeded = "succeeded",
    }
}

impl RunStatus {
    /// Whether a run with this status is over.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Completed | Self::Succeeded | Self::Failed | Self::Canceled
        )
    }
}

text_enum! {
    /// The status of a step attempt.
    StepStatus ("status of a step attempt") {
        /// Under way, waiting, or left behind by a worker that died.
        Running = "running",
        /// Has a result.
        Completed = "completed",
        /// Failed.
        Failed = "failed",
        /// Completed, as older versions wrote it.
        Succeeded = "succeeded",
    }
}

text_enum! {
    /// The kind of a step attempt.
    StepAttemptKind ("kind of a step attempt") {
        /// Ran a function.
        Function = "function",
        /// Slept.
        Sleep = "sleep",
        /// Ran a child workflow.
        Workflow = "workflow",
        /// Waited for a signal.
        SignalWait = "signal-wait",
        /// Sent a signal.
        SignalSend = "signal-send",
    }
}

/// A run, as it stands in the database.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkflowRun {
    /// The namespace.
    pub namespace_id: String,
    /// The id, unique within the namespace.
    pub id: String,
    /// The workflow's name.
    pub workflow_name: String,
    /// The workflow's version, where it has one.
    pub version: Option<String>,
    /// The status.
    pub status: RunStatus,
    /// The key under which it was created, where one was given.
    pub idempotency_key: Option<String>,
    /// The run as which it [continued](crate::WorkflowContext::continue_as_new), where it did. It is completed
    /// then, and has no output.
    pub continued_as: Option<String>,
    /// What was captured at its creation.
    pub carrier: Carrier,
    /// The input.
    pub input: Payload,
    /// The output, once completed.
    pub output: Payload,
    /// The last failure. On a run that is not over it is that of an earlier execution.
    pub error: Option<StoredError>,
    /// How often it was claimed.
    pub attempts: u32,
    /// The step attempt of the parent run that created it, where it is a child.
    pub parent_step_attempt_id: Option<String>,
    /// The worker that claimed it; stays on a completed run.
    pub worker_id: Option<String>,
    /// When it may be claimed: the start, the wake-up, the retry, or the end of the lease.
    pub available_at: Option<SystemTime>,
    /// When it fails if it has not ended.
    pub deadline_at: Option<SystemTime>,
    /// When its first execution since the last failure began.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub finished_at: Option<SystemTime>,
    /// When it was created.
    pub created_at: SystemTime,
    /// When the row was last written.
    pub updated_at: SystemTime,
}

impl WorkflowRun {
    /// A pending run that was just created. For backends, which then fill in what differs.
    #[must_use]
    pub fn new(
        namespace_id: impl Into<String>,
        id: impl Into<String>,
        workflow_name: impl Into<String>,
        created_at: SystemTime,
    ) -> Self {
        Self {
            namespace_id: namespace_id.into(),
            id: id.into(),
            workflow_name: workflow_name.into(),
            version: None,
            status: RunStatus::Pending,
            idempotency_key: None,
            continued_as: None,
            carrier: Carrier::new(),
            input: Payload::NULL,
            output: Payload::NULL,
            error: None,
            attempts: 0,
            parent_step_attempt_id: None,
            worker_id: None,
            available_at: None,
            deadline_at: None,
            started_at: None,
            finished_at: None,
            created_at,
            updated_at: created_at,
        }
    }

    /// The place of this run in a list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.created_at, self.id.clone())
    }

    /// The run that goes on in place of this one, which is over.
    pub(crate) fn successor(&self) -> Option<&str> {
        let completed = matches!(self.status, RunStatus::Completed | RunStatus::Succeeded);
        self.continued_as.as_deref().filter(|_| completed)
    }

    pub(crate) fn continues_in_a_circle(&self) -> BackendError {
        BackendError::MalformedRow {
            table: "workflow_runs",
            id: self.id.clone(),
            column: "config",
            problem: "a member `continuedAs` that leads back to this run".to_owned(),
        }
    }
}

/// An attempt at a step, as it stands in the database.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepAttempt {
    /// The id, unique within the namespace.
    pub id: String,
    /// The run it belongs to.
    pub workflow_run_id: String,
    /// The step's name within the run.
    pub step_name: String,
    /// The kind.
    pub kind: StepAttemptKind,
    /// The status.
    pub status: StepStatus,
    /// The JSON text of the column `config`, where it holds anything: where the result stands among
    /// those that the workflow's code observed (`docs/protocol.md`).
    pub config: Option<String>,
    /// The JSON text of the column `context`, where it is set: when a wait ends, and what for.
    pub context: Option<String>,
    /// The result, once completed.
    pub output: Payload,
    /// The failure, once failed.
    pub error: Option<StoredError>,
    /// The child run, where it has been linked.
    pub child_workflow_run_id: Option<String>,
    /// When it began.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub finished_at: Option<SystemTime>,
    /// When the attempt was created.
    pub created_at: SystemTime,
    /// When the row was last written.
    pub updated_at: SystemTime,
}

impl StepAttempt {
    /// A running attempt. For backends, which then fill in what differs.
    #[must_use]
    pub fn new(
        id: impl Into<String>,
        workflow_run_id: impl Into<String>,
        step_name: impl Into<String>,
        kind: StepAttemptKind,
        created_at: SystemTime,
    ) -> Self {
        Self {
            id: id.into(),
            workflow_run_id: workflow_run_id.into(),
            step_name: step_name.into(),
            kind,
            status: StepStatus::Running,
            config: None,
            context: None,
            output: Payload::NULL,
            error: None,
            child_workflow_run_id: None,
            started_at: Some(created_at),
            finished_at: None,
            created_at,
            updated_at: created_at,
        }
    }

    /// The place of this attempt in a list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.created_at, self.id.clone())
    }
}

/// A failure as it is stored: what a process in any language can read.
///
/// ```
/// use openworkflow::backend::StoredError;
///
/// let error = StoredError::from_json(r#"{"name":"TypeError","message":"x is undefined"}"#);
/// assert_eq!(error.to_string(), "TypeError: x is undefined");
/// let error = StoredError::from_json(r#"{"message":"no money","step":"charge"}"#);
/// assert_eq!(error.to_string(), r#"step "charge": no money"#);
/// assert!(error.retryable);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoredError {
    /// The error's name, where it has one.
    pub name: Option<String>,
    /// The message; empty where none is stored.
    pub message: String,
    /// The stack trace or the chain of causes, where stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// Whether another attempt may help. Only failures of steps say otherwise.
    pub retryable: bool,
    /// What failed, where a step of this library did and it was not the user's own error.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "kind_as_text"
    )]
    pub kind: Option<ErrorKind>,
    /// The step that the error of a run came from, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_name: Option<String>,
}

fn kind_as_text<S: Serializer>(kind: &Option<ErrorKind>, to: S) -> Result<S::Ok, S::Error> {
    kind.map(|kind| kind.as_str()).serialize(to)
}

impl StoredError {
    /// Reads the JSON text of a column `error`, whatever it holds.
    #[must_use]
    pub fn from_json(json: &str) -> Self {
        codec::decode_error(json)
    }

    /// Of something that failed and has no error, as another process may write it.
    pub(crate) fn unknown() -> Self {
        Self::new(None, "no error was recorded".to_owned(), None, true)
    }

    pub(crate) fn new(
        name: Option<String>,
        message: String,
        stack: Option<String>,
        retryable: bool,
    ) -> Self {
        Self {
            name,
            message,
            stack,
            retryable,
            kind: None,
            step_name: None,
        }
    }

    pub(crate) fn with_kind(mut self, kind: Option<ErrorKind>) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn with_step_name(mut self, step_name: Option<String>) -> Self {
        self.step_name = step_name;
        self
    }

    /// This failure as an error of the kind it was stored with, else of `kind`.
    pub(crate) fn to_error(&self, kind: ErrorKind) -> Error {
        let name = self.name.clone().unwrap_or_else(|| "Error".to_owned());
        let kind = self.kind.unwrap_or(kind);
        let mut error = Error::new(name, self.message.clone()).with_kind(kind);
        if !self.retryable {
            error = error.non_retryable();
        }
        match &self.stack {
            Some(stack) => error.with_stack(stack.clone()),
            None => error,
        }
    }
}

impl fmt::Display for StoredError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(step_name) = &self.step_name {
            write!(f, "step {step_name:?}: ")?;
        }
        match &self.name {
            Some(name) => write!(f, "{name}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// How many runs have which status; legacy statuses count as what they became.
///
/// ```
/// use openworkflow::backend::{RunCounts, RunStatus};
///
/// let mut counts = RunCounts::default();
/// counts.add(&RunStatus::Sleeping, 2);
/// counts.add(&RunStatus::Running, 1);
/// assert_eq!(counts.running, 3);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunCounts {
    /// Waiting to be claimed.
    pub pending: u64,
    /// Claimed or parked.
    pub running: u64,
    /// Ended with an output.
    pub completed: u64,
    /// Ended with an error.
    pub failed: u64,
    /// Canceled.
    pub canceled: u64,
}

impl RunCounts {
    /// Adds `count` runs of `status`. Statuses that are not known are ignored.
    pub fn add(&mut self, status: &RunStatus, count: u64) {
        let counter = match status {
            RunStatus::Pending => &mut self.pending,
            RunStatus::Running | RunStatus::Sleeping => &mut self.running,
            RunStatus::Completed | RunStatus::Succeeded => &mut self.completed,
            RunStatus::Failed => &mut self.failed,
            RunStatus::Canceled => &mut self.canceled,
            RunStatus::Other(_) => return,
        };
        *counter += count;
    }
}

/// A run that was just claimed.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClaimedRun {
    /// The run's id.
    pub id: String,
    /// The worker id, of those in the claim, that holds it now.
    pub worker_id: String,
    /// How often it has been claimed, this claim included.
    pub attempts: u32,
    /// Whether another worker held it and its lease ran out.
    pub taken_over: bool,
    /// For how long it was due before the claim, by the database's clock. Zero unless
    /// [said](Self::due_for).
    pub due_for: Duration,
    /// What made it due, as far as its row tells. A signal, a child or a timer shows in its steps.
    pub woken_by: Option<WakeCause>,
    /// When it was due and claimed, by the database's clock, where the backend tells.
    pub times: Option<ClaimTimes>,
    /// The run after the claim, or what is wrong with its row.
    pub run: Result<WorkflowRun, BackendError>,
}

impl ClaimedRun {
    /// For backends.
    pub fn new(
        id: impl Into<String>,
        worker_id: impl Into<String>,
        attempts: u32,
        taken_over: bool,
        run: Result<WorkflowRun, BackendError>,
    ) -> Self {
        Self {
            id: id.into(),
            worker_id: worker_id.into(),
            attempts,
            taken_over,
            due_for: Duration::ZERO,
            woken_by: None,
            times: None,
            run,
        }
    }

    /// This claim of a run that was due for so long.
    #[must_use]
    pub fn due_for(mut self, due_for: Duration) -> Self {
        self.due_for = due_for;
        self
    }

    /// This claim of a run that `cause` made due.
    #[must_use]
    pub fn woken_by(mut self, cause: WakeCause) -> Self {
        self.woken_by = Some(cause);
        self
    }

    /// This claim, with its times by the database's clock.
    #[must_use]
    pub fn at(mut self, times: ClaimTimes) -> Self {
        let due_for = times.claimed_at.duration_since(times.due_at);
        self.due_for = due_for.unwrap_or_default();
        self.times = Some(times);
        self
    }
}

/// What a run did so far.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct History {
    /// Its step attempts in order of (`created_at`, `id`).
    pub attempts: Vec<StepAttempt>,
    /// The child runs of its running, linked `workflow` attempts, by attempt id.
    pub children: HashMap<String, ChildRun>,
    /// The signals delivered to its running `signal-wait` attempts, by attempt id.
    pub signals: HashMap<String, ReceivedSignal>,
}

impl History {
    /// For backends.
    #[must_use]
    pub fn new(
        attempts: Vec<StepAttempt>,
        children: HashMap<String, ChildRun>,
        signals: HashMap<String, ReceivedSignal>,
    ) -> Self {
        Self {
            attempts,
            children,
            signals,
        }
    }
}

/// A signal that was delivered to a step attempt.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceivedSignal {
    /// What was sent with it.
    pub data: Payload,
    /// When it was delivered.
    pub at: SystemTime,
}

impl ReceivedSignal {
    /// For backends.
    #[must_use]
    pub fn new(data: Payload, at: SystemTime) -> Self {
        Self { data, at }
    }
}

/// What a parent needs to know of a child run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChildRun {
    /// The child's id.
    pub id: String,
    /// Its status.
    pub status: RunStatus,
    /// Its output.
    pub output: Payload,
    /// Its error.
    pub error: Option<StoredError>,
    /// When it ended.
    pub finished_at: Option<SystemTime>,
}

impl ChildRun {
    /// For backends.
    pub fn new(
        id: impl Into<String>,
        status: RunStatus,
        output: Payload,
        error: Option<StoredError>,
        finished_at: Option<SystemTime>,
    ) -> Self {
        Self {
            id: id.into(),
            status,
            output,
            error,
            finished_at,
        }
    }
}

impl From<WorkflowRun> for ChildRun {
    fn from(run: WorkflowRun) -> Self {
        Self::new(run.id, run.status, run.output, run.error, run.finished_at)
    }
}
