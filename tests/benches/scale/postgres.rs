//! PostgreSQL: a throw-away server, set up as it comes but for what it tells.

use std::path::Path;

use openworkflow::Postgres;
use openworkflow_tests::postgres_server::{self, Server};
use openworkflow_tests::scale::{self, Amount, Dialect, Explained, Readings, State};

use crate::Result;
use crate::ground::{EXPIRED, Ground};
use crate::options::Options;

/// What one statement may read.
const MOST: Amount = Amount {
    rows: 500.0,
    blocks: 500.0,
};

pub(crate) struct OnPostgres {
    server: Server,
    schema: String,
    admin: tokio_postgres::Client,
}

impl OnPostgres {
    async fn set(&self, setting: &str) -> Result<()> {
        self.execute(&format!("ALTER SYSTEM SET {setting}")).await?;
        self.server.command("reload");
        Ok(())
    }

    async fn texts(&self, sql: &str) -> Result<Vec<String>> {
        let rows = self.admin.query(sql, &[&self.schema]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

impl Ground for OnPostgres {
    const NAME: &'static str = "postgres";
    const DIALECT: Dialect = Dialect::Postgres;

    type Store = Postgres;
    type Reader = Explained;

    async fn create(_folder: &Path) -> Result<Self> {
        let server = scale::server();
        let admin = postgres_server::connect(&server.url()).await;
        let ground = Self {
            schema: postgres_server::schema(),
            server,
            admin,
        };
        ground.end_to_tell().await?;
        ground.open("first").await?.close();
        let path = format!("SET search_path TO {}", ground.schema);
        ground.execute(&path).await?;
        Ok(ground)
    }

    async fn fill(&self, options: &Options) -> Result<()> {
        // What is kept up to date for each row takes far longer than what is made for all of them.
        let indexes = "SELECT {} FROM pg_indexes i WHERE schemaname = $1 AND NOT EXISTS (
                 SELECT FROM pg_constraint c
                 WHERE c.connamespace = i.schemaname::regnamespace AND c.conname = i.indexname
             )";
        let made = self.texts(&indexes.replace("{}", "indexdef")).await?;
        for name in self
            .texts(&indexes.replace("{}", "indexname::text"))
            .await?
        {
            self.execute(&format!("DROP INDEX {name}")).await?;
        }
        self.execute("SET session_replication_role = replica; SET maintenance_work_mem = '256MB'")
            .await?;
        let states = |state: &State| options.has(state);
        for statement in scale::fill_some(Dialect::Postgres, options.rows, states) {
            self.execute(&statement).await?;
        }
        for statement in &made {
            self.execute(statement).await?;
        }
        // From here on as it comes.
        self.execute("RESET session_replication_role").await?;
        self.set("fsync = on").await?;
        self.execute("CHECKPOINT").await
    }

    async fn analyze(&self) -> Result<()> {
        self.execute("ANALYZE").await
    }

    async fn open(&self, name: &str) -> Result<Postgres> {
        let options = Postgres::options()
            .url(self.server.url())
            .schema(&self.schema);
        Ok(options.application_name(name).connect().await?)
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        Ok(self.admin.batch_execute(sql).await?)
    }

    async fn has_expired(&self) -> Result<bool> {
        let sql = EXPIRED.replace("{now}", "now()");
        let row = self.admin.query_one(&sql, &[]).await?;
        Ok(row.get::<_, i64>(0) > 0)
    }

    async fn begin_to_tell(&self) -> Result<()> {
        self.set("auto_explain.log_min_duration = 0").await
    }

    async fn end_to_tell(&self) -> Result<()> {
        self.set("auto_explain.log_min_duration = -1").await
    }

    fn reader(&self, name: &str) -> Explained {
        Explained::new(&self.server, name, MOST)
    }

    fn readings(reader: &Explained) -> &Readings {
        reader.readings()
    }
}
