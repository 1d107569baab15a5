//! Health and metrics over HTTP, of workers on PostgreSQL.

mod observed;

type Db = openworkflow_tests::PostgresDatabase;
