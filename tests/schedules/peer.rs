//! What OpenWorkflow for TypeScript (0.10.1) sends to the database, statement by statement.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use openworkflow::backend::Owner;
use openworkflow_tests::{RawSqlite, text_rows};
use uuid::Uuid;

use super::gate::{Gate, UnderWay};

/// A session of a TypeScript process.
pub(crate) struct Peer {
    session: Session,
    namespace: String,
}

enum Session {
    Postgres(tokio_postgres::Client),
    Sqlite(Mutex<Sqlite>),
}

struct Sqlite {
    connection: rusqlite::Connection,
    gate: Arc<Gate>,
    /// The time as text.
    now: String,
    transaction: Option<UnderWay>,
}

type Row = Vec<Option<String>>;

impl Peer {
    pub(crate) fn on_postgres(session: tokio_postgres::Client, namespace: &str) -> Self {
        Self {
            session: Session::Postgres(session),
            namespace: namespace.to_owned(),
        }
    }

    pub(crate) fn on_sqlite(
        path: &Path,
        gate: &Arc<Gate>,
        now: SystemTime,
        namespace: &str,
    ) -> Self {
        let now = jiff::Timestamp::try_from(now).expect("a time of our days");
        Self {
            session: Session::Sqlite(Mutex::new(Sqlite {
                connection: RawSqlite(path).connect(),
                gate: Arc::clone(gate),
                now: format!("{now:.3}"),
                transaction: None,
            })),
            namespace: namespace.to_owned(),
        }
    }

    /// Delivers a signal. Answers the ids of the runs that received it.
    pub(crate) async fn send_signal(&self, signal: &str) -> Vec<String> {
        self.query("BEGIN IMMEDIATE").await;
        let waiters = self
            .query(&format!(
                "SELECT id, workflow_run_id FROM step_attempts
                 WHERE namespace_id = NAMESPACE AND kind = 'signal-wait' AND status = 'running'
                     AND context->>'signal' = '{signal}' FOR UPDATE"
            ))
            .await;
        let mut received = Vec::new();
        for waiter in waiters {
            let [Some(attempt), Some(run)] = waiter.as_slice() else {
                panic!("ids are not null: {waiter:?}");
            };
            let id = Uuid::new_v4();
            let inserted = self
                .query(&format!(
                    "INSERT INTO workflow_signals (namespace_id, id, signal, data,
                         sender_idempotency_key, workflow_run_id, step_attempt_id, created_at)
                     VALUES (NAMESPACE, '{id}', '{signal}', '1', NULL, '{run}', '{attempt}', NOW)
                     ON CONFLICT (namespace_id, step_attempt_id) DO NOTHING
                     RETURNING workflow_run_id"
                ))
                .await;
            if !inserted.is_empty() && !received.contains(run) {
                received.push(run.clone());
            }
        }
        if !received.is_empty() {
            let runs = received.join("', '");
            self.query(&format!(
                "UPDATE workflow_runs SET {DUE} WHERE namespace_id = NAMESPACE
                     AND id IN ('{runs}') AND status IN ('pending', 'running', 'sleeping')
                     AND worker_id IS NULL"
            ))
            .await;
        }
        self.query("COMMIT").await;
        received
    }

    /// Parks a run for a year, and then looks what ended meanwhile; on SQLite it does both at once.
    pub(crate) async fn park(&self, owner: &Owner) {
        let (run, worker) = (&owner.run_id, &owner.worker_id);
        self.query("BEGIN SQLITE").await;
        self.query(&format!(
            "UPDATE workflow_runs SET status = 'running', available_at = NEXT_YEAR,
                 worker_id = NULL, updated_at = NOW
             WHERE namespace_id = NAMESPACE AND id = '{run}' AND worker_id = '{worker}'
                 AND status NOT IN ('succeeded', 'completed', 'failed', 'canceled')"
        ))
        .await;
        self.query(&format!(
            "UPDATE workflow_runs SET {DUE}
             WHERE namespace_id = NAMESPACE AND id = '{run}' AND status = 'running'
                 AND worker_id IS NULL AND (
                     EXISTS (
                         SELECT 1 FROM step_attempts sa JOIN workflow_runs child
                             ON child.namespace_id = sa.child_workflow_run_namespace_id
                             AND child.id = sa.child_workflow_run_id
                         WHERE sa.namespace_id = workflow_runs.namespace_id
                             AND sa.workflow_run_id = workflow_runs.id
                             AND sa.kind = 'workflow' AND sa.status = 'running'
                             AND child.status IN ('completed', 'succeeded', 'failed', 'canceled')
                     ) OR EXISTS (
                         SELECT 1 FROM step_attempts sa JOIN workflow_signals ws
                             ON ws.namespace_id = sa.namespace_id AND ws.step_attempt_id = sa.id
                         WHERE sa.namespace_id = workflow_runs.namespace_id
                             AND sa.workflow_run_id = workflow_runs.id
                             AND sa.kind = 'signal-wait' AND sa.status = 'running'
                     )
                 )"
        ))
        .await;
        self.query("COMMIT SQLITE").await;
    }

    /// Completes a run that has a parent, and then wakes that.
    pub(crate) async fn complete(&self, owner: &Owner) {
        let (run, worker) = (&owner.run_id, &owner.worker_id);
        let sql = format!(
            "UPDATE workflow_runs SET status = 'completed', output = '1', error = NULL,
                 available_at = NULL, finished_at = NOW, updated_at = NOW
             WHERE namespace_id = NAMESPACE AND id = '{run}' AND status = 'running'
                 AND worker_id = '{worker}'
             RETURNING parent_step_attempt_id"
        );
        self.end(run, &sql).await;
    }

    /// Cancels a run that has a parent, and then wakes that.
    pub(crate) async fn cancel(&self, run: &str) {
        let sql = format!(
            "UPDATE workflow_runs SET status = 'canceled', worker_id = NULL, available_at = NULL,
                 finished_at = NOW, updated_at = NOW
             WHERE namespace_id = NAMESPACE AND id = '{run}'
                 AND status IN ('pending', 'running', 'sleeping')
             RETURNING parent_step_attempt_id"
        );
        self.end(run, &sql).await;
    }

    async fn end(&self, run: &str, sql: &str) {
        let ended = self.query(sql).await;
        let [row] = ended.as_slice() else {
            return;
        };
        let attempt = row[0].as_deref().expect("the run has a parent");
        self.query(&format!(
            "UPDATE workflow_runs SET {DUE}
             WHERE namespace_id = NAMESPACE AND id = (
                     SELECT workflow_run_id FROM step_attempts
                     WHERE namespace_id = NAMESPACE AND id = '{attempt}' AND kind = 'workflow'
                         AND status = 'running' AND child_workflow_run_namespace_id = NAMESPACE
                         AND child_workflow_run_id = '{run}'
                 )
                 AND (status = 'sleeping' OR (status = 'running' AND worker_id IS NULL))"
        ))
        .await;
    }

    async fn query(&self, sql: &str) -> Vec<Row> {
        let sql = sql.replace("NAMESPACE", &format!("'{}'", self.namespace));
        match &self.session {
            Session::Postgres(session) => on_postgres(session, &sql).await,
            Session::Sqlite(session) => on_sqlite(session, &sql).await,
        }
    }
}

const DUE: &str = "updated_at = NOW, available_at = CASE
    WHEN available_at IS NULL OR available_at > NOW THEN NOW ELSE available_at END";

async fn on_postgres(session: &tokio_postgres::Client, sql: &str) -> Vec<Row> {
    if sql.ends_with(" SQLITE") {
        return Vec::new();
    }
    let sql = sql
        .replace("BEGIN IMMEDIATE", "BEGIN")
        .replace("NOW", "now()");
    let sql = sql.replace("NEXT_YEAR", "now() + interval '1 year'");
    text_rows(session, &sql).await
}

/// A transaction keeps everybody else out from its beginning: it is held there, and nowhere else.
async fn on_sqlite(session: &Mutex<Sqlite>, sql: &str) -> Vec<Row> {
    let lock = || session.lock().unwrap_or_else(PoisonError::into_inner);
    let sql = sql.replace(" SQLITE", "").replace(" FOR UPDATE", "");
    let gate = {
        let session = lock();
        session
            .transaction
            .is_none()
            .then(|| Arc::clone(&session.gate))
    };
    let step = match gate {
        Some(gate) => gate.pass(sql.as_str()).await,
        None => None,
    };
    let mut session = lock();
    if sql.starts_with("BEGIN") {
        session.transaction = step;
        let _ = RawSqlite::query_on(&session.connection, "BEGIN IMMEDIATE");
        return Vec::new();
    }
    let sql = sql.replace("NOW", &format!("'{}'", session.now));
    let sql = sql.replace("NEXT_YEAR", "'2099-01-01T00:00:00.000Z'");
    let rows = RawSqlite::query_on(&session.connection, &sql);
    if sql.starts_with("COMMIT") {
        session.transaction = None;
    }
    rows
}
