//! Plans on PostgreSQL, with whatever the server knows of its tables.

use std::time::{Duration, Instant};

use openworkflow::Postgres;
use openworkflow_tests::postgres_server::{self, Server};
use openworkflow_tests::scale::{self, Amount, Dialect, Explained, State};

/// Runs in each state.
pub(crate) const ROWS: u32 = 3_000;

/// Enough for any operation on a few rows, and for none that reads all rows of one state.
pub(crate) const MOST: Amount = Amount {
    rows: 500.0,
    blocks: 500.0,
};

/// As many runs of each state as a table holds that is read as a whole more quickly than along an index.
const FEW: u32 = 8;

/// Enough for any operation along an index, and less than these tables hold.
const LESS: Amount = Amount {
    rows: 110.0,
    blocks: 500.0,
};

/// How long plans may be behind the tables.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Site {
    pub(crate) server: Server,
    schema: String,
    admin: tokio_postgres::Client,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let server = scale::server();
        let admin = postgres_server::connect(&server.url()).await;
        let site = Self {
            schema: postgres_server::schema(),
            server,
            admin,
        };
        site.sql(&format!(
            "SET search_path TO {}; SET auto_explain.log_min_duration = -1",
            site.schema
        ))
        .await;
        site
    }

    pub(crate) async fn sql(&self, sql: &str) {
        let done = self.admin.batch_execute(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) async fn open(&self, name: &str) -> Postgres {
        let options = Postgres::options()
            .url(self.server.url())
            .schema(&self.schema);
        options.application_name(name).connect().await.unwrap()
    }

    async fn fill(&self, rows: u32, which: impl Fn(&State) -> bool) {
        for statement in scale::fill_some(Dialect::Postgres, rows, which) {
            self.sql(&statement).await;
        }
    }

    /// Operates often enough for the driver and the server to keep whatever plans they keep.
    async fn warm_up(&self, backend: &Postgres, name: &str) {
        let mut ignored = Explained::new(&self.server, name, Amount::ANY);
        for round in 0..7 {
            let lone = format!("{name}-{round}");
            scale::operate(backend, &lone, &mut ignored).await.unwrap();
        }
    }

    /// Asserts that operations read little from some moment on: plans are made anew a little later than
    /// tables grow.
    async fn assert_frugal(&self, backend: &Postgres, name: &str) {
        let began = Instant::now();
        let mut round = 0;
        loop {
            let mut explained = Explained::new(&self.server, name, MOST);
            for _ in 0..2 {
                round += 1;
                let lone = format!("{name}-measured-{round}");
                let operated = scale::operate(backend, &lone, &mut explained).await;
                operated.unwrap();
            }
            let excessive = explained.readings().excessive();
            if excessive.is_empty() {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "these read too much:\n{}",
                excessive.join("\n")
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_made_for_empty_tables_hold_when_they_are_full() {
    let site = Site::new().await;
    let early = site.open("early").await;
    site.warm_up(&early, "early").await;
    site.fill(ROWS, |_| true).await;
    site.assert_frugal(&early, "early").await;

    // Plans made for full tables of which the server has not counted the rows, and has.
    for (name, sql) in [("uncounted", "SELECT 1"), ("counted", "ANALYZE")] {
        site.sql(sql).await;
        let backend = site.open(name).await;
        site.warm_up(&backend, name).await;
        site.assert_frugal(&backend, name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_made_for_tables_known_to_be_small_hold_when_they_are_full() {
    let site = Site::new().await;
    let early = site.open("early").await;
    // But signals: a server that knows of one, whatever it is called, takes all of them for that until it
    // counts them again, which it does soon.
    let which = |state: &State| !state.is_signaled();
    site.fill(1, which).await;
    site.sql("VACUUM ANALYZE").await;
    site.warm_up(&early, "early").await;
    site.sql("DELETE FROM workflow_runs").await;
    site.fill(ROWS, which).await;
    site.assert_frugal(&early, "early").await;
}

/// Until somebody notices that they have grown, the plans for small tables are those for large ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_made_for_tables_known_to_be_small_read_them_along_indexes() {
    let site = Site::new().await;
    let backend = site.open("small").await;
    site.fill(FEW, |_| true).await;
    site.sql("VACUUM ANALYZE").await;
    site.warm_up(&backend, "small").await;
    let mut explained = Explained::new(&site.server, "small", LESS);
    scale::operate(&backend, "measured", &mut explained)
        .await
        .unwrap();
    let excessive = explained.readings().excessive();
    assert!(
        excessive.is_empty(),
        "these read too much:\n{}",
        excessive.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_made_where_few_are_children_hold_where_many_are() {
    let site = Site::new().await;
    site.open("first").await.close();
    site.fill(ROWS, |state| !state.is_family()).await;
    site.sql("VACUUM ANALYZE").await;
    let early = site.open("early").await;
    site.warm_up(&early, "early").await;
    // Few enough for the tables to stay about as large as they are: plans are not made anew.
    site.fill(ROWS / 4, State::is_family).await;
    let mut explained = Explained::new(&site.server, "early", MOST);
    scale::operate(&early, "measured", &mut explained)
        .await
        .unwrap();
    let excessive = explained.readings().excessive();
    assert!(
        excessive.is_empty(),
        "these read too much:\n{}",
        excessive.join("\n")
    );
}
