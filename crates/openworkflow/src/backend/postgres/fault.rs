//! What the driver's errors mean for us.

use std::error::Error as _;
use std::{fmt, io};

use deadpool_postgres::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::backend::BackendError;

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Somebody else was in the way, and the transaction was rolled back: do it again.
    Repeat,
    /// The connection is gone, and with it the knowledge of what happened.
    Reconnect,
    /// Prepared statements get lost between us and the server: go on without them.
    Unprepared,
    /// The server no longer takes writes: find the one that does.
    Relocate,
    /// The server gave up waiting, and rolled back what there was: leave it to the caller when to try again.
    Later,
    /// None that we have.
    None,
}

pub(super) fn remedy(error: &Error) -> Remedy {
    let Some(code) = error.code() else {
        let broken = error.is_closed()
            || error
                .source()
                .is_some_and(|source| source.downcast_ref::<io::Error>().is_some());
        return if broken {
            Remedy::Reconnect
        } else {
            Remedy::None
        };
    };
    if [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
    ]
    .contains(code)
    {
        Remedy::Repeat
    } else if is_disconnect(code) {
        Remedy::Reconnect
    } else if [
        SqlState::INVALID_SQL_STATEMENT_NAME,
        SqlState::DUPLICATE_PSTATEMENT,
        SqlState::PROTOCOL_VIOLATION,
    ]
    .contains(code)
    {
        Remedy::Unprepared
    } else if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        Remedy::Relocate
    } else if [
        // What `statement_timeout` says, and an administrator who cancels a statement.
        SqlState::QUERY_CANCELED,
        // What `lock_timeout` says.
        SqlState::LOCK_NOT_AVAILABLE,
    ]
    .contains(code)
    {
        Remedy::Later
    } else {
        Remedy::None
    }
}

fn is_disconnect(code: &SqlState) -> bool {
    let protocol = *code == SqlState::PROTOCOL_VIOLATION;
    (code.code().starts_with("08") && !protocol)
        || [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::IDLE_SESSION_TIMEOUT,
        ]
        .contains(code)
}

/// What the server said, without the parts that quote rows or parameters.
#[derive(Debug)]
struct ServerError {
    message: String,
    code: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)
    }
}

impl std::error::Error for ServerError {}

fn server_error(error: &Error) -> Option<ServerError> {
    let error = error.as_db_error()?;
    Some(ServerError {
        message: error.message().to_owned(),
        code: error.code().code().to_owned(),
    })
}

/// The driver's message with its cause, which it does not show by itself.
pub(super) fn text(error: &Error) -> String {
    match (server_error(error), error.source()) {
        (Some(error), _) => error.to_string(),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}

/// An operation's error.
pub(super) fn driver(error: Error) -> BackendError {
    let transient = remedy(&error) != Remedy::None;
    let message = text(&error);
    let refused = is_refusal(&error);
    let source = match server_error(&error) {
        Some(error) => error.into(),
        None => error.into(),
    };
    if refused {
        return BackendError::ValueRefused {
            problem: message,
            source,
        };
    }
    BackendError::Driver {
        message,
        transient,
        source,
    }
}

/// Whether it is a value that is at fault: a data exception, or a limit that it exceeds.
fn is_refusal(error: &Error) -> bool {
    match error.code() {
        Some(code) => ["22", "54"]
            .iter()
            .any(|class| code.code().starts_with(class)),
        None => error
            .source()
            .is_some_and(|source| source.downcast_ref::<TooLarge>().is_some()),
    }
}

/// A value that no message to the server can carry.
#[derive(Debug, thiserror::Error)]
#[error("{0} bytes are more than PostgreSQL takes at once")]
pub(super) struct TooLarge(pub(super) usize);

/// The same failure for each of several operations that were written together.
pub(super) fn copy(error: &BackendError) -> BackendError {
    match error {
        BackendError::Closed => BackendError::Closed,
        BackendError::Unreachable { problem, .. } => BackendError::Unreachable {
            problem: problem.clone(),
            source: problem.clone().into(),
        },
        BackendError::Driver {
            message, transient, ..
        } => BackendError::Driver {
            message: message.clone(),
            transient: *transient,
            source: message.clone().into(),
        },
        other => BackendError::Driver {
            message: other.to_string(),
            transient: other.is_transient(),
            source: other.to_string().into(),
        },
    }
}

/// An error of the pool while an operation wanted a connection.
pub(super) fn pool(error: PoolError) -> BackendError {
    match error {
        PoolError::Backend(error) => {
            let passes = is_worth_waiting(&error) || remedy(&error) != Remedy::None;
            let problem = text(&error);
            let source = match server_error(&error) {
                Some(error) => error.into(),
                None => error.into(),
            };
            match passes {
                true => BackendError::Unreachable { problem, source },
                false => BackendError::Driver {
                    message: format!("cannot connect: {problem}"),
                    transient: false,
                    source,
                },
            }
        }
        PoolError::Closed => BackendError::Closed,
        other => BackendError::Driver {
            message: other.to_string(),
            transient: true,
            source: other.into(),
        },
    }
}

/// Whether a first connection may succeed a little later: the server is down or starting, or its
/// name is not known yet.
pub(super) fn is_worth_waiting(error: &Error) -> bool {
    match error.code() {
        Some(code) => is_disconnect(code),
        None => remedy(error) == Remedy::Reconnect || error.to_string().starts_with("timeout"),
    }
}

/// The same of an error that [`unavailable`] made.
pub(super) fn may_pass(error: &BackendError) -> bool {
    let BackendError::Unavailable {
        source: Some(source),
        ..
    } = error
    else {
        return false;
    };
    match source.downcast_ref::<ServerError>() {
        Some(error) => is_disconnect(&SqlState::from_code(&error.code)),
        None => source.downcast_ref().is_some_and(is_worth_waiting),
    }
}

/// Why the first connection failed.
pub(super) fn unavailable(error: Error, label: &str) -> BackendError {
    let cause = text(&error);
    let problem = match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => {
            format!("the server refused the password: {cause}")
        }
        Some(code) if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            format!("the server refused the role: {cause}")
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            format!("the database does not exist, create it first: {cause}")
        }
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            format!("the role lacks rights: {cause}")
        }
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => {
            format!("the server has no free connections: {cause}")
        }
        Some(_) => cause,
        None if cause.contains("password missing") => {
            "the server asks for a password and none was given: put one into the connection string, PGPASSWORD or the password file".to_owned()
        }
        None if cause.contains("TLS") => format!("no encrypted connection: {cause}"),
        None if is_worth_waiting(&error) => {
            format!("no server answers there, start it or correct the address: {cause}")
        }
        None => cause,
    };
    BackendError::Unavailable {
        database: label.to_owned(),
        problem,
        source: Some(match server_error(&error) {
            Some(error) => error.into(),
            None => error.into(),
        }),
    }
}
