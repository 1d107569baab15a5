//! Dropping a schema with everything that is ours in it.

use tokio_postgres::error::SqlState;

use super::{Postgres, fault};
use crate::backend::{BackendError, BackendResult};

/// Everything, in an order that leaves no reference behind. Whatever else is in the schema, or refers to
/// the tables, makes it fail as a whole. Others wait behind the one who waits for a lock, so not for long.
const DROP: &str = r#"
    SET LOCAL lock_timeout = '10s';
    DROP TABLE IF EXISTS
        "{schema}"."workflow_signals", "{schema}"."step_attempts", "{schema}"."workflow_runs",
        "{schema}"."openworkflow_migrations", "{schema}"."openworkflow_executions",
        "{schema}"."openworkflow_rust_migrations"
        RESTRICT;
    DROP SCHEMA IF EXISTS "{schema}" RESTRICT"#;

impl Postgres {
    /// Drops the schema of this backend with its tables and every run in them, for good, and closes the
    /// backend. `schema` must be the schema's name, so that nobody drops another than they mean. One that
    /// is not there any more is no error.
    ///
    /// Nothing is dropped where the schema holds anything else, or something elsewhere refers to the
    /// tables. Workers that still use the schema, in whatever process, fail from then on: stop them before.
    ///
    /// If the future is dropped, the schema may or may not have been dropped.
    ///
    /// ```no_run
    /// # async fn doc() -> Result<(), openworkflow::backend::BackendError> {
    /// use openworkflow::Postgres;
    ///
    /// let options = Postgres::options().url("postgresql://localhost/test").schema("test_4711");
    /// let backend = options.connect().await?;
    /// // … tests …
    /// backend.drop_schema("test_4711").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BackendError::NotDropped`] says what is in the way: another name than this backend's, the schema
    /// `public`, objects of others, missing rights. A transient [`BackendError::Driver`] where somebody
    /// keeps the tables locked for 10 seconds.
    pub async fn drop_schema(&self, schema: &str) -> BackendResult<()> {
        let not_dropped = |problem: String| BackendError::NotDropped {
            schema: schema.to_owned(),
            problem,
        };
        if schema != self.0.schema {
            let own = &self.0.schema;
            return Err(not_dropped(format!("this backend uses the schema {own}")));
        }
        if schema == "public" {
            return Err(not_dropped(
                "it is everybody's; drop the tables workflow_signals, step_attempts, workflow_runs and openworkflow_migrations yourself"
                    .to_owned(),
            ));
        }
        let session = self.0.sessions.connection().await?.map_err(fault::pool)?;
        // Several statements sent at once are one transaction.
        let dropped = session
            .batch_execute(&DROP.replace("{schema}", schema))
            .await;
        drop(session);
        let Err(error) = dropped else {
            self.close();
            return Ok(());
        };
        let refusals = [
            SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ];
        match error.as_db_error() {
            // The detail names what else is there.
            Some(refused) if refusals.contains(refused.code()) => {
                let detail = refused
                    .detail()
                    .map(|detail| format!(": {}", detail.replace('\n', ", ")));
                let message = refused.message();
                Err(not_dropped(format!(
                    "{message}{}",
                    detail.unwrap_or_default()
                )))
            }
            _ => Err(fault::driver(error)),
        }
    }
}
