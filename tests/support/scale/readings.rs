//! What operations read, and which of them read too much.

use std::fmt;

/// What is read of tables.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Amount {
    /// Rows, where the database counts them.
    pub rows: f64,
    /// Blocks (pages) of tables and indexes.
    pub blocks: f64,
}

impl Amount {
    /// No limit.
    pub const ANY: Self = Self {
        rows: f64::MAX,
        blocks: f64::MAX,
    };

    fn exceeds(self, most: Self) -> bool {
        self.rows > most.rows || self.blocks > most.blocks
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, {} blocks", self.rows, self.blocks)
    }
}

/// The most that was read by each operation.
#[derive(Debug)]
pub struct Readings {
    limit: Amount,
    /// In the order in which they came first.
    most: Vec<(String, Amount)>,
    excessive: Vec<String>,
}

impl Readings {
    /// Nothing yet. More than `limit` is too much.
    #[must_use]
    pub fn new(limit: Amount) -> Self {
        Self {
            limit,
            most: Vec::new(),
            excessive: Vec::new(),
        }
    }

    /// Notes what an operation read, and by what means, where that is too much.
    pub fn add(&mut self, operation: &str, amount: Amount, means: impl FnOnce() -> String) {
        if amount.exceeds(self.limit) {
            let means = means();
            self.excessive
                .push(format!("{operation}: {amount} {means}"));
        }
        match self.most.iter_mut().find(|(known, _)| known == operation) {
            Some((_, most)) => {
                most.rows = most.rows.max(amount.rows);
                most.blocks = most.blocks.max(amount.blocks);
            }
            None => self.most.push((operation.to_owned(), amount)),
        }
    }

    /// The most that one statement, or one operation, read.
    #[must_use]
    pub fn of(&self, operation: &str) -> Option<Amount> {
        let found = self.most.iter().find(|(known, _)| known == operation)?;
        Some(found.1)
    }

    /// What read too much, and by what means.
    #[must_use]
    pub fn excessive(&self) -> &[String] {
        &self.excessive
    }
}
