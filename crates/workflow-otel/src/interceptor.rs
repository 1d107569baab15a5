//! The hooks: what happens in an engine, handed to the signals.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use workflow_core::{
    BoxFuture, CancelRun, CreateRun, CreatedRun, Event, ExecuteRun, Execution, ExecutionOutcome,
    Interceptor, Next, Result, SendSignal, SentSignal, StepCall, StepOutcome,
};

use crate::losses::Losses;
#[cfg(feature = "metrics")]
use crate::metrics::{Metrics, seen_in};
use crate::traces::{RunEnd, Scoped, Traces};
#[cfg(feature = "metrics")]
use opentelemetry::trace::TraceContextExt;

/// Makes OpenTelemetry spans of what a workflow engine does, and metrics with the feature `metrics`.
///
/// The same object (or a clone of it) is registered with clients and with workers. The default uses
/// the global providers and the global propagator; each may be set later.
///
/// It never fails a call: what telemetry cannot do is [counted](Self::losses) instead.
///
/// ```
/// use std::sync::Arc;
/// use workflow_core::{Chain, Interceptor};
/// use workflow_otel::OtelInterceptor;
///
/// let otel = OtelInterceptor::default();
/// let chain = Chain::new([Arc::new(otel.clone()) as Arc<dyn Interceptor>]);
/// assert_eq!(otel.losses().panics, 0);
/// ```
#[derive(Clone)]
pub struct OtelInterceptor {
    traces: Arc<Traces>,
    #[cfg(feature = "metrics")]
    metrics: Arc<Metrics>,
}

impl OtelInterceptor {
    pub(crate) fn new(#[cfg(feature = "metrics")] metrics: Metrics, traces: Traces) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            metrics: Arc::new(metrics),
            traces: Arc::new(traces),
        }
    }

    /// What telemetry lost so far, by this interceptor and its clones.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.traces.losses.read()
    }
}

impl OtelInterceptor {
    async fn traced_creation(
        &self,
        mut call: CreateRun,
        next: Next<'_, CreateRun>,
    ) -> Result<CreatedRun> {
        let traces = &*self.traces;
        let parent = call.parent.clone();
        let open = if let Some(execution) = &call.continues {
            let execution = Arc::clone(execution);
            traces.pass_on(&execution, &mut call);
            None
        } else if let Some(parent) = &parent {
            traces.inject_child(parent, &mut call);
            traces.logged(None, &call.run.workflow_name)
        } else {
            traces.create_run(&mut call)
        };
        let created = match open {
            Some(open) => Scoped::new(open, next, call).await,
            None => next.run(call).await,
        };
        if let (Some(parent), Ok(created)) = (&parent, &created) {
            traces.child_created(parent, created);
        }
        created
    }
}

/// When a run ended, by the clock that its creation is told by.
fn ended_at(created_at: Option<SystemTime>, age: Option<Duration>) -> Option<SystemTime> {
    created_at?.checked_add(age?)
}

impl fmt::Debug for OtelInterceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("OtelInterceptor");
        shown.field("config", &self.traces.config);
        #[cfg(feature = "metrics")]
        shown.field("metrics", self.metrics.config());
        shown.field("losses", &self.losses()).finish()
    }
}

/// A hook in the form that the trait declares, its body what a signal makes of the call.
macro_rules! hook {
    ($hook:ident($call:ty) -> $output:ty, |$traces:ident, $it:ident| $open:expr) => {
        fn $hook<'life0, 'life1, 'async_trait>(
            &'life0 self,
            #[allow(unused_mut)] mut $it: $call,
            next: Next<'life1, $call>,
        ) -> BoxFuture<'async_trait, Result<$output>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            // Nothing happens before the first poll: the current context is the caller's then.
            Box::pin(async move {
                let $traces = &*self.traces;
                #[cfg(feature = "metrics")]
                let mut measured = self.metrics.$hook(&$it);
                let open = $open;
                #[cfg(feature = "metrics")]
                if let Some(measured) = &mut measured {
                    let seen = self.metrics.keeps_exemplars();
                    let span = open.as_ref().filter(|_| seen);
                    measured.seen_in(span.and_then(|open| seen_in(open.cx.span().span_context())));
                }
                let result = match open {
                    Some(open) => Scoped::new(open, next, $it).await,
                    None => next.run($it).await,
                };
                #[cfg(feature = "metrics")]
                if let Some(measured) = measured {
                    measured.end(&result);
                }
                result
            })
        }
    };
}

impl Interceptor for OtelInterceptor {
    fn create_run<'life0, 'life1, 'async_trait>(
        &'life0 self,
        call: CreateRun,
        next: Next<'life1, CreateRun>,
    ) -> BoxFuture<'async_trait, Result<CreatedRun>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            #[cfg(feature = "metrics")]
            let measured = self.metrics.create_run(&call);
            let result = self.traced_creation(call, next).await;
            #[cfg(feature = "metrics")]
            if let Some(measured) = measured {
                measured.end(&result);
            }
            result
        })
    }

    hook!(execute(ExecuteRun) -> ExecutionOutcome, |traces, call| Some(traces.execute(&call)));
    hook!(step(StepCall) -> StepOutcome, |traces, call| traces.step(&call));
    hook!(send_signal(SendSignal) -> SentSignal, |traces, call| traces.send_signal(&call));

    fn cancel_run<'life0, 'life1, 'async_trait>(
        &'life0 self,
        call: CancelRun,
        next: Next<'life1, CancelRun>,
    ) -> BoxFuture<'async_trait, Result<()>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        // What came of it is an event, for metrics.
        Box::pin(async move {
            match self.traces.cancel_run(&call) {
                Some(open) => Scoped::new(open, next, call).await,
                None => next.run(call).await,
            }
        })
    }

    fn within(&self, execution: &Execution, work: &mut dyn FnMut()) {
        self.traces.within(execution, work);
    }

    fn event(&self, event: &Event<'_>) {
        let traces = &*self.traces;
        #[cfg(feature = "metrics")]
        {
            let span = match event {
                Event::ExecutionEnded { execution, .. } if self.metrics.keeps_exemplars() => {
                    traces.unwritten_span(execution)
                }
                _ => None,
            };
            self.metrics.event(event, span.as_ref().and_then(seen_in));
        }
        match event {
            Event::StepFailed {
                execution,
                step_name,
                error,
                ..
            } => traces.step_failed(execution, step_name, error),
            Event::NonDeterminism {
                execution,
                step_name,
                recorded_step_name,
                ..
            } => traces.departed(execution, *step_name, *recorded_step_name),
            Event::ExecutionEnded {
                execution, written, ..
            } => traces.execution_ended(execution, written),
            Event::ExecutionLost {
                run,
                created_at,
                lost,
                ..
            } => traces.execution_lost(run, *created_at, lost),
            Event::RunCanceled {
                run,
                created_at,
                age,
                ..
            } => {
                let ended_at = ended_at(*created_at, *age);
                traces.run_ended(run, *created_at, ended_at, &RunEnd::Canceled);
            }
            Event::RunOverdue {
                run,
                error,
                created_at,
                age,
                ..
            } => {
                let ended_at = ended_at(*created_at, *age);
                traces.run_ended(run, *created_at, ended_at, &RunEnd::Failed(error));
            }
            _ => {}
        }
    }
}
