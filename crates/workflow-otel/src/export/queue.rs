//! Spans on their way out: a bounded queue in front of any exporter, a thread that hands it batches,
//! and a count of what became of every span.
//!
//! Not the SDK's batch processor. That one gives each batch to the exporter once: a receiver that is
//! away for a minute costs what ended in that minute. It does not tell what it dropped before it is
//! shut down, nor that the last export failed, and a flush or shutdown over gRPC on a single-threaded
//! runtime waits for its timeout.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::report::{ExportStats, Report};
use super::reporter::{self, Reporter};
use super::witness::{Answer, Witness};

/// The first pause after an export that failed, with all attempts that an exporter makes by itself; it
/// doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(800);
/// The longest pause of our own choice. So late do we notice that a receiver is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a shutdown that names no deadline may take, as in the SDK.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// How batches are made and sent.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) queue: usize,
    pub(super) batch: usize,
    pub(super) delay: Duration,
    /// How long an export may take before it is tried anew.
    pub(super) patience: Duration,
}

#[derive(Default)]
struct Counters {
    exported: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
    undelivered: AtomicU64,
    discarded: AtomicU64,
}

struct Buffer {
    spans: VecDeque<SpanData>,
    /// Spans that were taken out and are being sent.
    in_flight: usize,
    closed: bool,
}

struct Shared {
    buffer: Mutex<Buffer>,
    limits: Limits,
    /// There is a whole batch.
    ready: Notify,
    counters: Counters,
}

impl Shared {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        // Nothing in there panics half-way.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> ExportStats {
        let buffer = self.buffer();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExportStats {
            queued: (buffer.spans.len() + buffer.in_flight) as u64,
            exported: read(&self.counters.exported),
            dropped: read(&self.counters.dropped),
            refused: read(&self.counters.refused),
            undelivered: read(&self.counters.undelivered),
            discarded: read(&self.counters.discarded),
        }
    }
}

/// The processor at the end of the pipeline. Clones share the queue.
#[derive(Clone)]
pub(super) struct Queue {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

enum Command {
    Flush(Reply<()>),
    Stop(Instant, Reply<Report>),
    Timer(Instant, oneshot::Sender<()>),
}

type Reply<T> = Box<dyn FnOnce(T) + Send>;

impl Queue {
    /// Starts the thread that exports, which drives `runtime` meanwhile.
    pub(super) fn start<E: SpanExporter + 'static>(
        exporter: E,
        witness: Arc<Witness>,
        runtime: Runtime,
        limits: Limits,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffer: Mutex::new(Buffer {
                spans: VecDeque::new(),
                in_flight: 0,
                closed: false,
            }),
            limits,
            ready: Notify::new(),
            counters: Counters::default(),
        });
        let (commands, inbox) = mpsc::unbounded_channel();
        let sender = Sender {
            shared: Arc::clone(&shared),
            exporter,
            log: witness.log(),
            witness,
            inbox: Inbox {
                commands: inbox,
                flushes: Vec::new(),
                stops: Vec::new(),
                stop_by: None,
            },
            reporter: Reporter::default(),
            hopeless: None,
            lost_at_last: 0,
            reason: String::new(),
        };
        thread::Builder::new()
            .name("workflow-otel-export".to_owned())
            .spawn(move || {
                // What the exporter does is no part of anybody's trace.
                let _suppressed = Context::enter_telemetry_suppressed_scope();
                runtime.block_on(sender.run());
                // Not by dropping it, which would wait for requests that were abandoned.
                runtime.shutdown_background();
            })?;
        Ok(Self { shared, commands })
    }

    pub(super) fn stats(&self) -> ExportStats {
        self.shared.stats()
    }

    pub(super) fn count_discarded(&self, spans: u64) {
        let discarded = &self.shared.counters.discarded;
        discarded.fetch_add(spans, Ordering::Relaxed);
    }

    /// Sends what is in the queue. `false` if that was not done within `limit`.
    pub(super) async fn flush(&self, limit: Duration) -> bool {
        let (reply, done) = oneshot::channel();
        let flush = Command::Flush(Box::new(move |()| {
            let _ = reply.send(());
        }));
        if self.commands.send(flush).is_err() {
            return true;
        }
        self.within(limit, done)
            .await
            .is_some_and(|done| done.is_ok())
    }

    /// Closes the queue and sends what is in it, until `limit`.
    pub(super) async fn stop(&self, limit: Duration) -> Report {
        let (reply, done) = oneshot::channel();
        let stop = Command::Stop(
            deadline(limit),
            Box::new(move |result| {
                let _ = reply.send(result);
            }),
        );
        if self.commands.send(stop).is_err() {
            return self.stopped_before();
        }
        done.await.unwrap_or_else(|_| self.stopped_before())
    }

    /// The same, blocking the thread.
    pub(super) fn stop_blocking(&self, limit: Duration) -> Report {
        let (reply, done) = std_mpsc::sync_channel(1);
        let stop = Command::Stop(
            deadline(limit),
            Box::new(move |result| {
                let _ = reply.send(result);
            }),
        );
        if self.commands.send(stop).is_err() {
            return self.stopped_before();
        }
        done.recv().unwrap_or_else(|_| self.stopped_before())
    }

    /// The thread is gone already.
    fn stopped_before(&self) -> Report {
        let stats = self.stats();
        let reason = match stats.queued {
            0 => "",
            _ => "the export thread has ended",
        };
        Report::new(stats, stats.queued, reason)
    }

    /// `future`, unless it takes longer than `limit`. Timed by the export thread, as the caller may
    /// be on any runtime or none.
    pub(super) async fn within<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        let (fire, fired) = oneshot::channel();
        let timer = Command::Timer(deadline(limit), fire);
        let timed = self.commands.send(timer).is_ok();
        let expired = async {
            if !timed || fired.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            output = future => Some(output),
            () = expired => None,
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _parent: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let mut buffer = self.shared.buffer();
        if buffer.closed || buffer.spans.len() >= self.shared.limits.queue {
            drop(buffer);
            let dropped = &self.shared.counters.dropped;
            dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        buffer.spans.push_back(span);
        // Otherwise the thread is awake already, or wakes by its clock.
        let wake = buffer.spans.len() == self.shared.limits.batch;
        drop(buffer);
        if wake {
            self.shared.ready.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        let (reply, done) = std_mpsc::sync_channel(1);
        let flush = Command::Flush(Box::new(move |()| {
            let _ = reply.send(());
        }));
        if self.commands.send(flush).is_err() {
            return Err(OTelSdkError::AlreadyShutdown);
        }
        match done.recv_timeout(DEFAULT_DEADLINE) {
            Ok(()) => Ok(()),
            Err(_) => Err(OTelSdkError::Timeout(DEFAULT_DEADLINE)),
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let ended = self.stop_blocking(timeout).into_result();
        ended
            .map(drop)
            .map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.shutdown_with_timeout(DEFAULT_DEADLINE)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("limits", &self.shared.limits)
            .field("stats", &self.stats())
            .finish()
    }
}

fn deadline(limit: Duration) -> Instant {
    let now = Instant::now();
    // Out of range: a year is for ever.
    now.checked_add(limit)
        .unwrap_or(now + Duration::from_secs(365 * 86_400))
}

/// What the export thread was asked to do.
struct Inbox {
    commands: mpsc::UnboundedReceiver<Command>,
    flushes: Vec<Reply<()>>,
    stops: Vec<Reply<Report>>,
    stop_by: Option<Instant>,
}

impl Inbox {
    /// Waits for a command and notes it.
    async fn next(&mut self) {
        match self.commands.recv().await {
            Some(Command::Flush(reply)) => self.flushes.push(reply),
            Some(Command::Stop(by, reply)) => {
                // The first to ask decides.
                self.stop_by.get_or_insert(by);
                self.stops.push(reply);
            }
            Some(Command::Timer(at, fire)) => {
                tokio::spawn(async move {
                    sleep_until(at).await;
                    let _ = fire.send(());
                });
            }
            // Nobody can make spans any more.
            None => {
                self.stop_by.get_or_insert(deadline(DEFAULT_DEADLINE));
                std::future::pending::<()>().await;
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop_by.is_some()
    }

    async fn time_is_up(stop_by: Option<Instant>) {
        match stop_by {
            Some(by) => sleep_until(by).await,
            None => std::future::pending().await,
        }
    }
}

/// The export thread.
struct Sender<E> {
    shared: Arc<Shared>,
    exporter: E,
    witness: Arc<Witness>,
    log: Dispatch,
    inbox: Inbox,
    reporter: Reporter,
    /// Why no more is sent: the shutdown has given the receiver up.
    hopeless: Option<String>,
    /// What was lost since the shutdown began, and why.
    lost_at_last: u64,
    reason: String,
}

impl<E: SpanExporter> Sender<E> {
    async fn run(mut self) {
        loop {
            self.wait_for_work().await;
            let flushes = std::mem::take(&mut self.inbox.flushes);
            // What is there now goes out, however small the last batch. What comes meanwhile waits
            // until it is a batch or its time has come.
            let mut backlog = self.shared.buffer().spans.len();
            while let Some(spans) = self.take(backlog) {
                backlog -= spans.len().min(backlog);
                self.deliver(spans).await;
            }
            for reply in flushes {
                reply(());
            }
            if self.inbox.is_stopping() {
                break;
            }
        }
        self.finish();
    }

    async fn wait_for_work(&mut self) {
        let due = sleep(self.shared.limits.delay);
        let mut due = pin!(due);
        loop {
            let Limits { batch, .. } = self.shared.limits;
            if self.inbox.is_stopping()
                || !self.inbox.flushes.is_empty()
                || self.shared.buffer().spans.len() >= batch
            {
                return;
            }
            tokio::select! {
                () = &mut due => return,
                () = self.shared.ready.notified() => {}
                () = self.inbox.next() => {}
            }
        }
    }

    /// The next batch: a whole one, the rest of the `backlog`, or on stopping, when the queue is closed,
    /// whatever there is.
    fn take(&mut self, backlog: usize) -> Option<Vec<SpanData>> {
        let mut buffer = self.shared.buffer();
        buffer.closed |= self.inbox.is_stopping();
        let count = buffer.spans.len().min(self.shared.limits.batch);
        let due = backlog > 0 || buffer.closed || count == self.shared.limits.batch;
        if count == 0 || !due {
            return None;
        }
        buffer.in_flight = count;
        Some(buffer.spans.drain(..count).collect())
    }

    /// Sends a batch until it is accepted or refused, or until there is no more time.
    async fn deliver(&mut self, spans: Vec<SpanData>) {
        let shared = Arc::clone(&self.shared);
        let counters = &shared.counters;
        let count = spans.len() as u64;
        let mut pause = FIRST_PAUSE;
        let (counter, lost) = loop {
            if let Some(reason) = &self.hopeless {
                self.reason.clone_from(reason);
                break (&counters.undelivered, count);
            }
            let was_stopping = self.inbox.is_stopping();
            // An exporter keeps what it is given, and this may be needed again.
            match self.export(spans.clone()).await {
                Answer::Accepted { rejected, reason } => {
                    let rejected = rejected.min(count);
                    let exported = &counters.exported;
                    exported.fetch_add(count - rejected, Ordering::Relaxed);
                    if rejected > 0 {
                        self.reason = format!("the receiver rejected some: {reason}");
                        self.reporter.note(self.reason.clone());
                    }
                    break (&counters.refused, rejected);
                }
                Answer::Refused(reason) => {
                    self.reason.clone_from(&reason);
                    self.reporter.note(reason);
                    break (&counters.refused, count);
                }
                Answer::Unavailable(reason) => {
                    self.reporter.note(reason.clone());
                    if self.inbox.is_stopping() {
                        let out_of_time = self.inbox.stop_by.is_some_and(|by| by <= Instant::now());
                        // One more export, with the attempts of its own, is all that there is time for.
                        if was_stopping || out_of_time {
                            self.hopeless = Some(reason);
                        }
                        continue;
                    }
                    self.reporter.report(self.shared.stats());
                    self.pause(jittered(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        counter.fetch_add(lost, Ordering::Relaxed);
        if self.inbox.is_stopping() {
            self.lost_at_last += lost;
        }
        shared.buffer().in_flight = 0;
        // What is lost on the way out is told when all is over.
        if !self.inbox.is_stopping() {
            self.reporter.report(shared.stats());
        }
    }

    async fn export(&mut self, spans: Vec<SpanData>) -> Answer {
        let Self {
            exporter,
            witness,
            log,
            inbox,
            shared,
            ..
        } = self;
        witness.begin();
        let limit = shared.limits.patience;
        let export = exporter.export(spans).with_subscriber(log.clone());
        let mut export = pin!(timeout(limit, export));
        loop {
            let stop_by = inbox.stop_by;
            tokio::select! {
                biased;
                exported = &mut export => {
                    return exported.map_or_else(
                        |_| Answer::Unavailable(format!("no answer within {limit:?}")),
                        |result| witness.answer(result),
                    );
                }
                () = Inbox::time_is_up(stop_by) => {
                    return Answer::Unavailable("no answer before the deadline".to_owned());
                }
                () = inbox.next() => {}
            }
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

    fn finish(mut self) {
        let reason = std::mem::take(&mut self.reason);
        let report = Report::new(self.shared.stats(), self.lost_at_last, reason);
        reporter::at_the_end(&report);
        self.inbox.commands.close();
        while let Ok(command) = self.inbox.commands.try_recv() {
            match command {
                Command::Flush(reply) => reply(()),
                Command::Stop(_, reply) => self.inbox.stops.push(reply),
                // Dropped: never fires, and what it times is about to be answered.
                Command::Timer(..) => {}
            }
        }
        for reply in self.inbox.stops.drain(..) {
            reply(report.clone());
        }
    }
}

/// A pause, up to a fifth longer or shorter, so that processes do not return all at once.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 400;
    pause.mul_f64(0.8 + random as f64 / 1000.0)
}
