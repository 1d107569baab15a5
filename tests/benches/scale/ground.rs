//! What a kind of database must be able to do to be filled and looked at.

use std::path::Path;

use openworkflow::backend::Backend;
use openworkflow_tests::scale::{Dialect, Meter, Readings};

use crate::Result;
use crate::options::Options;

/// What tells whether there are runs whose deadline passed, along an index.
pub(crate) const EXPIRED: &str = "SELECT count(*) FROM (
    SELECT 1 FROM workflow_runs
    WHERE namespace_id = 'default' AND status IN ('pending', 'running', 'sleeping')
        AND deadline_at <= {now} LIMIT 1
) AS expired";

/// A database of one kind.
pub(crate) trait Ground: Sized {
    /// Its name, in reports and on the command line.
    const NAME: &'static str;
    const DIALECT: Dialect;

    type Store: Backend;
    /// What tells how much an operation reads.
    type Reader: Meter;

    /// A new database with tables, in `folder` where it is one of files.
    async fn create(folder: &Path) -> Result<Self>;

    /// Makes the runs that are asked for.
    async fn fill(&self, options: &Options) -> Result<()>;

    /// Counts the rows of all tables.
    async fn analyze(&self) -> Result<()>;

    async fn open(&self, name: &str) -> Result<Self::Store>;

    async fn execute(&self, sql: &str) -> Result<()>;

    /// Whether a deadline has passed of a run that is not over.
    async fn has_expired(&self) -> Result<bool>;

    /// Makes the database tell what it reads, which takes time.
    async fn begin_to_tell(&self) -> Result<()>;

    async fn end_to_tell(&self) -> Result<()>;

    /// Measures the store that was opened by this name.
    fn reader(&self, name: &str) -> Self::Reader;

    fn readings(reader: &Self::Reader) -> &Readings;
}
