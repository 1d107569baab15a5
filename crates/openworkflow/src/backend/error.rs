//! What can go wrong with a database.

use workflow_core::{BoxError, Interruption};

/// An operation of the backend failed. Nothing of it was written, unless the answer was lost with a
/// connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The run is no longer this worker's: canceled, ended, or taken over.
    #[error("the run is no longer this worker's to write ({})", reason.as_str())]
    OwnershipLost {
        /// What became of it.
        reason: Interruption,
    },
    /// The database could not be opened or reached.
    #[error("cannot open the database {database}: {problem}")]
    Unavailable {
        /// The file, or the server and database, without credentials.
        database: String,
        /// What is wrong, and what to do about it.
        problem: String,
        /// The driver's error.
        #[source]
        source: Option<BoxError>,
    },
    /// The database was made by a newer version of OpenWorkflow.
    #[error(
        "the database {database} has schema version {found}, and this library knows versions up to {supported}: upgrade the library"
    )]
    NewerSchema {
        /// The file, or the server and database.
        database: String,
        /// The version found.
        found: i64,
        /// The newest version that this library knows.
        supported: i64,
    },
    /// Somebody else kept the database locked.
    #[error(
        "the database stayed locked for {waited_ms} ms: look for another process that holds a long write transaction"
    )]
    Busy {
        /// How long this operation waited, in milliseconds.
        waited_ms: u64,
    },
    /// The database, or the file system under it, takes no writes.
    #[error(
        "the database {database} is read-only: check the permissions of the file and its folder"
    )]
    ReadOnly {
        /// The file, or the server and database.
        database: String,
    },
    /// A row holds something that nobody who follows the protocol writes.
    #[error("{table} {id}: column {column} holds {problem}; repair or delete the row")]
    MalformedRow {
        /// The table.
        table: &'static str,
        /// The row's id.
        id: String,
        /// The column.
        column: &'static str,
        /// What it holds instead of what it should.
        problem: String,
    },
    /// There is no connection to the database right now. Nothing of the operation was sent.
    #[error("the database cannot be reached: {problem}")]
    Unreachable {
        /// What the attempt to connect came to.
        problem: String,
        /// The driver's error.
        #[source]
        source: BoxError,
    },
    /// The database refuses a value, and will refuse it again: a number or a character that its JSON cannot
    /// hold, or one that is too large.
    #[error("the database cannot store a value: {problem}")]
    ValueRefused {
        /// What it says about the value.
        problem: String,
        /// The driver's error.
        #[source]
        source: BoxError,
    },
    /// A schema was not dropped, nor anything in it.
    #[error("cannot drop the schema {schema}: {problem}")]
    NotDropped {
        /// The schema.
        schema: String,
        /// What is in the way.
        problem: String,
    },
    /// The backend was closed.
    #[error("the backend is closed")]
    Closed,
    /// The driver reported something else.
    #[error("database error: {message}")]
    Driver {
        /// The driver's message.
        message: String,
        /// Whether the same operation may succeed if tried again: a lost connection, a deadlock.
        transient: bool,
        /// The driver's error.
        #[source]
        source: BoxError,
    },
}

impl BackendError {
    /// Whether the same operation may succeed if tried again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::Unreachable { .. }
                | Self::Driver {
                    transient: true,
                    ..
                }
        )
    }

    /// Whether it is certain that nothing of the operation came to the database, so that even one which
    /// must not be done twice can be tried again.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unreachable { .. })
    }
}
