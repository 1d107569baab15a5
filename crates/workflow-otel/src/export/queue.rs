//! A bounded queue in front of an exporter of spans or of log records, which makes batches of what ends
//! and never blocks who ends it. The SDK has processors for that; `courier` says why they will not do.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Signal;
use super::account::Account;
use super::control::Control;
use super::courier::{Courier, Exporter, Watched};
use super::thread::ExportThread;

/// How batches are made.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    pub(super) queue: usize,
    pub(super) batch: usize,
    pub(super) delay: Duration,
}

struct Buffer<T> {
    items: VecDeque<T>,
    /// Those that were taken out and are being sent.
    in_flight: usize,
    closed: bool,
}

struct Shared<T> {
    buffer: Mutex<Buffer<T>>,
    limits: Limits,
    /// There is a whole batch.
    ready: Notify,
    account: Arc<Account>,
}

impl<T> Shared<T> {
    fn buffer(&self) -> MutexGuard<'_, Buffer<T>> {
        // Nothing in there panics half-way.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how much is in the buffer.
    fn count(&self, buffer: &Buffer<T>) {
        let queued = buffer.items.len() + buffer.in_flight;
        self.account.queued.set(queued);
    }

    fn len(&self) -> usize {
        self.buffer().items.len()
    }
}

/// The processor at the end of the pipeline. Clones share the queue.
pub(super) struct Queue<T> {
    shared: Arc<Shared<T>>,
    control: Control,
}

impl<T: Send + Sync + 'static> Queue<T> {
    /// A queue whose batches `thread` takes to `exporter`.
    pub(super) fn open<E: Exporter<Batch = Vec<T>>>(
        thread: &mut ExportThread,
        signal: Signal,
        exporter: Watched<E>,
        limits: Limits,
    ) -> Self {
        let (control, courier) = thread.open(signal, exporter);
        let shared = Arc::new(Shared {
            buffer: Mutex::new(Buffer {
                items: VecDeque::new(),
                in_flight: 0,
                closed: false,
            }),
            limits,
            ready: Notify::new(),
            account: Arc::clone(&control.account),
        });
        let sender = Sender {
            shared: Arc::clone(&shared),
            courier,
        };
        thread.add(sender.run());
        Self { shared, control }
    }

    pub(super) fn count_discarded(&self, items: u64) {
        self.shared.account.discarded.add(items);
    }

    fn push(&self, item: T) {
        let mut buffer = self.shared.buffer();
        if buffer.closed || buffer.items.len() >= self.shared.limits.queue {
            drop(buffer);
            self.shared.account.dropped.add(1);
            return;
        }
        buffer.items.push_back(item);
        // Otherwise the thread is awake already, or wakes by its clock.
        let wake = buffer.items.len() == self.shared.limits.batch;
        self.shared.count(&buffer);
        drop(buffer);
        if wake {
            self.shared.ready.notify_one();
        }
    }

    fn flush(&self) -> OTelSdkResult {
        self.control.flush_blocking()
    }

    fn stop(&self, limit: Duration) -> OTelSdkResult {
        self.control.stop_blocking(limit)
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            control: self.control.clone(),
        }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("limits", &self.shared.limits)
            .field("stats", &self.shared.account.stats())
            .finish()
    }
}

/// What the export thread does with the queue.
struct Sender<T, E> {
    shared: Arc<Shared<T>>,
    courier: Courier<E>,
}

impl<T: Send + Sync, E: Exporter<Batch = Vec<T>>> Sender<T, E> {
    async fn run(mut self) {
        loop {
            self.wait_for_work().await;
            let flushes = self.courier.inbox.take_flushes();
            // What is there now goes out, however small the last batch. What comes meanwhile waits
            // until it is a batch or its time has come.
            let mut backlog = self.shared.len();
            while let Some(batch) = self.take(backlog) {
                backlog -= batch.len().min(backlog);
                self.courier.deliver(&batch, batch.len() as u64).await;
                self.settle();
                self.courier.report();
            }
            for reply in flushes {
                let _ = reply.send(());
            }
            if self.courier.inbox.is_stopping() {
                break;
            }
        }
        self.courier.finish();
    }

    /// Nothing is in hand.
    fn settle(&self) {
        let mut buffer = self.shared.buffer();
        buffer.in_flight = 0;
        self.shared.count(&buffer);
    }

    async fn wait_for_work(&mut self) {
        let due = sleep(self.shared.limits.delay);
        let mut due = pin!(due);
        while !self.courier.inbox.is_asked() && self.shared.len() < self.shared.limits.batch {
            tokio::select! {
                () = &mut due => return,
                () = self.shared.ready.notified() => {}
                () = self.courier.inbox.next() => {}
            }
        }
    }

    /// The next batch: a whole one, the rest of the `backlog`, or on stopping, when the queue is closed,
    /// whatever there is.
    fn take(&mut self, backlog: usize) -> Option<Vec<T>> {
        let mut buffer = self.shared.buffer();
        buffer.closed |= self.courier.inbox.is_stopping();
        let count = buffer.items.len().min(self.shared.limits.batch);
        let due = backlog > 0 || buffer.closed || count == self.shared.limits.batch;
        if count == 0 || !due {
            return None;
        }
        buffer.in_flight = count;
        Some(buffer.items.drain(..count).collect())
    }
}

impl Exporter for opentelemetry_otlp::SpanExporter {
    type Batch = Vec<SpanData>;

    fn export(&self, batch: &Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        // It keeps what it is given, and this may be needed again.
        SpanExporter::export(self, batch.clone())
    }
}

impl SpanProcessor for Queue<SpanData> {
    fn on_start(&self, _span: &mut Span, _parent: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.push(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.stop(timeout)
    }
}

#[cfg(feature = "logs")]
mod logs {
    use opentelemetry::InstrumentationScope;
    use opentelemetry_sdk::logs::{LogBatch, LogExporter, LogProcessor, SdkLogRecord};

    use super::{Duration, Exporter, OTelSdkResult, Queue};

    /// On the heap, as the SDK's own: it is moved about, and large.
    pub(in super::super) type Record = Box<(SdkLogRecord, InstrumentationScope)>;

    impl Exporter for opentelemetry_otlp::LogExporter {
        type Batch = Vec<Record>;

        async fn export(&self, batch: &Vec<Record>) -> OTelSdkResult {
            let batch: Vec<_> = batch.iter().map(|one| (&one.0, &one.1)).collect();
            LogExporter::export(self, LogBatch::new(&batch)).await
        }
    }

    impl LogProcessor for Queue<Record> {
        fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
            self.push(Box::new((record.clone(), scope.clone())));
        }

        fn force_flush(&self) -> OTelSdkResult {
            self.flush()
        }

        fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
            self.stop(timeout)
        }
    }
}
