//! Starting a run.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use workflow_core::{Carrier, CreateRun, CreatedRun, Payload, Result, RunInfo};

use super::outage::ride_out;
use super::{ClientError, ClientResult, RunHandle, Shared};
use crate::backend::NewRun;
use crate::execution::new_id;
use crate::step::{Lazy, lazy_future};
use crate::when::When;
use crate::{log, name};

/// A run to be started; a future that does so. See [`Client::start`](super::Client::start).
///
/// If the future is dropped before it resolves, the run may or may not have been started. With an
/// [idempotency key](Self::idempotency_key) it can be started again without harm.
///
/// # Errors
///
/// It resolves with [`ClientError::Invalid`] where the input cannot be written as JSON, a time makes
/// no sense, or a name, the key or an entry of the carrier cannot be kept; [`ClientError::Refused`] by an interceptor; or
/// [`ClientError::Backend`].
#[must_use = "a run is started when the request is awaited"]
pub struct StartRunRequest<O>(
    Lazy<'static, Config, ClientResult<RunHandle<O>>>,
    PhantomData<fn() -> O>,
);

struct Config {
    client: Arc<Shared>,
    workflow_name: Arc<str>,
    version: Option<Arc<str>>,
    input: Result<Payload>,
    idempotency_key: Option<String>,
    available_at: Option<When>,
    deadline_at: Option<When>,
    carrier: Carrier,
}

impl<O: 'static> StartRunRequest<O> {
    pub(super) fn new(
        client: Arc<Shared>,
        workflow_name: Arc<str>,
        version: Option<Arc<str>>,
        input: Result<Payload>,
    ) -> Self {
        let config = Config {
            client,
            workflow_name,
            version,
            input,
            idempotency_key: None,
            available_at: None,
            deadline_at: None,
            carrier: Carrier::new(),
        };
        Self(Lazy::Configured(config), PhantomData)
    }

    /// Makes the start idempotent: for 24 hours, a start of this workflow with this key finds the run
    /// that the first one created, whatever its input and however it ended.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        if let Some(config) = self.0.config() {
            config.idempotency_key = Some(key.into());
        }
        self
    }

    /// When the run may begin. The default is now.
    ///
    /// ```no_run
    /// # use openworkflow::{Client, WorkflowSpec};
    /// # static REPORT: WorkflowSpec<u64, ()> = WorkflowSpec::new("report");
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let run = client.start(&REPORT, &2026).delay("8 hours").deadline("2 days").await?;
    /// # Ok(()) }
    /// ```
    pub fn delay(mut self, until: impl Into<When>) -> Self {
        if let Some(config) = self.0.config() {
            config.available_at = Some(until.into());
        }
        self
    }

    /// When the run fails if it has not ended. The default is never.
    pub fn deadline(mut self, at: impl Into<When>) -> Self {
        if let Some(config) = self.0.config() {
            config.deadline_at = Some(at.into());
        }
        self
    }

    /// Names the caller by a W3C `traceparent` header, such as the one of an incoming request: the
    /// run is then traced under that span, in place of the current one, and recorded if it says so
    /// (`…-01`) and not if it does not (`…-00`).
    ///
    /// For the feature `otel`. A header that cannot be read is ignored, and counted by the
    /// interceptor.
    ///
    /// ```no_run
    /// # use openworkflow::{Client, WorkflowSpec};
    /// # static REPORT: WorkflowSpec<u64, ()> = WorkflowSpec::new("report");
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    /// let run = client.start(&REPORT, &2026).traceparent(header).await?;
    /// # Ok(()) }
    /// ```
    pub fn traceparent(self, header: impl Into<String>) -> Self {
        self.carrier_entry("traceparent", header)
    }

    /// Adds an entry to the string map that is kept with the run and that interceptors see in each
    /// of its executions: `tracestate`, `baggage`, or one of the application's own. An interceptor
    /// may replace it.
    pub fn carrier_entry(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        if let Some(config) = self.0.config() {
            config.carrier.insert(key, value);
        }
        self
    }
}

lazy_future! {
    [O: 'static] StartRunRequest<O> => ClientResult<RunHandle<O>>,
    |config| Box::pin(async move { start(config).await.map_err(ClientError::from_chain) })
}

impl<O> fmt::Debug for StartRunRequest<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartRunRequest").finish_non_exhaustive()
    }
}

async fn start<O>(config: Config) -> Result<RunHandle<O>> {
    let Config {
        client,
        workflow_name,
        version,
        input,
        ..
    } = config;
    name::validate("a workflow", &workflow_name)?;
    if let Some(version) = &version {
        name::validate_version(&workflow_name, version)?;
    }
    name::validate("the client's namespace", &client.namespace_id)?;
    for (key, value) in config.carrier.iter() {
        name::validate_text("the key of a carrier entry", key)?;
        name::validate_text(format_args!("the carrier entry {key:?}"), value)?;
    }
    let (backend, retry_for) = (&client.backend, client.retry_for);
    if config.available_at.is_some() || config.deadline_at.is_some() {
        let settled = ride_out(retry_for, || backend.clock().settle()).await;
        settled.map_err(|error| ClientError::from(error).into_chain())?;
    }
    let now = backend.clock().now();
    let resolve = |when: Option<When>, what: &str| {
        when.map(|when| when.resolve(now, &format!("the {what} of workflow {workflow_name:?}")))
            .transpose()
    };
    let mut run = RunInfo::new(
        Arc::clone(&client.namespace_id),
        new_id(),
        Arc::clone(&workflow_name),
    );
    run.workflow_version = version;
    run.carrier = config.carrier;
    let mut call = CreateRun::new(run, input?);
    call.available_at = resolve(config.available_at, "delay")?;
    call.deadline_at = resolve(config.deadline_at, "deadline")?;
    if let Some(key) = &config.idempotency_key {
        name::validate_key(key)?;
    }
    call.idempotency_key = config.idempotency_key;

    let create = |call: CreateRun| async move {
        // It has its id already: a second creation finds what the first one may have made.
        let new = NewRun::from_call(call);
        let created = ride_out(retry_for, || backend.create_run(new.clone())).await;
        let (run, found) = created.map_err(|error| {
            let subject = || {
                format!(
                    "the input, or the carrier, of workflow {:?}",
                    new.workflow_name
                )
            };
            ClientError::of_value(error, subject).into_chain()
        })?;
        log::run_created(&run.workflow_name, &run.id, found);
        Ok(CreatedRun::new(run.id, found))
    };
    let created = client.chain.call(call, create).await?;
    Ok(RunHandle::new(Arc::clone(&client), created.run_id))
}
