//! The tables, and the migrations that make them. Names, types and indexes are the protocol's.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::super::executions::{OWN_VERSION, executions_table, own_migrations_table};
use super::error;

/// The newest version of the schema. Versions are shared with OpenWorkflow for TypeScript, so no
/// other may ever be written.
pub(super) const LATEST: i64 = 5;

/// What each version adds. 2 and 3 are steps that only PostgreSQL needs.
const MIGRATIONS: [&str; LATEST as usize + 1] =
    [VERSIONS, RUNS_AND_STEPS, "", "", INDEXES, SIGNALS];

const VERSIONS: &str = "
CREATE TABLE IF NOT EXISTS openworkflow_migrations (version INTEGER NOT NULL PRIMARY KEY);
";

const RUNS_AND_STEPS: &str = "
CREATE TABLE IF NOT EXISTS workflow_runs (
    namespace_id TEXT NOT NULL,
    id TEXT NOT NULL,
    workflow_name TEXT NOT NULL,
    version TEXT,
    status TEXT NOT NULL,
    idempotency_key TEXT,
    config TEXT NOT NULL,
    context TEXT,
    input TEXT,
    output TEXT,
    error TEXT,
    attempts INTEGER NOT NULL,
    parent_step_attempt_namespace_id TEXT,
    parent_step_attempt_id TEXT,
    worker_id TEXT,
    available_at TEXT,
    deadline_at TEXT,
    started_at TEXT,
    finished_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (namespace_id, id),
    FOREIGN KEY (parent_step_attempt_namespace_id, parent_step_attempt_id)
        REFERENCES step_attempts (namespace_id, id) ON DELETE SET NULL
);
CREATE TABLE IF NOT EXISTS step_attempts (
    namespace_id TEXT NOT NULL,
    id TEXT NOT NULL,
    workflow_run_id TEXT NOT NULL,
    step_name TEXT NOT NULL,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    config TEXT NOT NULL,
    context TEXT,
    output TEXT,
    error TEXT,
    child_workflow_run_namespace_id TEXT,
    child_workflow_run_id TEXT,
    started_at TEXT,
    finished_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (namespace_id, id),
    FOREIGN KEY (namespace_id, workflow_run_id)
        REFERENCES workflow_runs (namespace_id, id) ON DELETE CASCADE,
    FOREIGN KEY (child_workflow_run_namespace_id, child_workflow_run_id)
        REFERENCES workflow_runs (namespace_id, id) ON DELETE SET NULL
);
";

const INDEXES: &str = "
CREATE INDEX IF NOT EXISTS workflow_runs_status_available_at_created_at_idx
    ON workflow_runs (namespace_id, status, available_at, created_at);
CREATE INDEX IF NOT EXISTS workflow_runs_workflow_name_idempotency_key_created_at_idx
    ON workflow_runs (namespace_id, workflow_name, idempotency_key, created_at);
CREATE INDEX IF NOT EXISTS workflow_runs_parent_step_idx
    ON workflow_runs (parent_step_attempt_namespace_id, parent_step_attempt_id)
    WHERE parent_step_attempt_namespace_id IS NOT NULL AND parent_step_attempt_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS workflow_runs_created_at_desc_idx
    ON workflow_runs (namespace_id, created_at DESC);
CREATE INDEX IF NOT EXISTS workflow_runs_status_created_at_desc_idx
    ON workflow_runs (namespace_id, status, created_at DESC);
CREATE INDEX IF NOT EXISTS workflow_runs_workflow_name_status_created_at_desc_idx
    ON workflow_runs (namespace_id, workflow_name, status, created_at DESC);
CREATE INDEX IF NOT EXISTS step_attempts_workflow_run_created_at_idx
    ON step_attempts (namespace_id, workflow_run_id, created_at);
CREATE INDEX IF NOT EXISTS step_attempts_workflow_run_step_name_created_at_idx
    ON step_attempts (namespace_id, workflow_run_id, step_name, created_at);
CREATE INDEX IF NOT EXISTS step_attempts_child_workflow_run_idx
    ON step_attempts (child_workflow_run_namespace_id, child_workflow_run_id)
    WHERE child_workflow_run_namespace_id IS NOT NULL AND child_workflow_run_id IS NOT NULL;
";

const SIGNALS: &str = "
CREATE TABLE IF NOT EXISTS workflow_signals (
    namespace_id TEXT NOT NULL,
    id TEXT NOT NULL,
    signal TEXT NOT NULL,
    data TEXT,
    sender_idempotency_key TEXT,
    workflow_run_id TEXT NOT NULL,
    step_attempt_id TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (namespace_id, id)
);
CREATE UNIQUE INDEX IF NOT EXISTS workflow_signals_step_attempt_idx
    ON workflow_signals (namespace_id, step_attempt_id);
CREATE INDEX IF NOT EXISTS workflow_signals_idempotency_idx
    ON workflow_signals (namespace_id, signal, sender_idempotency_key)
    WHERE sender_idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS step_attempts_signal_wait_idx
    ON step_attempts (namespace_id, json_extract(context, '$.signal'))
    WHERE kind = 'signal-wait' AND status = 'running';
";

/// Indexes of our own: what is due, and what has a deadline, of runs that are not over. They are no
/// migration, since the versions are everybody's; other SDKs keep them up to date without knowing of them.
const OWN_INDEXES: &str = "
CREATE INDEX IF NOT EXISTS openworkflow_rs_workflow_runs_due_idx
    ON workflow_runs (namespace_id, workflow_name, version, status, available_at, created_at)
    WHERE available_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS openworkflow_rs_workflow_runs_deadline_idx
    ON workflow_runs (namespace_id, deadline_at)
    WHERE deadline_at IS NOT NULL AND status IN ('pending', 'running', 'sleeping');
";

/// How many indexes those are.
const OWN_INDEX_COUNT: i64 = 2;

/// What each version of our own tables adds. They are no migrations of the protocol's, and are numbered
/// apart.
const OWN_TABLES: [&str; OWN_VERSION as usize] = [concat!(
    "CREATE TABLE IF NOT EXISTS ",
    executions_table!(),
    " (
    namespace_id TEXT NOT NULL,
    workflow_run_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    worker_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    due_at TEXT NOT NULL,
    began_at TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    PRIMARY KEY (namespace_id, workflow_run_id, attempt)
) WITHOUT ROWID;"
)];

/// How often another process may spoil a migration before it is our problem.
const TRIES: u32 = 20;

/// The version of the schema: -1 where there is none.
pub(super) fn version(conn: &Connection) -> rusqlite::Result<i64> {
    let exists = conn
        .query_row(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'openworkflow_migrations'",
            [],
            |_| Ok(()),
        )
        .optional()?
        .is_some();
    if !exists {
        return Ok(-1);
    }
    let version: Option<i64> = conn.query_row(
        "SELECT max(version) FROM openworkflow_migrations",
        [],
        |row| row.get(0),
    )?;
    Ok(version.unwrap_or(-1))
}

/// Whether our own indexes are there.
pub(super) fn is_indexed(conn: &Connection) -> rusqlite::Result<bool> {
    let found: i64 = conn.query_row(
        "SELECT count(*) FROM sqlite_master
         WHERE type = 'index' AND name GLOB 'openworkflow_rs_workflow_runs_*'",
        [],
        |row| row.get(0),
    )?;
    Ok(found >= OWN_INDEX_COUNT)
}

/// Makes our own indexes where they are missing.
pub(super) fn index(conn: &Connection) -> rusqlite::Result<()> {
    if is_indexed(conn)? {
        return Ok(());
    }
    in_transaction(conn, || conn.execute_batch(OWN_INDEXES))
}

/// Whether our table of executions is there.
pub(super) fn is_recording(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row(
        concat!(
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '",
            executions_table!(),
            "')"
        ),
        [],
        |row| row.get(0),
    )
}

/// Makes our own tables where they are missing.
pub(super) fn add_own_tables(conn: &Connection) -> rusqlite::Result<()> {
    if own_version(conn)? >= OWN_VERSION {
        return Ok(());
    }
    in_transaction(conn, || {
        conn.execute_batch(concat!(
            "CREATE TABLE IF NOT EXISTS ",
            own_migrations_table!(),
            " (version INTEGER NOT NULL PRIMARY KEY)"
        ))?;
        let found = usize::try_from(own_version(conn)?).unwrap_or_default();
        for (version, sql) in (1..).zip(OWN_TABLES).skip(found) {
            conn.execute_batch(sql)?;
            conn.execute(
                concat!(
                    "INSERT INTO ",
                    own_migrations_table!(),
                    " (version) VALUES (?1)"
                ),
                [version],
            )?;
        }
        Ok(())
    })
}

/// The version of our own tables: 0 where there are none.
fn own_version(conn: &Connection) -> rusqlite::Result<i64> {
    let exists: bool = conn.query_row(
        concat!(
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '",
            own_migrations_table!(),
            "')"
        ),
        [],
        |row| row.get(0),
    )?;
    if !exists {
        return Ok(0);
    }
    conn.query_row(
        concat!(
            "SELECT coalesce(max(version), 0) FROM ",
            own_migrations_table!()
        ),
        [],
        |row| row.get(0),
    )
}

/// Brings the schema up to [`LATEST`] and returns the version that it then has: a higher one, if a
/// newer library made it.
pub(super) fn migrate(conn: &Connection, patience: Duration) -> rusqlite::Result<i64> {
    let started = Instant::now();
    let mut spoiled = 0;
    loop {
        let outcome = version(conn).and_then(|current| {
            if current < LATEST {
                apply(conn, current + 1)?;
            }
            Ok(current)
        });
        match outcome {
            Ok(current) if current >= LATEST => return Ok(current),
            Ok(_) => {}
            // Processes that take no lock beforehand can still get in between.
            Err(error)
                if is_somebody_elses(&error)
                    && spoiled < TRIES
                    && started.elapsed() <= patience =>
            {
                spoiled += 1;
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_somebody_elses(error: &rusqlite::Error) -> bool {
    error::is_busy(error)
        || matches!(
            error::code(error),
            Some(ErrorCode::ConstraintViolation | ErrorCode::SchemaChanged)
        )
}

/// Makes `next` the schema's version, unless somebody else has done so.
fn apply(conn: &Connection, next: i64) -> rusqlite::Result<()> {
    in_transaction(conn, || {
        if version(conn)? + 1 == next
            && let Some(sql) = usize::try_from(next).ok().and_then(|i| MIGRATIONS.get(i))
        {
            conn.execute_batch(sql)?;
            conn.execute(
                "INSERT INTO openworkflow_migrations (version) VALUES (?1)",
                [next],
            )?;
        }
        Ok(())
    })
}

fn in_transaction(
    conn: &Connection,
    work: impl FnOnce() -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let done = work().and_then(|()| conn.execute_batch("COMMIT"));
    if done.is_err() && !conn.is_autocommit() {
        // The error that led here says more than one about the rollback.
        let _ = conn.execute_batch("ROLLBACK");
    }
    done
}
