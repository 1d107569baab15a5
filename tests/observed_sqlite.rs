//! Health and metrics over HTTP, of workers on SQLite.

mod observed;

type Db = openworkflow_tests::SqliteDatabase;
