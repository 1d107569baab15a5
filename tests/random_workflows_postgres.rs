//! Random workflows on PostgreSQL.

mod random_workflows;

type Db = openworkflow_tests::random::PostgresSchema;

/// How many programs are made up. Each is a schema, and takes longer than on SQLite.
const CASES: u32 = 8;
