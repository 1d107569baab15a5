//! PostgreSQL: a schema per measurement, and pgbench for commits without an engine.

use std::process::{Command, Stdio};
use std::time::Duration;

use openworkflow::Postgres;
use openworkflow_tests::postgres_server::{self, Server, URL_VARIABLE};

use crate::Result;
use crate::target::{Database, Target};

/// The connections of the greater of the two limits.
const MANY_CONNECTIONS: u32 = 10;

pub(crate) struct PostgresTarget {
    url: String,
    /// `None` where the environment names a server.
    _server: Option<Server>,
}

impl PostgresTarget {
    /// The server that the environment names, or a throw-away one that is set up as PostgreSQL is when
    /// nobody changes anything.
    pub(crate) fn new() -> Self {
        match std::env::var(URL_VARIABLE) {
            Ok(url) if !url.is_empty() => Self { url, _server: None },
            _ => {
                let server = Server::start(&[]);
                Self {
                    url: server.url(),
                    _server: Some(server),
                }
            }
        }
    }
}

impl Target for PostgresTarget {
    const NAME: &'static str = "postgres";
    const FLEETS: bool = true;

    type Store = Postgres;

    fn create(&self) -> Result<Database> {
        let schema = postgres_server::schema();
        Ok(Database {
            address: format!("{}#{schema}", self.url),
            _cleanup: Box::new(Drops {
                url: self.url.clone(),
                sql: format!("DROP SCHEMA IF EXISTS {schema} CASCADE"),
            }),
        })
    }

    async fn open(address: &str) -> Result<Postgres> {
        let (url, schema) = address.split_once('#').ok_or("an address names a schema")?;
        let options = Postgres::options().url(url).schema(schema);
        Ok(options.connect().await?)
    }

    async fn close(store: Postgres) {
        store.close();
    }

    fn connections(concurrency: u32) -> u32 {
        concurrency.min(MANY_CONNECTIONS)
    }

    fn bare_commits(&self, connections: u32, length: Duration) -> Result<f64> {
        let table = postgres_server::schema();
        let _cleanup = Drops {
            url: self.url.clone(),
            sql: format!("DROP TABLE IF EXISTS {table}"),
        };
        execute(
            &self.url,
            &format!("CREATE TABLE {table} (id bigserial PRIMARY KEY, value text)"),
        )?;
        let script = tempfile::NamedTempFile::new()?;
        let insert =
            format!("INSERT INTO {table} (value) VALUES ('a small row, as a step''s is');");
        std::fs::write(script.path(), insert)?;
        // Whole seconds are all that it can be told.
        let seconds = length.as_secs_f64().ceil().max(1.0);
        let pgbench = postgres_server::binaries()
            .map(|folder| folder.join("pgbench"))
            .filter(|program| program.exists())
            .unwrap_or_else(|| "pgbench".into());
        let output = Command::new(&pgbench)
            .args(["--no-vacuum", "--protocol", "prepared"])
            .args(["--client", &connections.to_string()])
            .args(["--jobs", &connections.min(2).to_string()])
            .args(["--time", &seconds.to_string()])
            .arg("--file")
            .arg(script.path())
            .arg(&self.url)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| {
                format!("{} cannot be run: {error}; it comes with PostgreSQL's server (Debian: `apt-get install postgresql`)", pgbench.display())
            })?;
        let said = String::from_utf8_lossy(&output.stdout);
        let rate = said.lines().find_map(|line| {
            let rate = line.strip_prefix("tps = ")?;
            rate.split_whitespace().next()?.parse().ok()
        });
        rate.ok_or_else(|| {
            let complaint = String::from_utf8_lossy(&output.stderr);
            format!("pgbench failed ({}): {}", output.status, complaint.trim()).into()
        })
    }
}

/// Deletes what a measurement made.
struct Drops {
    url: String,
    sql: String,
}

impl Drop for Drops {
    fn drop(&mut self) {
        if let Err(error) = execute(&self.url, &self.sql) {
            eprintln!("{}: {error}", self.sql);
        }
    }
}

fn execute(url: &str, sql: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let session = postgres_server::connect(url).await;
        Ok(session.batch_execute(sql).await?)
    })
}
