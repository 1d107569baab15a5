//! How a database is opened.

use std::path::Path;
use std::time::Duration;

use super::super::BackendResult;
use super::Sqlite;
use super::connection::Settings;
use crate::Clock;

/// How to open a [`Sqlite`] database. Made by [`Sqlite::options`].
///
/// ```
/// use std::time::Duration;
/// use openworkflow::Sqlite;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("orders.db");
/// let store = Sqlite::options()
///     .busy_timeout(Duration::from_secs(10))
///     .open(&path)
///     .await?;
/// # store.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is opened before `open` is called"]
pub struct SqliteOptions {
    settings: Settings,
    clock: Clock,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            settings: Settings {
                create_if_missing: true,
                migrate: true,
                busy_timeout: Duration::from_secs(5),
            },
            clock: Clock::system(),
        }
    }
}

impl SqliteOptions {
    /// Whether a file that does not exist is created; its folder never is. `true` unless set.
    pub fn create_if_missing(mut self, create_if_missing: bool) -> Self {
        self.settings.create_if_missing = create_if_missing;
        self
    }

    /// Whether missing tables are made and older ones brought up to date. `true` unless set. Where
    /// it is `false` and there is something to do, opening fails.
    pub fn migrate(mut self, migrate: bool) -> Self {
        self.settings.migrate = migrate;
        self
    }

    /// How long an operation waits while another process holds the write lock, before it fails with
    /// [`BackendError::Busy`](crate::backend::BackendError::Busy). 5 seconds unless set; at most 24
    /// days.
    pub fn busy_timeout(mut self, busy_timeout: Duration) -> Self {
        // SQLite counts in milliseconds that fit 31 bits.
        self.settings.busy_timeout = busy_timeout.min(Duration::from_millis(i32::MAX as u64));
        self
    }

    /// The clock that decides what is due. The system's unless set.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the database at `path`. The path `:memory:` stands for one
    /// [in memory](Self::open_in_memory).
    ///
    /// # Errors
    ///
    /// As [`Sqlite::open`].
    pub async fn open(self, path: impl AsRef<Path> + Send) -> BackendResult<Sqlite> {
        let path = path.as_ref().to_owned();
        if path.as_os_str() == ":memory:" {
            return self.open_in_memory().await;
        }
        Sqlite::start(Some(path), self.settings, self.clock).await
    }

    /// Opens a new database in memory, which lives as long as the last clone of the [`Sqlite`].
    /// Nobody else sees it, and nothing of it is durable: it is meant for tests.
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    ///
    /// ```
    /// use openworkflow::Sqlite;
    /// use openworkflow::backend::Backend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = Sqlite::options().open_in_memory().await?;
    /// assert_eq!(store.count_runs("default").await?.pending, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open_in_memory(self) -> BackendResult<Sqlite> {
        Sqlite::start(None, self.settings, self.clock).await
    }
}
