//! Random programs on PostgreSQL.

use std::time::{Duration, SystemTime};

use openworkflow::backend::Backend;
use openworkflow::{Clock, Postgres};
use tokio_postgres::SimpleQueryMessage;

use super::drive::{Database, ROWS, mask_times};
use crate::postgres::{connect, session, shift};
use crate::postgres_server;

/// A schema of its own on the server that this process's tests share.
#[derive(Debug)]
pub struct PostgresSchema {
    name: String,
}

impl Database for PostgresSchema {
    type Store = Postgres;

    const FORESIGHT: Duration = Duration::from_secs(10);

    async fn create() -> Self {
        let name = postgres_server::schema();
        Self { name }
    }

    /// The server's clock is the system's.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    async fn open(&self, _clock: &Clock) -> Postgres {
        connect(&postgres_server::url(), &self.name).await
    }

    /// Moves the rows into the past instead, and a moment further: their times have microseconds.
    async fn advance(&self, store: &Postgres, _clock: &Clock, by: Duration) {
        let by = by + Duration::from_millis(1);
        shift(&session(&self.name).await, by).await;
        let now = SystemTime::now();
        store.wakeups().work_due(now, now);
    }

    async fn close(&self, store: Postgres) {
        store.close();
    }

    async fn rows(&self) -> Vec<String> {
        let session = session(&self.name).await;
        let mut rows = Vec::new();
        for sql in ROWS {
            let messages = session.simple_query(sql).await;
            for message in messages.expect("the query fits the schema") {
                if let SimpleQueryMessage::Row(row) = message {
                    let columns =
                        (0..row.len()).map(|at| row.get(at).map_or("NULL".into(), mask_times));
                    rows.push(columns.collect::<Vec<_>>().join(" | "));
                }
            }
        }
        rows
    }
}
