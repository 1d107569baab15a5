//! The golden traces, on PostgreSQL.

mod golden_traces;

use openworkflow::Postgres;
use openworkflow_tests::{Database, PostgresDatabase};

async fn store() -> (Postgres, PostgresDatabase) {
    let database = PostgresDatabase::create().await;
    (database.store(), database)
}

golden_traces::golden_traces!(store());
