//! What failed, in a word.

use std::fmt;

/// What failed, in a word that is the same for every occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The user's own code returned an error.
    Application,
    /// The user's code, or an interceptor, panicked.
    Panic,
    /// Something took longer than it was given.
    Timeout,
    /// A child workflow failed.
    ChildFailed,
    /// A child workflow was canceled.
    ChildCanceled,
    /// A value does not fit the type it was to be read as, or could not be written as JSON.
    InvalidPayload,
    /// An argument of a workflow operation makes no sense.
    InvalidArgument,
    /// An interceptor or middleware refused the call.
    Rejected,
    /// The run reached the limit on step attempts.
    StepLimitExceeded,
    /// The run's deadline passed.
    DeadlineExceeded,
    /// The workflow is not registered with the worker that claimed its run.
    NotRegistered,
    /// The workflow's code departed from what it did in an earlier execution of the run.
    NonDeterminism,
    /// The run's database failed or refused the operation.
    Backend,
}

impl ErrorKind {
    /// The kind in `snake_case`, for `error.type` and the like.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::ChildFailed => "child_failed",
            Self::ChildCanceled => "child_canceled",
            Self::InvalidPayload => "invalid_payload",
            Self::InvalidArgument => "invalid_argument",
            Self::Rejected => "rejected",
            Self::StepLimitExceeded => "step_limit_exceeded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotRegistered => "not_registered",
            Self::NonDeterminism => "non_determinism",
            Self::Backend => "backend",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
