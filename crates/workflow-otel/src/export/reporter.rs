//! What is told of losses in the log, and how often: one warning for all signals, whose receivers are
//! mostly one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Signal;
use super::account::Account;
use super::report::Report;

/// At most so often are losses reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Says once in a while what is wrong and what was lost.
#[derive(Default)]
pub(super) struct Reporter(Mutex<State>);

#[derive(Default)]
struct State {
    signals: Vec<Told>,
    reported_at: Option<Instant>,
}

struct Told {
    account: Arc<Account>,
    trouble: Option<String>,
    /// The losses that were told.
    lost: u64,
}

impl Reporter {
    /// An account of a signal, from which it will be told.
    pub(super) fn account(&self, signal: Signal) -> Arc<Account> {
        let account = Arc::new(Account::new(signal));
        self.with(|state| {
            state.signals.push(Told {
                account: Arc::clone(&account),
                trouble: None,
                lost: 0,
            });
        });
        account
    }

    pub(super) fn note(&self, signal: Signal, trouble: String) {
        self.with(|state| {
            let mut signals = state.signals.iter_mut();
            if let Some(told) = signals.find(|told| told.account.signal == signal) {
                told.trouble = Some(trouble);
            }
        });
    }

    /// Tells what is new, unless something was told a moment ago.
    pub(super) fn report(&self) {
        if let Some((reason, counts)) = self.with(State::news) {
            tracing::warn!(
                target: "workflow_otel",
                reason,
                counts,
                "telemetry does not get through; workflows go on"
            );
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // Nothing panics half-way.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// What is wrong, and the counts of the signals that it is about.
    fn news(&mut self) -> Option<(String, String)> {
        if self
            .reported_at
            .is_some_and(|at| at.elapsed() < REPORT_INTERVAL)
        {
            return None;
        }
        let (mut reasons, mut counts) = (Vec::<(String, Vec<String>)>::new(), Vec::new());
        for told in &mut self.signals {
            let stats = told.account.stats();
            if told.trouble.is_none() && stats.lost() == told.lost {
                continue;
            }
            told.lost = stats.lost();
            let reason = told.trouble.take();
            let reason = reason.unwrap_or_else(|| "more is made than is accepted".to_owned());
            let signal = told.account.signal;
            match reasons.iter_mut().find(|(other, _)| *other == reason) {
                Some((_, signals)) => signals.push(signal.to_string()),
                None => reasons.push((reason, vec![signal.to_string()])),
            }
            counts.push(format!(
                "{}: {} exported, {} queued, {} dropped, {} refused",
                signal.items(),
                stats.exported,
                stats.queued,
                stats.dropped,
                stats.refused
            ));
        }
        if counts.is_empty() {
            return None;
        }
        self.reported_at = Some(Instant::now());
        let reasons = reasons.into_iter().map(|(reason, signals)| {
            let signals = signals.join(", ");
            format!("{signals}: {reason}")
        });
        Some((reasons.collect::<Vec<_>>().join("; "), counts.join("; ")))
    }
}

/// Tells of what was lost on the way out.
pub(super) fn at_the_end(report: &Report) {
    if let Some(lost) = report.losses() {
        tracing::warn!(
            target: "workflow_otel",
            lost,
            "telemetry was not delivered before it was shut down"
        );
    }
}
