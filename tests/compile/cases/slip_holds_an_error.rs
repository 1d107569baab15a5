use std::fmt;

use openworkflow::{Error, Result};

#[derive(Debug)]
struct Failed(Error);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failed {}

fn converts(failed: Failed) -> Result<()> {
    Err(failed)?
}

fn main() {}
