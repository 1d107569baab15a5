//! Databases by URL, for processes of their own.

use openworkflow::{Postgres, Sqlite, Worker, WorkerBuilder};

/// Begins to set up a worker on the database that a [`Database::url`](crate::Database::url) names,
/// with the system's clock.
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
        Some(("postgres", rest)) => {
            let (schema, url) = rest
                .split_once(':')
                .expect("a schema and a connection string");
            let options = Postgres::options().url(url).schema(schema);
            Worker::builder(options.connect().await.expect("the server can be used"))
        }
        _ => panic!("{url:?} names no database that the tests know"),
    }
}
