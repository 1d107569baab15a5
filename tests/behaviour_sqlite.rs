//! The behavioural suite on SQLite.

mod behaviour;

type Db = openworkflow_tests::SqliteDatabase;
