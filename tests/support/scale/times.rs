//! How long operations take.

use std::time::{Duration, Instant};

use super::Meter;

/// Takes the time of each operation.
#[derive(Debug, Default)]
pub struct Times {
    begun: Option<Instant>,
    /// In the order in which they came first.
    taken: Vec<(String, Vec<Duration>)>,
}

impl Times {
    /// Notes what an operation took.
    pub fn add(&mut self, operation: &str, time: Duration) {
        match self.taken.iter_mut().find(|(known, _)| known == operation) {
            Some((_, times)) => times.push(time),
            None => self.taken.push((operation.to_owned(), vec![time])),
        }
    }

    /// The operations, each with its median and its worst time.
    pub fn summary(&self) -> impl Iterator<Item = (&str, Duration, Duration)> {
        self.taken.iter().map(|(operation, times)| {
            let mut times = times.clone();
            times.sort();
            let at = |index: usize| times.get(index).copied().unwrap_or_default();
            let (median, worst) = (at(times.len() / 2), at(times.len().saturating_sub(1)));
            (operation.as_str(), median, worst)
        })
    }
}

impl Meter for Times {
    fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    fn end(&mut self, operation: &str) {
        if let Some(begun) = self.begun.take() {
            self.add(operation, begun.elapsed());
        }
    }
}
