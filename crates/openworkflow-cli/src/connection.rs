//! Which database is meant, and how it is opened: as it is, neither created nor migrated.

use std::path::Path;
use std::time::Duration;

use openworkflow::backend::{Backend as _, BackendError, BackendResult, QueueCounts};
use openworkflow::{Client, Postgres, Sqlite};

use crate::args::ConnectionArgs;
use crate::failure::Failure;
use crate::text::safe;

/// How long a server that does not answer is tried, and an outage may last. Somebody waits at the terminal.
const PATIENCE: Duration = Duration::from_secs(3);

enum Store {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    store: Store,
}

/// What a URL means.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    Sqlite(&'a str),
    Postgres(&'a str),
}

pub(crate) async fn open(args: &ConnectionArgs) -> Result<Connection, Failure> {
    let typescript = std::env::var("OPENWORKFLOW_POSTGRES_URL").ok();
    let given = [args.database.as_deref(), typescript.as_deref()];
    // A variable that is empty counts as one that is not set.
    let url = given.into_iter().flatten().find(|url| !url.is_empty());
    let url = url.ok_or_else(|| {
        Failure::usage("no database is given").remedy(
            "give --database app.db or --database postgresql://user@host/database, or set OPENWORKFLOW_DATABASE_URL",
        )
    })?;
    let namespace = args.namespace.as_deref().filter(|id| !id.is_empty());
    let namespace = namespace.unwrap_or("default").to_owned();
    let store = match target(url)? {
        Target::Sqlite(path) => Store::Sqlite(open_file(path).await?),
        Target::Postgres(url) => {
            let schema = args.schema.as_deref().filter(|name| !name.is_empty());
            Store::Postgres(connect(url, schema).await?)
        }
    };
    let builder = match &store {
        Store::Sqlite(store) => Client::builder(store.clone()),
        Store::Postgres(store) => Client::builder(store.clone()),
    };
    let client = builder.namespace(&*namespace).retry_for(PATIENCE).build();
    Ok(Connection {
        client,
        namespace,
        store,
    })
}

fn target(url: &str) -> Result<Target<'_>, Failure> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return Ok(Target::Sqlite(url));
    };
    match scheme {
        "postgres" | "postgresql" => Ok(Target::Postgres(url)),
        "sqlite" => Ok(Target::Sqlite(rest.strip_prefix("//").unwrap_or(rest))),
        "" if rest == "memory:" => Err(Failure::usage(
            "a database in memory is gone with its process",
        )
        .remedy("give the path of the file that the workers use")),
        // Without what follows, which may hold a password.
        _ if rest.starts_with("//") => Err(Failure::usage(format!(
            "{}: is no kind of database that is known",
            safe(scheme)
        ))
        .remedy("give the path of a SQLite file, or a URL that begins with postgresql://")),
        _ => Ok(Target::Sqlite(url)),
    }
}

async fn open_file(path: &str) -> Result<Sqlite, Failure> {
    // Said here, so that the remedy is this command's.
    if !path.is_empty() && !Path::new(path).exists() {
        let problem = format!("there is no file {}", safe(path));
        return Err(Failure::failed(problem).remedy(
            "check the path; a database is created by the first worker or client of an application that opens it",
        ));
    }
    let options = Sqlite::options().create_if_missing(false).migrate(false);
    options.open(path).await.map_err(unopened)
}

async fn connect(url: &str, schema: Option<&str>) -> Result<Postgres, Failure> {
    let mut options = Postgres::options()
        .url(url)
        .application_name("openworkflow-cli")
        .pool_size(2)
        .connect_retry(PATIENCE)
        .migrate(false);
    if let Some(schema) = schema {
        options = options.schema(schema);
    }
    options.connect().await.map_err(unopened)
}

fn unopened(error: BackendError) -> Failure {
    let remedy = match &error {
        BackendError::Unavailable { problem, .. } if problem.contains("migrat") => {
            "check the database, and on PostgreSQL --schema; tables are made and brought up to date by an application that opens it"
        }
        BackendError::Unavailable { .. } => "check --database and what it names",
        _ => return Failure::from(error),
    };
    Failure::failed(safe(&error.to_string()).into_owned()).remedy(remedy)
}

impl Connection {
    /// Counts what stands in the namespace, up to `limit` of each kind.
    pub(crate) async fn count_queue(&self, limit: u32) -> BackendResult<Option<QueueCounts>> {
        match &self.store {
            Store::Sqlite(store) => store.count_queue(&self.namespace, limit).await,
            Store::Postgres(store) => store.count_queue(&self.namespace, limit).await,
        }
    }

    pub(crate) async fn close(self) {
        match self.store {
            Store::Sqlite(store) => store.close().await,
            Store::Postgres(store) => store.close(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths() {
        let kinds = [
            ("app.db", Target::Sqlite("app.db")),
            ("./a:b.db", Target::Sqlite("./a:b.db")),
            ("sqlite:app.db", Target::Sqlite("app.db")),
            ("sqlite:///var/app.db", Target::Sqlite("/var/app.db")),
            ("postgres://h/d", Target::Postgres("postgres://h/d")),
        ];
        for (url, kind) in kinds {
            assert_eq!(target(url).ok(), Some(kind), "{url}");
        }
        assert!(target(":memory:").is_err());
        assert!(target("mysql://h/d").is_err());
    }
}
