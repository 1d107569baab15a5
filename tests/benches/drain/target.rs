//! What a kind of database must be able to do to be measured.

use std::future::Future;
use std::time::Duration;

use openworkflow::backend::Backend;

use crate::Result;

/// A kind of database.
pub(crate) trait Target {
    /// Its name, in reports and for the script that drives npm's package.
    const NAME: &'static str;

    type Store: Backend + Clone;

    /// A place for a new database. It is deleted when dropped.
    fn create(&self) -> Result<Database>;

    /// Opens a database, making its tables where they are missing.
    fn open(&self, database: &Database) -> impl Future<Output = Result<Self::Store>>;

    /// Lets go of an open database.
    fn close(&self, store: Self::Store) -> impl Future<Output = ()>;

    /// The transactions per second of the driver alone, each inserting one small row, from as many
    /// connections as the kind of database has use for at `concurrency`.
    fn bare_commits(&self, concurrency: u32, length: Duration) -> Result<f64>;
}

/// A database of its own for one measurement.
pub(crate) struct Database {
    /// The path or the URL.
    pub(crate) address: String,
    /// Held until the measurement is over.
    pub(crate) _folder: Option<tempfile::TempDir>,
}
