//! The server's time, which decides everything: asked for, and taken from answers that bring it along.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_postgres::{Client, Error};

use super::rows;
use super::session::{Query, Sessions, WhenLost};
use crate::ClockOffset;
use crate::backend::BackendResult;
use crate::clock::following::{Asked, Following, NOTABLE};

/// How long after the last answer that brought it along the time is asked for.
const INTERVAL: Duration = Duration::from_secs(30);

const WHAT_TIME: &str = "SELECT clock_timestamp() AS now";

/// What is known of the server's clock.
pub(super) struct ServerTime {
    following: Arc<Following>,
    label: Arc<str>,
    what_time: Query,
}

impl ServerTime {
    pub(super) fn new(following: Arc<Following>, label: &str) -> Self {
        Self {
            following,
            label: label.into(),
            what_time: Query::new(WHAT_TIME.to_owned(), &[]),
        }
    }

    /// A statement is about to be sent whose answer brings the time along.
    pub(super) fn asking(&self) -> Asked {
        self.following.ask()
    }

    /// The answer brought the time along.
    pub(super) fn hear(&self, asked: Asked, time: SystemTime) {
        let Some(offset) = self.following.hear(asked, time) else {
            return;
        };
        if offset.by() > NOTABLE {
            tracing::warn!(
                database = &*self.label,
                "this machine's clock is {offset}, compared with the database server's: sleeps, retries and deadlines go by the server's, but the times of this machine's logs and traces are wrong; keep both clocks right by NTP"
            );
        } else {
            tracing::info!(
                database = &*self.label,
                "this machine's clock shows what the database server's does again"
            );
        }
    }

    /// Asks for the time.
    pub(super) async fn ask(&self, session: &Client) -> Result<(), Error> {
        let asked = self.asking();
        let rows = session.query_typed(WHAT_TIME, &[]).await?;
        if let Some(row) = rows.first() {
            self.hear(asked, row.try_get(0)?);
        }
        Ok(())
    }

    /// Whether it is time to ask, since no answer brought it along. If so, somebody else need not.
    pub(super) fn is_to_ask(&self) -> bool {
        self.following.is_to_ask(INTERVAL)
    }

    pub(super) fn offset(&self) -> ClockOffset {
        self.following.offset()
    }
}

impl Sessions {
    /// Asks for the time, on a connection of the pool.
    pub(super) async fn ask_time(&self) -> BackendResult<()> {
        let asked = self.time().asking();
        let call = self.time().what_time.with(&[]);
        let rows = self.one(WhenLost::Again, call).await?;
        if let Some(row) = rows.first() {
            self.time().hear(asked, rows::value(row, 0)?);
        }
        Ok(())
    }
}
