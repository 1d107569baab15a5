//! A fleet on PostgreSQL: a client and three worker processes, one of which is killed in the middle
//! of its work. The others take its runs over where it left them.
//!
//! `cargo run --example postgres_fleet -- postgresql://user:password@localhost/database`, or without
//! an argument where the `PG*` variables say which server. It works in a schema of its own.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::process::{self, Child, Command, Stdio};
use std::time::{Duration, Instant};

use openworkflow::backend::BackendError;
use openworkflow::{Client, Postgres, RunStatus, Worker, WorkflowSpec};

/// Prints a book, page by page. The output is which process printed which page.
static PRINT: WorkflowSpec<u32, Vec<u32>> = WorkflowSpec::new("print");

const WORKERS: usize = 3;
const BOOKS: u32 = 12;
const PAGES: u32 = 6;
/// How long the others wait for a process that gives no sign of life. Short, so that there is
/// something to watch; the default is 30 s.
const LEASE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = env::args().skip(1);
    match arguments.next() {
        Some(word) if word == "worker" => work(arguments.next()).await,
        url => lead(url).await,
    }
}

async fn connect(url: Option<String>) -> Result<Postgres, BackendError> {
    let options = Postgres::options().schema("openworkflow_fleet_example");
    match url {
        Some(url) => options.url(url).connect().await,
        None => options.connect().await,
    }
}

/// What each of the worker processes does: the same as any worker.
async fn work(url: Option<String>) -> Result<(), Box<dyn Error>> {
    let print = PRINT.implement(|wf, _number| async move {
        let mut printed_by = Vec::new();
        for page in 1..=PAGES {
            let body = || async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(process::id())
            };
            printed_by.push(wf.run(format!("page-{page}"), body).await?);
        }
        Ok(printed_by)
    });
    let worker = Worker::builder(connect(url).await?)
        .workflow(print)
        .lease(LEASE)
        .concurrency(4);
    // Until SIGTERM, which lets it finish what is under way.
    worker.build()?.run().await?;
    Ok(())
}

async fn lead(url: Option<String>) -> Result<(), Box<dyn Error>> {
    let store = match connect(url.clone()).await {
        Ok(store) => store,
        Err(error) => {
            eprintln!("{error}\n");
            eprintln!(
                "This needs a PostgreSQL server, named by a connection string or by PGHOST, PGUSER, \
                 PGPASSWORD and PGDATABASE. One to throw away:\n  \
                 docker run --rm -p 5432:5432 -e POSTGRES_PASSWORD=secret postgres"
            );
            process::exit(1);
        }
    };
    let client = Client::new(store);
    let mut fleet = Fleet::start(url.as_deref())?;
    let mut runs = Vec::new();
    for number in 1..=BOOKS {
        runs.push(client.start(&PRINT, &number).await?);
    }
    println!(
        "{BOOKS} books of {PAGES} pages, for the processes {:?}",
        fleet.ids()
    );

    // The first process that is in the middle of something dies.
    let victim = busy_process(&client).await?;
    fleet.kill(victim)?;
    let killed = Instant::now();
    println!("process {victim} was killed; its runs are taken over when its lease ends");

    let mut taken_over = 0;
    for (run, number) in runs.iter().zip(1..) {
        let printed_by = run.result_within(Duration::from_secs(60)).await?;
        let died_here = printed_by.contains(&victim) && printed_by.last() != Some(&victim);
        taken_over += u32::from(died_here);
        let note = if died_here { "  <- taken over" } else { "" };
        println!("book {number:2}: {printed_by:?}{note}");
    }
    println!(
        "every page once, {taken_over} books taken over, all done {:.1} s after the kill",
        killed.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Waits until a process has printed some pages of the books that are not finished.
async fn busy_process(client: &Client) -> Result<u32, Box<dyn Error>> {
    loop {
        let mut pages: BTreeMap<u32, u32> = BTreeMap::new();
        let runs = client
            .list_runs()
            .workflow("print")
            .status(RunStatus::Running);
        for run in runs.await?.items {
            for step in client.list_steps(&run.id).await?.items {
                if let Ok(printed_by) = step.output.expose().parse() {
                    *pages.entry(printed_by).or_default() += 1;
                }
            }
        }
        if let Some((process, _)) = pages.into_iter().find(|(_, pages)| *pages >= 4) {
            return Ok(process);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The worker processes. They end with this one.
struct Fleet(Vec<Child>);

impl Fleet {
    fn start(url: Option<&str>) -> std::io::Result<Self> {
        let mut fleet = Self(Vec::new());
        for _ in 0..WORKERS {
            let mut command = Command::new(env::current_exe()?);
            command.arg("worker").args(url).stdin(Stdio::null());
            fleet.0.push(command.spawn()?);
        }
        Ok(fleet)
    }

    fn ids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    /// Ends a process as a power failure does.
    fn kill(&mut self, id: u32) -> std::io::Result<()> {
        for worker in self.0.iter_mut().filter(|worker| worker.id() == id) {
            worker.kill()?;
            worker.wait()?;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // It may be gone already.
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}
