//! What a server's log tells of the plans of its statements.

use std::fs::File;
use std::io::Read;

use serde_json::Value;

use super::{Amount, Meter, Readings};
use crate::postgres_server::Server;

/// A server that explains every statement in its log, and counts no rows by itself.
///
/// # Panics
///
/// Where there is no PostgreSQL on this machine.
#[must_use]
pub fn server() -> Server {
    Server::start(&[
        "fsync = off",
        "autovacuum = off",
        "max_wal_size = '8GB'",
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_buffers = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_nested_statements = on",
        "auto_explain.log_format = json",
        "log_line_prefix = '%a|'",
    ])
}

/// Looks at what statements read that the sessions of one name execute.
#[derive(Debug)]
pub struct Explained {
    /// The server's log, from where it was not read yet.
    log: File,
    /// What begins a line that a session of ours wrote.
    prefix: String,
    /// What was read of a plan that is still being written.
    begun: String,
    readings: Readings,
}

impl Explained {
    /// From now on.
    ///
    /// # Panics
    ///
    /// Where the server has no log.
    #[must_use]
    pub fn new(server: &Server, application_name: &str, most: Amount) -> Self {
        let mut explained = Self {
            log: File::open(server.dir.join("log")).expect("the server has a log"),
            prefix: format!("{application_name}|LOG:  duration:"),
            begun: String::new(),
            readings: Readings::new(most),
        };
        explained.new_text();
        explained
    }

    /// What was read.
    #[must_use]
    pub fn readings(&self) -> &Readings {
        &self.readings
    }

    fn new_text(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.log.read_to_end(&mut bytes);
        read.expect("the server's log can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The plans that were logged since the last time. One that is being written is left for the next time:
    /// what is asked for was logged before it was answered, so it is of something beside.
    fn plans(&mut self) -> Vec<Value> {
        let text = std::mem::take(&mut self.begun) + &self.new_text();
        let mut plans = Vec::new();
        let mut rest = text.as_str();
        while let Some((line, after)) = rest.split_once('\n') {
            if !line.starts_with(&self.prefix) {
                rest = after;
                continue;
            }
            let json: String = after
                .split_inclusive('\n')
                .take_while(|line| line.starts_with('\t'))
                .collect();
            match serde_json::from_str(&json) {
                Ok(plan) => plans.push(plan),
                Err(error) if error.is_eof() && json.len() == after.len() => break,
                Err(error) => panic!("{error}: {json}"),
            }
            rest = &after[json.len()..];
        }
        self.begun = rest.to_owned();
        plans
    }
}

impl Meter for Explained {
    fn begin(&mut self) {
        self.begun.clear();
        self.new_text();
    }

    fn end(&mut self, operation: &str) {
        let plans = self.plans();
        assert!(!plans.is_empty(), "{operation} is not in the log");
        for plan in plans {
            let amount = Amount {
                rows: rows_read(&plan["Plan"]),
                blocks: blocks_read(&plan["Plan"]),
            };
            self.readings.add(operation, amount, || {
                let mut scans = Vec::new();
                describe(&plan["Plan"], &mut scans);
                let text = plan["Query Text"].as_str().unwrap_or_default();
                let text: Vec<_> = text.split_whitespace().collect();
                format!("by {}\n  {}", scans.join(", "), text.join(" "))
            });
        }
    }
}

fn number(node: &Value, name: &str) -> f64 {
    node[name].as_f64().unwrap_or(0.0)
}

/// How many rows of tables the nodes of a plan looked at.
fn rows_read(node: &Value) -> f64 {
    let of_table = node.get("Relation Name").is_some() && node["Node Type"] != "ModifyTable";
    let own = match of_table {
        false => 0.0,
        true => {
            number(node, "Actual Loops")
                * (number(node, "Actual Rows")
                    + number(node, "Rows Removed by Filter")
                    + number(node, "Rows Removed by Index Recheck"))
        }
    };
    let below = node["Plans"].as_array().into_iter().flatten();
    own + below.map(rows_read).sum::<f64>()
}

/// How the nodes of a plan read tables, from the top.
fn describe(node: &Value, scans: &mut Vec<String>) {
    let text = |name: &str| node[name].as_str().unwrap_or_default();
    match text("Node Type") {
        kind if kind.contains("Scan") || kind == "Sort" => scans.push(format!(
            "{kind} {}{} of {} rows, {} times",
            text("Index Name"),
            text("Relation Name"),
            number(node, "Actual Rows") + number(node, "Rows Removed by Filter"),
            number(node, "Actual Loops"),
        )),
        _ => {}
    }
    for below in node["Plans"].as_array().into_iter().flatten() {
        describe(below, scans);
    }
}

fn blocks_read(node: &Value) -> f64 {
    ["Hit", "Read"]
        .iter()
        .map(|how| number(node, &format!("Shared {how} Blocks")))
        .sum()
}
