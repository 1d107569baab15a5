//! SQLite's errors in the words of [`BackendError`].

use std::any::Any;
use std::time::Duration;

use rusqlite::ErrorCode;
use workflow_core::Error;

use super::super::BackendError;

/// What goes wrong inside an operation: SQLite's own error, or one that says what it means.
#[derive(Debug)]
pub(super) enum OpError {
    Sql(rusqlite::Error),
    Backend(BackendError),
}

pub(super) type OpResult<T> = Result<T, OpError>;

impl From<rusqlite::Error> for OpError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<BackendError> for OpError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

impl OpError {
    pub(super) fn into_backend(self, database: &str, waited: Duration) -> BackendError {
        match self {
            Self::Sql(error) => translate(error, database, waited),
            Self::Backend(error) => error,
        }
    }
}

/// What an error of an operation means to its caller. `waited` is how long the lock was waited for.
pub(super) fn translate(error: rusqlite::Error, database: &str, waited: Duration) -> BackendError {
    match code(&error) {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => busy(waited),
        Some(ErrorCode::ReadOnly) => BackendError::ReadOnly {
            database: database.to_owned(),
        },
        Some(ErrorCode::TooBig) => BackendError::ValueRefused {
            problem: error.to_string(),
            source: Box::new(error),
        },
        code => BackendError::Driver {
            message: error.to_string(),
            // An operator frees space or mends the disk while workers keep trying.
            transient: matches!(
                code,
                Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen)
            ),
            source: Box::new(error),
        },
    }
}

pub(super) fn busy(waited: Duration) -> BackendError {
    BackendError::Busy {
        waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
    }
}

pub(super) fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => Some(failure.code),
        _ => None,
    }
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        code(error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// The same error once more, for the next of the jobs that it hit.
pub(super) fn copy(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            rusqlite::Error::SqliteFailure(*failure, message.clone())
        }
        other => rusqlite::Error::ToSqlConversionFailure(other.to_string().into()),
    }
}

/// An operation panicked: a defect of this library, contained.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> BackendError {
    let error = Error::from_panic(panic);
    BackendError::Driver {
        message: format!("an operation panicked: {}", error.message()),
        transient: false,
        source: error.into_boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_beyond_sqlites_limit_is_refused_for_good() {
        let too_big = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_TOOBIG);
        let error = rusqlite::Error::SqliteFailure(too_big, None);
        let error = translate(error, "app.db", Duration::ZERO);
        assert!(
            matches!(error, BackendError::ValueRefused { .. }),
            "{error:?}"
        );
        assert!(!error.is_transient());
    }
}
