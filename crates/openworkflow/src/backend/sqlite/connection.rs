//! Opening a database, and saying precisely why it cannot be opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::super::{BackendError, BackendResult};
use super::error;
use super::schema;

/// More than the number of different statements that one connection runs.
const CACHED_STATEMENTS: usize = 128;

/// Every commit reaches the disk. A step touches a handful of index pages here and there: a cache
/// of up to 32 MiB keeps them, and a checkpoint every 16 MiB of log, rather than every 4, copies
/// those that many steps share less often.
const WRITER: &str = "
PRAGMA synchronous = FULL;
PRAGMA cache_size = -32768;
PRAGMA wal_autocheckpoint = 4000;
";

/// How to open a database.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) create_if_missing: bool,
    pub(super) migrate: bool,
    pub(super) busy_timeout: Duration,
}

/// The connections of one open database.
pub(super) struct Connections {
    pub(super) writer: Connection,
    /// One for short reads and one for lists; none for a database in memory.
    pub(super) readers: Option<[Connection; 2]>,
    /// What other openers of the same file find too.
    pub(super) canonical: Option<PathBuf>,
}

/// Opens a file, or a new database in memory where `path` is `None`.
pub(super) fn open(
    path: Option<&Path>,
    database: &Arc<str>,
    settings: &Settings,
) -> BackendResult<Connections> {
    let opener = Opener {
        path,
        database,
        settings,
        started: Instant::now(),
    };
    opener.open()
}

struct Opener<'a> {
    path: Option<&'a Path>,
    database: &'a Arc<str>,
    settings: &'a Settings,
    started: Instant,
}

impl Opener<'_> {
    fn open(&self) -> BackendResult<Connections> {
        let Some(path) = self.path else {
            let writer = Connection::open_in_memory().map_err(|error| self.explain(error))?;
            self.set_up(&writer)?;
            return Ok(Connections {
                writer,
                readers: None,
                canonical: None,
            });
        };
        self.inspect(path)?;
        let writer = self.connect(path)?;
        self.set_up(&writer)?;
        let readers = [self.reader(path)?, self.reader(path)?];
        Ok(Connections {
            writer,
            readers: Some(readers),
            canonical: fs::canonicalize(path).ok(),
        })
    }

    /// What the file system can tell better than SQLite does.
    fn inspect(&self, path: &Path) -> BackendResult<()> {
        if path.as_os_str().is_empty() {
            return Err(self.unavailable("the path is empty", None));
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                Err(self.unavailable("it is a folder; give the path of a file", None))
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = match path.parent() {
                    Some(folder) if !folder.as_os_str().is_empty() => folder,
                    _ => Path::new("."),
                };
                if !folder.is_dir() {
                    let problem = format!(
                        "the folder {} does not exist; create it first",
                        folder.display()
                    );
                    return Err(self.unavailable(problem, Some(error)));
                }
                if !self.settings.create_if_missing {
                    let problem = "the file does not exist, and creating it is switched off";
                    return Err(self.unavailable(problem, Some(error)));
                }
                Ok(())
            }
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Why a file that is there cannot be opened. Only asked once SQLite has failed: a file that is
    /// opened and closed by other means loses the locks that this process's connections to it hold,
    /// and another process that believes to be alone then deletes the write-ahead log.
    fn cannot_open(&self, path: &Path) -> BackendError {
        match fs::File::open(path) {
            Ok(file) => {
                std::mem::forget(file);
                // So it is what SQLite keeps beside it.
                self.read_only()
            }
            Err(error) => self.refused(error),
        }
    }

    fn refused(&self, error: io::Error) -> BackendError {
        let problem = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "permission denied; check who owns the file and its folder".to_owned()
            }
            io::ErrorKind::NotADirectory => {
                "a part of the path before the last one is a file".to_owned()
            }
            _ => error.to_string(),
        };
        self.unavailable(problem, Some(error))
    }

    fn connect(&self, path: &Path) -> BackendResult<Connection> {
        // Without SQLITE_OPEN_URI, so that a path is a path whatever it holds.
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if self.settings.create_if_missing {
            flags |= OpenFlags::SQLITE_OPEN_CREATE;
        }
        let conn = Connection::open_with_flags(path, flags).map_err(|error| self.explain(error))?;
        // SQLite quietly opens for reading only what it may not write.
        if conn
            .is_readonly("main")
            .map_err(|error| self.explain(error))?
        {
            return Err(self.read_only());
        }
        Ok(conn)
    }

    fn set_up(&self, conn: &Connection) -> BackendResult<()> {
        self.configure(conn).map_err(|error| self.explain(error))?;
        if !self.settings.migrate {
            // Before anything is changed: it may be somebody else's file.
            self.check_version(schema::version(conn))?;
        }
        if self.path.is_some() {
            let mode = self.write_ahead_log(conn)?;
            if !mode.eq_ignore_ascii_case("wal") {
                let problem = format!(
                    "it cannot keep a write-ahead log (journal mode is {mode}); is it on a network drive?"
                );
                return Err(self.unavailable(problem, None));
            }
        }
        conn.execute_batch(WRITER)
            .map_err(|error| self.explain(error))?;
        if self.settings.migrate {
            let found = schema::migrate(conn, self.settings.busy_timeout);
            self.check_version(found)?;
            schema::index(conn).map_err(|error| self.explain(error))?;
            schema::add_own_tables(conn).map_err(|error| self.explain(error))?;
        } else if !schema::is_indexed(conn).map_err(|error| self.explain(error))? {
            tracing::warn!(
                database = &**self.database,
                "indexes are missing: with many runs, claims and deadlines become slow. Open the database once with migrations"
            );
        }
        if !schema::is_recording(conn).map_err(|error| self.explain(error))? {
            tracing::warn!(
                database = &**self.database,
                "the table of executions is missing: what can be told of runs later is less exact. Open the database once with migrations"
            );
        }
        Ok(())
    }

    /// Fails unless this is the version that is needed.
    fn check_version(&self, found: rusqlite::Result<i64>) -> BackendResult<()> {
        let found = found.map_err(|error| self.explain(error))?;
        if found > schema::LATEST {
            return Err(BackendError::NewerSchema {
                database: self.database.to_string(),
                found,
                supported: schema::LATEST,
            });
        }
        if found < schema::LATEST {
            let problem = if found < 0 {
                "it has no OpenWorkflow tables, and migrating it is switched off".to_owned()
            } else {
                format!(
                    "its schema version is {found}, {} is needed, and migrating it is switched off",
                    schema::LATEST
                )
            };
            return Err(self.unavailable(problem, None));
        }
        Ok(())
    }

    fn configure(&self, conn: &Connection) -> rusqlite::Result<()> {
        conn.busy_timeout(self.settings.busy_timeout)?;
        conn.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
        // A plan for any values, rather than a new one whenever a claim asks with another time.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        conn.execute_batch("PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;")
    }

    /// Switches to the write-ahead log. SQLite does not always wait for other processes here.
    fn write_ahead_log(&self, conn: &Connection) -> BackendResult<String> {
        loop {
            match conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)) {
                Ok(mode) => return Ok(mode),
                Err(error)
                    if error::is_busy(&error)
                        && self.started.elapsed() < self.settings.busy_timeout =>
                {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    fn reader(&self, path: &Path) -> BackendResult<Connection> {
        let conn = self.connect(path)?;
        self.configure(&conn)
            .and_then(|()| conn.execute_batch("PRAGMA query_only = ON"))
            .map_err(|error| self.explain(error))?;
        Ok(conn)
    }

    /// What an error means while the database is being opened.
    fn explain(&self, error: rusqlite::Error) -> BackendError {
        let problem = match error::code(&error) {
            Some(ErrorCode::NotADatabase) => {
                "the file is not a SQLite database, or it is encrypted".to_owned()
            }
            Some(ErrorCode::DatabaseCorrupt) => {
                "the database is damaged; restore it from a backup".to_owned()
            }
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied)
                if let Some(path) = self.path.filter(|path| path.exists()) =>
            {
                return self.cannot_open(path);
            }
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                "the file cannot be created; check the permissions of its folder".to_owned()
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::ReadOnly) => {
                return error::translate(error, self.database, self.started.elapsed());
            }
            _ => error.to_string(),
        };
        BackendError::Unavailable {
            database: self.database.to_string(),
            problem,
            source: Some(Box::new(error)),
        }
    }

    fn read_only(&self) -> BackendError {
        BackendError::ReadOnly {
            database: self.database.to_string(),
        }
    }

    fn unavailable(&self, problem: impl Into<String>, source: Option<io::Error>) -> BackendError {
        BackendError::Unavailable {
            database: self.database.to_string(),
            problem: problem.into(),
            source: source.map(Into::into),
        }
    }
}
