//! The tables: made, upgraded and checked at connect.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::fault::{self, Remedy};
use crate::backend::{BackendError, BackendResult};

/// The newest version of the tables that this library knows.
const SUPPORTED: i64 = 5;

/// How long others may win the race to create the tables before we give up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What each version does, beside recording itself. These are OpenWorkflow's own versions: inventing
/// another number would make every other SDK skip its real migration of that number.
const MIGRATIONS: [&str; 6] = [
    r#"
        DO $$ BEGIN
            -- Asked first, because creating needs a right on the database that using does not.
            IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = '{name}') THEN
                CREATE SCHEMA IF NOT EXISTS {schema};
            END IF;
        END $$;
        CREATE TABLE IF NOT EXISTS {schema}."openworkflow_migrations" (
            "version" BIGINT NOT NULL PRIMARY KEY
        );
    "#,
    r#"
        CREATE TABLE IF NOT EXISTS {schema}."workflow_runs" (
            "namespace_id" TEXT NOT NULL,
            "id" TEXT NOT NULL,
            "workflow_name" TEXT NOT NULL,
            "version" TEXT,
            "status" TEXT NOT NULL,
            "idempotency_key" TEXT,
            "config" JSONB NOT NULL,
            "context" JSONB,
            "input" JSONB,
            "output" JSONB,
            "error" JSONB,
            "attempts" INTEGER NOT NULL,
            "parent_step_attempt_namespace_id" TEXT,
            "parent_step_attempt_id" TEXT,
            "worker_id" TEXT,
            "available_at" TIMESTAMPTZ,
            "deadline_at" TIMESTAMPTZ,
            "started_at" TIMESTAMPTZ,
            "finished_at" TIMESTAMPTZ,
            "created_at" TIMESTAMPTZ NOT NULL,
            "updated_at" TIMESTAMPTZ NOT NULL,
            PRIMARY KEY ("namespace_id", "id")
        );
        CREATE TABLE IF NOT EXISTS {schema}."step_attempts" (
            "namespace_id" TEXT NOT NULL,
            "id" TEXT NOT NULL,
            "workflow_run_id" TEXT NOT NULL,
            "step_name" TEXT NOT NULL,
            "kind" TEXT NOT NULL,
            "status" TEXT NOT NULL,
            "config" JSONB NOT NULL,
            "context" JSONB,
            "output" JSONB,
            "error" JSONB,
            "child_workflow_run_namespace_id" TEXT,
            "child_workflow_run_id" TEXT,
            "started_at" TIMESTAMPTZ,
            "finished_at" TIMESTAMPTZ,
            "created_at" TIMESTAMPTZ NOT NULL,
            "updated_at" TIMESTAMPTZ NOT NULL,
            PRIMARY KEY ("namespace_id", "id")
        );
    "#,
    r#"
        ALTER TABLE {schema}."step_attempts"
            ADD CONSTRAINT "step_attempts_workflow_run_fk"
            FOREIGN KEY ("namespace_id", "workflow_run_id")
            REFERENCES {schema}."workflow_runs" ("namespace_id", "id")
            ON DELETE CASCADE NOT VALID;
        ALTER TABLE {schema}."workflow_runs"
            ADD CONSTRAINT "workflow_runs_parent_step_attempt_fk"
            FOREIGN KEY ("parent_step_attempt_namespace_id", "parent_step_attempt_id")
            REFERENCES {schema}."step_attempts" ("namespace_id", "id")
            ON DELETE SET NULL NOT VALID;
        ALTER TABLE {schema}."step_attempts"
            ADD CONSTRAINT "step_attempts_child_workflow_run_fk"
            FOREIGN KEY ("child_workflow_run_namespace_id", "child_workflow_run_id")
            REFERENCES {schema}."workflow_runs" ("namespace_id", "id")
            ON DELETE SET NULL NOT VALID;
    "#,
    r#"
        ALTER TABLE {schema}."step_attempts"
            VALIDATE CONSTRAINT "step_attempts_workflow_run_fk";
        ALTER TABLE {schema}."workflow_runs"
            VALIDATE CONSTRAINT "workflow_runs_parent_step_attempt_fk";
        ALTER TABLE {schema}."step_attempts"
            VALIDATE CONSTRAINT "step_attempts_child_workflow_run_fk";
    "#,
    r#"
        CREATE INDEX IF NOT EXISTS "workflow_runs_status_available_at_created_at_idx"
            ON {schema}."workflow_runs" ("namespace_id", "status", "available_at", "created_at");
        CREATE INDEX IF NOT EXISTS "workflow_runs_workflow_name_idempotency_key_created_at_idx"
            ON {schema}."workflow_runs"
            ("namespace_id", "workflow_name", "idempotency_key", "created_at");
        CREATE INDEX IF NOT EXISTS "workflow_runs_parent_step_idx"
            ON {schema}."workflow_runs"
            ("parent_step_attempt_namespace_id", "parent_step_attempt_id")
            WHERE "parent_step_attempt_namespace_id" IS NOT NULL
            AND "parent_step_attempt_id" IS NOT NULL;
        CREATE INDEX IF NOT EXISTS "workflow_runs_created_at_desc_idx"
            ON {schema}."workflow_runs" ("namespace_id", "created_at" DESC);
        CREATE INDEX IF NOT EXISTS "workflow_runs_status_created_at_desc_idx"
            ON {schema}."workflow_runs" ("namespace_id", "status", "created_at" DESC);
        CREATE INDEX IF NOT EXISTS "workflow_runs_workflow_name_status_created_at_desc_idx"
            ON {schema}."workflow_runs"
            ("namespace_id", "workflow_name", "status", "created_at" DESC);
        CREATE INDEX IF NOT EXISTS "step_attempts_workflow_run_created_at_idx"
            ON {schema}."step_attempts" ("namespace_id", "workflow_run_id", "created_at");
        CREATE INDEX IF NOT EXISTS "step_attempts_workflow_run_step_name_created_at_idx"
            ON {schema}."step_attempts"
            ("namespace_id", "workflow_run_id", "step_name", "created_at");
        CREATE INDEX IF NOT EXISTS "step_attempts_child_workflow_run_idx"
            ON {schema}."step_attempts"
            ("child_workflow_run_namespace_id", "child_workflow_run_id")
            WHERE "child_workflow_run_namespace_id" IS NOT NULL
            AND "child_workflow_run_id" IS NOT NULL;
    "#,
    r#"
        CREATE TABLE IF NOT EXISTS {schema}."workflow_signals" (
            "namespace_id" TEXT NOT NULL,
            "id" TEXT NOT NULL,
            "signal" TEXT NOT NULL,
            "data" JSONB,
            "sender_idempotency_key" TEXT,
            "workflow_run_id" TEXT NOT NULL,
            "step_attempt_id" TEXT NOT NULL,
            "created_at" TIMESTAMPTZ NOT NULL DEFAULT NOW(),
            PRIMARY KEY ("namespace_id", "id")
        );
        CREATE UNIQUE INDEX IF NOT EXISTS "workflow_signals_step_attempt_idx"
            ON {schema}."workflow_signals" ("namespace_id", "step_attempt_id");
        CREATE INDEX IF NOT EXISTS "workflow_signals_idempotency_idx"
            ON {schema}."workflow_signals" ("namespace_id", "signal", "sender_idempotency_key")
            WHERE "sender_idempotency_key" IS NOT NULL;
        CREATE INDEX IF NOT EXISTS "step_attempts_signal_wait_idx"
            ON {schema}."step_attempts" ("namespace_id", ("context"->>'signal'))
            WHERE "kind" = 'signal-wait' AND "status" = 'running';
    "#,
];

/// The tables of one schema of one database.
pub(super) struct Tables<'a> {
    pub(super) schema: &'a str,
    pub(super) label: &'a str,
}

impl Tables<'_> {
    /// Brings the tables to the version that this library knows, or says why it cannot.
    pub(super) async fn prepare(&self, session: &mut Object, migrate: bool) -> BackendResult<()> {
        self.check_server(session).await?;
        let began = Instant::now();
        loop {
            let version = self.version(session).await?;
            match version {
                Some(found) if found > SUPPORTED => {
                    return Err(BackendError::NewerSchema {
                        database: self.label.to_owned(),
                        found,
                        supported: SUPPORTED,
                    });
                }
                Some(SUPPORTED) => return self.check_rights(session).await,
                _ if !migrate => {
                    let state = version.map_or_else(
                        || {
                            format!(
                                "there is no schema {} with OpenWorkflow's tables",
                                self.schema
                            )
                        },
                        |found| format!("the tables have version {found}, not {SUPPORTED}"),
                    );
                    return Err(self.unusable(format!(
                        "{state}: connect once with migrations enabled, as a role that may create tables"
                    )));
                }
                _ => {}
            }
            match self.advance(session, version).await {
                Ok(()) => {}
                Err(error) if lost_race(&error) && began.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(fault::unavailable(error, self.label)),
            }
        }
    }

    /// Applies the version after `seen`, unless somebody else did meanwhile.
    async fn advance(&self, session: &mut Object, seen: Option<i64>) -> Result<(), Error> {
        let next = seen.map_or(0, |version| version + 1);
        let Some(migration) = usize::try_from(next).ok().and_then(|n| MIGRATIONS.get(n)) else {
            return Ok(());
        };
        let transaction = session.transaction().await?;
        self.lock(transaction.client()).await?;
        if self.version_in(transaction.client()).await? != seen {
            return transaction.rollback().await;
        }
        transaction.batch_execute(&self.fill(migration)).await?;
        transaction
            .batch_execute(&self.fill(&format!(
                r#"INSERT INTO {{schema}}."openworkflow_migrations" ("version") VALUES ({next})
                   ON CONFLICT DO NOTHING"#
            )))
            .await?;
        transaction.commit().await
    }

    /// Keeps other migrators out until the transaction ends.
    pub(super) async fn lock(&self, client: &tokio_postgres::Client) -> Result<(), Error> {
        // Of the transaction, not of the session: poolers may part us from the session.
        client
            .query_typed(
                "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
                &[(
                    &format!("openworkflow migrations of {}", self.schema),
                    tokio_postgres::types::Type::TEXT,
                )],
            )
            .await
            .map(drop)
    }

    fn fill(&self, sql: &str) -> String {
        sql.replace("{schema}", &format!("\"{}\"", self.schema))
            .replace("{name}", self.schema)
    }

    async fn version(&self, session: &Object) -> BackendResult<Option<i64>> {
        let version = self.version_in(session).await;
        version.map_err(|error| fault::unavailable(error, self.label))
    }

    async fn version_in(&self, client: &tokio_postgres::Client) -> Result<Option<i64>, Error> {
        // From the catalog: the information schema hides tables from roles without rights.
        let exists = client
            .query_typed(
                "SELECT 1 FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname = 'openworkflow_migrations'",
                &[(&self.schema, tokio_postgres::types::Type::TEXT)],
            )
            .await?;
        if exists.is_empty() {
            return Ok(None);
        }
        let rows = client
            .query_typed(
                &self.fill(r#"SELECT max("version") FROM {schema}."openworkflow_migrations""#),
                &[],
            )
            .await?;
        rows.first().map_or(Ok(None), |row| row.try_get(0))
    }

    async fn check_server(&self, session: &Object) -> BackendResult<()> {
        let rows = session
            .query_typed(
                "SELECT current_setting('server_version_num')::int >= 130000,
                        current_setting('server_version'),
                        current_setting('transaction_read_only') = 'on'",
                &[],
            )
            .await;
        let rows = rows.map_err(|error| fault::unavailable(error, self.label))?;
        let Some(row) = rows.first() else {
            return Ok(());
        };
        if !matches!(row.try_get(0), Ok(true)) {
            let version: String = row.try_get(1).unwrap_or_default();
            return Err(self.unusable(format!(
                "the server is PostgreSQL {version}, and version 13 or newer is needed"
            )));
        }
        if matches!(row.try_get(2), Ok(true)) {
            return Err(self.unusable(
                "the server takes no writes: it is a standby, or its transactions are read-only by default".to_owned(),
            ));
        }
        Ok(())
    }

    /// What a role may do is found out now, and not in the middle of a workflow.
    async fn check_rights(&self, session: &Object) -> BackendResult<()> {
        let missing = session
            .query_typed(
                &self.fill(
                    r#"
                    SELECT format('%s on %s', p.privilege, t.name)
                    FROM unnest(ARRAY['workflow_runs', 'step_attempts', 'workflow_signals'])
                        AS t (name)
                    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS p (privilege)
                    WHERE NOT has_table_privilege(format('{schema}.%I', t.name), p.privilege)
                    "#,
                ),
                &[],
            )
            .await
            .map_err(|error| fault::unavailable(error, self.label))?;
        let missing: Vec<String> = missing
            .iter()
            .filter_map(|row| row.try_get(0).ok())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(self.unusable(format!(
            "the role lacks rights in schema {}: {}",
            self.schema,
            missing.join(", ")
        )))
    }

    fn unusable(&self, problem: String) -> BackendError {
        BackendError::Unavailable {
            database: self.label.to_owned(),
            problem,
            source: None,
        }
    }
}

/// Whether the failure is what losing the race to a migrator without our lock looks like.
fn lost_race(error: &Error) -> bool {
    if fault::remedy(error) == Remedy::Repeat {
        return true;
    }
    error.code().is_some_and(|code| {
        [
            SqlState::UNIQUE_VIOLATION,
            SqlState::DUPLICATE_OBJECT,
            SqlState::DUPLICATE_SCHEMA,
            SqlState::DUPLICATE_TABLE,
            // "tuple concurrently updated", from the catalog.
            SqlState::INTERNAL_ERROR,
        ]
        .contains(code)
    })
}
