//! Spans on their way out: a bounded queue, a thread that sends it in batches, and a count of what
//! became of every span.
//!
//! Not the SDK's batch processor: that one has a fixed limit of 5 s for a flush, reports no failed
//! export, does not tell what it dropped, and stalls with gRPC on a single-threaded runtime.

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
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ShutdownError;
use super::transport::{Accepted, Encoded, Failure, Transport};

/// The first pause after a failed delivery; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause of our own choice. So late do we notice that a receiver is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause that a receiver may ask for.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(60);
/// While shutting down, a receiver that fails so often in a row is given up.
const LAST_ATTEMPTS: u32 = 3;
/// At most so often are losses reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// How long a shutdown that names no deadline may take, as in the SDK.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// How batches are made and sent.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) queue: usize,
    pub(super) batch: usize,
    pub(super) delay: Duration,
    pub(super) timeout: Duration,
}

/// What became of the spans that were sampled and ended. Each is counted in one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportStats {
    /// The receiver accepted them.
    pub exported: u64,
    /// They wait in the queue, or are being sent.
    pub queued: u64,
    /// The queue was full, as the receiver was down or too slow, or was closed by the shutdown.
    pub dropped: u64,
    /// The receiver refused them: a wrong key, a wrong path, data it does not take.
    pub refused: u64,
    /// Given up on shutdown, because the receiver could not be reached or time was up.
    pub undelivered: u64,
    /// Left out by [`TailSampling`](super::TailSampling), as it was asked to.
    pub discarded: u64,
}

impl ExportStats {
    /// Spans that should have been exported and were not.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.dropped + self.refused + self.undelivered
    }
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
    Stop(Instant, Reply<Stopped>),
    Timer(Instant, oneshot::Sender<()>),
}

/// How a stop ended; `Ok` where nothing was lost on the way out.
type Stopped = Result<ExportStats, ShutdownError>;
type Reply<T> = Box<dyn FnOnce(T) + Send>;

impl Queue {
    /// Starts the thread that exports.
    pub(super) fn start(
        transport: Transport,
        resource: ResourceAttributesWithSchema,
        limits: Limits,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
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
            transport,
            resource,
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
                // What the transport does is no part of anybody's trace.
                let _suppressed = Context::enter_telemetry_suppressed_scope();
                runtime.block_on(sender.run());
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
    pub(super) async fn stop(&self, limit: Duration) -> Stopped {
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
    pub(super) fn stop_blocking(&self, limit: Duration) -> Stopped {
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
    fn stopped_before(&self) -> Stopped {
        let stats = self.stats();
        if stats.queued == 0 {
            return Ok(stats);
        }
        Err(ShutdownError {
            spans: stats.queued,
            reason: "the export thread has ended".to_owned(),
            stats,
        })
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
        self.stop_blocking(timeout)
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
    stops: Vec<Reply<Stopped>>,
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
struct Sender {
    shared: Arc<Shared>,
    transport: Transport,
    resource: ResourceAttributesWithSchema,
    inbox: Inbox,
    reporter: Reporter,
    /// Why no more is sent: the shutdown has given the receiver up.
    hopeless: Option<String>,
    /// What was lost since the shutdown began, and why.
    lost_at_last: u64,
    reason: String,
}

impl Sender {
    async fn run(mut self) {
        loop {
            self.wait_for_work().await;
            let flushes = std::mem::take(&mut self.inbox.flushes);
            // What is there now goes out, however small the last batch. What comes meanwhile waits
            // until it is a batch or its time has come.
            let mut backlog = self.shared.buffer().spans.len();
            while let Some((spans, count)) = self.take(backlog) {
                backlog -= count.min(backlog);
                self.deliver(spans, count).await;
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

    /// The next batch, and how many spans it has: a whole one, the rest of the `backlog`, or on
    /// stopping, when the queue is closed, whatever there is.
    fn take(&mut self, backlog: usize) -> Option<(Vec<SpanData>, usize)> {
        let mut buffer = self.shared.buffer();
        buffer.closed |= self.inbox.is_stopping();
        let count = buffer.spans.len().min(self.shared.limits.batch);
        let due = backlog > 0 || buffer.closed || count == self.shared.limits.batch;
        if count == 0 || !due {
            return None;
        }
        buffer.in_flight = count;
        let spans = buffer.spans.drain(..count).collect();
        Some((spans, count))
    }

    /// Sends a batch until it is accepted or refused, or until there is no more time.
    async fn deliver(&mut self, spans: Vec<SpanData>, count: usize) {
        let shared = Arc::clone(&self.shared);
        let counters = &shared.counters;
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let batch = self
            .transport
            .encode(ExportTraceServiceRequest { resource_spans });
        let mut pause = FIRST_PAUSE;
        let mut last_attempts = 0;
        let (counter, lost) = loop {
            if let Some(reason) = &self.hopeless {
                self.reason.clone_from(reason);
                break (&counters.undelivered, count as u64);
            }
            match self.attempt(&batch).await {
                Ok(Accepted { rejected, reason }) => {
                    let rejected = rejected.min(count as u64);
                    let exported = count as u64 - rejected;
                    counters.exported.fetch_add(exported, Ordering::Relaxed);
                    if rejected > 0 {
                        self.reason = format!("the receiver rejected some: {reason}");
                        self.reporter.note(self.reason.clone());
                    }
                    break (&counters.refused, rejected);
                }
                Err(Failure::Refused(reason)) => {
                    self.reason.clone_from(&reason);
                    self.reporter.note(reason);
                    break (&counters.refused, count as u64);
                }
                Err(Failure::Unavailable {
                    reason,
                    retry_after,
                }) => {
                    let asked = retry_after.map(|asked| asked.min(LONGEST_ASKED_PAUSE));
                    if self.inbox.is_stopping() {
                        // One that says when it will be ready is no lost case.
                        last_attempts += u32::from(asked.is_none());
                        let out_of_time = self.inbox.stop_by.is_some_and(|by| by <= Instant::now());
                        if out_of_time || last_attempts >= LAST_ATTEMPTS {
                            self.reporter.note(reason.clone());
                            self.hopeless = Some(reason);
                            continue;
                        }
                    }
                    self.reporter.note(reason);
                    self.reporter.report(&self.shared);
                    // However long it has been away: on the way out there is no time for long pauses.
                    let own = if self.inbox.is_stopping() {
                        FIRST_PAUSE * last_attempts.max(1)
                    } else {
                        pause
                    };
                    let wait = jittered(own).max(asked.unwrap_or_default());
                    self.pause(wait, asked.is_some()).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        counter.fetch_add(lost, Ordering::Relaxed);
        if self.inbox.is_stopping() {
            self.lost_at_last += lost;
        }
        shared.buffer().in_flight = 0;
        self.reporter.report(&shared);
    }

    async fn attempt(&mut self, batch: &Encoded) -> Result<Accepted, Failure> {
        let limit = self.shared.limits.timeout;
        let mut attempt = pin!(timeout(limit, self.transport.send(batch.clone())));
        loop {
            let stop_by = self.inbox.stop_by;
            tokio::select! {
                biased;
                sent = &mut attempt => {
                    return sent.unwrap_or_else(|_| {
                        Err(Failure::unavailable(format!("no answer within {limit:?}")))
                    });
                }
                () = Inbox::time_is_up(stop_by) => {
                    return Err(Failure::unavailable("no answer before the deadline"));
                }
                () = self.inbox.next() => {}
            }
        }
    }

    /// Waits before the next attempt. A request to stop ends a pause of our own choice.
    async fn pause(&mut self, wait: Duration, asked: bool) {
        let was_stopping = self.inbox.is_stopping();
        let mut over = pin!(sleep(wait));
        loop {
            if self.inbox.is_stopping() && !was_stopping && !asked {
                return;
            }
            let stop_by = self.inbox.stop_by;
            tokio::select! {
                () = &mut over => return,
                () = Inbox::time_is_up(stop_by) => return,
                () = self.inbox.next() => {}
            }
        }
    }

    fn finish(mut self) {
        let stats = self.shared.stats();
        let result = if self.lost_at_last == 0 {
            Ok(stats)
        } else {
            Err(ShutdownError {
                spans: self.lost_at_last,
                reason: std::mem::take(&mut self.reason),
                stats,
            })
        };
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
            reply(result.clone());
        }
    }
}

/// A pause, up to a fifth longer or shorter, so that processes do not return all at once.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 400;
    pause.mul_f64(0.8 + random as f64 / 1000.0)
}

/// Says once in a while what is wrong and what was lost.
#[derive(Default)]
struct Reporter {
    trouble: Option<String>,
    reported_at: Option<Instant>,
    reported: u64,
}

impl Reporter {
    fn note(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    fn report(&mut self, shared: &Shared) {
        let stats = shared.stats();
        if self.trouble.is_none() && stats.lost() == self.reported {
            return;
        }
        if self
            .reported_at
            .is_some_and(|at| at.elapsed() < REPORT_INTERVAL)
        {
            return;
        }
        let reason = self.trouble.take();
        tracing::warn!(
            target: "workflow_otel",
            reason = reason.as_deref().unwrap_or("spans are made faster than they are accepted"),
            exported = stats.exported,
            queued = stats.queued,
            dropped = stats.dropped,
            refused = stats.refused,
            "spans do not get through; workflows go on"
        );
        self.reported_at = Some(Instant::now());
        self.reported = stats.lost();
    }
}
