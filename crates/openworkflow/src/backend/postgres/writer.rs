//! Writes of step attempts, gathered: while some are on their way to the disk, those that come up
//! wait and then share one statement and one commit.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use tokio_postgres::Row;
use workflow_core::{Interruption, Payload};

use super::session::{Json, Param, WhenLost};
use super::{Inner, fault, rows};
use crate::backend::{BackendError, BackendResult, NewStepAttempt, Owner};

/// How many statements are on their way at a time. More would leave less to share.
const IN_FLIGHT: usize = 2;

/// How many attempts share a statement at most, and how many bytes of their values.
const SHARED_ATTEMPTS: usize = 64;
const SHARED_BYTES: usize = 1 << 20;

/// A step attempt to be written.
pub(super) struct Write {
    owner: Owner,
    attempt: NewStepAttempt,
    /// `None` while it runs.
    result: Option<Result<Payload, String>>,
    asked: Instant,
}

impl Write {
    pub(super) fn new(
        owner: Owner,
        attempt: NewStepAttempt,
        result: Option<Result<Payload, String>>,
    ) -> Self {
        Self {
            owner,
            attempt,
            result,
            asked: Instant::now(),
        }
    }

    fn status(&self) -> &'static str {
        match &self.result {
            None => "running",
            Some(Ok(_)) => "completed",
            Some(Err(_)) => "failed",
        }
    }

    fn output(&self) -> Option<Json<&str>> {
        match &self.result {
            Some(Ok(output)) if !output.is_null() => Some(Json(output.expose())),
            _ => None,
        }
    }

    fn error(&self) -> Option<Json<&str>> {
        match &self.result {
            Some(Err(error)) => Some(Json(error)),
            _ => None,
        }
    }

    fn bytes(&self) -> usize {
        let context = self.attempt.context.as_ref().map_or(0, String::len);
        let result = match &self.result {
            None => 0,
            Some(Ok(output)) => output.size(),
            Some(Err(error)) => error.len(),
        };
        context + result
    }
}

/// What became of a write.
enum Written {
    Yes,
    /// The run was not ours, or somebody held its row.
    NotOwned,
    /// The attempt has an end already.
    EndedBefore,
}

struct Waiting {
    write: Write,
    done: oneshot::Sender<BackendResult<()>>,
}

#[derive(Default)]
pub(super) struct Writer {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    in_flight: usize,
    queue: VecDeque<Waiting>,
}

impl Writer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next writes to share a statement. The same attempt twice has to wait its turn. Where
    /// nothing is left, `place` is given up.
    fn next(&self, place: &mut Place) -> Vec<Waiting> {
        let mut state = self.lock();
        let mut taken: Vec<Waiting> = Vec::new();
        let mut ids = HashSet::new();
        let mut bytes = 0;
        while let Some(next) = state.queue.front() {
            bytes += next.write.bytes();
            let full = taken.len() == SHARED_ATTEMPTS || bytes > SHARED_BYTES;
            if !taken.is_empty() && (full || ids.contains(&next.write.attempt.id)) {
                break;
            }
            ids.insert(Arc::clone(&next.write.attempt.id));
            taken.extend(state.queue.pop_front());
        }
        if taken.is_empty() {
            state.in_flight -= 1;
            place.held = false;
        }
        taken
    }
}

/// A place in flight. A caller that is done, or gone, passes it on to those who wait.
struct Place {
    inner: Arc<Inner>,
    held: bool,
    /// Whether a task holds it. A task that is dropped was on a runtime that is no more.
    by_task: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.held {
            return;
        }
        let mut state = self.inner.writer.lock();
        if self.by_task || state.queue.is_empty() {
            state.in_flight -= 1;
        } else {
            drop(state);
            self.inner.write_queued();
        }
    }
}

impl Inner {
    /// Writes an attempt: alone where little else is being written, and with others otherwise.
    pub(super) async fn write_step(self: &Arc<Self>, write: Write) -> BackendResult<()> {
        let result = {
            let mut state = self.writer.lock();
            let free = state.in_flight < IN_FLIGHT;
            if free {
                state.in_flight += 1;
            }
            if free && state.queue.is_empty() {
                Err(write)
            } else {
                let (done, result) = oneshot::channel();
                state.queue.push_back(Waiting { write, done });
                Ok((result, free))
            }
        };
        match result {
            Err(write) => {
                let _place = Place {
                    inner: Arc::clone(self),
                    held: true,
                    by_task: false,
                };
                self.write_alone(&write).await
            }
            Ok((result, free)) => {
                if free {
                    self.write_queued();
                }
                result.await.unwrap_or(Err(BackendError::Closed))
            }
        }
    }

    /// Writes what is queued, in a task: the callers may go away, and each waits for others' writes.
    /// The place in flight must have been taken.
    fn write_queued(self: &Arc<Self>) {
        let mut place = Place {
            inner: Arc::clone(self),
            held: true,
            by_task: true,
        };
        self.runtime.spawn(async move {
            let inner = Arc::clone(&place.inner);
            loop {
                let waiting = inner.writer.next(&mut place);
                match <[Waiting; 1]>::try_from(waiting) {
                    Ok([one]) => {
                        let result = inner.write_alone(&one.write).await;
                        // A caller that is gone needs no answer.
                        let _ = one.done.send(result);
                    }
                    Err(none) if none.is_empty() => return,
                    Err(several) => inner.write_together(several).await,
                }
            }
        });
    }

    /// Writes one attempt, waiting for whoever holds its run's row.
    async fn write_alone(&self, write: &Write) -> BackendResult<()> {
        let rows = Columns::of(std::slice::from_ref(write))
            .execute(self, true)
            .await?;
        match written(&rows, std::slice::from_ref(write))?.as_slice() {
            [Written::Yes] => Ok(()),
            [Written::EndedBefore] => self.ended_before(write).await,
            _ => Err(self.ownership_lost(&write.owner).await),
        }
    }

    /// What it means for a write that the attempt has an end already. The same one: it keeps its
    /// first result. Another: what the owner believes of the history is wrong.
    async fn ended_before(&self, write: &Write) -> BackendResult<()> {
        let (owner, attempt) = (&write.owner, &write.attempt);
        let params: [Param<'_>; 3] = [&&*owner.namespace_id, &&*attempt.id, &&*owner.run_id];
        let call = self.sql.step_status.with(&params);
        let rows = self.sessions.one(WhenLost::Again, call).await?;
        let status: Option<String> = match rows.first() {
            Some(row) => Some(rows::value(row, 0)?),
            None => None,
        };
        match (write.status(), status.as_deref()) {
            ("completed", Some("completed" | "succeeded")) | ("failed", Some("failed")) => Ok(()),
            _ => Err(BackendError::OwnershipLost {
                reason: Interruption::LeaseLost,
            }),
        }
    }

    /// Writes attempts in one statement. What cannot be written that way is tried alone, so that
    /// one caller's trouble is not another's.
    async fn write_together(self: &Arc<Self>, waiting: Vec<Waiting>) {
        let (writes, done): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|w| (w.write, w.done)).unzip();
        let result = Columns::of(&writes).execute(self, false).await;
        let result = result.and_then(|rows| written(&rows, &writes));
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(error) if error.is_transient() || matches!(error, BackendError::Closed) => {
                for done in done {
                    let _ = done.send(Err(fault::copy(&error)));
                }
                return;
            }
            // A value that the database refuses: whose it is shows when each is tried alone.
            Err(_) => writes.iter().map(|_| Written::NotOwned).collect(),
        };
        for ((write, done), outcome) in writes.into_iter().zip(done).zip(outcomes) {
            if let Written::Yes = outcome {
                let _ = done.send(Ok(()));
            } else {
                let inner = Arc::clone(self);
                self.runtime.spawn(async move {
                    let _ = done.send(inner.write_alone(&write).await);
                });
            }
        }
    }
}

/// The columns of a statement's input.
struct Columns<'a> {
    namespace_ids: Vec<&'a str>,
    run_ids: Vec<&'a str>,
    worker_ids: Vec<&'a str>,
    ids: Vec<&'a str>,
    names: Vec<&'a str>,
    kinds: Vec<&'a str>,
    statuses: Vec<&'a str>,
    contexts: Vec<Option<Json<&'a str>>>,
    outputs: Vec<Option<Json<&'a str>>>,
    errors: Vec<Option<Json<&'a str>>>,
    ages: Vec<f64>,
}

impl<'a> Columns<'a> {
    fn of(writes: &'a [Write]) -> Self {
        fn column<'a, T>(writes: &'a [Write], get: impl Fn(&'a Write) -> T) -> Vec<T> {
            writes.iter().map(get).collect()
        }
        Self {
            namespace_ids: column(writes, |w| &*w.owner.namespace_id),
            run_ids: column(writes, |w| &*w.owner.run_id),
            worker_ids: column(writes, |w| &*w.owner.worker_id),
            ids: column(writes, |w| &*w.attempt.id),
            names: column(writes, |w| &*w.attempt.step_name),
            kinds: column(writes, |w| w.attempt.kind.as_str()),
            statuses: column(writes, Write::status),
            contexts: column(writes, |w| w.attempt.context.as_deref().map(Json)),
            outputs: column(writes, Write::output),
            errors: column(writes, Write::error),
            // The time in the queue is not the step's.
            ages: column(writes, |w| {
                (w.attempt.begun_ago + w.asked.elapsed()).as_secs_f64()
            }),
        }
    }

    async fn execute(&self, inner: &Inner, alone: bool) -> BackendResult<Vec<Row>> {
        let params: [Param<'_>; 11] = [
            &self.namespace_ids,
            &self.run_ids,
            &self.worker_ids,
            &self.ids,
            &self.names,
            &self.kinds,
            &self.statuses,
            &self.contexts,
            &self.outputs,
            &self.errors,
            &self.ages,
        ];
        let statement = if alone {
            &inner.sql.write_step
        } else {
            &inner.sql.write_steps
        };
        let call = statement.with(&params);
        inner.sessions.one(WhenLost::Again, call).await
    }
}

/// What the statement says of each of the writes.
fn written(answers: &[Row], writes: &[Write]) -> BackendResult<Vec<Written>> {
    let mut outcomes: Vec<Written> = writes.iter().map(|_| Written::NotOwned).collect();
    for answer in answers {
        let n: i64 = rows::value(answer, 0)?;
        let owned: bool = rows::value(answer, 1)?;
        let written: bool = rows::value(answer, 2)?;
        let at = usize::try_from(n - 1).unwrap_or(usize::MAX);
        let (Some(outcome), Some(write)) = (outcomes.get_mut(at), writes.get(at)) else {
            continue;
        };
        *outcome = match (owned, written || write.result.is_none()) {
            (true, true) => Written::Yes,
            (true, false) => Written::EndedBefore,
            (false, _) => Written::NotOwned,
        };
    }
    Ok(outcomes)
}
