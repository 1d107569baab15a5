//! The application's own connections to the same file.

use std::thread;
use std::time::Duration;

use openworkflow::backend::{Backend, NewRun};
use workflow_core::Payload;

use super::kit::{Db, NS};

#[tokio::test]
async fn the_file_is_shared_with_connections_of_the_applications_own() {
    const EACH: u32 = 200;
    let db = Db::new().await;
    let own = || {
        let own = rusqlite::Connection::open(&db.path).unwrap();
        own.busy_timeout(Duration::from_secs(30)).unwrap();
        own
    };
    own()
        .execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, run TEXT)")
        .unwrap();
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let mut own = own();
            thread::spawn(move || {
                for _ in 0..EACH {
                    let order = own.transaction().unwrap();
                    let sql = "INSERT INTO orders (run) SELECT max(id) FROM workflow_runs";
                    order.execute(sql, []).unwrap();
                    order.commit().unwrap();
                }
            })
        })
        .collect();
    for n in 0..EACH {
        let run = NewRun::new(NS, format!("r{n}"), "order", Payload::NULL);
        db.create_run(run).await.unwrap();
    }
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(db.count_runs(NS).await.unwrap().pending, u64::from(EACH));
    let count = |sql: &str| own().query_row(sql, [], |row| row.get::<_, u32>(0));
    assert_eq!(count("SELECT count(*) FROM orders").unwrap(), 2 * EACH);
    // What the backend has committed, others see at once.
    assert_eq!(count("SELECT count(*) FROM workflow_runs").unwrap(), EACH);
}
