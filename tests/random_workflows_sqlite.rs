//! Random workflows on a real SQLite file.

mod random_workflows;

type Db = openworkflow_tests::random::SqliteFile;

/// How many programs are made up.
const CASES: u32 = 20;
