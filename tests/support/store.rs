//! Databases by URL, for processes of their own.

use openworkflow::{Sqlite, Worker, WorkerBuilder};

/// Begins to set up a worker on the database that a [`Database::url`](crate::Database::url) names,
/// with the clock that the process is given.
///
/// # Panics
///
/// Where the database does not open.
pub async fn worker(url: &str) -> WorkerBuilder {
    match url.split_once(':') {
        Some(("sqlite", path)) => {
            let store = Sqlite::open(path).await.expect("the database opens");
            Worker::builder(store)
        }
        Some(("postgresql", _)) => {
            let (server, schema) = url.split_once('#').expect("the fragment is the schema");
            let clock = crate::faults::given();
            Worker::builder(crate::postgres::connect_with(server, schema, clock).await)
        }
        _ => panic!("{url:?} names no database that the tests know"),
    }
}
