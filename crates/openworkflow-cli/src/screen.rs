//! What a command prints: collected, and written at once.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use terminal_size::{Width, terminal_size};

use crate::args::OutputArgs;
use crate::failure::Failure;
use crate::json;

/// Where there is no terminal to ask.
const USUAL_WIDTH: usize = 80;

pub(crate) struct Screen {
    text: String,
    pub(crate) width: usize,
    pub(crate) json: bool,
    pub(crate) payloads: bool,
}

impl Screen {
    pub(crate) fn new(args: &OutputArgs) -> Self {
        let terminal = || {
            let (Width(columns), _) = io::stdout().is_terminal().then(terminal_size)??;
            Some(columns)
        };
        let width = args.width.or_else(terminal);
        Self {
            text: String::new(),
            width: width.map_or(USUAL_WIDTH, |columns| usize::from(columns).max(40)),
            json: args.json,
            payloads: args.payloads,
        }
    }

    /// A line that is fit for a terminal: what of it is data went through [`safe`](crate::text::safe).
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref().trim_end());
        self.text.push('\n');
    }

    /// A line of JSON.
    pub(crate) fn object(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value)
            .map_err(|error| Failure::failed(format!("cannot be written as JSON: {error}")))?;
        self.line(json::plain(&line));
        Ok(())
    }

    /// Something to know beside what was asked for, on standard error.
    pub(crate) fn note(&mut self, note: &str) -> Result<(), Failure> {
        self.flush()?;
        anstream::eprintln!("{note}");
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        let written = out
            .write_all(self.text.as_bytes())
            .and_then(|()| out.flush());
        self.text.clear();
        match written {
            // Whoever reads has seen enough, as `head` does.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::failed(format!("cannot write the output: {error}")))
            }
            _ => Ok(()),
        }
    }
}
