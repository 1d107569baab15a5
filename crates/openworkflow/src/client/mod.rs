//! Clients: they start runs, look at them, cancel them, and send signals.

mod copies;
mod error;
mod handle;
mod list;
mod outage;
mod results;
mod send;
mod start;
mod trace;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use workflow_core::{CancelRun, Chain, Event, Interceptor, RunInfo};

use crate::backend::{Backend, Cancellation, QueueCounts, RunCounts, WorkflowRun};
use crate::payload::{self, Subject};
use crate::workflow::WorkflowSpec;
use crate::{log, lost, name};

use outage::ride_out;

pub use error::ClientError;
pub use handle::RunHandle;
pub use list::{ListRunsRequest, ListStepsRequest};
pub use send::SendSignalRequest;
pub use start::StartRunRequest;
pub use trace::{TraceEventsRequest, TraceSummaryRequest};

/// The result of a client's operation.
pub type ClientResult<T> = std::result::Result<T, ClientError>;

struct Shared {
    backend: Arc<dyn Backend>,
    chain: Chain,
    namespace_id: Arc<str>,
    /// How long an outage of the database may last.
    retry_for: Duration,
}

impl Shared {
    /// Refuses to look for what cannot be there: each of `texts`, after what it is, and the namespace.
    fn check_lookup(&self, texts: &[(&str, &str)]) -> ClientResult<()> {
        let namespace = [("the client's namespace", &*self.namespace_id)];
        for (subject, text) in namespace.iter().chain(texts) {
            name::validate_text(subject, text).map_err(ClientError::from_chain)?;
        }
        Ok(())
    }
}

/// Starts runs, looks at them, cancels them, and sends signals. Cloning is cheap.
///
/// While the database restarts, fails over or is locked, what can be repeated without harm is tried
/// again, for [10 seconds](ClientBuilder::retry_for) unless set otherwise: starts, cancellations, whatever
/// only reads, signals with an idempotency key, and ones without where nothing was sent.
///
/// ```no_run
/// use openworkflow::{Client, Sqlite, WorkflowSpec};
///
/// static GREET: WorkflowSpec<String, String> = WorkflowSpec::new("greet");
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(Sqlite::open("app.db").await?);
/// let run = client.start(&GREET, &"Ada".to_owned()).await?;
/// println!("{}", run.result().await?);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client(Arc<Shared>);

impl Client {
    /// A client in the namespace `default`, without interceptors.
    pub fn new(backend: impl Backend) -> Self {
        Self::builder(backend).build()
    }

    /// Begins to set up a client on a database.
    pub fn builder(backend: impl Backend) -> ClientBuilder {
        ClientBuilder {
            backend: Arc::new(backend),
            namespace_id: "default".into(),
            interceptors: Vec::new(),
            retry_for: outage::LIMIT,
        }
    }

    /// Starts a run. Await the request, after setting what is optional on it.
    pub fn start<I, O>(&self, workflow: &WorkflowSpec<I, O>, input: &I) -> StartRunRequest<O>
    where
        I: Serialize,
        O: DeserializeOwned + 'static,
    {
        let subject = format!("the input of workflow {:?}", workflow.name());
        let input = payload::encode(input, &subject);
        let version = workflow.version_name().map(Arc::from);
        StartRunRequest::new(Arc::clone(&self.0), workflow.name().into(), version, input)
    }

    /// A handle on a run that exists, or so the caller believes: nothing is checked here.
    ///
    /// `O` is the type of the run's output.
    #[must_use]
    pub fn handle<O: DeserializeOwned>(&self, run_id: impl Into<Arc<str>>) -> RunHandle<O> {
        RunHandle::new(Arc::clone(&self.0), run_id.into())
    }

    /// Sends a signal to every run that waits for it. Await the request to learn their ids.
    ///
    /// A signal that nobody waits for is dropped, unless it is to be sent
    /// [until somebody receives it](SendSignalRequest::until_received).
    ///
    /// ```no_run
    /// # async fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let run_ids = client.send_signal("paid:4711", &1200).idempotency_key("payment-1").await?;
    /// # Ok(()) }
    /// ```
    pub fn send_signal<T>(&self, signal: impl Into<String>, data: &T) -> SendSignalRequest
    where
        T: Serialize + ?Sized,
    {
        let signal = signal.into();
        let data = payload::encode(data, Subject("the data of signal", &signal));
        SendSignalRequest::new(Arc::clone(&self.0), signal, data)
    }

    /// Cancels a run, and wakes its parent if it has one. A run that is canceled already stays so. Its
    /// execution, if one is under way, is dropped when it next writes or shows a sign of life. Its
    /// children go on, except for those [that are to be canceled with
    /// it](crate::RunWorkflowStep::cancel_with_parent). If the future is dropped, the run may or may not be
    /// canceled.
    ///
    /// # Errors
    ///
    /// [`ClientError::RunNotFound`], [`ClientError::NotCancelable`] for a run that ended otherwise,
    /// [`ClientError::Invalid`] for an id that no run has, [`ClientError::Refused`] by an interceptor, or
    /// the database's.
    pub async fn cancel(&self, run_id: &str) -> ClientResult<()> {
        let namespace_id = Arc::clone(&self.0.namespace_id);
        // Hooks see every attempt, one at a run that cannot be found too.
        let (info, unknown) = match self.describe(run_id).await {
            Ok(run) => {
                let mut info = RunInfo::new(namespace_id, run_id, run.workflow_name);
                info.workflow_version = run.version.map(Arc::from);
                (info.with_carrier(run.carrier), None)
            }
            Err(error) => (RunInfo::new(namespace_id, run_id, ""), Some(error)),
        };
        let cancel = |call: CancelRun| async move {
            if let Some(error) = unknown.filter(|_| *call.run.id == *run_id) {
                return Err(error.into_chain());
            }
            let cancel = || {
                let backend = &self.0.backend;
                backend.cancel_run(&call.run.namespace_id, &call.run.id)
            };
            // A run that is canceled already stays so.
            let canceled = ride_out(self.0.retry_for, cancel).await;
            let refused = match canceled {
                Ok(Cancellation::Canceled { runs }) => {
                    for run in &runs {
                        let with = (*run.run_id != *call.run.id).then_some(&*call.run.id);
                        log::run_canceled(&run.workflow_name, &run.run_id, with);
                        if self.0.chain.is_empty() {
                            continue;
                        }
                        let info = run.info(&call.run.namespace_id);
                        let (backend, chain) = (&*self.0.backend, &self.0.chain);
                        lost::tell(backend, chain, &info, run.lost_attempt).await;
                        let event = Event::run_canceled(&info, run.created_at, run.age);
                        self.0.chain.event(&event);
                    }
                    return Ok(());
                }
                Ok(Cancellation::AlreadyEnded(status)) => ClientError::NotCancelable {
                    run_id: call.run.id.to_string(),
                    status,
                },
                Ok(Cancellation::NotFound) => ClientError::RunNotFound {
                    run_id: call.run.id.to_string(),
                },
                Err(error) => ClientError::from(error),
            };
            Err(refused.into_chain())
        };
        self.0
            .chain
            .call(CancelRun::new(info), cancel)
            .await
            .map_err(ClientError::from_chain)
    }

    /// Reads a run.
    ///
    /// # Errors
    ///
    /// [`ClientError::RunNotFound`], [`ClientError::Invalid`] for an id that no run has, or the
    /// database's.
    pub async fn describe(&self, run_id: &str) -> ClientResult<WorkflowRun> {
        self.0.check_lookup(&[("the run's id", run_id)])?;
        let read = || self.0.backend.get_run(&self.0.namespace_id, run_id);
        let run = ride_out(self.0.retry_for, read).await?;
        run.ok_or_else(|| ClientError::RunNotFound {
            run_id: run_id.to_owned(),
        })
    }

    /// Lists runs, newest first. Await the request, after setting what is optional on it.
    ///
    /// ```no_run
    /// use openworkflow::RunStatus;
    ///
    /// # async fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let page = client.list_runs().status(RunStatus::Failed).limit(20).await?;
    /// if let Some(cursor) = page.next {
    ///     let older = client.list_runs().status(RunStatus::Failed).limit(20).after(cursor).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn list_runs(&self) -> ListRunsRequest {
        ListRunsRequest::new(Arc::clone(&self.0))
    }

    /// Lists a run's step attempts, oldest first. Await the request.
    ///
    /// ```no_run
    /// # async fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// for attempt in client.list_steps("6f9c1c2e").await?.items {
    ///     println!("{} {}", attempt.step_name, attempt.status);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn list_steps(&self, run_id: impl Into<String>) -> ListStepsRequest {
        ListStepsRequest::new(Arc::clone(&self.0), run_id.into())
    }

    /// Tells what happened to a run, in order: from the rows in the database, so of any run, whoever
    /// executed it and whether or not it was traced. Await the request, after setting what is optional on it.
    ///
    /// ```no_run
    /// # async fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let trace = client.trace_events("6f9c1c2e").include_internal(true).children(true).await?;
    /// for event in &trace.events {
    ///     let step = event.kind.step().map(|step| &*step.name).unwrap_or_default();
    ///     println!("{:?} {} {step}", event.at, event.kind.name());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The request resolves with [`ClientError::RunNotFound`], [`ClientError::Invalid`] for an id that no run
    /// has, or the database's, such as one that names what cannot be read in the run's row. Step attempts and
    /// children that cannot be read are [told of](crate::trace::TraceEvents::unreadable) beside the rest.
    pub fn trace_events(&self, run_id: impl Into<String>) -> TraceEventsRequest {
        TraceEventsRequest::new(Arc::clone(&self.0), run_id.into())
    }

    /// Summarizes what happened to a run: where its time went, its executions and steps, what failed, where
    /// it stands. From the rows in the database, as [`trace_events`](Self::trace_events). Await the request.
    ///
    /// ```no_run
    /// # async fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let summary = client.trace_summary("6f9c1c2e").await?;
    /// println!("{} after {:?}, {} retries", summary.status, summary.total, summary.retries);
    /// if let Some(failure) = summary.errors.first() {
    ///     println!("first error: {}", failure.error);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`trace_events`](Self::trace_events).
    pub fn trace_summary(&self, run_id: impl Into<String>) -> TraceSummaryRequest {
        TraceSummaryRequest::new(Arc::clone(&self.0), run_id.into())
    }

    /// Counts the runs of the namespace by status.
    ///
    /// # Errors
    ///
    /// [`ClientError::Invalid`] for a namespace that no run is in, or the database's.
    pub async fn count_runs(&self) -> ClientResult<RunCounts> {
        self.0.check_lookup(&[])?;
        let count = || self.0.backend.count_runs(&self.0.namespace_id);
        Ok(ride_out(self.0.retry_for, count).await?)
    }

    /// Counts what stands in the namespace, `limit` runs of each kind at most; see
    /// [`Backend::count_queue`](Backend::count_queue). `None` on a database that does not count.
    ///
    /// # Errors
    ///
    /// As [`count_runs`](Self::count_runs).
    pub async fn count_queue(&self, limit: u32) -> ClientResult<Option<QueueCounts>> {
        self.0.check_lookup(&[])?;
        let backend = &self.0.backend;
        let count = || backend.count_queue(&self.0.namespace_id, limit);
        Ok(ride_out(self.0.retry_for, count).await?)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("namespace_id", &self.0.namespace_id)
            .field("interceptors", &self.0.chain)
            .finish_non_exhaustive()
    }
}

/// Sets up a [`Client`].
#[must_use = "a builder does nothing until it is built"]
pub struct ClientBuilder {
    backend: Arc<dyn Backend>,
    namespace_id: Arc<str>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    retry_for: Duration,
}

impl ClientBuilder {
    /// The namespace to work in. The default is `default`.
    pub fn namespace(mut self, namespace_id: impl Into<Arc<str>>) -> Self {
        self.namespace_id = namespace_id.into();
        self
    }

    /// Adds an interceptor inside those already added: the first is the outermost.
    pub fn interceptor(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// For how long an operation is tried again while the database is out of reach, restarting or locked:
    /// 10 seconds by default. Zero reports the first error. It counts from when the operation began, and
    /// an operation that waits for an answer takes as long as that takes.
    ///
    /// Only what can be repeated without harm is tried again; see [`Client`]. Waiting for a result
    /// outlasts each outage that is no longer than this, and with
    /// [a limit of its own](RunHandle::result_within) every outage until then. The first error of an
    /// outage is logged.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use openworkflow::{Client, Postgres};
    /// # fn example(store: Postgres) {
    /// // A request handler that would rather fail than wait.
    /// let client = Client::builder(store).retry_for(Duration::from_millis(500)).build();
    /// # let _ = client; }
    /// ```
    pub fn retry_for(mut self, limit: Duration) -> Self {
        self.retry_for = limit;
        self
    }

    /// Makes the client.
    #[must_use]
    pub fn build(self) -> Client {
        Client(Arc::new(Shared {
            backend: self.backend,
            chain: Chain::new(self.interceptors),
            namespace_id: self.namespace_id,
            retry_for: self.retry_for,
        }))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("namespace_id", &self.namespace_id)
            .field("interceptors", &self.interceptors.len())
            .finish_non_exhaustive()
    }
}
