//! The golden traces, on SQLite.

mod golden_traces;

use openworkflow::Sqlite;
use tempfile::TempDir;

async fn store() -> (Sqlite, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(folder.path().join("traces.db")).await.unwrap();
    (store, folder)
}

golden_traces::golden_traces!(store());
