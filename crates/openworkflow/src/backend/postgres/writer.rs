//! Small writes, gathered: while some are on their way to the disk, those that come up wait and then
//! share a commit.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use workflow_core::{Interruption, Payload};

use super::homes::Home;
use super::session::{Guard, Json, Param, WhenLost, claim_number};
use super::{Inner, fault, rows};
use crate::backend::{BackendError, BackendResult, EndedStep, NewStepAttempt, Owner};

/// How many commits are on their way at a time. More would leave less to share.
const IN_FLIGHT: usize = 1;

/// How long others wait for a commit. One that waits for a lock, or for a connection that is stuck, is
/// its own callers' trouble from then on.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many writes share a commit at most, and how many bytes of values.
const SHARED_WRITES: usize = 256;
const SHARED_BYTES: usize = 1 << 20;

/// What shares a commit with others of its kind.
pub(super) enum Write {
    Step(StepWrite),
    Completion(Completion),
}

impl Write {
    /// No two writes of the same row share a statement.
    fn row(&self) -> &Arc<str> {
        match self {
            Self::Step(step) => &step.attempt.id,
            Self::Completion(completion) => &completion.owner.run_id,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Step(step) => step.bytes(),
            Self::Completion(completion) => completion.output.size(),
        }
    }
}

/// A run to be completed.
pub(super) struct Completion {
    pub(super) owner: Owner,
    pub(super) output: Payload,
}

impl Completion {
    pub(super) fn output(&self) -> Option<Json<&str>> {
        (!self.output.is_null()).then(|| Json(self.output.expose()))
    }
}

/// A step attempt to be written.
pub(super) struct StepWrite {
    owner: Owner,
    attempt: NewStepAttempt,
    /// `None` while it runs.
    result: Option<Result<Payload, String>>,
    /// What is added to the column of that name.
    config: Option<String>,
    asked: Instant,
}

impl StepWrite {
    pub(super) fn begun(owner: Owner, attempt: NewStepAttempt) -> Self {
        Self {
            owner,
            attempt,
            result: None,
            config: None,
            asked: Instant::now(),
        }
    }

    pub(super) fn ended(owner: Owner, ended: EndedStep) -> Self {
        Self {
            owner,
            attempt: ended.attempt,
            result: Some(ended.result),
            config: ended.config,
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

    fn context(&self) -> Option<Json<&str>> {
        self.attempt.context.as_deref().map(Json)
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

    fn config(&self) -> Option<Json<&str>> {
        self.config.as_deref().map(Json)
    }

    /// For how many seconds the attempt has run. The time in the queue is not the step's.
    fn age(&self) -> f64 {
        (self.attempt.begun_ago + self.asked.elapsed()).as_secs_f64()
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

    /// The next writes to share a commit. The same row twice has to wait its turn. Where
    /// nothing is left, `place` is given up.
    fn next(&self, place: &mut Place) -> Vec<Waiting> {
        let mut state = self.lock();
        let mut taken: Vec<Waiting> = Vec::new();
        let mut rows = HashSet::new();
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
                // Those who wait for the last commit go on now, and many of them want to write next.
                if !std::mem::take(&mut at_once) {
                    tokio::task::yield_now().await;
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
        let completions = CompletionColumns::of(completions);
        let mut params = steps.params().to_vec();
        params.extend(completions.params());
        let call = self.sql.write_all.with(&params);
        let rows = self.sessions.one(WhenLost::Again, call).await?;
        rows.iter().map(|row| rows::value(row, 0)).collect()
    }
}

fn column<'a, W, T>(writes: &[&'a W], get: impl Fn(&'a W) -> T) -> Vec<T> {
    writes.iter().map(|write| get(write)).collect()
}

/// The columns of completed runs.
struct CompletionColumns<'a> {
    namespace_ids: Vec<&'a str>,
    run_ids: Vec<&'a str>,
    worker_ids: Vec<&'a str>,
    attempts: Vec<i32>,
    outputs: Vec<Option<Json<&'a str>>>,
}

impl<'a> CompletionColumns<'a> {
    fn of(writes: &[&'a Completion]) -> Self {
        Self {
            namespace_ids: column(writes, |w| &*w.owner.namespace_id),
            run_ids: column(writes, |w| &*w.owner.run_id),
            worker_ids: column(writes, |w| &*w.owner.worker_id),
            attempts: column(writes, |w| claim_number(&w.owner)),
            outputs: column(writes, Completion::output),
        }
    }

    fn params(&self) -> [Param<'_>; 5] {
        [
            &self.namespace_ids,
            &self.run_ids,
            &self.worker_ids,
            &self.attempts,
            &self.outputs,
        ]
    }
}

/// The columns of step attempts.
struct StepColumns<'a> {
    namespace_ids: Vec<&'a str>,
    run_ids: Vec<&'a str>,
    worker_ids: Vec<&'a str>,
    attempts: Vec<i32>,
    ids: Vec<&'a str>,
    names: Vec<&'a str>,
    kinds: Vec<&'a str>,
    statuses: Vec<&'a str>,
    contexts: Vec<Option<Json<&'a str>>>,
    outputs: Vec<Option<Json<&'a str>>>,
    errors: Vec<Option<Json<&'a str>>>,
    ages: Vec<f64>,
    configs: Vec<Option<Json<&'a str>>>,
}

impl<'a> StepColumns<'a> {
    fn of(writes: &[&'a StepWrite]) -> Self {
        Self {
            namespace_ids: column(writes, |w| &*w.owner.namespace_id),
            run_ids: column(writes, |w| &*w.owner.run_id),
            worker_ids: column(writes, |w| &*w.owner.worker_id),
            attempts: column(writes, |w| claim_number(&w.owner)),
            ids: column(writes, |w| &*w.attempt.id),
            names: column(writes, |w| &*w.attempt.step_name),
            kinds: column(writes, |w| w.attempt.kind.as_str()),
            statuses: column(writes, StepWrite::status),
            contexts: column(writes, StepWrite::context),
            outputs: column(writes, StepWrite::output),
            errors: column(writes, StepWrite::error),
            ages: column(writes, StepWrite::age),
            configs: column(writes, StepWrite::config),
        }
    }

    fn params(&self) -> [Param<'_>; 13] {
        [
            &self.namespace_ids,
            &self.run_ids,
            &self.worker_ids,
            &self.attempts,
            &self.ids,
            &self.names,
            &self.kinds,
            &self.statuses,
            &self.contexts,
            &self.outputs,
            &self.errors,
            &self.ages,
            &self.configs,
        ]
    }
}
