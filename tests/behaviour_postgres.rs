//! The behavioural suite on PostgreSQL.

mod behaviour;

type Db = openworkflow_tests::PostgresDatabase;
