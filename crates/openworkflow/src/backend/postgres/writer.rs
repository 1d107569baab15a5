//! Small writes, gathered: while some are on their way to the disk, those that come up wait and then
//! share a commit.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use workflow_core::Interruption;

use super::homes::Home;
use super::session::{Guard, Param, WhenLost};
use super::writes::{Completion, CompletionColumns, StepColumns, StepWrite, Write};
use super::{Inner, fault, rows};
use crate::backend::{BackendError, BackendResult};

/// How many commits are on their way at a time, and how many writes must wait for the second to begin: a
/// server has more than one processor, but with fewer there would be less to share.
const IN_FLIGHT: usize = 2;
const WORTH_A_SECOND: usize = 12;

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
    in_flight: Vec<Flight>,
    /// What the next one is called.
    next: u64,
    queue: VecDeque<Waiting>,
}

/// A commit on its way, or about to be.
struct Flight {
    number: u64,
    /// Whose rows it writes.
    runs: Vec<Arc<str>>,
}

impl State {
    /// Takes a place in flight, if there is one for what is queued.
    fn begin(&mut self) -> Option<u64> {
        let free = match self.in_flight.len() {
            0 => true,
            flights => flights < IN_FLIGHT && self.queue.len() >= WORTH_A_SECOND,
        };
        free.then(|| {
            let number = self.next;
            self.next += 1;
            let runs = Vec::new();
            self.in_flight.push(Flight { number, runs });
            number
        })
    }

    fn end(&mut self, number: u64) {
        self.in_flight.retain(|flight| flight.number != number);
    }

    /// The next writes to share a commit. The same row twice has to wait its turn, and so has a run that
    /// another commit writes of. None also where so few wait that they had better share the next commit
    /// of another.
    fn take(&mut self, number: u64) -> Vec<Waiting> {
        let mut taken: Vec<Waiting> = Vec::new();
        if self.in_flight.len() > 1 && self.queue.len() < WORTH_A_SECOND {
            return taken;
        }
        let others = self.in_flight.iter().filter(|it| it.number != number);
        let busy: HashSet<Arc<str>> = others.flat_map(|it| it.runs.iter().cloned()).collect();
        let mut rows = HashSet::new();
        let mut runs = Vec::new();
        let mut bytes = 0;
        while let Some(Waiting { write, .. }) = self.queue.front() {
            bytes += write.bytes();
            let full = taken.len() == SHARED_WRITES || bytes > SHARED_BYTES;
            let waits = full || rows.contains(write.row());
            if busy.contains(write.run_id()) || (waits && !taken.is_empty()) {
                break;
            }
            rows.insert(Arc::clone(write.row()));
            runs.push(Arc::clone(write.run_id()));
            taken.extend(self.queue.pop_front());
        }
        if let Some(own) = self.in_flight.iter_mut().find(|it| it.number == number) {
            own.runs = runs;
        }
        taken
    }
}

impl Writer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in flight. Only a task of ours has one: code may hold the future of a step and poll it no
/// more, and with it a place that everybody waits for.
struct Place {
    home: Arc<Home>,
    /// `None` once it is given up.
    number: Option<u64>,
}

impl Place {
    /// The next writes to share a commit. Where there are none for this place, it is given up.
    fn next(&mut self) -> Vec<Waiting> {
        let Some(number) = self.number else {
            return Vec::new();
        };
        let mut state = self.home.writer.lock();
        let taken = state.take(number);
        if taken.is_empty() {
            state.end(number);
            self.number = None;
        }
        taken
    }

    /// Gives the place up, for another one where there is something for it to do.
    fn give_up(&mut self) -> Option<Place> {
        let number = self.number.take()?;
        let mut state = self.home.writer.lock();
        state.end(number);
        if state.queue.is_empty() {
            return None;
        }
        let number = state.begin()?;
        drop(state);
        Some(Place {
            home: Arc::clone(&self.home),
            number: Some(number),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A task that is dropped was on a runtime that is no more.
        if let Some(number) = self.number {
            self.home.writer.lock().end(number);
        }
    }
}

impl Inner {
    /// Writes alone where nothing else is being written, and with others otherwise.
    pub(super) async fn write(self: &Arc<Self>, write: Write) -> BackendResult<()> {
        let home = self.sessions.here()?;
        let (done, result) = oneshot::channel();
        let (number, idle) = {
            let mut state = home.writer.lock();
            let idle = state.in_flight.is_empty() && state.queue.is_empty();
            state.queue.push_back(Waiting { write, done });
            (state.begin(), idle)
        };
        if number.is_some() {
            self.write_queued(Place { home, number }, idle);
        }
        result.await.unwrap_or(Err(BackendError::Closed))
    }

    /// Writes what is queued, in a task: the callers may go away, and each waits for others' writes.
    fn write_queued(self: &Arc<Self>, mut place: Place, mut at_once: bool) {
        let inner = Arc::clone(self);
        let home = Arc::clone(&place.home);
        let spawner = Arc::clone(&home);
        spawner.spawn(async move {
            loop {
                // Those who wait for the last commit go on now, and many of them want to write next.
                if !std::mem::take(&mut at_once) {
                    tokio::task::yield_now().await;
                }
                let waiting = place.next();
                match <[Waiting; 1]>::try_from(waiting) {
                    Ok([one]) => {
                        let written = inner.write_alone(&one.write);
                        let result = inner.hold(&mut place, written).await;
                        // A caller that is gone needs no answer.
                        let _ = one.done.send(result);
                    }
                    Err(none) if none.is_empty() => return,
                    Err(several) => {
                        let written = inner.write_together(&home, several);
                        inner.hold(&mut place, written).await;
                    }
                }
            }
        });
    }

    /// Waits for a write, and holds the place no longer than others have patience.
    async fn hold<T>(self: &Arc<Self>, place: &mut Place, write: impl Future<Output = T>) -> T {
        let mut write = std::pin::pin!(write);
        match tokio::time::timeout(PATIENCE, &mut write).await {
            Ok(written) => written,
            Err(_) => {
                if let Some(next) = place.give_up() {
                    self.write_queued(next, false);
                }
                write.await
            }
        }
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
        let call = self.sql.write_step.with(&params);
        let written = self.sessions.one(WhenLost::Again, call).await?;
        match written.is_empty() {
            false => Ok(()),
            true => self.unwritten(write).await,
        }
    }

    /// What it means for a write that it changed nothing. That the attempt has begun, or has this end,
    /// is what it was to do: the answer was lost the first time. Another end: what the owner believes
    /// of the history is wrong.
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
            ("running", Some(_))
            | ("completed", Some("completed" | "succeeded"))
            | ("failed", Some("failed")) => Ok(()),
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
            Err(_) => HashSet::new(),
        };
        for Waiting { write, done } in waiting {
            if written.contains(&**write.row()) {
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

    /// Gives the ids of the attempts and runs that were written.
    async fn write_all(
        &self,
        steps: &[&StepWrite],
        completions: &[&Completion],
    ) -> BackendResult<HashSet<String>> {
        let steps = StepColumns::of(steps);
        let mut params = steps.params().to_vec();
        let columns = CompletionColumns::of(completions);
        let statement = if completions.is_empty() {
            &self.sql.write_steps
        } else {
            params.extend(columns.params());
            &self.sql.write_all
        };
        let call = statement.with(&params);
        let rows = self.sessions.one(WhenLost::Again, call).await?;
        rows.iter().map(|row| rows::value(row, 0)).collect()
    }
}
