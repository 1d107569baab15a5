//! What the engine says in the log by itself: one function for each event of `docs/logs.md`.
//!
//! An event has the ids of its run as fields, its name as the metadata's, and no payload.

use std::fmt;
use std::time::{Duration, SystemTime};

use tracing::{debug, error, info, warn};
use workflow_core::{Error, ErrorKind, Execution, ExecutionOutcome, Interruption, replay};

use crate::backend::{NewStepAttempt, Orphans, StepAttemptKind, codec};

/// One target for all of them, so that a filter need not know where in the engine each comes from.
const TARGET: &str = "openworkflow";

/// An event of an execution.
macro_rules! of_execution {
    ($level:ident, $name:literal, $execution:expr, { $($fields:tt)* }, $message:literal) => {{
        let execution: &Execution = $execution;
        $level!(
            name: $name,
            target: TARGET,
            { "workflow.name" = &*execution.run.workflow_name,
              "workflow_run.id" = &*execution.run.id,
              "workflow_run.attempt" = execution.attempt,
              $($fields)* },
            $message
        );
    }};
}

/// An event of a step.
macro_rules! of_step {
    ($level:ident, $name:literal, $execution:expr, $attempt:expr, { $($fields:tt)* }, $message:literal) => {{
        let attempt: &NewStepAttempt = $attempt;
        of_execution!($level, $name, $execution, {
            "step.name" = &*attempt.step_name,
            "step.kind" = attempt.kind.as_str(),
            $($fields)*
        }, $message);
    }};
}

pub(crate) fn run_created(workflow_name: &str, run_id: &str, deduplicated: bool) {
    info!(
        name: "run.created",
        target: TARGET,
        { "workflow.name" = workflow_name,
          "workflow_run.id" = run_id,
          "workflow_run.deduplicated" = deduplicated },
        "run created"
    );
}

/// `with` is the run that was canceled, where this one was canceled because its parent was.
pub(crate) fn run_canceled(workflow_name: &str, run_id: &str, with: Option<&str>) {
    // Workflow code may cancel runs, too, without a step.
    let _ours = replay::aside();
    match with {
        None => info!(
            name: "run.canceled",
            target: TARGET,
            { "workflow.name" = workflow_name, "workflow_run.id" = run_id },
            "run canceled"
        ),
        Some(with) => info!(
            name: "run.canceled",
            target: TARGET,
            { "workflow.name" = workflow_name, "workflow_run.id" = run_id, "canceled_with" = with },
            "run canceled with its parent"
        ),
    }
}

pub(crate) fn run_taken_over(execution: &Execution) {
    of_execution!(
        warn,
        "run.taken_over",
        execution,
        {},
        "run taken over: the worker that had it gave no sign of life until its lease ran out"
    );
}

/// `due_for` is how long the run was due before it was claimed.
pub(crate) fn execution_started(execution: &Execution, due_for: Duration) {
    of_execution!(
        info,
        "execution.start",
        execution,
        { "workflow_run.replay" = execution.replay, queue_ms = millis(due_for) },
        "execution started"
    );
}

/// The outcome is in the database.
pub(crate) fn execution_ended(execution: &Execution, outcome: &ExecutionOutcome, now: SystemTime) {
    let duration_ms = millis_since(execution.started_at, now);
    match outcome {
        ExecutionOutcome::Completed { .. } => of_execution!(
            info,
            "execution.end",
            execution,
            { "workflow.outcome" = "completed", duration_ms },
            "run completed"
        ),
        ExecutionOutcome::Continued { run_id } => of_execution!(
            info,
            "execution.end",
            execution,
            { "workflow.outcome" = "completed", duration_ms, continued_as = &**run_id },
            "run completed, and goes on as a new one"
        ),
        ExecutionOutcome::Parked { until } => of_execution!(
            info,
            "execution.end",
            execution,
            { "workflow.outcome" = "parked", duration_ms, until = %At(*until) },
            "run parked"
        ),
        ExecutionOutcome::Retrying { error, at } => of_execution!(
            warn,
            "execution.end",
            execution,
            { "workflow.outcome" = "retrying", duration_ms, "error.type" = error.error_type(), %error,
              failed_step = error.step_name(), retry_at = %At(*at) },
            "run put back, to be tried again"
        ),
        ExecutionOutcome::Failed { error } => of_execution!(
            error,
            "execution.end",
            execution,
            { "workflow.outcome" = "failed", duration_ms, "error.type" = error.error_type(), %error,
              failed_step = error.step_name() },
            "run failed"
        ),
        // An outcome that the database does not know is refused before it gets here.
        _ => {}
    }
}

/// It was dropped, or its last write was refused.
pub(crate) fn execution_interrupted(execution: &Execution, reason: Interruption, now: SystemTime) {
    let duration_ms = millis_since(execution.started_at, now);
    match reason {
        Interruption::LeaseLost => of_execution!(
            warn,
            "lease.lost",
            execution,
            { duration_ms },
            "lease lost: another worker has the run by now, or nobody knows; the execution is dropped"
        ),
        Interruption::DeadlineExceeded => of_execution!(
            error,
            "execution.end",
            execution,
            { "workflow.outcome" = "failed", duration_ms, "error.type" = reason.as_str() },
            "run failed: its deadline passed"
        ),
        Interruption::Canceled => of_execution!(
            info,
            "execution.end",
            execution,
            { "workflow.outcome" = "canceled", duration_ms },
            "run canceled; the execution is dropped"
        ),
        _ => of_execution!(
            info,
            "execution.end",
            execution,
            { "workflow.outcome" = "stale", duration_ms, "error.type" = reason.as_str() },
            "execution dropped: the worker stops"
        ),
    }
}

/// A body begins, or a wait is set up.
pub(crate) fn step_started(execution: &Execution, attempt: &NewStepAttempt) {
    of_step!(debug, "step.start", execution, attempt, {}, "step started");
}

/// Its result is in the database.
pub(crate) fn step_completed(execution: &Execution, attempt: &NewStepAttempt, timed_out: bool) {
    let outcome = if timed_out { "timed_out" } else { "completed" };
    of_step!(
        info,
        "step.complete",
        execution,
        attempt,
        { "step.outcome" = outcome, duration_ms = millis(attempt.begun_ago) },
        "step completed"
    );
}

/// How often a step has failed, and how often it may.
#[derive(Clone, Copy)]
pub(crate) struct Failures {
    pub(crate) count: u32,
    /// `None` where there is no limit.
    pub(crate) limit: Option<u32>,
}

/// Its failure is in the database. It is tried again at `retry_at`, or never.
pub(crate) fn step_failed(
    execution: &Execution,
    attempt: &NewStepAttempt,
    error: &Error,
    failures: Failures,
    retry_at: Option<SystemTime>,
) {
    let waits = attempt.kind != StepAttemptKind::Function;
    let outcome = if waits && error.kind() == ErrorKind::Timeout {
        "timed_out"
    } else {
        "failed"
    };
    match retry_at {
        Some(at) => of_step!(
            warn,
            "step.failed",
            execution,
            attempt,
            { "step.outcome" = outcome, "error.type" = error.error_type(), %error,
              attempt = failures.count, max_attempts = failures.limit, retry_at = %At(at) },
            "step failed, to be tried again"
        ),
        None => of_step!(
            error,
            "step.failed",
            execution,
            attempt,
            { "step.outcome" = outcome, "error.type" = error.error_type(), %error,
              attempt = failures.count, max_attempts = failures.limit },
            "step failed for good"
        ),
    }
}

/// A wait for a signal got what it waited for.
pub(crate) fn signal_received(execution: &Execution, attempt: &NewStepAttempt, signal: &str) {
    of_step!(
        info,
        "signal.received",
        execution,
        attempt,
        { "signal.name" = signal },
        "signal received"
    );
}

pub(crate) fn worker_started(
    namespace_id: &str,
    workflows: &impl fmt::Display,
    slots: usize,
    database: &str,
) {
    info!(
        name: "worker.start",
        target: TARGET,
        { namespace_id, %workflows, slots, database },
        "worker started"
    );
}

/// Runs are due that nobody takes.
pub(crate) fn runs_orphaned(namespace_id: &str, orphans: &Orphans) {
    warn!(
        name: "run.orphaned",
        target: TARGET,
        { "workflow.name" = orphans.workflow.name,
          "workflow.version" = orphans.workflow.version.as_deref(),
          namespace_id,
          runs = orphans.runs,
          at_least = orphans.at_least,
          queue_ms = millis(orphans.due_for),
          "workflow_run.id" = orphans.oldest_run_id },
        "runs are due that nobody takes: this worker does not have their workflow in that version, and who \
         has it is busy or not there; register exactly that name and version with a worker, or cancel them"
    );
}

pub(crate) fn worker_stopping(namespace_id: &str, executions: usize) {
    info!(
        name: "worker.stopping",
        target: TARGET,
        { namespace_id, executions },
        "worker stops: it claims nothing more, and waits for what is under way"
    );
}

pub(crate) fn worker_stopped(namespace_id: &str) {
    info!(name: "worker.stop", target: TARGET, { namespace_id }, "worker stopped");
}

pub(crate) fn worker_dropped(executions: usize) {
    warn!(
        name: "worker.dropped",
        target: TARGET,
        { executions },
        "a worker was dropped while runs were under way: others take them over when their leases have run \
         out; call WorkerHandle::stop to let them finish, or to give them back"
    );
}

fn millis_since(begin: SystemTime, now: SystemTime) -> u64 {
    millis(now.duration_since(begin).unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time as everything else here writes it.
struct At(SystemTime);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&codec::format_time(self.0))
    }
}
