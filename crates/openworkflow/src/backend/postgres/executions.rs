//! What is recorded of executions: a row by who ends his own, a member of the run's `config` by who ends
//! another's.

use tokio_postgres::Error;
use tokio_postgres::types::Type;

use super::migrate::Tables;
use super::rows;
use super::session::Query;
use crate::backend::executions::{
    OWN_VERSION, config_limit, executions_table, own_migrations_table,
};
use crate::backend::{BackendResult, ClaimTimes, ExecutionRecord, RecordedEnding};

/// What each version of our own tables adds. They are no migrations of the protocol's, and are numbered
/// apart.
const OWN_TABLES: [&str; OWN_VERSION as usize] = [concat!(
    r#"CREATE TABLE IF NOT EXISTS {schema}.""#,
    executions_table!(),
    r#"" (
        "namespace_id" TEXT NOT NULL,
        "workflow_run_id" TEXT NOT NULL,
        "attempt" INTEGER NOT NULL,
        "worker_id" TEXT NOT NULL,
        "outcome" TEXT NOT NULL,
        "due_at" TIMESTAMPTZ NOT NULL,
        "began_at" TIMESTAMPTZ NOT NULL,
        "ended_at" TIMESTAMPTZ NOT NULL,
        PRIMARY KEY ("namespace_id", "workflow_run_id", "attempt")
    );"#
)];

/// Follows the write that ends an execution of the owner's (`{ended}`), with the times of the claim in the
/// parameters `{due}` and `{began}`.
const RECORDED: &str = ", recorded AS (
        INSERT INTO {executions} (
            namespace_id, workflow_run_id, attempt, worker_id, outcome, due_at, began_at, ended_at
        )
        SELECT $1, $2, $4, $3, '{outcome}', ${due}, ${began}, now() FROM {ended}
        WHERE ${due} IS NOT NULL
        ON CONFLICT DO NOTHING
    )";

/// The above, where there is a table to record in. `n` is the number of the first of the two parameters.
pub(super) fn recorded(is_recording: bool, ended: &str, outcome: RecordedEnding, n: u32) -> String {
    if !is_recording {
        return String::new();
    }
    RECORDED
        .replace("{ended}", ended)
        .replace("{outcome}", outcome.as_str())
        .replace("{due}", &n.to_string())
        .replace("{began}", &(n + 1).to_string())
}

/// A run's `config` with the execution under way, which somebody else ends: `outcome` at `at`. As it is
/// where no claim of this library's is under way, or it is not what this library can add to.
pub(super) fn with_execution(outcome: &str, at: &str) -> String {
    let limit = config_limit!();
    format!(
        "coalesce(
            CASE WHEN jsonb_typeof(r.config) = 'object' AND pg_column_size(r.config) < {limit} THEN
                r.config || jsonb_build_object(
                    'executions', coalesce(r.config->'executions', '[]') || (
                        CASE
                            WHEN r.config->'claim'->>'attempt' = r.attempts::text
                                THEN r.config->'claim'
                            WHEN r.attempts = 1 AND r.started_at IS NOT NULL
                                AND substr(r.worker_id, 15, 1) = '7'
                                THEN jsonb_build_object(
                                    'attempt', 1, 'dueAt', r.created_at, 'beganAt', r.started_at
                                )
                        END || jsonb_build_object(
                            'workerId', r.worker_id, 'endedAt', {at}, 'outcome', {outcome}
                        )
                    )
                )
            END,
            r.config
        )"
    )
}

/// The same for a run that is brought to an end as `outcome`, whoever has it, if anybody has.
pub(super) fn with_ended_execution(outcome: RecordedEnding) -> String {
    let ended = with_execution(
        &format!(
            "CASE WHEN r.available_at <= now() THEN 'lost' ELSE '{}' END",
            outcome.as_str()
        ),
        "CASE WHEN r.available_at <= now() THEN r.updated_at ELSE now() END",
    );
    format!("CASE WHEN r.worker_id IS NULL THEN r.config ELSE {ended} END")
}

/// A run's `config` at a claim. That of a run which is claimed for the first time, and was due when it was
/// created, needs no note: its row has all of it.
pub(super) fn claimed_config() -> String {
    let with_lost = with_execution("'lost'", "r.updated_at");
    format!(
        "CASE WHEN r.attempts = 0 AND date_trunc('milliseconds', r.available_at) = r.created_at
            THEN r.config
        WHEN jsonb_typeof(r.config) = 'object' THEN
            CASE WHEN r.worker_id IS NULL THEN r.config ELSE {with_lost} END
            || jsonb_build_object('claim', jsonb_build_object(
                'attempt', least(r.attempts, 2147483646) + 1,
                'dueAt', r.available_at, 'beganAt', now()
            ))
        ELSE r.config END"
    )
}

impl Tables<'_> {
    /// Makes our own tables where they are missing and may be made. Says whether executions can be recorded.
    pub(super) async fn add_own(
        &self,
        session: &mut deadpool_postgres::Object,
        migrate: bool,
    ) -> Result<bool, Error> {
        let mut is_recording = self.is_recording(session).await?;
        let mut problem = None;
        if !is_recording && migrate {
            match self.make_own(session).await {
                Ok(()) => is_recording = self.is_recording(session).await?,
                Err(error) if error.code().is_some() => problem = Some(super::fault::text(&error)),
                Err(error) => return Err(error),
            }
        }
        if !is_recording {
            let problem = problem.unwrap_or_else(|| match migrate {
                true => "this role may not write it".to_owned(),
                false => "connected without migrations".to_owned(),
            });
            tracing::warn!(
                database = self.label,
                problem,
                "the table of executions cannot be used: what can be told of runs later is less exact. Let the owner of the tables connect once, and grant SELECT and INSERT on {}.{}",
                self.schema,
                executions_table!(),
            );
        }
        Ok(is_recording)
    }

    async fn is_recording(&self, session: &tokio_postgres::Client) -> Result<bool, Error> {
        let rows = session
            .query_typed(
                "SELECT bool_and(has_table_privilege(c.oid, p)) FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 CROSS JOIN unnest(ARRAY['SELECT', 'INSERT']) AS p
                 WHERE n.nspname = $1 AND c.relname = $2",
                &[
                    (&self.schema, Type::TEXT),
                    (&executions_table!(), Type::TEXT),
                ],
            )
            .await?;
        let may = rows.first().map_or(Ok(None), |row| row.try_get(0))?;
        Ok(may.unwrap_or(false))
    }

    async fn make_own(&self, session: &mut deadpool_postgres::Object) -> Result<(), Error> {
        let transaction = session.transaction().await?;
        self.lock(transaction.client()).await?;
        let migrations = format!("\"{}\".\"{}\"", self.schema, own_migrations_table!());
        transaction
            .batch_execute(&format!(
                "CREATE TABLE IF NOT EXISTS {migrations} (\"version\" BIGINT NOT NULL PRIMARY KEY)"
            ))
            .await?;
        let found = format!("SELECT coalesce(max(\"version\"), 0) FROM {migrations}");
        let found = transaction.query_typed(&found, &[]).await?;
        let found: i64 = found.first().map_or(Ok(0), |row| row.try_get(0))?;
        let found = usize::try_from(found).unwrap_or_default();
        for (version, sql) in (1..).zip(OWN_TABLES).skip(found) {
            let version: i64 = version;
            let schema = format!("\"{}\"", self.schema);
            transaction
                .batch_execute(&sql.replace("{schema}", &schema))
                .await?;
            let insert = format!("INSERT INTO {migrations} (\"version\") VALUES ({version})");
            transaction.batch_execute(&insert).await?;
        }
        transaction.commit().await
    }
}

const OF_RUN: &str = "
    SELECT attempt, worker_id, outcome, due_at, began_at, ended_at FROM {executions}
    WHERE namespace_id = $1 AND workflow_run_id = $2 ORDER BY attempt";

/// What is recorded of a run.
pub(super) fn of_run(schema: &str) -> Query {
    let executions = format!("\"{schema}\".\"{}\"", executions_table!());
    let text = OF_RUN.replace("{executions}", &executions);
    Query::once(text, &[Type::TEXT, Type::TEXT])
}

/// Reads a row of it. One that says something else says nothing.
pub(super) fn read(row: &tokio_postgres::Row) -> BackendResult<Option<ExecutionRecord>> {
    let attempt: i32 = rows::value(row, 0)?;
    let outcome: String = rows::value(row, 2)?;
    let (Ok(attempt), Some(ending)) = (
        u32::try_from(attempt),
        RecordedEnding::from_stored(&outcome),
    ) else {
        return Ok(None);
    };
    let times = ClaimTimes::new(rows::value(row, 3)?, rows::value(row, 4)?);
    let worker_id: String = rows::value(row, 1)?;
    let ended_at = rows::value(row, 5)?;
    Ok(Some(ExecutionRecord::new(
        attempt, worker_id, times, ended_at, ending,
    )))
}
