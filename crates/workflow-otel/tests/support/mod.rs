//! A workflow engine of a few lines: it makes the calls that a real one makes, in the order that a
//! test scripts, and keeps nothing but the carriers of the runs it created.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use workflow_core::{
    Chain, CreateRun, Error, ExecuteRun, Execution, ExecutionOutcome, Interceptor, ParentStep,
    Payload, Result, RunInfo, StepCall, StepKind, StepOutcome, StepPhase,
};

pub(crate) struct Engine(pub(crate) Chain);

/// A point in time that tests can spell out: 2026-01-02T03:04:05.678Z.
pub(crate) fn instant() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_678)
}

pub(crate) fn run(workflow: &str, id: &str) -> RunInfo {
    RunInfo::new("default", id, workflow)
}

pub(crate) fn completed() -> ExecutionOutcome {
    let output = Payload::from_json("\"output-marker\"");
    ExecutionOutcome::Completed { output }
}

pub(crate) fn parked() -> ExecutionOutcome {
    ExecutionOutcome::Parked { until: instant() }
}

pub(crate) fn done() -> Result<StepOutcome> {
    let output = Payload::from_json("\"result-marker\"");
    Ok(StepOutcome::Completed { output })
}

pub(crate) fn waiting() -> Result<StepOutcome> {
    Ok(StepOutcome::Parked { until: instant() })
}

/// A step call under a name of the author's, ready to be changed.
pub(crate) fn step(execution: &Arc<Execution>, name: &str, kind: StepKind) -> StepCall {
    let attempt_id = format!("attempt-of-{name}");
    StepCall::new(Arc::clone(execution), name.into(), kind, attempt_id.into())
}

pub(crate) fn resolve(mut call: StepCall) -> StepCall {
    call.phase = StepPhase::Resolve;
    call
}

impl Engine {
    pub(crate) fn new(interceptor: impl Interceptor) -> Self {
        Self(Chain::new([Arc::new(interceptor) as Arc<dyn Interceptor>]))
    }

    /// Creates a run as a client or as the step of a parent; returns it as it would be stored.
    pub(crate) async fn create(&self, run: RunInfo, parent: Option<ParentStep>) -> RunInfo {
        let mut call = CreateRun::new(run, Payload::from_json("\"input-marker\""));
        call.parent = parent;
        let mut stored = None;
        let create = |call: CreateRun| {
            stored = Some(call.run.clone());
            async move { Ok(workflow_core::CreatedRun::new(call.run.id, false)) }
        };
        self.0.call(call, create).await.unwrap();
        stored.unwrap()
    }

    pub(crate) async fn execute<F: Future<Output = Result<ExecutionOutcome>> + Send>(
        &self,
        run: &RunInfo,
        attempt: u32,
        workflow: impl FnOnce(Arc<Execution>) -> F + Send,
    ) -> Result<ExecutionOutcome> {
        let execution = Execution::new(run.clone(), attempt, attempt > 1, "worker-1", instant());
        self.execute_as(Arc::new(execution), workflow).await
    }

    pub(crate) async fn execute_as<F: Future<Output = Result<ExecutionOutcome>> + Send>(
        &self,
        execution: Arc<Execution>,
        workflow: impl FnOnce(Arc<Execution>) -> F + Send,
    ) -> Result<ExecutionOutcome> {
        let call = ExecuteRun::new(execution, Payload::from_json("\"input-marker\""));
        self.0.call(call, |call| workflow(call.execution)).await
    }

    pub(crate) async fn step<F: Future<Output = Result<StepOutcome>> + Send>(
        &self,
        call: StepCall,
        body: impl FnOnce() -> F + Send,
    ) -> Result<StepOutcome> {
        self.0.call(call, |_| body()).await
    }

    /// A step that creates a child run and parks; the child as it would be stored.
    pub(crate) async fn start_child(&self, execution: &Arc<Execution>, child: RunInfo) -> RunInfo {
        let call = child_step(execution, &child);
        let parent = ParentStep::new(
            Arc::clone(execution),
            Arc::clone(&call.name),
            Arc::clone(&call.attempt_id),
        );
        let mut stored = None;
        let set_up = || async {
            stored = Some(self.create(child, Some(parent)).await);
            waiting()
        };
        self.step(call, set_up).await.unwrap();
        stored.unwrap()
    }
}

pub(crate) fn child_step(execution: &Arc<Execution>, child: &RunInfo) -> StepCall {
    let kind = StepKind::run_workflow(
        Arc::clone(&child.workflow_name),
        None,
        Arc::clone(&child.id),
        instant(),
    );
    let mut call = step(execution, &child.workflow_name, kind);
    call.named = false;
    call
}

pub(crate) fn signal_step(execution: &Arc<Execution>, signal: &str) -> StepCall {
    let kind = StepKind::wait_for_signal(signal.into(), instant());
    let mut call = step(execution, signal, kind);
    call.named = false;
    call
}

/// The outcome of an execution in which `step` failed with `error`, to be tried again.
pub(crate) fn retrying(step: &str, error: Error) -> ExecutionOutcome {
    ExecutionOutcome::Retrying {
        error: error.with_step_name(step.into()),
        at: instant(),
    }
}
