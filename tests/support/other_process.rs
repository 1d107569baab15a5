//! A process beside the tests: it works until it is killed, holds a lock, or tries to open a database.
//!
//! `other_process work DATABASE LOG`, `other_process fleet URL FOLDER LEASE` (in milliseconds),
//! `other_process traced URL FOLDER`, `other_process lock DATABASE` (until its standard input ends), or
//! `other_process open DATABASE`.

use std::io::Read as _;
use std::task::Poll;
use std::time::Duration;

use openworkflow::Sqlite;
use openworkflow_tests::{fleet, killable, traced};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["work", database, log] => {
            let worker = killable::worker(Sqlite::open(database).await?, log)?;
            worker.run().await?;
        }
        ["fleet", url, folder, lease] => {
            let worker = openworkflow_tests::store::worker(url).await;
            let worker = fleet::register(worker, folder.as_ref())?
                .lease(Duration::from_millis(lease.parse()?))
                .concurrency(16)
                .build()?;
            let mut worker = std::pin::pin!(worker.run());
            // The first poll is what makes it listen to signals.
            match futures::poll!(worker.as_mut()) {
                Poll::Ready(ended) => ended?,
                Poll::Pending => {
                    let ready = fleet::ready(folder.as_ref(), std::process::id());
                    std::fs::write(ready, "")?;
                    worker.await?;
                }
            }
            println!("stopped");
        }
        ["traced", url, folder] => {
            let worker = openworkflow_tests::store::worker(url).await;
            traced::worker(worker, folder.as_ref())?.run().await?;
        }
        ["lock", database] => {
            let conn = rusqlite::Connection::open(database)?;
            conn.execute_batch("BEGIN IMMEDIATE")?;
            println!("locked");
            std::io::stdin().read_to_end(&mut Vec::new())?;
        }
        ["open", database] => match Sqlite::open(database).await {
            Ok(_) => println!("opened"),
            Err(error) => println!("{error:?}\n{error}"),
        },
        _ => return Err("not a thing that this process does".into()),
    }
    Ok(())
}
