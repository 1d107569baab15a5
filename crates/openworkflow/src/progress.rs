//! How far a long function got, kept with its attempt, and the way of that to the database.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use workflow_core::{Error, ErrorKind, Interruption, Payload, Result};

use crate::backend::{NewStepAttempt, codec};
use crate::execution::ExecutionState;
use crate::payload;
use crate::step::elapsed;

/// How far a step's function got, over restarts; see
/// [`WorkflowContext::run_with_progress`](crate::WorkflowContext::run_with_progress). Cloning is cheap, and a
/// clone serves a task or a thread that the function hands its work to.
///
/// ```
/// # use openworkflow::{Progress, Workflow};
/// # fn import(row: u64) {}
/// # let _ = Workflow::new("w", |wf, rows: u64| async move {
/// wf.run_with_progress("import", |progress: Progress<u64>| async move {
///     let work = tokio::task::spawn_blocking(move || -> openworkflow::Result<u64> {
///         let runtime = tokio::runtime::Handle::current();
///         for row in progress.last().copied().unwrap_or(0)..rows {
///             import(row);
///             if row % 1000 == 999 {
///                 // Refused when the attempt is over, which ends the work.
///                 runtime.block_on(progress.save(&(row + 1)))?;
///             }
///         }
///         Ok(rows)
///     });
///     Ok(work.await??)
/// })
/// .await
/// # });
/// ```
pub struct Progress<P> {
    last: Option<Arc<P>>,
    saves: Arc<Saves>,
}

impl<P> Progress<P> {
    /// With what was saved last, of which the error says that it cannot be read.
    pub(crate) fn new(last: Option<&Payload>, saves: Arc<Saves>) -> Result<Self>
    where
        P: DeserializeOwned,
    {
        let last = match last {
            Some(last) => Some(Arc::new(payload::decode_stored(last, &*saves)?)),
            None => None,
        };
        Ok(Self { last, saves })
    }

    /// What was saved last by the last attempt at this step that saved something, when this attempt began.
    /// What this one saves does not change it.
    #[must_use]
    pub fn last(&self) -> Option<&P> {
        self.last.as_deref()
    }
}

impl<P: Serialize + DeserializeOwned> Progress<P> {
    /// Saves how far the function got. When the future resolves, this is durable, or what was saved after it
    /// is: the next attempt at the step finds one of them. It is one write of the attempt's row, which may
    /// share a commit with others; so save every few seconds rather than at every row.
    ///
    /// The value is taken when this is called, and sent when the future is first polled. Saves are written
    /// in that order, and those that wait for each other come down to the last. The end of the step is
    /// written after them.
    ///
    /// # Errors
    ///
    /// The step goes on after each of them if its function does.
    ///
    /// - Of kind [`InvalidPayload`](crate::ErrorKind::InvalidPayload) where the value cannot be written as
    ///   JSON and read back from that, or the database refuses it, say because it is too large.
    /// - Of kind [`Backend`](crate::ErrorKind::Backend) where the attempt is over, as it can be for a task
    ///   that outlives the function, or the run is no longer this worker's. Nothing is written then.
    ///
    /// While the database cannot be reached it is tried again, like any other write of the execution.
    ///
    /// # Cancellation safety
    ///
    /// Whoever drops the future may have saved the value or not. What is saved after that wins in any case.
    pub fn save(&self, progress: &P) -> impl Future<Output = Result<()>> + Send + 'static + use<P> {
        let encoded = payload::encode(progress, &*self.saves).and_then(|json| {
            // What no later attempt could read must not be kept.
            payload::decode::<P>(&json, &*self.saves)?;
            Ok(codec::encode_progress(&json))
        });
        let saves = Arc::clone(&self.saves);
        async move { saves.save(encoded?).await }
    }
}

impl<P> Clone for Progress<P> {
    fn clone(&self) -> Self {
        Self {
            last: self.last.clone(),
            saves: Arc::clone(&self.saves),
        }
    }
}

impl<P> fmt::Debug for Progress<P> {
    /// Without what was saved.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

/// The saves of one attempt. They are written by a task, one after the other: whoever asked for one may go
/// away in the middle, and an earlier value must not come after a later one.
pub(crate) struct Saves {
    run_id: Arc<str>,
    step_name: Arc<str>,
    queue: Mutex<Queue>,
    /// Notified when nothing is being written any more.
    idle: Notify,
}

#[derive(Default)]
struct Queue {
    /// The attempt, while it takes saves.
    open: Option<Arc<Attempt>>,
    writing: bool,
    waiting: Vec<Waiting>,
}

struct Waiting {
    /// What is added to the column of that name.
    config: String,
    done: oneshot::Sender<Result<()>>,
}

impl Saves {
    /// Takes no saves until it is [opened](Self::open).
    pub(crate) fn new(run_id: &Arc<str>, step_name: &Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            run_id: Arc::clone(run_id),
            step_name: Arc::clone(step_name),
            queue: Mutex::default(),
            idle: Notify::new(),
        })
    }

    /// Takes saves for an attempt that begins now.
    pub(crate) fn open(
        self: Arc<Self>,
        state: &Arc<ExecutionState>,
        attempt: &NewStepAttempt,
    ) -> OpenSaves {
        let open = Attempt {
            state: Arc::clone(state),
            attempt: attempt.clone(),
            begun_at: state.now(),
            runtime: Handle::current(),
        };
        self.lock().open = Some(Arc::new(open));
        OpenSaves(self)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn save(self: Arc<Self>, config: String) -> Result<()> {
        let (done, saved) = oneshot::channel();
        let idle = {
            let mut queue = self.lock();
            let Some(attempt) = queue.open.clone() else {
                return Err(self.over());
            };
            queue.waiting.push(Waiting { config, done });
            (!std::mem::replace(&mut queue.writing, true)).then_some(attempt)
        };
        if let Some(attempt) = idle {
            let writing = Writing {
                saves: Arc::clone(&self),
                done: false,
            };
            let runtime = attempt.runtime.clone();
            runtime.spawn(writing.write(attempt));
        }
        saved.await.unwrap_or_else(|_| Err(self.over()))
    }

    fn over(&self) -> Error {
        self.unsaved("the attempt is over, and nothing that still works for it is waited for")
    }

    fn lost(&self, reason: Interruption) -> Error {
        let reason = reason.as_str();
        self.unsaved(&format!("the run is no longer this worker's ({reason})"))
    }

    fn unsaved(&self, why: &str) -> Error {
        let message = format!("{self} is not saved: {why}; let the work end");
        Error::of_kind(ErrorKind::Backend, message)
    }
}

/// What errors are about.
impl fmt::Display for Saves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            run_id, step_name, ..
        } = self;
        write!(f, "the progress of step {step_name:?} of run {run_id}")
    }
}

/// The attempt takes saves while this lives.
pub(crate) struct OpenSaves(Arc<Saves>);

impl OpenSaves {
    /// Takes no more saves, and waits for those that were asked for.
    pub(crate) async fn close(self) {
        self.0.lock().open = None;
        loop {
            let idle = self.0.idle.notified();
            if !self.0.lock().writing {
                return;
            }
            // May tell of the task before the one that is writing now.
            idle.await;
        }
    }
}

impl Drop for OpenSaves {
    fn drop(&mut self) {
        self.0.lock().open = None;
    }
}

/// The saves of an attempt are written while this lives.
struct Writing {
    saves: Arc<Saves>,
    done: bool,
}

impl Writing {
    async fn write(mut self, attempt: Arc<Attempt>) {
        while let Some(waiting) = self.next() {
            self.write_last(&attempt, waiting).await;
        }
    }

    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut queue = self.saves.lock();
        if queue.waiting.is_empty() {
            queue.writing = false;
            self.done = true;
            return None;
        }
        Some(std::mem::take(&mut queue.waiting))
    }

    /// Writes the last of those that wait, which is all that counts. One that the database refuses is as if
    /// it had not been asked for.
    async fn write_last(&self, attempt: &Attempt, mut waiting: Vec<Waiting>) {
        while let Some(Waiting { config, done }) = waiting.pop() {
            let stored = attempt.write(config).await;
            // Who asked may have gone away, here and below.
            let answer = match &stored {
                Ok(Ok(())) => Ok(()),
                Ok(Err(problem)) => Err(payload::refused(&*self.saves, problem)),
                Err(reason) => Err(self.saves.lost(*reason)),
            };
            let _ = done.send(answer);
            if matches!(stored, Ok(Err(_))) {
                continue;
            }
            for earlier in waiting.drain(..) {
                let answer = stored.as_ref().map(drop);
                let _ = earlier
                    .done
                    .send(answer.map_err(|reason| self.saves.lost(*reason)));
            }
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.done {
            // It panicked, or was on a runtime that is no more.
            let mut queue = self.saves.lock();
            queue.writing = false;
            queue.waiting.clear();
        }
        self.saves.idle.notify_waiters();
    }
}

/// The attempt that saves.
struct Attempt {
    state: Arc<ExecutionState>,
    attempt: NewStepAttempt,
    begun_at: SystemTime,
    runtime: Handle,
}

impl Attempt {
    async fn write(
        &self,
        config: String,
    ) -> std::result::Result<std::result::Result<(), String>, Interruption> {
        let mut attempt = self.attempt.clone().with_config(config);
        attempt.begun_ago = elapsed(self.begun_at, self.state.now());
        self.state.save_in_step(&attempt).await
    }
}
