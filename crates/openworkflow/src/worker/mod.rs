//! Workers: they claim runs and execute them.

mod orphans;
mod pool;
mod queue;
mod registry;
mod share;
mod slot;
mod state;
mod stop;
pub(crate) mod successor;
mod tick;
mod vitals;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use workflow_core::{Chain, Error, Interceptor};

use crate::backend::{Backend, BackendError};
use crate::execution::ToldOfTasks;
use crate::health::{Health, HealthLimits, TelemetryLosses};
use crate::layer::StepLayer;
use crate::name;
#[cfg(feature = "observe")]
use crate::observe::{Bound, Observe};
use crate::workflow::Workflow;

pub use stop::WorkerHandle;

use registry::Registry;
use share::Share;
use stop::{Stop, Urgency};
pub(crate) use vitals::Vitals;

/// The protocol's lease: a worker that shows no sign of life for so long has lost its runs.
const LEASE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
const CONCURRENCY: usize = 10;
/// Every slot that is free costs something at every claim.
const MAX_CONCURRENCY: usize = 10_000;

/// What the executions of one worker share.
struct Shared {
    backend: Arc<dyn Backend>,
    chain: Chain,
    namespace_id: Arc<str>,
    registry: Registry,
    share: Share,
    concurrency: usize,
    lease: Duration,
    stop_deadline: Duration,
    strict_replay: bool,
    told_of_tasks: Arc<ToldOfTasks>,
    vitals: Arc<Vitals>,
    counts_queue: bool,
}

/// What a worker's health is judged by.
pub(crate) struct HealthFacts {
    shared: Arc<Shared>,
    stop: Stop,
}

impl HealthFacts {
    pub(crate) fn vitals(&self) -> &Vitals {
        &self.shared.vitals
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.shared.backend
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.urgency() > Urgency::Working
    }
}

/// Claims runs and executes them, several at a time.
///
/// ```no_run
/// use openworkflow::{Sqlite, Worker, Workflow};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let greet = Workflow::new("greet", |wf, name: String| async move {
///     wf.run("compose", || async { Ok(format!("Hello, {name}!")) }).await
/// });
/// let store = Sqlite::open("app.db").await?;
/// Worker::builder(store).workflow(greet).build()?.run().await?;
/// # Ok(()) }
/// ```
pub struct Worker {
    shared: Arc<Shared>,
    health_limits: HealthLimits,
    telemetry_losses: Option<TelemetryLosses>,
    #[cfg(feature = "observe")]
    observe: Option<Bound>,
}

impl Worker {
    /// Begins to set up a worker on a database.
    pub fn builder(backend: impl Backend) -> WorkerBuilder {
        WorkerBuilder {
            backend: Arc::new(backend),
            namespace_id: "default".into(),
            workflows: Vec::new(),
            interceptors: Vec::new(),
            claims_unregistered: false,
            concurrency: CONCURRENCY,
            lease: LEASE,
            stop_deadline: STOP_DEADLINE,
            strict_replay: false,
            counts_queue: false,
            health_limits: HealthLimits::default(),
            telemetry_losses: None,
            #[cfg(feature = "observe")]
            observe: None,
        }
    }

    /// Works until Ctrl-C or SIGTERM, then [stops gracefully](WorkerHandle::stop). A second signal
    /// stops hard.
    ///
    /// While the database is out of reach the worker keeps trying, ever more slowly. Dropping the
    /// future is a hard stop.
    ///
    /// # Errors
    ///
    /// [`BackendError::Closed`] when the database was closed under the worker.
    pub async fn run(self) -> Result<(), BackendError> {
        self.run_until(stop::signal()).await
    }

    /// Works until `stop` resolves, then [stops gracefully](WorkerHandle::stop). Ctrl-C or SIGTERM
    /// meanwhile stops hard, as dropping the future does.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<(), BackendError> {
        let mut handle = self.start();
        tokio::select! {
            ended = handle.wait() => ended,
            () = stop => tokio::select! {
                ended = handle.stop() => ended,
                () = stop::signal() => {
                    handle.abort().await;
                    Ok(())
                }
            },
        }
    }

    /// Claims once, for as many runs as may execute [at a time](WorkerBuilder::concurrency), executes them
    /// until each is over, parked or to be tried again, and returns how many there were: 0 where nothing was
    /// due. For tests, and for hosts that are woken by something else, such as a timer or a request.
    ///
    /// Interceptors, leases and the rest are as in a worker that was [started](Self::start). What becomes
    /// due meanwhile is left to the next tick. Ticks may run side by side, and beside other workers.
    ///
    /// Dropping the future is a hard stop, of the claim too: what was claimed is free again when its
    /// lease is over.
    ///
    /// ```
    /// use openworkflow::{Client, Sqlite, Worker, WorkflowSpec};
    ///
    /// static GREET: WorkflowSpec<String, String> = WorkflowSpec::new("greet");
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = Sqlite::open_in_memory().await?;
    /// let greet = GREET.implement(|wf, name: String| async move {
    ///     wf.run("compose", || async { Ok(format!("Hello, {name}!")) }).await
    /// });
    /// let worker = Worker::builder(store.clone()).workflow(greet).build()?;
    /// let run = Client::new(store).start(&GREET, &"Ada".to_owned()).await?;
    ///
    /// // Until nothing is due any more.
    /// while worker.tick().await? > 0 {}
    /// assert_eq!(run.result().await?, "Hello, Ada!");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The claim's. Nothing is executed then, and nothing is tried again: the next tick does so. What goes
    /// wrong in an execution is its run's.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without timers.
    pub async fn tick(&self) -> Result<usize, BackendError> {
        tick::tick(&self.shared).await
    }

    /// Begins to work in a task of its own and returns at once.
    ///
    /// ```no_run
    /// # async fn example(worker: openworkflow::Worker) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut handle = worker.start();
    /// // … serve requests …
    /// handle.stop().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without timers; where it is [observed](WorkerBuilder::observe), in
    /// one without I/O, too.
    #[must_use = "a worker whose handle is dropped stops hard"]
    pub fn start(self) -> WorkerHandle {
        let stop = Stop::default();
        let facts = HealthFacts {
            shared: Arc::clone(&self.shared),
            stop: stop.clone(),
        };
        let health = Health::new(facts, self.health_limits, self.telemetry_losses);
        #[cfg(feature = "observe")]
        let server = self.observe.and_then(|bound| {
            let served = bound.serve(health.clone());
            served
                .inspect_err(|error| {
                    tracing::error!(%error, "cannot tell health and metrics over HTTP");
                })
                .ok()
        });
        #[cfg(feature = "observe")]
        let address = server.as_ref().map(crate::observe::Server::address);
        let working = pool::work(self.shared, stop.clone());
        let task = tokio::spawn(async move {
            let ended = working.await;
            // It answers as long as the worker works, or is stopping.
            #[cfg(feature = "observe")]
            if let Some(server) = server {
                server.stop().await;
            }
            ended
        });
        WorkerHandle::new(
            stop,
            task,
            health,
            #[cfg(feature = "observe")]
            address,
        )
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("namespace_id", &self.shared.namespace_id)
            .field("workflows", &self.shared.registry)
            .field("interceptors", &self.shared.chain)
            .field("concurrency", &self.shared.concurrency)
            .finish_non_exhaustive()
    }
}

/// Sets up a [`Worker`].
#[must_use = "a builder does nothing until it is built"]
pub struct WorkerBuilder {
    backend: Arc<dyn Backend>,
    namespace_id: Arc<str>,
    workflows: Vec<Workflow>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    claims_unregistered: bool,
    concurrency: usize,
    lease: Duration,
    stop_deadline: Duration,
    strict_replay: bool,
    counts_queue: bool,
    health_limits: HealthLimits,
    telemetry_losses: Option<TelemetryLosses>,
    #[cfg(feature = "observe")]
    observe: Option<Observe>,
}

impl WorkerBuilder {
    /// The namespace to work in. The default is `default`.
    pub fn namespace(mut self, namespace_id: impl Into<Arc<str>>) -> Self {
        self.namespace_id = namespace_id.into();
        self
    }

    /// Registers a workflow, under exactly its name and version.
    pub fn workflow(mut self, workflow: Workflow) -> Self {
        self.workflows.push(workflow);
        self
    }

    /// Adds an interceptor inside those already added: the first is the outermost, as in
    /// `tower::ServiceBuilder`.
    ///
    /// ```no_run
    /// # use openworkflow::{Interceptor, Sqlite, Worker};
    /// # struct Audit; impl Interceptor for Audit {}
    /// # struct Timing; impl Interceptor for Timing {}
    /// # async fn example(store: Sqlite) -> Result<(), Box<dyn std::error::Error>> {
    /// let worker = Worker::builder(store).interceptor(Audit).interceptor(Timing).build()?;
    /// # Ok(()) }
    /// ```
    pub fn interceptor(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// Adds a tower layer around steps, inside the interceptors and layers already added.
    ///
    /// The layer's service is made once and shared by all steps of this worker, so that a concurrency
    /// limit counts across runs. An error of the layer's own fails the step's attempt, which is then
    /// retried by the step's policy. A layer that calls its service more than once (such as tower's
    /// `retry`) does not fit: a step's body runs once per attempt.
    ///
    /// What is added by one call is one service. A layer that asks whether the next one is ready, as
    /// `load_shed` does, has to be added together with that one: a `tower::ServiceBuilder` is a layer.
    ///
    /// ```no_run
    /// # use openworkflow::{Sqlite, Worker};
    /// # async fn example(store: Sqlite) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use tower::limit::ConcurrencyLimitLayer;
    /// use tower::timeout::TimeoutLayer;
    ///
    /// let worker = Worker::builder(store)
    ///     .layer(ConcurrencyLimitLayer::new(8))
    ///     .layer(TimeoutLayer::new(Duration::from_secs(60)))
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn layer<L, Fit>(self, layer: L) -> Self
    where
        L: StepLayer<Fit>,
    {
        self.interceptor(layer.into_interceptor())
    }

    /// How many runs to execute at a time: 1 to 10,000. The default is 10.
    pub fn concurrency(mut self, runs: usize) -> Self {
        self.concurrency = runs;
        self
    }

    /// Whether to claim runs of workflows that are not registered too, as the TypeScript worker does.
    ///
    /// Such a run is put back with an error that says so and looked at again after 5 s, 10 s, … up to
    /// 5 minutes. By default it is not touched: a worker that has the workflow may come.
    ///
    /// A worker that does so needs no workflow of its own.
    pub fn claim_unregistered(mut self, claims: bool) -> Self {
        self.claims_unregistered = claims;
        self
    }

    /// How long a claim holds without a sign of life, and so how long after a worker's death another
    /// takes its runs over. The default is the protocol's 30 s; a sign of life is given at half time.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long a graceful stop waits for executions before it gives their runs back. The default is
    /// 30 s.
    pub fn stop_deadline(mut self, deadline: Duration) -> Self {
        self.stop_deadline = deadline;
        self
    }

    /// Whether a run stops whose workflow departs from its history: its code was changed while the run
    /// was under way, or does not do the same in every execution. By default that is told, in the log
    /// and as [`Event::NonDeterminism`](crate::Event::NonDeterminism), and the run goes on.
    ///
    /// A run that stops is put back with an error of kind
    /// [`NonDeterminism`](crate::ErrorKind::NonDeterminism), tried again ever more slowly (5 s to 5
    /// minutes), and goes on once the right code is deployed; nothing is lost. A step that is recorded
    /// as one of another kind stops a run in any case. `docs/changing-workflows.md` tells how to change
    /// the code of workflows that are under way.
    ///
    /// ```no_run
    /// # async fn example(store: openworkflow::Sqlite) -> Result<(), Box<dyn std::error::Error>> {
    /// let worker = openworkflow::Worker::builder(store).strict_replay(true);
    /// # let _ = worker; Ok(()) }
    /// ```
    pub fn strict_replay(mut self, strict: bool) -> Self {
        self.strict_replay = strict;
        self
    }

    /// Whether to count what stands in the database of the worker's namespace, for gauges of interceptors:
    /// runs that are due, scheduled, waiting and running, how old the oldest due one is, and runs by their
    /// status. One worker of a fleet is enough, so it does not by default.
    ///
    /// It is read every 15 s, by one worker of a process at most, and up to 100,000 runs of each kind are
    /// counted: no backlog is read as a whole.
    ///
    /// ```no_run
    /// # fn example(store: openworkflow::Sqlite) {
    /// let worker = openworkflow::Worker::builder(store).count_queue(true);
    /// # let _ = worker; }
    /// ```
    pub fn count_queue(mut self, counts: bool) -> Self {
        self.counts_queue = counts;
        self
    }

    /// From when on the worker is [not healthy](WorkerHandle::health).
    pub fn health_limits(mut self, limits: HealthLimits) -> Self {
        self.health_limits = limits;
        self
    }

    /// How much telemetry was lost so far, as a count that only grows: whoever exports it knows. Where it
    /// grew of late, the worker's [health](WorkerHandle::health) is degraded. It is asked whenever somebody
    /// asks for the health. Where `openworkflow::otel::init()` exports it, `telemetry.losses()` is the count.
    ///
    /// ```no_run
    /// # async fn example(store: openworkflow::Sqlite) {
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// static LOST: AtomicU64 = AtomicU64::new(0);
    /// let worker = openworkflow::Worker::builder(store)
    ///     .telemetry_losses(|| LOST.load(Ordering::Relaxed));
    /// # let _ = worker; }
    /// ```
    pub fn telemetry_losses(mut self, lost: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.telemetry_losses = Some(Arc::new(lost));
        self
    }

    /// Tells the worker's health, and metrics, over HTTP: a listener that lives as long as the worker.
    /// The routes are those of [`Endpoints`](crate::observe::Endpoints).
    ///
    /// The port is taken when the worker is [built](Self::build), and answered once it is
    /// [started](Worker::start). While the worker stops, `/health/ready` is 503.
    ///
    /// ```no_run
    /// # fn example(store: openworkflow::Sqlite) {
    /// let worker = openworkflow::Worker::builder(store).observe("0.0.0.0:9464");
    /// # let _ = worker; }
    /// ```
    #[cfg(feature = "observe")]
    pub fn observe(mut self, observe: impl Into<Observe>) -> Self {
        self.observe = Some(observe.into());
        self
    }

    /// Makes the worker.
    ///
    /// # Errors
    ///
    /// Where there is no workflow and [`claim_unregistered`](Self::claim_unregistered) is off, a workflow
    /// is registered twice, a name is empty or too long, a retry policy makes no
    /// sense, the concurrency is 0 or above 10,000, the lease is shorter than 100 ms, or the address to
    /// tell health on is taken or makes no sense.
    pub fn build(self) -> Result<Worker, BuildError> {
        if self.concurrency == 0 {
            return Err(BuildError(
                "the concurrency is 0; a worker needs at least 1".into(),
            ));
        }
        if self.concurrency > MAX_CONCURRENCY {
            let runs = self.concurrency;
            return Err(BuildError(format!(
                "the concurrency is {runs}; use at most {MAX_CONCURRENCY}, and more workers"
            )));
        }
        if self.lease < Duration::from_millis(100) {
            let lease = self.lease;
            return Err(BuildError(format!(
                "the lease of {lease:?} is too short; use 100 ms or more"
            )));
        }
        let refused = |error: Error| BuildError(error.message().to_owned());
        name::validate("the worker's namespace", &self.namespace_id).map_err(refused)?;
        if self.workflows.is_empty() && !self.claims_unregistered {
            return Err(BuildError(
                "it has no workflow, and would never find anything to do; register one with \
                 `WorkerBuilder::workflow`, or say `claim_unregistered(true)` if it is meant to put back \
                 whatever nobody knows"
                    .into(),
            ));
        }
        let registry = Registry::new(self.workflows, self.claims_unregistered).map_err(refused)?;
        #[cfg(feature = "observe")]
        let observe = self
            .observe
            .map(Bound::new)
            .transpose()
            .map_err(BuildError)?;
        Ok(Worker {
            health_limits: self.health_limits,
            telemetry_losses: self.telemetry_losses,
            #[cfg(feature = "observe")]
            observe,
            shared: Arc::new(Shared {
                backend: self.backend,
                chain: Chain::new(self.interceptors),
                namespace_id: self.namespace_id,
                registry,
                share: Share::new(),
                concurrency: self.concurrency,
                lease: self.lease,
                stop_deadline: self.stop_deadline,
                strict_replay: self.strict_replay,
                told_of_tasks: Arc::default(),
                vitals: Arc::new(Vitals::new(self.concurrency)),
                counts_queue: self.counts_queue,
            }),
        })
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("namespace_id", &self.namespace_id)
            .field("workflows", &self.workflows)
            .field("interceptors", &self.interceptors.len())
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// A worker cannot be made as it was set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot build the worker: {0}")]
pub struct BuildError(String);
