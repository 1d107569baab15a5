//! What can be asked for on the command line.

use std::path::PathBuf;

use openworkflow_tests::scale::{STATES, State};

use crate::ground::Ground;
use crate::postgres::OnPostgres;
use crate::sqlite::OnSqlite;

pub(crate) const HELP: &str = "\
Fills a database with many runs in each state, and takes the time of what workers and clients do on it.
Fails where an operation reads rows in number with what there is.

usage: cargo bench -p openworkflow-tests --bench scale -- [OPTIONS]

  --backend LIST  kinds of database (sqlite,postgres)
  --rows N        runs in each of seventeen states (1000000, which takes 20 GB and half an hour)
  --only LIST     only these states, such as completed,failed (all; an unknown one is told which there are)
  --rounds N      how often each operation is timed (15)
  --expired N     deadlines that pass at once (100000)
  --dir PATH      where SQLite's file is kept (the target folder)
  --help          print this

PostgreSQL is a throw-away server in the folder for temporary files.

Without --bench, which cargo bench passes, everything is small: that is how cargo test --all-targets
sees that the benchmark works.
";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) backends: Vec<String>,
    pub(crate) rows: u32,
    /// Names of states; none for all of them.
    pub(crate) only: Vec<String>,
    pub(crate) rounds: u32,
    pub(crate) expired: u32,
    pub(crate) folder: PathBuf,
}

impl Options {
    /// `None` where help is asked for.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let arguments: Vec<_> = arguments.collect();
        let full = arguments.iter().any(|argument| argument == "--bench");
        let (rows, rounds, expired) = if full {
            (1_000_000, 15, 100_000)
        } else {
            (50, 1, 50)
        };
        let mut options = Self {
            backends: vec![OnSqlite::NAME.to_owned(), OnPostgres::NAME.to_owned()],
            rows,
            only: Vec::new(),
            rounds,
            expired,
            folder: env!("CARGO_TARGET_TMPDIR").into(),
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--bench" => {}
                "--backend" => options.backends = value()?.split(',').map(str::to_owned).collect(),
                "--rows" => options.rows = positive(&argument, &value()?)?,
                "--only" => options.only = states(&value()?)?,
                "--rounds" => options.rounds = positive(&argument, &value()?)?,
                "--expired" => options.expired = positive(&argument, &value()?)?,
                "--dir" => options.folder = value()?.into(),
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("{argument} is no option of this benchmark")),
            }
        }
        Ok(Some(options))
    }
}

impl Options {
    /// Whether there are to be runs in this state.
    pub(crate) fn has(&self, state: &State) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == state.name)
    }
}

fn states(list: &str) -> Result<Vec<String>, String> {
    let known = STATES.each_ref().map(|state| state.name);
    let names: Vec<_> = list.split(',').map(str::to_owned).collect();
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!(
            "{name:?} is no state; these are: {}",
            known.join(",")
        )),
        None => Ok(names),
    }
}

fn positive(option: &str, text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{option} needs a number of at least 1, not {text:?}"))
}
