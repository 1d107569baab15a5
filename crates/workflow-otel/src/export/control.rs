//! How the way out of one signal is asked to flush or to stop, from any thread, on any runtime or none;
//! and how the export thread hears of it, whatever it is at.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
#[cfg(feature = "metrics")]
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::account::Account;
use super::report::SignalReport;

/// How long a shutdown that names no deadline may take, as in the SDK.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

enum Command {
    Flush(oneshot::Sender<()>),
    Stop(Instant, oneshot::Sender<SignalReport>),
}

/// Asks. Clones ask the same.
#[derive(Clone)]
pub(super) struct Control {
    pub(super) account: Arc<Account>,
    pub(super) clock: Clock,
    commands: mpsc::UnboundedSender<Command>,
}

impl Control {
    pub(super) fn new(account: Arc<Account>, clock: Clock) -> (Self, Inbox) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let control = Self {
            account,
            clock,
            commands,
        };
        let inbox = Inbox {
            commands: inbox,
            flushes: Vec::new(),
            stops: Vec::new(),
            stop_by: None,
        };
        (control, inbox)
    }

    /// Asks for what is there to be sent; what comes back is done when that is over.
    pub(super) fn flush(&self) -> impl Future<Output = ()> + Send + use<> {
        let (reply, done) = oneshot::channel();
        // Where nobody takes it, the reply is dropped with it.
        let _ = self.commands.send(Command::Flush(reply));
        async {
            let _ = done.await;
        }
    }

    /// Asks for what is there to be sent until `limit` is over, and then for nothing more.
    pub(super) fn stop(
        &self,
        limit: Duration,
    ) -> impl Future<Output = SignalReport> + Send + use<> {
        let (reply, done) = oneshot::channel();
        let _ = self.commands.send(Command::Stop(after(limit), reply));
        let account = Arc::clone(&self.account);
        async move { done.await.unwrap_or_else(|_| account.ended()) }
    }

    /// Flushes as the SDK has it, blocking the thread.
    pub(super) fn flush_blocking(&self) -> OTelSdkResult {
        let flushed = block_on(self.clock.within(DEFAULT_DEADLINE, self.flush()));
        flushed.ok_or(OTelSdkError::Timeout(DEFAULT_DEADLINE))
    }

    /// Stops as the SDK has it, blocking the thread.
    pub(super) fn stop_blocking(&self, limit: Duration) -> OTelSdkResult {
        let ended = block_on(self.stop(limit));
        match ended.lost {
            0 => Ok(()),
            _ => Err(OTelSdkError::InternalFailure(ended.reason)),
        }
    }
}

/// Times what others wait for, who may be on any runtime or none, on that of the export thread.
#[derive(Clone)]
pub(super) struct Clock(Handle);

impl Clock {
    pub(super) fn new(runtime: &Handle) -> Self {
        Self(runtime.clone())
    }

    /// `future` on this time, and on the connections of the export thread, whoever polls it.
    #[cfg(feature = "metrics")]
    pub(super) async fn drive<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            let _current = self.0.enter();
            future.as_mut().poll(cx)
        })
        .await
    }

    /// `work` on a thread where it may block.
    #[cfg(feature = "metrics")]
    pub(super) fn aside(&self, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        self.0.spawn_blocking(work)
    }

    /// `future`, unless it takes longer than `limit`.
    pub(super) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let at = after(limit);
        let mut expired = self.0.spawn(async move { sleep_until(at).await });
        let output = tokio::select! {
            biased;
            output = future => Some(output),
            // Where the runtime is gone, what is waited for is about to be answered.
            Ok(()) = &mut expired => None,
        };
        expired.abort();
        output
    }
}

/// Waits for `future` where nothing else can be done: in the SDK's blocking calls, and on drop.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn after(limit: Duration) -> Instant {
    let now = Instant::now();
    // Out of range: a year is for ever.
    now.checked_add(limit)
        .unwrap_or(now + Duration::from_secs(365 * 86_400))
}

/// Hears.
pub(super) struct Inbox {
    commands: mpsc::UnboundedReceiver<Command>,
    flushes: Vec<oneshot::Sender<()>>,
    stops: Vec<oneshot::Sender<SignalReport>>,
    stop_by: Option<Instant>,
}

impl Inbox {
    /// Waits for a command and notes it.
    pub(super) async fn next(&mut self) {
        match self.commands.recv().await {
            Some(command) => self.note(command),
            // Nobody can ask any more, nor make anything.
            None => {
                if self.stop_by.is_none() {
                    self.stop_by = Some(after(DEFAULT_DEADLINE));
                } else {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Notes the commands that are there.
    pub(super) fn look(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.note(command);
        }
    }

    fn note(&mut self, command: Command) {
        match command {
            Command::Flush(reply) => self.flushes.push(reply),
            Command::Stop(by, reply) => {
                // The first to ask decides.
                self.stop_by.get_or_insert(by);
                self.stops.push(reply);
            }
        }
    }

    /// What `future` comes to, while commands are noted. `None` when the time of a shutdown is up.
    pub(super) async fn attend<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            let stop_by = self.stop_by;
            let time_is_up = async {
                match stop_by {
                    Some(by) => sleep_until(by).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                output = &mut future => return Some(output),
                () = time_is_up => return None,
                () = self.next() => {}
            }
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop_by.is_some()
    }

    /// Whether a shutdown has no time left.
    pub(super) fn is_out_of_time(&self) -> bool {
        self.stop_by.is_some_and(|by| by <= Instant::now())
    }

    /// Whether somebody waits for what is there to be sent.
    pub(super) fn is_asked(&self) -> bool {
        self.is_stopping() || !self.flushes.is_empty()
    }

    pub(super) fn take_flushes(&mut self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut self.flushes)
    }

    /// Answers all who asked for the end. Flushes are over with it.
    pub(super) fn close(mut self, report: &SignalReport) {
        self.commands.close();
        self.look();
        for reply in self.stops {
            let _ = reply.send(report.clone());
        }
    }
}
