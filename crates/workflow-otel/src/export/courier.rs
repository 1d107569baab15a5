//! Takes the batches of one signal to its receiver, whatever that takes, and accounts for them.
//!
//! This is what the SDK's batch processors and its periodic reader leave out. They give a
//! batch to the exporter once, so a receiver that is away for a minute costs what came about in that
//! minute. They do not tell what they lost before they are shut down, nor that the last export failed, or
//! tell each failure as an error; and over gRPC, on a runtime of one thread, a flush or shutdown of theirs
//! waits for its time-out.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use tokio::time::{sleep, timeout};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::account::Account;
use super::control::Inbox;
use super::reporter::Reporter;
use super::witness::{Answer, Witness};

/// The first pause after an export that failed, with all attempts that an exporter makes by itself; it
/// doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(800);
/// The longest pause of our own choice. So late do we notice that a receiver is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What sends batches of a kind.
pub(super) trait Exporter: Send + Sync + 'static {
    type Batch: Send + Sync;

    fn export(&self, batch: &Self::Batch) -> impl Future<Output = OTelSdkResult> + Send;
}

/// An exporter, and who sees what it does.
pub(super) struct Watched<E> {
    pub(super) exporter: E,
    pub(super) witness: Arc<Witness>,
    /// How long an export may take before it is tried anew.
    pub(super) patience: Duration,
}

pub(super) struct Courier<E> {
    way: Watched<E>,
    log: Dispatch,
    pub(super) inbox: Inbox,
    pub(super) account: Arc<Account>,
    reporter: Arc<Reporter>,
    /// Why no more is sent: the shutdown has given the receiver up.
    hopeless: Option<String>,
    /// What was lost since the shutdown began, and why.
    lost_at_last: u64,
    reason: String,
}

impl<E: Exporter> Courier<E> {
    pub(super) fn new(
        way: Watched<E>,
        inbox: Inbox,
        account: Arc<Account>,
        reporter: Arc<Reporter>,
    ) -> Self {
        Self {
            log: way.witness.log(),
            way,
            inbox,
            account,
            reporter,
            hopeless: None,
            lost_at_last: 0,
            reason: String::new(),
        }
    }

    /// Sends a batch of so many items until it is accepted or refused, or until there is no more time.
    pub(super) async fn deliver(&mut self, batch: &E::Batch, count: u64) {
        let account = Arc::clone(&self.account);
        self.inbox.look();
        let mut pause = FIRST_PAUSE;
        let (counter, lost) = loop {
            if let Some(reason) = &self.hopeless {
                self.reason.clone_from(reason);
                break (&account.undelivered, count);
            }
            let was_stopping = self.inbox.is_stopping();
            match self.export(batch).await {
                Answer::Accepted { rejected, reason } => {
                    let rejected = rejected.min(count);
                    account.exported.add(count - rejected);
                    if rejected > 0 {
                        self.note(format!("the receiver rejected some: {reason}"));
                    }
                    break (&account.refused, rejected);
                }
                Answer::Refused(reason) => {
                    self.note(reason);
                    break (&account.refused, count);
                }
                Answer::Unavailable(reason) => {
                    if self.inbox.is_stopping() {
                        // One more export, with the attempts of its own, is all that there is time for.
                        if was_stopping || self.inbox.is_out_of_time() {
                            self.hopeless = Some(reason);
                        }
                        continue;
                    }
                    self.reporter.note(account.signal, reason);
                    self.reporter.report();
                    self.pause(jittered(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        counter.add(lost);
        if self.inbox.is_stopping() {
            self.lost_at_last += lost;
        }
    }

    /// Something is lost for this reason.
    fn note(&mut self, reason: String) {
        self.reason.clone_from(&reason);
        self.reporter.note(self.account.signal, reason);
    }

    /// Tells what went wrong, once in a while. What is lost on the way out is told when all is over.
    pub(super) fn report(&self) {
        if !self.inbox.is_stopping() {
            self.reporter.report();
        }
    }

    async fn export(&mut self, batch: &E::Batch) -> Answer {
        let Watched {
            exporter,
            witness,
            patience,
        } = &self.way;
        witness.begin();
        let export = exporter.export(batch).with_subscriber(self.log.clone());
        match self.inbox.attend(timeout(*patience, export)).await {
            Some(Ok(result)) => witness.answer(result),
            Some(Err(_)) => Answer::Unavailable(format!("no answer within {patience:?}")),
            None => Answer::Unavailable("no answer before the deadline".to_owned()),
        }
    }

    /// Waits before the next export, unless the shutdown begins.
    async fn pause(&mut self, wait: Duration) {
        let mut over = pin!(sleep(wait));
        while !self.inbox.is_stopping() {
            tokio::select! {
                () = &mut over => return,
                () = self.inbox.next() => {}
            }
        }
    }

    pub(super) fn finish(self) {
        let report = self.account.end(self.lost_at_last, self.reason_of_loss());
        self.inbox.close(&report);
    }

    fn reason_of_loss(&self) -> String {
        match self.lost_at_last {
            0 => String::new(),
            _ => self.reason.clone(),
        }
    }
}

/// A pause, up to a fifth longer or shorter, so that processes do not return all at once.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 400;
    pause.mul_f64(0.8 + random as f64 / 1000.0)
}
