//! A backend on a pool of the application's own.

use std::pin::pin;

use futures::FutureExt as _;
use openworkflow::backend::deadpool_postgres::tokio_postgres::{Config, NoTls};
use openworkflow::backend::deadpool_postgres::{Manager, Pool};
use openworkflow::{Client, RetryPolicy, Worker, WorkflowSpec};

use super::*;

static PARENT: WorkflowSpec<u32, u32> = WorkflowSpec::new("parent");
static CHILD: WorkflowSpec<u32, u32> = WorkflowSpec::new("child");

fn pool(name: &str, size: usize) -> Pool {
    let mut config: Config = support::url().parse().unwrap();
    config.application_name(name);
    let pool = Pool::builder(Manager::new(config, NoTls));
    pool.max_size(size).build().unwrap()
}

/// What a session of the pool's keeps between transactions: its settings, statements, locks, and whether
/// it listens.
async fn kept(pool: &Pool) -> Vec<String> {
    let session = pool.get().await.unwrap();
    let mut kept = Vec::new();
    for sql in [
        "SELECT name || '=' || setting FROM pg_settings WHERE source = 'session' ORDER BY name",
        "SELECT statement FROM pg_prepared_statements",
        "SELECT pg_listening_channels()",
        "SELECT locktype FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    ] {
        let rows = session.query_typed(sql, &[]).await.unwrap();
        kept.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    kept
}

/// How many sessions of this name listen to others.
async fn listeners(name: &str) -> usize {
    let sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN%'";
    let client = support::client().await;
    client.query(sql, &[&name]).await.unwrap().len()
}

/// Runs a workflow with everything that there is: steps, a retry, a sleep, a child, signals.
async fn works(backend: &Postgres) {
    let soon = RetryPolicy::attempts(2).initial_interval(Duration::from_millis(1));
    let parent = PARENT.implement(move |wf, n: u32| async move {
        let tries = wf.attempt();
        let flaky = wf.run("flaky", || async move {
            match tries {
                1 => Err(openworkflow::Error::new("Flaky", "not yet")),
                _ => Ok(n + 1),
            }
        });
        let n = flaky.retry(soon).await?;
        wf.sleep("nap", Duration::from_millis(1)).await?;
        let n = wf.run_workflow(&CHILD, &n).await?;
        Ok(n + wf.wait_for_signal::<u32>("more").await?.unwrap_or(0))
    });
    let child =
        CHILD.implement(|wf, n: u32| async move { wf.run("double", || async { Ok(n * 2) }).await });
    let worker = Worker::builder(backend.clone())
        .workflow(parent)
        .workflow(child);
    let mut worker = worker.concurrency(5).build().unwrap().start();
    let client = Client::new(backend.clone());
    let mut runs = Vec::new();
    for n in 0..10 {
        let key = format!("key-{n}");
        runs.push(
            client
                .start(&PARENT, &n)
                .idempotency_key(key)
                .await
                .unwrap(),
        );
    }
    let mut told = 0;
    while told < runs.len() {
        told += client.send_signal("more", &100).await.unwrap().len();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (n, run) in (0..).zip(&runs) {
        let output = run.result_within(Duration::from_secs(60)).await.unwrap();
        assert_eq!(output, (n + 1) * 2 + 100);
    }
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn one_connection_is_enough_and_is_left_as_it_was() {
    let schema = support::schema();
    let pool = pool(&schema, 1);
    let before = kept(&pool).await;
    let options = Postgres::options().schema(&schema);
    let backend = options.connect_with(pool.clone()).await.unwrap();
    works(&backend).await;
    assert_eq!(kept(&pool).await, before);
    assert_eq!(pool.status().size, 1, "the connection is still the first");
    assert_eq!(listeners(&schema).await, 0);
}

#[tokio::test]
async fn a_connection_string_beside_the_pool_is_for_listening() {
    let schema = support::schema();
    let pool = pool(&format!("{schema}-pool"), 2);
    let before = kept(&pool).await;
    let options = Postgres::options().schema(&schema);
    let options = options.url(support::url()).application_name(&schema);
    let backend = options.connect_with(pool.clone()).await.unwrap();
    while listeners(&schema).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    works(&backend).await;
    assert_eq!(kept(&pool).await, before);
    backend.close();
    while listeners(&schema).await > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_pool_outlives_its_backend() {
    let schema = support::schema();
    let pool = pool(&schema, 3);
    let options = || Postgres::options().schema(&schema);
    let backend = options().connect_with(pool.clone()).await.unwrap();
    let run = NewRun::new(NS, "r", "order", Payload::NULL);
    backend.create_run(run).await.unwrap();
    let clone = backend.clone();
    backend.close();
    for closed in [&backend, &clone] {
        let error = closed.get_run(NS, "r").await.unwrap_err();
        assert!(matches!(error, BackendError::Closed), "{error:?}");
    }
    assert!(!pool.is_closed());
    assert_eq!(pool.status().max_size, 3);
    // Another one on the same pool, and without rights to make anything.
    let again = options()
        .migrate(false)
        .connect_with(pool.clone())
        .await
        .unwrap();
    assert!(again.get_run(NS, "r").await.unwrap().is_some());
    drop(again);
    assert!(pool.get().await.is_ok());

    let missing = Postgres::options().schema(support::schema()).migrate(false);
    let error = missing.connect_with(pool.clone()).await.unwrap_err();
    assert!(
        matches!(error, BackendError::Unavailable { .. }),
        "{error:?}"
    );
    pool.close();
    let error = options().connect_with(pool.clone()).await.unwrap_err();
    assert!(matches!(error, BackendError::Closed), "{error:?}");
}

#[tokio::test]
async fn a_pool_that_cannot_connect_says_why() {
    let mut config: Config = support::url().parse().unwrap();
    config.password("not-the-password");
    let pool = Pool::builder(Manager::new(config, NoTls)).build().unwrap();
    let error = Postgres::from_pool(pool).await.unwrap_err();
    let BackendError::Unavailable { problem, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(problem.contains("refused the password"), "{problem}");
}

#[tokio::test]
async fn the_only_connection_is_not_kept_for_making_indexes() {
    let fixture = Fixture::new().await;
    let run = NewRun::new(NS, "r", "order", Payload::NULL);
    fixture.backend.create_run(run).await.unwrap();
    fixture
        .sql("DROP INDEX {schema}.openworkflow_rs_workflow_runs_due_idx")
        .await;
    let options = || Postgres::options().schema(&fixture.schema);
    let own = options().url(support::url()).pool_size(1);
    let given = pool(&fixture.schema, 1);
    for backend in [own.connect().await, options().connect_with(given).await] {
        let backend = backend.unwrap();
        for _ in 0..20 {
            // Whoever makes indexes has its turn in between.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let read = tokio::time::timeout(LEASE, backend.get_run(NS, "r")).await;
            assert!(read.expect("the connection is free").unwrap().is_some());
        }
    }
}

#[tokio::test]
async fn an_idle_worker_has_its_turn_at_the_only_connection() {
    let fixture = Fixture::new().await;
    let pool = pool(&fixture.schema, 1);
    let options = Postgres::options().schema(&fixture.schema);
    let backend = options.connect_with(pool.clone()).await.unwrap();
    let queued = async |many: usize| {
        let queue = async {
            while pool.status().waiting < many {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let queue = tokio::time::timeout(LEASE, queue).await;
        queue.unwrap_or_else(|_| panic!("fewer than {many} wait for the connection"));
    };

    let mut held = pool.get().await.unwrap();
    let double = CHILD.implement(|_, n: u32| async move { Ok(n * 2) });
    let worker = Worker::builder(backend.clone()).workflow(double);
    let _worker = worker.build().unwrap().start();
    // The search for passed deadlines, and the first claim: each comes before us once.
    for _ in 0..2 {
        queued(1).await;
        let mut next = pin!(pool.get());
        assert!(next.as_mut().now_or_never().is_none(), "we wait");
        drop(held);
        held = next.await.unwrap();
    }
    // Nothing was there to claim. What an idle worker does waits now, and then its next claim does.
    queued(2).await;
    drop(held);

    let run = Client::new(fixture.backend.clone())
        .start(&CHILD, &21)
        .await;
    let result = run.unwrap().result_within(LEASE).await;
    assert_eq!(result.unwrap(), 42);
}
