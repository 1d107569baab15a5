//! Our own indexes on PostgreSQL: made where they are missing, and done without where they may not be.

use std::time::Duration;

use openworkflow::backend::{Backend, NewRun};
use openworkflow::{Payload, Postgres};
use openworkflow_tests::scale::{MINE, claim_of};
use openworkflow_tests::{logged, postgres_server, wait_until};

const DUE: &str = "openworkflow_rs_workflow_runs_due_idx";
const DEADLINE: &str = "openworkflow_rs_workflow_runs_deadline_idx";

struct Site {
    schema: String,
    admin: tokio_postgres::Client,
}

impl Site {
    /// A schema with a run of each of two versions, and without our indexes.
    async fn without_indexes() -> Self {
        let site = Self {
            schema: postgres_server::schema(),
            admin: postgres_server::client().await,
        };
        let backend = site.open().await;
        for version in ["v1", "v2"] {
            let mut run = NewRun::new("default", format!("run-{version}"), MINE, Payload::NULL);
            run.version = Some(version.to_owned());
            backend.create_run(run).await.unwrap();
        }
        let schema = &site.schema;
        site.sql(&format!(
            "DROP INDEX {schema}.{DUE}; DROP INDEX {schema}.{DEADLINE}"
        ))
        .await;
        site
    }

    fn options(&self) -> openworkflow::PostgresOptions {
        Postgres::options()
            .url(postgres_server::url())
            .schema(&self.schema)
    }

    async fn open(&self) -> Postgres {
        self.options().connect().await.unwrap()
    }

    async fn sql(&self, sql: &str) {
        self.admin.batch_execute(sql).await.unwrap();
    }

    /// The names of our indexes that are there as a whole.
    async fn indexes(&self) -> Vec<String> {
        let sql = "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
             WHERE c.relnamespace = $1::text::regnamespace AND c.relname LIKE 'openworkflow_rs_%'
                 AND i.indisvalid ORDER BY 1";
        let rows = self.admin.query(sql, &[&self.schema]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn is_indexed(&self) -> bool {
        self.indexes().await == [DEADLINE, DUE]
    }

    /// Claims one of the two runs, and nothing of a version that nobody has.
    async fn assert_claims(&self, backend: &Postgres, version: &str) {
        assert!(
            backend
                .claim_runs(claim_of(5, "v3"))
                .await
                .unwrap()
                .is_empty()
        );
        let claimed = backend.claim_runs(claim_of(5, version)).await.unwrap();
        let ids: Vec<_> = claimed.iter().map(|run| run.id.as_str()).collect();
        assert_eq!(ids, [format!("run-{version}")]);
    }
}

#[tokio::test]
async fn new_tables_have_our_indexes_from_the_start() {
    let site = Site::without_indexes().await;
    site.sql(&format!("DROP SCHEMA {} CASCADE", site.schema))
        .await;
    let backend = site.open().await;
    assert!(site.is_indexed().await);
    let sql =
        "SELECT indexdef FROM pg_indexes WHERE schemaname = $1 AND indexname = ANY($2) ORDER BY 1";
    let names: &[&str] = &[DUE, DEADLINE];
    let rows = site
        .admin
        .query(sql, &[&site.schema, &names])
        .await
        .unwrap();
    let definitions: Vec<String> = rows
        .iter()
        .map(|row| row.get::<_, String>(0).replace(&site.schema, "SCHEMA"))
        .collect();
    assert_eq!(
        definitions,
        [
            format!(
                "CREATE INDEX {DEADLINE} ON SCHEMA.workflow_runs USING btree (namespace_id, \
                 deadline_at) WHERE ((deadline_at IS NOT NULL) AND (status = ANY \
                 (ARRAY['pending'::text, 'running'::text, 'sleeping'::text])))"
            ),
            format!(
                "CREATE INDEX {DUE} ON SCHEMA.workflow_runs USING btree \
                 (hashtextextended(namespace_id, hashtextextended(workflow_name, \
                 hashtextextended(COALESCE(version, ''::text), (0)::bigint))), status, \
                 available_at, created_at) WHERE (available_at IS NOT NULL)"
            ),
        ]
    );
    drop(backend);
}

#[tokio::test]
async fn tables_in_use_get_them_beside_the_work() {
    let site = Site::without_indexes().await;
    // Somebody reads for long, so that making an index lasts.
    let reader = postgres_server::client().await;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM {}.workflow_runs",
        site.schema
    );
    reader.batch_execute(&begin).await.unwrap();
    let backend = site.open().await;
    site.assert_claims(&backend, "v1").await;
    assert!(!site.is_indexed().await);
    reader.batch_execute("COMMIT").await.unwrap();
    wait_until("the indexes are there", || site.is_indexed()).await;
    site.assert_claims(&backend, "v2").await;
}

#[tokio::test]
async fn a_half_made_index_is_made_anew() {
    let site = Site::without_indexes().await;
    let begun = site.open().await;
    wait_until("the indexes are there", || site.is_indexed()).await;
    drop(begun);
    // As after a crash of who made them.
    site.sql(&format!(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{}.{DUE}'::regclass",
        site.schema
    ))
    .await;
    let backend = site.open().await;
    site.assert_claims(&backend, "v1").await;
    wait_until("the indexes are there", || site.is_indexed()).await;
}

#[tokio::test]
async fn several_that_find_them_missing_make_them_once() {
    let site = Site::without_indexes().await;
    let opened = futures::future::join_all((0..4).map(|_| site.open())).await;
    wait_until("the indexes are there", || site.is_indexed()).await;
    site.assert_claims(&opened[0], "v1").await;
    site.assert_claims(&opened[3], "v2").await;
}

#[tokio::test]
async fn a_role_that_may_not_make_them_works_without_and_says_so_once() {
    let site = Site::without_indexes().await;
    let schema = &site.schema;
    let role = format!("role_{schema}");
    site.sql(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'secret'; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {role}"
    ))
    .await;
    let (log, _collecting) = logged::collect();
    let options = site.options().user(&role).password("secret");
    let limited = options.connect().await.unwrap();
    let warnings = || {
        let lines = log.lines().into_iter();
        let lines =
            lines.filter(|line| line.contains("WARN") && line.contains("indexes are missing"));
        lines.collect::<Vec<_>>()
    };
    wait_until("it says so", || {
        let said = !warnings().is_empty();
        async move { said }
    })
    .await;
    site.assert_claims(&limited, "v1").await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    tokio::time::resume();
    site.assert_claims(&limited, "v2").await;
    let warnings = warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    // It says what to do, in words that can be executed.
    let (_, statements) = warnings[0].split_once("execute: ").unwrap();
    let end = statements.rfind(';').unwrap();
    for statement in statements[..end].split(';') {
        site.sql(statement).await;
    }
    assert!(site.is_indexed().await);
}
