//! The traces that the contract (`docs/trace-contract.md`) asks for, as whole trees, from runs on a
//! real database. Each scenario is written once and runs on every backend.

mod bars;
mod children;
mod continued;
mod contract;
mod endings;
mod errors;
mod origins;
mod signals;
mod steps;

use std::future::Future;
use std::time::Duration;

use openworkflow::backend::{Backend, RunStatus, WorkflowRun};
use openworkflow::otel::opentelemetry::Context;
use openworkflow::otel::opentelemetry::trace::{
    FutureExt, TraceContextExt, Tracer, TracerProvider,
};
use openworkflow::otel::testing::SpanCollector;
use openworkflow::otel::{OtelInterceptor, OtelInterceptorBuilder, TraceMode};
use openworkflow::{
    Client, RetryPolicy, RunHandle, StartRunRequest, Worker, WorkerBuilder, WorkerHandle, Workflow,
};
use serde::de::DeserializeOwned;

pub(crate) use {
    bars::*, children::*, continued::*, endings::*, errors::*, origins::*, signals::*, steps::*,
};

/// Long enough for any wait of these scenarios to end, short enough to fail a test in good time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Retries fast, so that a scenario takes milliseconds.
const SOON: RetryPolicy = RetryPolicy::attempts(3).initial_interval(Duration::from_millis(5));

/// A client and a worker under observation.
struct Traced {
    spans: SpanCollector,
    /// Its calls are traced.
    client: Client,
    /// Its calls are not: somebody in another process, whose spans would be another trace.
    stranger: Client,
    worker: WorkerHandle,
}

impl Traced {
    fn new<S: Backend + Clone>(
        store: &S,
        worker: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> Self {
        Self::with(store, |otel| otel, worker)
    }

    fn linked<S: Backend + Clone>(
        store: &S,
        worker: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> Self {
        Self::with(store, |otel| otel.trace_mode(TraceMode::Linked), worker)
    }

    fn with<S: Backend + Clone>(
        store: &S,
        otel: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder,
        worker: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> Self {
        Self::inside(store, |worker| worker, otel, worker)
    }

    /// With interceptors and layers further out than the one that traces.
    fn inside<S: Backend + Clone>(
        store: &S,
        outer: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
        otel: impl FnOnce(OtelInterceptorBuilder) -> OtelInterceptorBuilder,
        worker: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> Self {
        let spans = SpanCollector::new();
        let provider = spans.provider();
        let otel = otel(OtelInterceptor::builder().tracer_provider(&provider)).build();
        let outer = outer(Worker::builder(store.clone()));
        let configured = worker(outer.interceptor(otel.clone()));
        Self {
            spans,
            client: Client::builder(store.clone()).interceptor(otel).build(),
            stranger: Client::new(store.clone()),
            worker: configured.build().unwrap().start(),
        }
    }

    /// Starts a run under the span of a caller, who does not wait for it.
    async fn start<O: 'static>(&self, request: StartRunRequest<O>) -> RunHandle<O> {
        let tracer = self.spans.provider().tracer("app");
        let caller = Context::new().with_span(tracer.start("caller"));
        let handle = request.with_context(caller.clone()).await.unwrap();
        caller.span().end();
        handle
    }

    /// Starts a run under the span of a caller and waits until it is over.
    async fn run<O: DeserializeOwned + 'static>(&self, request: StartRunRequest<O>) {
        let run = self.start(request).await;
        over(&run).await;
    }

    /// Stops the worker and returns what was collected, once it has been checked for what every trace
    /// must be.
    async fn spans(mut self) -> SpanCollector {
        self.worker.stop().await.unwrap();
        contract::check(&self.spans);
        self.spans
    }
}

/// A worker that has nothing to do.
fn idle(worker: WorkerBuilder) -> WorkerBuilder {
    worker.workflow(Workflow::new("idle", |_, ()| async { Ok(()) }))
}

/// The tree with what tells executions and steps apart, and what became of them.
fn tree(spans: &SpanCollector) -> openworkflow::otel::testing::SpanTree {
    spans
        .tree()
        .kinds()
        .statuses()
        .events()
        .links()
        .attributes([
            "workflow.outcome",
            "step.outcome",
            "error.type",
            "exception.type",
            "exception.message",
            "workflow_run.attempt",
            "step_attempt.prior_failures",
            "signal.recipient_count",
        ])
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, condition: impl Fn() -> F) -> T {
    let wait = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Waits until the run is over.
async fn over<O>(run: &RunHandle<O>) -> WorkflowRun {
    until("the run is over", || async {
        run.describe()
            .await
            .ok()
            .filter(|run| run.status.is_terminal())
    })
    .await
}

/// Waits until the run is parked: nobody executes it and it is not due.
async fn parked<O>(run: &RunHandle<O>) -> WorkflowRun {
    until("the run is parked", || async {
        let run = run.describe().await.ok()?;
        (run.status == RunStatus::Running && run.worker_id.is_none()).then_some(run)
    })
    .await
}

/// Waits for the run that a step of `parent` created.
async fn child_of<O>(client: &Client, parent: &RunHandle<O>) -> RunHandle<()> {
    let id = until("there is a child", || async {
        let steps = client.list_steps(parent.id()).await.ok()?;
        steps
            .items
            .into_iter()
            .find_map(|step| step.child_workflow_run_id)
    })
    .await;
    client.handle(id)
}

/// Makes a test of each scenario, on stores that `$store` makes.
macro_rules! on {
    ($store:expr => $($scenario:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $scenario() {
            let (store, _keep) = $store.await;
            golden_traces::$scenario(store).await;
        }
    )*};
}

/// Every scenario, on stores that `$store` makes together with something to keep meanwhile.
macro_rules! golden_traces {
    ($store:expr) => {
        golden_traces::on! { $store =>
            process_order process_order_linked
            parallel_branches parallel_branches_linked
            two_children two_children_linked
            grandchild grandchild_linked
            child_failed_uncaught child_failed_uncaught_linked child_failed_caught
            child_canceled_uncaught child_canceled_caught
            child_timed_out_uncaught child_timed_out_caught
            signal_delivered signal_timed_out signal_refused signal_before_parking
            signal_sent_by_a_step signal_sent_by_a_client signal_sent_until_received
            step_retried_to_exhaustion step_panics workflow_retried
            canceled_while_parked canceled_during_a_step
            deadline_while_parked deadline_during_a_step unregistered_workflow
            worker_stopped_during_a_step
            last_write_refused cancel_of_an_unknown_run
            refused_out_of_sight answered_with_nonsense timed_out_further_out took_longer_than_its_limit stored_result_no_longer_fits
            results_that_cannot_be_read_back a_step_of_another_kind
            step_left_out_by_a_sampler execution_timed_out_further_out
            step_beside_a_panic step_beside_an_error
            idempotent_start delayed_start start_refused start_changed_further_in
            no_caller unsampled_caller no_carrier
            continued_as_new continued_as_new_linked
            process_order_as_a_bar canceled_as_a_bar overdue_as_a_bar continued_as_bars
        }
    };
}
pub(crate) use {golden_traces, on};
