//! The golden traces, on PostgreSQL.

mod golden_traces;

use openworkflow::Postgres;
use openworkflow_tests::server;

async fn store() -> (Postgres, ()) {
    (server::backend().await, ())
}

golden_traces::golden_traces!(store());
