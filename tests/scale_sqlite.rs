//! What operations read of an SQLite file with many rows: no more than of one with few. Alone in its process,
//! since the reading of the process is what is counted.

use openworkflow::Sqlite;
use openworkflow_tests::scale::{self, Amount, Dialect, PagesRead};
use rusqlite::Connection;

/// Runs in each state.
const ROWS: u32 = 10_000;

/// Enough for any operation on a few rows, and for none that reads all rows of one state, or all entries of
/// one in an index.
const MOST: Amount = Amount {
    rows: 0.0,
    blocks: 150.0,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_read_no_more_of_many_rows_than_of_few() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runs.db");
    let early = Sqlite::open(&file).await.unwrap();
    let mut ignored = PagesRead::new(&file, Amount::ANY);
    for round in 0..3 {
        let lone = format!("early-{round}");
        scale::operate(&early, &lone, &mut ignored).await.unwrap();
    }
    let admin = Connection::open(&file).unwrap();
    for statement in scale::fill(Dialect::Sqlite, ROWS) {
        admin.execute_batch(&statement).unwrap();
    }

    // With statements that were prepared for empty tables, and with new ones.
    for (name, sql) in [("early", ""), ("uncounted", ""), ("counted", "ANALYZE")] {
        admin.execute_batch(sql).unwrap();
        admin
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
        let backend = match name {
            "early" => early.clone(),
            _ => Sqlite::open(&file).await.unwrap(),
        };
        let mut read = PagesRead::new(&file, MOST);
        for round in 0..2 {
            let lone = format!("{name}-measured-{round}");
            scale::operate(&backend, &lone, &mut read).await.unwrap();
        }
        let excessive = read.readings().excessive();
        assert!(
            excessive.is_empty(),
            "{name}: these read too much:\n{}",
            excessive.join("\n")
        );
    }

    // Signals for which many runs waited that are over: a thousand waits are closed each time.
    for statement in scale::abandon(Dialect::Sqlite, ROWS) {
        admin.execute_batch(&statement).unwrap();
    }
    for _ in 0..ROWS / 1000 {
        let sent = scale::signal_the_abandoned(&early, &mut ignored).await;
        sent.unwrap();
    }
    let mut read = PagesRead::new(&file, MOST);
    let sent = scale::signal_the_abandoned(&early, &mut read).await;
    sent.unwrap();
    let excessive = read.readings().excessive();
    assert!(excessive.is_empty(), "{}", excessive.join("\n"));
}
