//! Threads that own a connection, and the queues by which they are given work.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::watch;

/// Jobs for one thread.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    wake: Condvar,
    /// How many jobs wait; readable without the lock.
    waiting: AtomicUsize,
}

struct State<J> {
    jobs: VecDeque<J>,
    closed: bool,
    asleep: bool,
}

impl<J> Queue<J> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                closed: false,
                asleep: false,
            }),
            wake: Condvar::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the job back if the queue is closed.
    pub(super) fn push(&self, job: J) -> Result<(), J> {
        let mut state = self.lock();
        if state.closed {
            return Err(job);
        }
        state.jobs.push_back(job);
        self.waiting.store(state.jobs.len(), Ordering::Release);
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Moves what waits to the end of `jobs`, without waiting for more.
    pub(super) fn take(&self, jobs: &mut VecDeque<J>) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            jobs.append(&mut self.lock().jobs);
            self.waiting.store(0, Ordering::Release);
        }
    }

    /// Moves what waits to the end of `jobs`, waiting for a job if there is none. `false` once the
    /// queue is closed and empty.
    pub(super) fn wait(&self, jobs: &mut VecDeque<J>) -> bool {
        let mut state = self.lock();
        while state.jobs.is_empty() {
            if state.closed {
                return false;
            }
            state.asleep = true;
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        jobs.append(&mut state.jobs);
        self.waiting.store(0, Ordering::Release);
        true
    }

    /// Takes no more jobs. Those that wait are still done.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn abandon(&self) {
        let jobs = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.jobs)
        };
        drop(jobs);
    }
}

/// A thread that works through a queue. Ends when dropped, after the jobs that wait.
pub(super) struct Worker<J> {
    queue: Arc<Queue<J>>,
    ended: watch::Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<J: Send + 'static> Worker<J> {
    pub(super) fn spawn(
        name: &str,
        work: impl FnOnce(&Queue<J>) + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Arc::new(Queue::new());
        let (end, ended) = watch::channel(());
        let thread = thread::Builder::new().name(name.to_owned()).spawn({
            let queue = Arc::clone(&queue);
            move || {
                // Dropped in reverse order, also when `work` panics: callers hear of it.
                let _end = end;
                let _abandon = Abandon(&queue);
                work(&queue);
            }
        })?;
        Ok(Self {
            queue,
            ended,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Gives the job back if the thread takes no more.
    pub(super) fn push(&self, job: J) -> Result<(), J> {
        self.queue.push(job)
    }

    /// Takes no more jobs; the thread ends after those that wait.
    pub(super) fn stop(&self) {
        self.queue.close();
    }

    /// Waits until the thread has ended.
    pub(super) async fn ended(&self) {
        // The sender never sends: this ends when the thread drops it.
        let _ = self.ended.clone().changed().await;
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Nothing but the thread's own clean-up is left to wait for; of a panic its callers
            // have heard.
            let _ = thread.join();
        }
    }
}

impl<J> Drop for Worker<J> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

struct Abandon<'a, J>(&'a Queue<J>);

impl<J> Drop for Abandon<'_, J> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
