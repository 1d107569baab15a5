//! Interceptors, made of closures where a test needs one.

mod change;
mod refuse;
mod see;
mod told;

use async_trait::async_trait;
use openworkflow::{
    CancelRun, CreateRun, CreatedRun, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result,
    SendSignal, SentSignal, StepCall, StepOutcome, Workflow, WorkflowSpec,
};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");
static CHILD: WorkflowSpec<u32, u32> = WorkflowSpec::new("child");

/// Hooks given as closures; those that are not given pass on.
#[derive(Default)]
struct Hooks {
    create_run: Option<Hook<CreateRun, CreatedRun>>,
    execute: Option<Hook<ExecuteRun, ExecutionOutcome>>,
    step: Option<Hook<StepCall, StepOutcome>>,
    send_signal: Option<Hook<SendSignal, SentSignal>>,
    cancel_run: Option<Hook<CancelRun, ()>>,
}

type WayIn<C, O> = dyn Fn(&mut C) -> Option<Result<O>> + Send + Sync;
type WayOut<O> = dyn Fn(Result<O>) -> Result<O> + Send + Sync;

/// What happens to the call on its way in, and to the outcome on its way out. A way in that gives
/// an outcome skips the rest.
struct Hook<C, O> {
    way_in: Box<WayIn<C, O>>,
    way_out: Box<WayOut<O>>,
}

fn way_in<C, O>(
    f: impl Fn(&mut C) -> Option<Result<O>> + Send + Sync + 'static,
) -> Option<Hook<C, O>> {
    Some(Hook {
        way_in: Box::new(f),
        way_out: Box::new(|outcome| outcome),
    })
}

fn way_out<C, O>(f: impl Fn(Result<O>) -> Result<O> + Send + Sync + 'static) -> Option<Hook<C, O>> {
    Some(Hook {
        way_in: Box::new(|_| None),
        way_out: Box::new(f),
    })
}

macro_rules! hooks {
    ($($hook:ident($call:ty) -> $output:ty;)*) => {
        #[async_trait]
        impl Interceptor for Hooks {
            $(async fn $hook(&self, mut call: $call, next: Next<'_, $call>) -> Result<$output> {
                let Some(hook) = &self.$hook else {
                    return next.run(call).await;
                };
                match (hook.way_in)(&mut call) {
                    Some(answer) => answer,
                    None => (hook.way_out)(next.run(call).await),
                }
            })*
        }
    };
}

hooks! {
    create_run(CreateRun) -> CreatedRun;
    execute(ExecuteRun) -> ExecutionOutcome;
    step(StepCall) -> StepOutcome;
    send_signal(SendSignal) -> SentSignal;
    cancel_run(CancelRun) -> ();
}

fn plus_one() -> Workflow {
    W.implement(|wf, n: u32| async move { wf.run("step", || async { Ok(n + 1) }).await })
}
