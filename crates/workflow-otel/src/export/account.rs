//! What became of the items of one signal, as it is counted while it happens.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Signal;
use super::report::{ExportStats, SignalReport};

pub(super) struct Account {
    pub(super) signal: Signal,
    pub(super) exported: Counter,
    pub(super) queued: Counter,
    pub(super) dropped: Counter,
    pub(super) refused: Counter,
    pub(super) undelivered: Counter,
    pub(super) discarded: Counter,
    /// How it ended.
    ended: OnceLock<SignalReport>,
}

#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Cheaper than adding, where a lock is held anyway.
    pub(super) fn set(&self, count: usize) {
        self.0.store(count as u64, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Account {
    pub(super) fn new(signal: Signal) -> Self {
        Self {
            signal,
            exported: Counter::default(),
            queued: Counter::default(),
            dropped: Counter::default(),
            refused: Counter::default(),
            undelivered: Counter::default(),
            discarded: Counter::default(),
            ended: OnceLock::new(),
        }
    }

    pub(super) fn stats(&self) -> ExportStats {
        ExportStats {
            exported: self.exported.read(),
            queued: self.queued.read(),
            dropped: self.dropped.read(),
            refused: self.refused.read(),
            undelivered: self.undelivered.read(),
            discarded: self.discarded.read(),
        }
    }

    /// Closes it: `lost` items were lost on the way out, for this reason.
    pub(super) fn end(&self, lost: u64, reason: String) -> SignalReport {
        let stats = self.stats();
        let report = SignalReport {
            stats,
            lost,
            reason,
        };
        self.ended.get_or_init(|| report).clone()
    }

    /// How it ended, for who asks again.
    pub(super) fn ended(&self) -> SignalReport {
        let stats = self.stats();
        let reason = || match stats.queued {
            0 => String::new(),
            _ => "the export thread has ended".to_owned(),
        };
        let ended = self.ended.get().cloned();
        ended.unwrap_or_else(|| SignalReport {
            stats,
            lost: stats.queued,
            reason: reason(),
        })
    }
}
