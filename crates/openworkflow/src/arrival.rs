//! Signals that are sent until somebody receives them.

use std::time::Duration;

use tokio::time::Instant;
use workflow_core::Result;

use crate::when::When;

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// For how long a signal is sent again; 30 seconds unless set otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Patience(When);

impl Default for Patience {
    fn default() -> Self {
        Self(When::from(Duration::from_secs(30)))
    }
}

impl Patience {
    pub(crate) fn within(limit: impl Into<When>) -> Self {
        Self(limit.into())
    }

    pub(crate) fn limit(&self, signal: &str) -> Result<Duration> {
        let what = format!("how long signal {signal:?} may take to be received");
        self.0.limit(&what)
    }
}

/// The times at which a signal is sent again.
pub(crate) struct Tries {
    begun: Instant,
    limit: Duration,
    delay: Duration,
}

impl Tries {
    /// The first is now.
    pub(crate) fn begin(limit: Duration) -> Self {
        Self {
            begun: Instant::now(),
            limit,
            delay: FIRST_DELAY,
        }
    }

    /// How much of the limit is left.
    pub(crate) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.begun.elapsed())
    }

    /// Waits until the signal is to be sent again; `false` where the last time was the last. There is
    /// one when the limit is reached.
    pub(crate) async fn again(&mut self) -> bool {
        let left = self.left();
        if left.is_zero() {
            return false;
        }
        tokio::time::sleep(self.delay.min(left)).await;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        true
    }
}

/// What is said of a signal that nobody received.
pub(crate) fn not_received(signal: &str, limit: Duration) -> String {
    format!("nobody received signal {signal:?} within {limit:?}: no run waited for it")
}
