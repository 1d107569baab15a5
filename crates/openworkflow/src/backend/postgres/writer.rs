//! Small writes, gathered: while some are on their way to the disk, those that come up wait and then
//! share a commit.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_postgres::Row;
use workflow_core::Interruption;

use super::homes::Home;
use super::session::{Guard, Param, Query, WhenLost};
use super::statements::StepWrites;
use super::writes::{Completion, CompletionColumns, StepColumns, StepWrite, Write};
use super::{Inner, fault, rows};
use crate::backend::{BackendError, BackendResult};

/// How many commits are on their way at a time. More would leave less to share.
const IN_FLIGHT: usize = 1;

/// How long others wait for a commit. One that waits for a lock, or for a connection that is stuck, is
/// its own callers' trouble from then on.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many writes share a commit at most, and how many bytes of values.
const SHARED_WRITES: usize = 256;
const SHARED_BYTES: usize = 1 << 20;

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

    /// Lets those go on who waited for the last commit, until none of them wants to write any more: on a
    /// runtime of several threads that takes more than one turn. Whoever comes too late waits for a whole
    /// commit, and each commit has its price.
    async fn gather(&self) {
        let mut gathered = 0;
        loop {
            tokio::task::yield_now().await;
            let waiting = self.lock().queue.len();
            if waiting <= gathered || waiting >= SHARED_WRITES {
                return;
            }
            gathered = waiting;
        }
    }

    /// The next writes to share a commit. The same row twice has to wait its turn. Where
    /// nothing is left, `place` is given up.
    fn next(&self, place: &mut Place) -> Vec<Waiting> {
        let mut state = self.lock();
        let most = state.queue.len().min(SHARED_WRITES);
        let mut taken: Vec<Waiting> = Vec::with_capacity(most);
        let mut rows = HashSet::with_capacity(most);
        let mut bytes = 0;
        while let Some(next) = state.queue.front() {
            bytes += next.write.bytes();
            let full = taken.len() == SHARED_WRITES || bytes > SHARED_BYTES;
            if !taken.is_empty() && (full || rows.contains(next.write.row())) {
                break;
            }
            rows.insert(Arc::clone(next.write.row()));
            taken.extend(state.queue.pop_front());
        }
        if taken.is_empty() {
            state.in_flight -= 1;
            place.held = false;
        }
        taken
    }
}

/// A place in flight. Only a task of ours has one: code may hold the future of a step and poll it no
/// more, and with it a place that everybody waits for.
struct Place {
    inner: Arc<Inner>,
    home: Arc<Home>,
    held: bool,
}

impl Place {
    fn pass_on(&mut self) {
        if !std::mem::take(&mut self.held) {
            return;
        }
        let mut state = self.home.writer.lock();
        if state.queue.is_empty() {
            state.in_flight -= 1;
        } else {
            drop(state);
            self.inner.write_queued(&self.home, false);
        }
    }

    /// Waits for a write, and holds the place no longer than others have patience.
    async fn hold<T>(&mut self, write: impl Future<Output = T>) -> T {
        let mut write = std::pin::pin!(write);
        match tokio::time::timeout(PATIENCE, &mut write).await {
            Ok(written) => written,
            Err(_) => {
                self.pass_on();
                write.await
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A task that is dropped was on a runtime that is no more.
        if self.held {
            self.home.writer.lock().in_flight -= 1;
        }
    }
}

impl Inner {
    /// Writes alone where nothing else is being written, and with others otherwise.
    pub(super) async fn write(self: &Arc<Self>, write: Write) -> BackendResult<()> {
        let home = self.sessions.here()?;
        let (done, result) = oneshot::channel();
        let (free, idle) = {
            let mut state = home.writer.lock();
            let idle = state.in_flight == 0 && state.queue.is_empty();
            let free = state.in_flight < IN_FLIGHT;
            if free {
                state.in_flight += 1;
            }
            state.queue.push_back(Waiting { write, done });
            (free, idle)
        };
        if free {
            self.write_queued(&home, idle);
        }
        result.await.unwrap_or(Err(BackendError::Closed))
    }

    /// Writes what is queued, in a task: the callers may go away, and each waits for others' writes.
    /// The place in flight must have been taken.
    fn write_queued(self: &Arc<Self>, home: &Arc<Home>, mut at_once: bool) {
        let mut place = Place {
            inner: Arc::clone(self),
            home: Arc::clone(home),
            held: true,
        };
        home.spawn(async move {
            let (inner, home) = (Arc::clone(&place.inner), Arc::clone(&place.home));
            while place.held {
                if !std::mem::take(&mut at_once) {
                    home.writer.gather().await;
                }
                let waiting = home.writer.next(&mut place);
                match <[Waiting; 1]>::try_from(waiting) {
                    Ok([one]) => {
                        let result = place.hold(inner.write_alone(&one.write)).await;
                        // A caller that is gone needs no answer.
                        let _ = one.done.send(result);
                    }
                    Err(none) if none.is_empty() => return,
                    Err(several) => place.hold(inner.write_together(&home, several)).await,
                }
            }
        });
    }

    async fn write_alone(self: &Arc<Self>, write: &Write) -> BackendResult<()> {
        match write {
            Write::Step(step) => self.write_step(step).await,
            Write::Completion(completion) => self.complete(completion).await,
        }
    }

    /// Writes one attempt, waiting for whoever holds its run's row.
    async fn write_step(&self, write: &StepWrite) -> BackendResult<()> {
        let (owner, attempt) = (&write.owner, &write.attempt);
        let (kind, status) = (attempt.kind.as_str(), write.status());
        let (context, output, error) = (write.context(), write.output(), write.error());
        let config = write.config();
        let age = write.age();
        let guard = Guard::new(owner);
        let [namespace, run, worker, attempts] = guard.params();
        let params: [Param<'_>; 13] = [
            namespace,
            run,
            worker,
            attempts,
            &&*attempt.id,
            &&*attempt.step_name,
            &kind,
            &status,
            &context,
            &output,
            &error,
            &age,
            &config,
        ];
        let written = self
            .insert(write.is_new(), |writes| &writes.one, &params)
            .await?;
        match written.is_empty() {
            false => Ok(()),
            true => self.unwritten(write).await,
        }
    }

    /// What it means for a write that it changed nothing. That the attempt has begun, or has this end,
    /// is what it was to do: the answer was lost the first time. Another end, or one where something was
    /// to be added: what the owner believes of the history is wrong.
    async fn unwritten(&self, write: &StepWrite) -> BackendResult<()> {
        let (owner, attempt) = (&write.owner, &write.attempt);
        let guard = Guard::new(owner);
        let [namespace, run, worker, attempts] = guard.params();
        let params: [Param<'_>; 5] = [namespace, run, worker, attempts, &&*attempt.id];
        let call = self.sql.why_unwritten.with(&params);
        let rows = self.sessions.one(WhenLost::Again, call).await?;
        let (owned, status): (bool, Option<String>) = match rows.first() {
            Some(row) => (rows::value(row, 0)?, rows::value(row, 1)?),
            None => (false, None),
        };
        if !owned {
            return Err(self.ownership_lost(owner).await);
        }
        match (write.status(), status.as_deref()) {
            ("running", Some(_)) if attempt.config.is_none() => Ok(()),
            ("completed", Some("completed" | "succeeded")) | ("failed", Some("failed")) => Ok(()),
            _ => Err(BackendError::OwnershipLost {
                reason: Interruption::LeaseLost,
            }),
        }
    }

    /// Writes in one statement. What cannot be written that way is tried alone, so that one caller's
    /// trouble is not another's.
    async fn write_together(self: &Arc<Self>, home: &Home, waiting: Vec<Waiting>) {
        let mut steps = Vec::new();
        let mut completions = Vec::new();
        for Waiting { write, .. } in &waiting {
            match write {
                Write::Step(step) => steps.push(step),
                Write::Completion(completion) => completions.push(completion),
            }
        }
        let written = match self.write_all(&steps, &completions).await {
            Ok(written) => written,
            Err(error) if error.is_transient() || matches!(error, BackendError::Closed) => {
                for Waiting { done, .. } in waiting {
                    let _ = done.send(Err(fault::copy(&error)));
                }
                return;
            }
            // A value that the database refuses: whose it is shows when each is tried alone.
            Err(_) => Written::Only(HashSet::new()),
        };
        for Waiting { write, done } in waiting {
            if written.contains(&write) {
                if let Write::Completion(completion) = &write {
                    self.ended(&completion.owner.run_id, false);
                }
                let _ = done.send(Ok(()));
            } else {
                let inner = Arc::clone(self);
                home.spawn(async move {
                    let _ = done.send(inner.write_alone(&write).await);
                });
            }
        }
    }

    /// Writes attempts, of which all are new if `are_new` is right. Where it is not, as after an answer
    /// that was lost, the server says so.
    async fn insert(
        &self,
        are_new: bool,
        statement: impl Fn(&StepWrites) -> &Query,
        params: &[Param<'_>],
    ) -> BackendResult<Vec<Row>> {
        if are_new {
            let call = statement(&self.sql.insert).with(params);
            match self.sessions.one(WhenLost::Again, call).await {
                // Whatever else it was is refused again.
                Err(error) if !error.is_transient() && !matches!(error, BackendError::Closed) => {}
                result => return result,
            }
        }
        let call = statement(&self.sql.insert_or_end).with(params);
        self.sessions.one(WhenLost::Again, call).await
    }

    async fn write_all(
        &self,
        steps: &[&StepWrite],
        completions: &[&Completion],
    ) -> BackendResult<Written> {
        let all = steps.len() + completions.len();
        let are_new = steps.iter().all(|step| step.is_new());
        let steps = StepColumns::of(steps);
        let mut params = steps.params().to_vec();
        let columns = CompletionColumns::of(completions);
        let rows = if completions.is_empty() {
            self.insert(are_new, |writes| &writes.many, &params).await?
        } else {
            params.extend(columns.params());
            self.insert(are_new, |writes| &writes.with_completions, &params)
                .await?
        };
        if rows.len() == all {
            return Ok(Written::All);
        }
        let ids = rows.iter().map(|row| rows::value(row, 0));
        Ok(Written::Only(ids.collect::<BackendResult<_>>()?))
    }
}

/// Which of those that share a commit were written.
enum Written {
    All,
    /// The attempts and runs with these ids.
    Only(HashSet<String>),
}

impl Written {
    fn contains(&self, write: &Write) -> bool {
        match self {
            Self::All => true,
            Self::Only(ids) => ids.contains(&**write.row()),
        }
    }
}
