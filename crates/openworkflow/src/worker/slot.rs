//! One claimed run in one slot: from the claim to the write that ends the execution.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use workflow_core::{
    BoxFuture, Error, ErrorKind, Event, ExecuteRun, Execution, ExecutionOutcome, Interruption,
    Payload, PromisedEnd, Result, RunInfo, Unwritten, WakeCause,
};

use super::Shared;
use super::registry::describe;
use super::stop::{Stop, Urgency};
use super::vitals::Slot;
use crate::backend::{
    BackendError, BackendResult, ClaimedRun, ExecutionEnd, Owner, WorkflowKey, WorkflowRun, codec,
};
use crate::context::WorkflowContext;
use crate::execution::{
    Driver, DriverEnd, ExecutionState, MEND_RETRY, StepHistory, new_id, retry_transient,
};
use crate::lease::{Lease, Moment};
use crate::log;
use crate::lost;
use crate::payload;
use crate::retry::{RetryDecision, RetryPolicy};
use crate::wake;
use crate::workflow::Workflow;

/// Executes a claimed run and returns the worker id under which it was claimed. The slot is free again
/// once the workflow's code is at its end: what is left to write can share a commit with the next claim.
/// `asked` is when the claim was sent: the lease began no earlier.
pub(super) async fn execute(
    shared: Arc<Shared>,
    stop: Stop,
    slot: Slot,
    claimed: ClaimedRun,
    asked: Moment,
) -> Arc<str> {
    let claimed_at = Instant::now();
    let worker_id: Arc<str> = claimed.worker_id.into();
    let _at_work = stop.at_work();
    let mut owner = Owner::new(
        Arc::clone(&shared.namespace_id),
        claimed.id.as_str(),
        Arc::clone(&worker_id),
        claimed.attempts,
    );
    owner.claimed = claimed.times;
    let run = match claimed.run {
        Ok(run) => run,
        Err(error) => {
            put_back(&shared, &owner, claimed.attempts, &error).await;
            return worker_id;
        }
    };
    let mut woken_by = claimed.woken_by;
    let history = if run.attempts > 1 {
        let load = || shared.backend.load_history(&run.namespace_id, &run.id);
        match retry_transient(load).await {
            Ok(history) => {
                if let Some(times) = claimed.times {
                    woken_by = wake::cause(woken_by, times.due_at, wake::open_waits(&history));
                }
                StepHistory::new(history)
            }
            Err(error) => {
                put_back(&shared, &owner, run.attempts, &error).await;
                return worker_id;
            }
        }
    } else {
        // The first claim: nobody can have written a step.
        StepHistory::default()
    };
    let lease = Lease::new(shared.lease, asked);
    if !lease.holds() {
        // The answers took so long that the run may be another's by now: its code must not begin.
        let asked = Moment::now();
        if let Err(error) = shared.backend.extend_lease(&owner, shared.lease).await {
            tracing::warn!(workflow_run.id = run.id, %error, "the run was claimed too slowly to be executed");
            return worker_id;
        }
        lease.renew(asked);
    }
    SlotRun {
        shared,
        stop,
        owner,
        run,
        taken_over: claimed.taken_over,
        claimed_at,
        due_for: claimed.due_for,
        woken_by,
        lease: Arc::new(lease),
    }
    .execute(slot, history)
    .await;
    worker_id
}

/// Puts a run back whose rows cannot be read. Somebody may repair them.
async fn put_back(shared: &Shared, owner: &Owner, attempts: u32, error: &BackendError) {
    tracing::error!(workflow_run.id = &*owner.run_id, %error, "cannot read the run; it is put back");
    let at = shared.backend.clock().now() + MEND_RETRY.delay(attempts);
    let error = codec::encode_run_error(&Error::of_kind(ErrorKind::Backend, error.to_string()));
    let end = ExecutionEnd::Retry {
        error,
        at,
        waits: Vec::new(),
    };
    let written = retry_transient(|| shared.backend.end_execution(owner, end.clone())).await;
    report_unwritten(owner, &written);
}

fn report_unwritten(owner: &Owner, written: &BackendResult<()>) {
    match written {
        Ok(()) => {}
        Err(BackendError::OwnershipLost { .. }) => {
            tracing::debug!(
                workflow_run.id = &*owner.run_id,
                "the run was taken away before its last write"
            );
        }
        Err(error) => {
            tracing::error!(
                workflow_run.id = &*owner.run_id,
                %error,
                "cannot write the end of the execution; the run is left until its lease runs out"
            );
        }
    }
}

/// What the workflow's code left for the write that ends the execution.
#[derive(Default)]
struct Left {
    /// The attempts that wait.
    waits: Vec<Arc<str>>,
    /// The input with which the run goes on as a new one.
    input: Option<Payload>,
}

pub(super) struct SlotRun {
    pub(super) shared: Arc<Shared>,
    stop: Stop,
    pub(super) owner: Owner,
    pub(super) run: WorkflowRun,
    taken_over: bool,
    claimed_at: Instant,
    /// For how long the run was due before it was claimed.
    due_for: Duration,
    woken_by: Option<WakeCause>,
    lease: Arc<Lease>,
}

impl SlotRun {
    async fn execute(mut self, slot: Slot, history: StepHistory) {
        let backend = &self.shared.backend;
        let mut info = RunInfo::new(
            Arc::clone(&self.owner.namespace_id),
            Arc::clone(&self.owner.run_id),
            self.run.workflow_name.as_str(),
        )
        .with_carrier(std::mem::take(&mut self.run.carrier));
        if let Some(version) = &self.run.version {
            info = info.with_workflow_version(version.as_str());
        }
        if self.taken_over {
            let attempt = self.run.attempts.checked_sub(1);
            lost::tell(&**backend, &self.shared.chain, &info, attempt).await;
        }
        let mut execution = Execution::new(
            info,
            self.run.attempts,
            history.len() > 0,
            Arc::clone(&self.owner.worker_id),
            backend.clock().now(),
        )
        .with_run_created_at(self.run.created_at)
        .with_claim(self.claimed_at, self.due_for);
        execution.woken_by = self.woken_by;
        let execution = Arc::new(execution);
        let state = Arc::new(ExecutionState::new(
            Arc::clone(&execution),
            Arc::clone(backend),
            self.shared.chain.clone(),
            self.owner.clone(),
            self.run.created_at,
            self.run.deadline_at,
            self.run.parent_step_attempt_id.is_some(),
            self.taken_over,
            Arc::clone(&self.lease),
            self.shared.strict_replay,
            Arc::clone(&self.shared.told_of_tasks),
            history,
        ));
        let left = Mutex::new(Left::default());
        let chain = &self.shared.chain;
        let end = chain.promise_end(&execution);
        let ended = {
            let input = std::mem::take(&mut self.run.input);
            let call = ExecuteRun::new(Arc::clone(&execution), input);
            let outcome = chain.call(call, |call| async {
                Ok(self.run_code(&state, call, &left).await)
            });
            // Declared before the guard, so that the guard is dropped first and its reason is known
            // to the hooks that are dropped with the future.
            let mut outcome = Some(Box::pin(outcome));
            let aborted = AbortGuard(Some(&state));
            let ended = match &mut outcome {
                None => return,
                Some(outcome) => tokio::select! {
                    biased;
                    reason = self.interrupted(&state) => Err(reason),
                    outcome = self.lease.gate(outcome.as_mut()) => Ok(outcome),
                },
            };
            aborted.disarm();
            state.over(ended.as_ref().err().copied());
            if ended.is_err() {
                // A destructor of user code or of an interceptor may panic.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(outcome.take()))) {
                    let error = Error::from_panic(&*panic);
                    tracing::error!(workflow_run.id = self.run.id, %error, "a dropped execution panicked");
                }
            }
            ended
        };
        drop(slot);
        let left = left.into_inner().unwrap_or_else(PoisonError::into_inner);
        match ended {
            Ok(outcome) => self.finish(&execution, end, outcome, left).await,
            Err(reason) => self.after_interruption(&execution, end, reason).await,
        }
    }

    /// Runs the workflow's code and decides what follows.
    async fn run_code(
        &self,
        state: &Arc<ExecutionState>,
        call: ExecuteRun,
        left: &Mutex<Left>,
    ) -> ExecutionOutcome {
        if self.taken_over {
            log::run_taken_over(&state.execution);
        }
        log::execution_started(&state.execution, self.due_for);
        let key = WorkflowKey::new(&*self.run.workflow_name, self.run.version.clone());
        let Some(workflow) = self.shared.registry.get(&key) else {
            let message = format!("{} is not registered", describe(&key));
            let error = Error::of_kind(ErrorKind::NotRegistered, message);
            return self.decide_unless_overdue(&MEND_RETRY, error);
        };
        let code = match start_code(workflow, state, call) {
            Ok(code) => code,
            // An input that was read before, or is damaged, is nobody's fault who could be told.
            Err(error) if state.execution.replay || error.kind() == ErrorKind::Backend => {
                return self.decide_unless_overdue(&MEND_RETRY, error);
            }
            Err(error) => {
                let error = error.non_retryable();
                return ExecutionOutcome::Failed { error };
            }
        };
        let mut input = None;
        let (outcome, waits) = match Driver::new(Arc::clone(state), code).await {
            DriverEnd::Returned(Ok(output)) => (ExecutionOutcome::Completed { output }, Vec::new()),
            DriverEnd::Returned(Err(error)) => (self.decide(workflow, error), Vec::new()),
            DriverEnd::Fatal(error) => (ExecutionOutcome::Failed { error }, Vec::new()),
            DriverEnd::Continued { input: next } => {
                input = Some(next);
                (ExecutionOutcome::Continued { run_id: new_id() }, Vec::new())
            }
            DriverEnd::Waiting { until, waits } => (ExecutionOutcome::Parked { until }, waits),
            DriverEnd::Retrying { error, at, waits } => {
                (ExecutionOutcome::Retrying { error, at }, waits)
            }
        };
        *left.lock().unwrap_or_else(PoisonError::into_inner) = Left { waits, input };
        outcome
    }

    /// What follows an error of the workflow's own, or of a step that failed for good.
    fn decide(&self, workflow: &Workflow, error: Error) -> ExecutionOutcome {
        if error.step_name().is_some() {
            return ExecutionOutcome::Failed { error };
        }
        let now = self.now();
        let decision = workflow.retry_policy().decide(
            self.run.attempts,
            &error,
            now,
            self.run.deadline_at,
            now,
        );
        match decision {
            RetryDecision::RetryAt(at) => ExecutionOutcome::Retrying { error, at },
            RetryDecision::GiveUp => ExecutionOutcome::Failed { error },
            RetryDecision::DeadlinePassed => ExecutionOutcome::Failed {
                error: codec::deadline_error(),
            },
        }
    }

    /// Tries again without a limit, unless the run's deadline comes first.
    fn decide_unless_overdue(&self, policy: &RetryPolicy, error: Error) -> ExecutionOutcome {
        let now = self.now();
        match policy.decide(self.run.attempts, &error, now, self.run.deadline_at, now) {
            RetryDecision::RetryAt(at) => ExecutionOutcome::Retrying { error, at },
            RetryDecision::GiveUp => ExecutionOutcome::Failed { error },
            RetryDecision::DeadlinePassed => ExecutionOutcome::Failed {
                error: codec::deadline_error(),
            },
        }
    }

    fn now(&self) -> SystemTime {
        self.shared.backend.clock().now()
    }

    /// Resolves when the execution is to be dropped: the run is no longer ours, or the worker stops.
    async fn interrupted(&self, state: &ExecutionState) -> Interruption {
        tokio::select! {
            reason = state.interrupted() => reason,
            reason = self.lease.keep(&*self.shared.backend, &self.owner) => reason,
            () = self.stop.reached(Urgency::Releasing) => Interruption::WorkerStopped,
        }
    }

    /// Writes the outcome, and tells what came of it.
    async fn finish(
        &self,
        execution: &Arc<Execution>,
        end: PromisedEnd,
        outcome: Result<ExecutionOutcome>,
        Left { waits, input }: Left,
    ) {
        let mut outcome = outcome.unwrap_or_else(|error| self.refused(error));
        let mut written;
        if let ExecutionOutcome::Continued { run_id } = &outcome {
            let run_id = Arc::clone(run_id);
            (outcome, written) = self.go_on_as(execution, run_id, input).await;
        } else {
            written = self.write(&outcome, &waits).await;
        }
        if let (
            Err(BackendError::ValueRefused { problem, .. }),
            ExecutionOutcome::Completed { .. },
        ) = (&written, &outcome)
        {
            // It would be refused again, whoever executes the run.
            let subject = format!("the output of workflow {:?}", self.run.workflow_name);
            let error = payload::refused(&subject, problem);
            outcome = ExecutionOutcome::Failed { error };
            written = self.write(&outcome, &waits).await;
        }
        let chain = &self.shared.chain;
        chain.within(execution, || {
            match &written {
                Ok(()) => log::execution_ended(execution, &outcome, self.now()),
                Err(BackendError::OwnershipLost { reason }) => {
                    log::execution_interrupted(execution, *reason, self.now());
                }
                Err(_) => {}
            }
            report_unwritten(&self.owner, &written);
        });
        match &written {
            Ok(()) => {
                let failed = matches!(outcome, ExecutionOutcome::Failed { .. });
                self.shared.vitals.execution_ended(failed);
                end.tell(Ok(&outcome));
            }
            Err(BackendError::OwnershipLost { reason }) => {
                self.note(*reason);
                chain.event(&Event::execution_interrupted(execution, *reason));
                end.tell(Err(Unwritten::Interrupted(*reason)));
            }
            Err(error) => {
                let error = Error::of_kind(ErrorKind::Backend, error.to_string());
                end.tell(Err(Unwritten::Failed(&error)));
            }
        }
    }

    /// What follows an error of an interceptor's: it is not the workflow's failure, so not its policy's to
    /// count.
    pub(super) fn refused(&self, error: Error) -> ExecutionOutcome {
        self.decide_unless_overdue(&INTERCEPTOR_RETRY, error)
    }

    pub(super) async fn write(
        &self,
        outcome: &ExecutionOutcome,
        waits: &[Arc<str>],
    ) -> BackendResult<()> {
        let backend = &self.shared.backend;
        let write = || {
            let last = last_write(outcome, waits);
            async { backend.end_execution(&self.owner, last?).await }
        };
        retry_transient(write).await
    }

    /// Notes an execution that was dropped.
    fn note(&self, reason: Interruption) {
        let vitals = &self.shared.vitals;
        match reason {
            // A worker that stops gives its runs back.
            Interruption::WorkerStopped => {}
            Interruption::LeaseLost => {
                vitals.lease_lost();
                vitals.execution_ended(false);
            }
            reason => vitals.execution_ended(reason == Interruption::DeadlineExceeded),
        }
    }

    async fn after_interruption(
        &self,
        execution: &Execution,
        end: PromisedEnd,
        reason: Interruption,
    ) {
        self.note(reason);
        let chain = &self.shared.chain;
        chain.within(execution, || {
            log::execution_interrupted(execution, reason, self.now());
        });
        chain.event(&Event::execution_interrupted(execution, reason));
        end.tell(Err(Unwritten::Interrupted(reason)));
        if reason == Interruption::WorkerStopped && self.stop.urgency() < Urgency::Aborting {
            // Due at once, so that another worker need not wait for the lease to run out.
            let backend = &self.shared.backend;
            let written = backend
                .end_execution(&self.owner, ExecutionEnd::GiveBack)
                .await;
            report_unwritten(&self.owner, &written);
        }
    }
}

/// How an execution is tried again that an interceptor refused or broke.
const INTERCEPTOR_RETRY: RetryPolicy = RetryPolicy::unlimited();

/// The write that makes `outcome` last.
fn last_write(outcome: &ExecutionOutcome, waits: &[Arc<str>]) -> BackendResult<ExecutionEnd> {
    Ok(match outcome {
        ExecutionOutcome::Completed { output } => ExecutionEnd::Complete {
            output: output.clone(),
        },
        ExecutionOutcome::Failed { error } => ExecutionEnd::Fail {
            error: codec::encode_run_error(error),
        },
        ExecutionOutcome::Retrying { error, at } => ExecutionEnd::Retry {
            error: codec::encode_run_error(error),
            at: *at,
            waits: waits.to_vec(),
        },
        ExecutionOutcome::Parked { until } => ExecutionEnd::Park {
            until: *until,
            waits: waits.to_vec(),
        },
        other => {
            let message = format!("the outcome {other:?} is unknown to the database");
            return Err(BackendError::Driver {
                source: message.as_str().into(),
                message,
                transient: false,
            });
        }
    })
}

/// The workflow's code, about to begin; an error where its input cannot be read.
fn start_code(
    workflow: &Workflow,
    state: &Arc<ExecutionState>,
    call: ExecuteRun,
) -> Result<BoxFuture<'static, Result<Payload>>> {
    let context = WorkflowContext::new(Arc::clone(state));
    // User code may panic before it returns a future.
    match catch_unwind(AssertUnwindSafe(|| workflow.call(context, call.input))) {
        Ok(code) => code,
        Err(panic) => Ok(Box::pin(std::future::ready(Err(Error::from_panic(
            &*panic,
        ))))),
    }
}

/// Gives the reason where a task is dropped from outside, as at a hard stop.
struct AbortGuard<'a>(Option<&'a ExecutionState>);

impl AbortGuard<'_> {
    /// The execution came to its end, or its reason is known.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for AbortGuard<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.0 {
            state.over(Some(Interruption::WorkerStopped));
        }
    }
}
