//! What a client's operations fail with.

use std::time::Duration;

use workflow_core::{BoxError, Error, ErrorKind};

use crate::arrival;
use crate::backend::{BackendError, RunStatus, StoredError, WorkflowRun};
use crate::payload;

/// An operation of a client failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// There is no such run in the client's namespace.
    #[error("Workflow run {run_id} does not exist")]
    RunNotFound {
        /// The id that was asked for.
        run_id: String,
    },
    /// The run ended otherwise and cannot be canceled any more.
    #[error("Cannot cancel workflow run {run_id} with status {status}")]
    NotCancelable {
        /// The run.
        run_id: String,
        /// Its status.
        status: RunStatus,
    },
    /// The run still goes on, and only of one that is over another can be made.
    #[error(
        "workflow run {run_id} is {status}, and a new run is made only of one that is over: cancel it \
             first, or wait for its end"
    )]
    NotOver {
        /// The run.
        run_id: String,
        /// Its status.
        status: RunStatus,
    },
    /// The run is completed: there is no failure to go on at.
    #[error(
        "workflow run {run_id} is completed and has nothing to resume: retry it, or fork it from a step"
    )]
    NothingToResume {
        /// The run.
        run_id: String,
    },
    /// The run has no such step.
    #[error("workflow run {run_id} has no step {step_name:?}; list its steps to see their names")]
    StepNotFound {
        /// The run.
        run_id: String,
        /// The name that was asked for.
        step_name: String,
    },
    /// The run failed.
    #[error("workflow run {run_id} failed: {error}")]
    RunFailed {
        /// The run.
        run_id: String,
        /// What it failed with.
        error: Box<StoredError>,
    },
    /// The run was canceled.
    #[error("workflow run {run_id} was canceled")]
    RunCanceled {
        /// The run.
        run_id: String,
    },
    /// The run did not end in the time that the caller gave.
    #[error("workflow run {run_id} did not end in time; it goes on{}", standing(last.as_deref()))]
    TimedOut {
        /// The run.
        run_id: String,
        /// How it was when it was last read: its status, how often it was claimed, what failed last.
        /// `None` where the database did not answer in that time.
        last: Option<Box<WorkflowRun>>,
    },
    /// Nobody received the signal in the time that the caller gave.
    #[error("{}", arrival::not_received(signal, *limit))]
    NotReceived {
        /// The signal.
        signal: String,
        /// For how long it was sent again and again.
        limit: Duration,
    },
    /// An argument makes no sense, a value cannot be written as JSON, or does not fit its type.
    #[error("{0}")]
    Invalid(String),
    /// A cursor was not made by a list, or two exclude each other.
    #[error("{problem}; pass the `next` or `prev` of a page, unchanged")]
    InvalidCursor {
        /// What is wrong.
        problem: String,
    },
    /// An interceptor refused the operation, or failed.
    #[error("{error_type}: {message}")]
    Refused {
        /// The interceptor's [`error_type`](Error::error_type).
        error_type: String,
        /// Its message.
        message: String,
        /// The interceptor's error.
        #[source]
        source: BoxError,
    },
    /// The database failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl ClientError {
    /// Of an operation that stores a value. `subject` begins the message where that is refused.
    pub(super) fn of_value(error: BackendError, subject: impl FnOnce() -> String) -> Self {
        match error {
            BackendError::ValueRefused { problem, .. } => {
                Self::Invalid(payload::refused(subject(), &problem).message().to_owned())
            }
            error => Self::Backend(error),
        }
    }

    /// As interceptors see it: what failed in a word, and this error as the cause.
    pub(super) fn into_chain(self) -> Error {
        let (kind, name) = match &self {
            Self::Backend(_) => (ErrorKind::Backend, "BackendError"),
            Self::RunNotFound { .. } => (ErrorKind::Application, "RunNotFoundError"),
            Self::NotCancelable { .. } => (ErrorKind::Application, "NotCancelableError"),
            Self::NotOver { .. } => (ErrorKind::Application, "NotOverError"),
            Self::NotReceived { .. } => (ErrorKind::Timeout, "TimeoutError"),
            _ => (ErrorKind::Application, "ClientError"),
        };
        Error::from(self).with_kind(kind).with_name(name)
    }

    /// What came out of a chain of interceptors: the operation's own error, or one of theirs.
    pub(super) fn from_chain(error: Error) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(own) => return own,
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::InvalidArgument | ErrorKind::InvalidPayload => {
                Self::Invalid(error.message().to_owned())
            }
            _ => Self::Refused {
                error_type: error.error_type().to_owned(),
                message: error.message().to_owned(),
                source: error.into_boxed(),
            },
        }
    }
}

/// How a run was that somebody has stopped waiting for.
fn standing(run: Option<&WorkflowRun>) -> String {
    let Some(run) = run else {
        return String::new();
    };
    let mut text = match run.attempts {
        0 => format!(", {} and not claimed by any worker yet", run.status),
        nth => format!(", {} (execution {nth})", run.status),
    };
    if let Some(error) = &run.error {
        text.push_str(&format!("; what failed last: {error}"));
    }
    text
}
