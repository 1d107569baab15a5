//! How long operations take on a database with a million runs in each state, and how much they read.
//! `docs/benchmarks.md` has the figures.

mod ground;
mod options;
mod postgres;
mod report;
mod sqlite;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ground::Ground;
use openworkflow::backend::Backend;
use openworkflow_tests::scale::{self, Meter, Times};
use options::Options;
use postgres::OnPostgres;
use report::Report;
use sqlite::OnSqlite;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// With fewer runs than this, reading all of them is not much.
const ENOUGH: u32 = 3000;

/// Longer than the time between two sweeps.
const BETWEEN_SWEEPS: Duration = Duration::from_millis(1100);

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n\n{}", options::HELP);
            return ExitCode::from(2);
        }
    };
    match measure_all(&options).await {
        Ok(excessive) if excessive.is_empty() => ExitCode::SUCCESS,
        Ok(excessive) => {
            eprintln!("these read too much:\n{}", excessive.join("\n"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("the measurement failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what it measures, and returns what read too much.
async fn measure_all(options: &Options) -> Result<Vec<String>> {
    let mut excessive = Vec::new();
    for backend in &options.backends {
        let report = match backend.as_str() {
            OnSqlite::NAME => measure::<OnSqlite>(options).await?,
            OnPostgres::NAME => measure::<OnPostgres>(options).await?,
            _ => return Err(format!("{backend:?} is no backend; sqlite and postgres are").into()),
        };
        println!("{}", report.table());
        if options.rows >= ENOUGH {
            excessive.extend(report.excessive);
        }
    }
    Ok(excessive)
}

async fn measure<G: Ground>(options: &Options) -> Result<Report> {
    let begun = Instant::now();
    let ground = G::create(&options.folder).await?;
    ground.fill(options).await?;
    eprintln!("{}: filled in {:.1?}", G::NAME, begun.elapsed());
    let mut report = Report::new(G::NAME, options);
    for counted in [false, true] {
        if counted {
            ground.analyze().await?;
        }
        let name = if counted { "counted" } else { "uncounted" };
        eprintln!("{}: {name}", G::NAME);
        let store = ground.open(name).await?;
        // Until all statements are prepared and planned.
        for round in 0..7 {
            scale::operate(
                &store,
                &format!("{name}-warm-{round}"),
                &mut Times::default(),
            )
            .await?;
        }
        let mut times = Times::default();
        for round in 0..options.rounds {
            scale::operate(&store, &format!("{name}-{round}"), &mut times).await?;
        }
        for _ in 0..options.rounds.min(5) {
            tokio::time::sleep(BETWEEN_SWEEPS).await;
            times.begin();
            store.claim_runs(scale::claim_of(10, "v2")).await?;
            times.end("claim that sweeps, nothing due");
            times.begin();
            store.count_runs("default").await?;
            times.end("count");
        }
        report.timed(&times);

        ground.begin_to_tell().await?;
        let name = format!("{name}-read");
        let store = ground.open(&name).await?;
        for round in 0..7 {
            scale::operate(
                &store,
                &format!("{name}-warm-{round}"),
                &mut Times::default(),
            )
            .await?;
        }
        let mut reader = ground.reader(&name);
        for round in 0..2 {
            scale::operate(&store, &format!("{name}-{round}"), &mut reader).await?;
        }
        report.read(G::readings(&reader));
        ground.end_to_tell().await?;
    }
    report.sweep = Some(sweep(&ground, options.expired).await?);
    Ok(report)
}

/// Deadlines that pass at the same time.
pub(crate) struct Sweep {
    pub(crate) runs: u32,
    pub(crate) first_claim: Duration,
    pub(crate) worst_claim: Duration,
    pub(crate) all: Duration,
}

async fn sweep<G: Ground>(ground: &G, runs: u32) -> Result<Sweep> {
    let store = ground.open("sweeping").await?;
    // Claims find nothing, so that all they could wait for is the sweep.
    let claim = async || {
        let begun = Instant::now();
        store.claim_runs(scale::claim_of(1, "v2")).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(begun.elapsed())
    };
    for _ in 0..7 {
        claim().await?;
    }
    let expired = scale::expire(G::DIALECT, runs);
    ground.execute(&expired).await?;
    tokio::time::sleep(BETWEEN_SWEEPS).await;
    let begun = Instant::now();
    let first_claim = claim().await?;
    let mut worst_claim = first_claim;
    while ground.has_expired().await? {
        worst_claim = worst_claim.max(claim().await?);
    }
    Ok(Sweep {
        runs,
        first_claim,
        worst_claim,
        all: begun.elapsed(),
    })
}
