//! What a kind of database must be able to do to be measured.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use openworkflow::backend::Backend;

use crate::Result;

/// A kind of database.
pub(crate) trait Target {
    /// Its name, in reports, on the command line and for the script that drives npm's package.
    const NAME: &'static str;

    /// Whether it is meant for workers in several processes, which are measured then.
    const FLEETS: bool;

    type Store: Backend + Clone;

    /// A place for a new database. It is deleted when dropped.
    fn create(&self) -> Result<Database>;

    /// Opens the database at an address, making its tables where they are missing.
    fn open(address: &str) -> impl Future<Output = Result<Self::Store>>;

    /// Lets go of an open database.
    fn close(store: Self::Store) -> impl Future<Output = ()>;

    /// From how many connections the kind of database is to commit, to be compared with this many
    /// runs at a time.
    fn connections(concurrency: u32) -> u32;

    /// The transactions per second without an engine, each inserting one small row.
    fn bare_commits(&self, connections: u32, length: Duration) -> Result<f64>;
}

/// A database of its own for one measurement.
pub(crate) struct Database {
    /// The path or the URL.
    pub(crate) address: String,
    /// Deletes the database when dropped.
    pub(crate) _cleanup: Box<dyn Any>,
}
