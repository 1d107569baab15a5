//! Dropping a schema, and not dropping it.

use super::*;

impl Fixture {
    async fn has_schema(&self) -> bool {
        let sql = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
        !self
            .client
            .query(sql, &[&self.schema])
            .await
            .unwrap()
            .is_empty()
    }

    /// Why the schema of that name is not dropped. Everything is there as before.
    async fn refusal(&self, schema: &str) -> String {
        let error = self.backend.drop_schema(schema).await.unwrap_err();
        let BackendError::NotDropped {
            schema: named,
            problem,
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(named, schema);
        let run = self.backend.get_run(NS, "r").await.unwrap();
        assert!(run.is_some(), "nothing is dropped");
        problem.clone()
    }
}

async fn with_a_run() -> Fixture {
    let fixture = Fixture::new().await;
    let run = NewRun::new(NS, "r", "order", Payload::NULL);
    fixture.backend.create_run(run).await.unwrap();
    fixture
}

#[tokio::test]
async fn a_schema_is_dropped_with_all_that_is_ours() {
    let fixture = with_a_run().await;
    fixture.backend.drop_schema(&fixture.schema).await.unwrap();
    assert!(!fixture.has_schema().await);
    let error = fixture.backend.get_run(NS, "r").await.unwrap_err();
    assert!(matches!(error, BackendError::Closed), "{error:?}");
    // It can be made anew.
    let options = Postgres::options()
        .url(support::url())
        .schema(&fixture.schema);
    let again = options.connect().await.unwrap();
    assert!(again.get_run(NS, "r").await.unwrap().is_none());
    let other = Postgres::options()
        .url(support::url())
        .schema(&fixture.schema);
    let other = other.connect().await.unwrap();
    again.drop_schema(&fixture.schema).await.unwrap();
    // One that is gone is gone.
    other.drop_schema(&fixture.schema).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_holds_anything_else_is_not_dropped() {
    let fixture = with_a_run().await;
    fixture.sql("CREATE TABLE {schema}.accounts (id int)").await;
    let problem = fixture.refusal(&fixture.schema).await;
    assert!(problem.contains("accounts"), "{problem}");
    fixture.sql("DROP TABLE {schema}.accounts").await;

    let view = format!("{}_reports", fixture.schema);
    let sql = format!("CREATE VIEW public.{view} AS SELECT id FROM {{schema}}.workflow_runs");
    fixture.sql(&sql).await;
    let problem = fixture.refusal(&fixture.schema).await;
    assert!(problem.contains(&view), "{problem}");
    fixture.sql(&format!("DROP VIEW public.{view}")).await;
    fixture.backend.drop_schema(&fixture.schema).await.unwrap();
}

#[tokio::test]
async fn only_the_schema_that_is_named_and_ones_own_is_dropped() {
    let fixture = with_a_run().await;
    let problem = fixture.refusal("openworkflow").await;
    assert!(problem.contains(&fixture.schema), "{problem}");
    let problem = fixture.refusal("").await;
    assert!(problem.contains(&fixture.schema), "{problem}");
    assert!(fixture.has_schema().await);
}

#[tokio::test]
async fn the_schema_public_is_never_dropped() {
    // In a database of its own, since tables in `public` would be in everybody's way.
    let admin = support::client().await;
    let database = support::schema();
    let create = format!("CREATE DATABASE {database}");
    admin.batch_execute(&create).await.unwrap();
    let options = Postgres::options().url(support::url()).database(&database);
    let backend = options.schema("public").connect().await.unwrap();
    let error = backend.drop_schema("public").await.unwrap_err();
    assert!(
        matches!(error, BackendError::NotDropped { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("workflow_runs"), "{error}");
    assert!(backend.get_run(NS, "r").await.unwrap().is_none());
    backend.close();
    let drop = format!("DROP DATABASE {database} WITH (FORCE)");
    admin.batch_execute(&drop).await.unwrap();
}
