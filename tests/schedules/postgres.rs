//! A schema on a PostgreSQL server, with a line for each actor.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openworkflow::Postgres;
use openworkflow::backend::Backend;
use openworkflow_tests::postgres_server;
use tokio::sync::Notify;

use super::gate::Gate;
use super::peer::Peer;
use super::stage::{ACTORS, Stage};
use super::wire::Wire;

/// A schema of its own.
pub(crate) struct Server {
    schema: String,
    backend: Arc<dyn Backend>,
    session: tokio_postgres::Client,
    gates: Vec<Arc<Gate>>,
    wires: Vec<Wire>,
    actors: Vec<Arc<dyn Backend>>,
    moved: Arc<Notify>,
}

impl Server {
    /// A connection string by way of an actor's wire.
    fn url(&self, actor: usize) -> String {
        url(&self.wires[actor].address())
    }
}

/// The parts of `postgresql://user:password@host:port/database`.
fn parts() -> (String, String, String) {
    let url = postgres_server::url();
    let (user, rest) = url.rsplit_once('@').expect("a user and a host");
    let (address, database) = rest.split_once('/').expect("a host and a database");
    (user.to_owned(), address.to_owned(), database.to_owned())
}

/// The server at another address. Deadlocks are found here, and at once.
fn url(address: &str) -> String {
    let (user, _, database) = parts();
    let join = if database.contains('?') { '&' } else { '?' };
    format!("{user}@{address}/{database}{join}sslmode=disable&options=-c%20deadlock_timeout%3D1h")
}

#[async_trait]
impl Stage for Server {
    async fn open() -> Self {
        let schema = postgres_server::schema();
        let backend = Postgres::options()
            .url(postgres_server::url())
            .schema(&schema);
        let backend = backend.connect().await.expect("the schema opens");
        let session = postgres_server::client().await;
        let path = format!("SET search_path TO {schema}");
        session.batch_execute(&path).await.unwrap();
        let mut stage = Self {
            schema,
            backend: Arc::new(backend),
            session,
            gates: Vec::new(),
            wires: Vec::new(),
            actors: Vec::new(),
            moved: Arc::default(),
        };
        let (_, address, _) = parts();
        for actor in 0..ACTORS {
            let gate = Gate::new(&stage.moved);
            stage.wires.push(Wire::to(&address, &gate).await);
            stage.gates.push(gate);
            let options = Postgres::options().url(stage.url(actor));
            let options = options.schema(&stage.schema).pool_size(4).migrate(false);
            let actor = options.connect().await.expect("the schema opens");
            stage.actors.push(Arc::new(actor));
        }
        stage
    }

    fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    fn gates(&self) -> &[Arc<Gate>] {
        &self.gates
    }

    fn actor(&self, actor: usize) -> Arc<dyn Backend> {
        Arc::clone(&self.actors[actor])
    }

    async fn peer(&self, actor: usize, namespace: &str) -> Peer {
        let session = postgres_server::connect(&self.url(actor)).await;
        let path = format!("SET search_path TO {}", self.schema);
        session.batch_execute(&path).await.unwrap();
        Peer::on_postgres(session, namespace)
    }

    async fn moved(&self) {
        let _ = tokio::time::timeout(Duration::from_millis(2), self.moved.notified()).await;
    }

    async fn are_blocked(&self, actors: &[usize]) -> bool {
        let all: Vec<i32> = self.wires.iter().flat_map(Wire::sessions).collect();
        // Of the locks that are held for a moment only, as while a notification is committed, none
        // is meant.
        let waiting = "SELECT pid FROM pg_locks
            WHERE NOT granted AND locktype IN ('transactionid', 'tuple', 'advisory')
                AND pid = ANY ($1) AND pg_blocking_pids(pid) && $1";
        let waiting = self.session.query(waiting, &[&all]).await.unwrap();
        let waiting: Vec<i32> = waiting.iter().map(|row| row.get(0)).collect();
        actors.iter().all(|actor| {
            let sessions = self.wires[*actor].sessions();
            sessions.iter().any(|session| waiting.contains(session))
        })
    }

    async fn execute(&self, sql: &str) {
        let sql = sql.replace("PAST", "(now() - interval '1 hour')");
        self.session.batch_execute(&sql).await.unwrap();
    }
}
