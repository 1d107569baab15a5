//! How many pages of an SQLite file operations read.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::{Amount, Meter, Readings};

/// Of a file that nobody set up otherwise.
const PAGE: f64 = 4096.0;

/// Counts what this process reads from files while an operation lasts. Before each of them the file is
/// written to, so that no connection may use the pages that it has in memory. Nothing else may happen in the
/// process meanwhile.
#[derive(Debug)]
pub struct PagesRead {
    conn: Connection,
    before: f64,
    readings: Readings,
}

impl PagesRead {
    /// # Panics
    ///
    /// Where there is no such file.
    #[must_use]
    pub fn new(file: &Path, most: Amount) -> Self {
        let conn = Connection::open(file).expect("the file can be opened");
        conn.busy_timeout(std::time::Duration::from_secs(60))
            .expect("it can be set up");
        conn.execute_batch(
            "CREATE TABLE IF NOT EXISTS others (writes INTEGER);
             INSERT INTO others SELECT 0 WHERE NOT EXISTS (SELECT * FROM others)",
        )
        .expect("there can be a table of another");
        Self {
            conn,
            before: 0.0,
            readings: Readings::new(most),
        }
    }

    /// What was read.
    #[must_use]
    pub fn readings(&self) -> &Readings {
        &self.readings
    }
}

impl Meter for PagesRead {
    fn begin(&mut self) {
        let written = self
            .conn
            .execute("UPDATE others SET writes = writes + 1", []);
        written.expect("others can write");
        self.before = bytes_read();
    }

    fn end(&mut self, operation: &str) {
        let amount = Amount {
            rows: 0.0,
            blocks: ((bytes_read() - self.before) / PAGE).round(),
        };
        self.readings.add(operation, amount, String::new);
    }
}

/// What this process has read from files by now.
fn bytes_read() -> f64 {
    let counters = fs::read_to_string("/proc/self/io").expect("this runs on Linux");
    let read = counters
        .lines()
        .find_map(|line| line.strip_prefix("rchar: "));
    read.and_then(|bytes| bytes.parse().ok())
        .expect("the kernel counts what a process reads")
}
