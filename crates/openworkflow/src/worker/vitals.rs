//! What a worker notes of itself while it works, for whoever asks how it is: a few stores for each claim
//! and each execution, and none for steps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::backend::BackendError;

/// Executions are counted by spans of this length.
const SPAN: Duration = Duration::from_secs(10);
/// How many of these are kept, whatever anybody asks for.
const SPANS: usize = 360;

pub(crate) struct Vitals {
    began: Instant,
    slots: usize,
    /// Slots in which code executes.
    used: AtomicUsize,
    claims: Mutex<Claims>,
    /// When a lease was lost last, as time since the beginning; 0 for never.
    lease_lost: AtomicU64,
    executions: Mutex<Executions>,
}

#[derive(Default)]
struct Claims {
    /// When the last one succeeded, or since when the worker has room for one.
    since: Option<Instant>,
    error: Option<String>,
}

/// Executions that ended, in spans of time.
#[derive(Default)]
struct Executions(VecDeque<Span>);

struct Span {
    number: u64,
    ended: u64,
    failed: u64,
}

/// For how long a worker has been claiming in vain, and why.
pub(crate) struct Claiming {
    pub(crate) since: Duration,
    pub(crate) error: Option<String>,
}

impl Vitals {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            began: Instant::now(),
            slots,
            used: AtomicUsize::new(0),
            claims: Mutex::default(),
            lease_lost: AtomicU64::new(0),
            executions: Mutex::default(),
        }
    }

    /// A slot in which code is about to execute.
    pub(super) fn occupy(self: &Arc<Self>, slot: OwnedSemaphorePermit) -> Slot {
        self.used.fetch_add(1, Ordering::Relaxed);
        Slot {
            _permit: slot,
            vitals: Arc::clone(self),
        }
    }

    /// Slots with an execution, and without.
    pub(crate) fn slots(&self) -> (usize, usize) {
        let used = self.used.load(Ordering::Relaxed);
        (used, self.slots.saturating_sub(used))
    }

    /// The worker has room for runs, and is about to claim.
    pub(super) fn claiming(&self) {
        lock(&self.claims).since.get_or_insert_with(Instant::now);
    }

    /// All slots are taken, or the worker stops: nobody expects a claim.
    pub(super) fn full(&self) {
        lock(&self.claims).since = None;
    }

    pub(super) fn claimed(&self) {
        let mut claims = lock(&self.claims);
        claims.since = Some(Instant::now());
        claims.error = None;
    }

    pub(super) fn cannot_claim(&self, error: &BackendError) {
        lock(&self.claims).error = Some(error.to_string());
    }

    /// `None` where the worker need not claim.
    pub(crate) fn claims(&self) -> Option<Claiming> {
        let claims = lock(&self.claims);
        Some(Claiming {
            since: claims.since?.elapsed(),
            error: claims.error.clone(),
        })
    }

    pub(super) fn lease_lost(&self) {
        let at = self.began.elapsed().as_nanos().max(1);
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        self.lease_lost.store(at, Ordering::Relaxed);
    }

    /// How long ago a lease was lost.
    pub(crate) fn last_lease_lost(&self) -> Option<Duration> {
        match self.lease_lost.load(Ordering::Relaxed) {
            0 => None,
            at => Some(
                self.began
                    .elapsed()
                    .saturating_sub(Duration::from_nanos(at)),
            ),
        }
    }

    pub(super) fn execution_ended(&self, failed: bool) {
        let now = self.began.elapsed();
        lock(&self.executions).count(now, failed);
    }

    /// How many executions ended within that time, and how many of them failed. Exact to some seconds.
    pub(crate) fn executions_within(&self, window: Duration) -> (u64, u64) {
        let now = self.began.elapsed();
        lock(&self.executions).within(now, window)
    }
}

impl Executions {
    fn count(&mut self, now: Duration, failed: bool) {
        let number = now.as_secs() / SPAN.as_secs();
        if self.0.back().is_none_or(|last| last.number != number) {
            if self.0.len() == SPANS {
                self.0.pop_front();
            }
            self.0.push_back(Span {
                number,
                ended: 0,
                failed: 0,
            });
        }
        if let Some(span) = self.0.back_mut() {
            span.ended += 1;
            span.failed += u64::from(failed);
        }
    }

    fn within(&self, now: Duration, window: Duration) -> (u64, u64) {
        let since = now.saturating_sub(window).as_secs() / SPAN.as_secs();
        let within = self.0.iter().rev().take_while(|span| span.number >= since);
        within.fold((0, 0), |(ended, failed), span| {
            (ended + span.ended, failed + span.failed)
        })
    }
}

/// A slot with an execution, until it is dropped.
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    vitals: Arc<Vitals>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.vitals.used.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn executions_are_forgotten_in_time() {
        let mut executions = Executions::default();
        for second in 0..100 {
            executions.count(second * SECOND, second % 10 == 0);
        }
        let window = 60 * SECOND;
        assert_eq!(executions.within(99 * SECOND, window), (70, 7));
        assert_eq!(executions.within(150 * SECOND, window), (10, 1));
        assert_eq!(executions.within(160 * SECOND, window), (0, 0));
        for second in 0..10_000 {
            executions.count(second * 100 * SECOND, false);
        }
        assert_eq!(executions.0.len(), SPANS);
    }

    #[test]
    fn a_worker_without_room_need_not_claim() {
        let vitals = Vitals::new(1);
        assert!(vitals.claims().is_none());
        vitals.claiming();
        vitals.cannot_claim(&BackendError::Closed);
        assert!(vitals.claims().is_some_and(|claims| claims.error.is_some()));
        vitals.claimed();
        assert!(vitals.claims().is_some_and(|claims| claims.error.is_none()));
        vitals.full();
        assert!(vitals.claims().is_none());
    }
}
