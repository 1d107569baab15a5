//! What keeps the server's plans right while tables grow.
//!
//! Plans are made once and kept, which spares much of the server's work. All of our statements read few
//! rows along an index, however large the tables are. But where a table is small, one index is as good as
//! another to the server, and reading the whole of it no worse; a minute later, before the server has
//! counted the rows, such a plan reads all that came meanwhile. So sessions that are ours are told not to
//! read whole tables, and to make their plans anew each time that a table has doubled while it is small.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use deadpool_postgres::{ClientWrapper, StatementCache};
use tokio_postgres::Error;

/// What a session is told at first.
const SETTINGS: &str = "
    SET jit = off;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET plan_cache_mode = force_generic_plan";

/// From this size in bytes on, the right index is the better one by far.
const LARGE: i64 = 32 << 20;

/// How long after the last look at the sizes the next one comes, where no sweep brings them.
const INTERVAL: Duration = Duration::from_secs(3);

/// What sessions were told, and what the tables' sizes were.
pub(super) struct Plans {
    /// Off where sessions are not ours alone: behind a pooler in transaction mode.
    applies: AtomicBool,
    /// How often plans had to be made anew.
    generation: AtomicU32,
    told: Mutex<HashMap<usize, Told>>,
    sizes: Mutex<Sizes>,
    /// Reads the sizes of the tables.
    pub(super) look: String,
}

/// A session, and for which generation its plans are.
struct Told {
    session: Weak<StatementCache>,
    generation: u32,
}

struct Sizes {
    /// The size of each table as its logarithm, and none before the first look.
    doublings: Vec<u32>,
    looked: Instant,
    large: bool,
}

impl Plans {
    pub(super) fn new(schema: &str) -> Self {
        Self {
            applies: AtomicBool::new(false),
            generation: AtomicU32::new(0),
            told: Mutex::default(),
            sizes: Mutex::new(Sizes {
                doublings: Vec::new(),
                looked: Instant::now(),
                large: false,
            }),
            look: format!("SELECT {}", sizes_of(schema)),
        }
    }

    /// From now on sessions are told.
    pub(super) fn apply(&self) {
        self.applies.store(true, Ordering::Relaxed);
    }

    /// Tells a session what it has not been told yet.
    pub(super) async fn tell(&self, session: &ClientWrapper) -> Result<(), Error> {
        if !self.applies.load(Ordering::Relaxed) {
            return Ok(());
        }
        let generation = self.generation.load(Ordering::Relaxed);
        // The memory of a session that is gone is not another's as long as somebody points to it.
        let id = Arc::as_ptr(&session.statement_cache) as usize;
        let command = match self.told().get(&id) {
            Some(told) if told.generation == generation => return Ok(()),
            Some(_) => "DISCARD PLANS",
            None => SETTINGS,
        };
        session.batch_execute(command).await?;
        let mut told = self.told();
        told.retain(|_, told| told.session.strong_count() > 0);
        let session = Arc::downgrade(&session.statement_cache);
        told.insert(
            id,
            Told {
                session,
                generation,
            },
        );
        Ok(())
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to look at the sizes. If so, somebody else need not.
    pub(super) fn is_look_due(&self) -> bool {
        if !self.applies.load(Ordering::Relaxed) {
            return false;
        }
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let due = !sizes.large && sizes.looked.elapsed() >= INTERVAL;
        if due {
            sizes.looked = Instant::now();
        }
        due
    }

    /// Hears how large the tables are, in bytes.
    pub(super) fn hear(&self, bytes: &[i64]) {
        let doublings: Vec<_> = bytes
            .iter()
            .map(|bytes| (*bytes).clamp(1, LARGE).ilog2())
            .collect();
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.looked = Instant::now();
        sizes.large = bytes.iter().all(|bytes| *bytes >= LARGE);
        let grown = doublings
            .iter()
            .zip(&sizes.doublings)
            .any(|(now, then)| now > then);
        if grown {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
        if grown || sizes.doublings.is_empty() {
            sizes.doublings = doublings;
        }
    }
}

/// An expression for the sizes of the tables.
pub(super) fn sizes_of(schema: &str) -> String {
    let sizes = ["workflow_runs", "step_attempts", "workflow_signals"]
        .map(|table| format!(r#"pg_relation_size('"{schema}"."{table}"')"#));
    format!("ARRAY[{}]", sizes.join(", "))
}
