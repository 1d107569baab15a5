//! What a workflow is called, and what it does.
//!
//! The comments behind bounds are for those whose code does not meet them: the compiler shows the line.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use workflow_core::{BoxFuture, Payload, Result};

use crate::backend::WorkflowKey;
use crate::context::WorkflowContext;
use crate::naming;
use crate::payload;
use crate::retry::RetryPolicy;

/// A workflow's declaration: its name, version, types and retry policy, without its code.
///
/// It is what a client needs to start the workflow and what a parent needs to run it as a child; the
/// program that does so need not contain the implementation, which may be written in TypeScript.
///
/// ```
/// use openworkflow::WorkflowSpec;
///
/// static GREET: WorkflowSpec<String, String> = WorkflowSpec::new("greet");
///
/// let greet = GREET.implement(|wf, name: String| async move {
///     wf.run("compose", || async { Ok(format!("Hello, {name}!")) }).await
/// });
/// assert_eq!(greet.name(), "greet");
/// ```
pub struct WorkflowSpec<I, O> {
    name: &'static str,
    version: Option<&'static str>,
    retry: RetryPolicy,
    types: PhantomData<fn(I) -> O>,
}

impl<I, O> WorkflowSpec<I, O> {
    /// A workflow without a version that is not retried.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            version: None,
            retry: RetryPolicy::none(),
            types: PhantomData,
        }
    }

    /// Sets the version. A worker runs exactly the versions that it knows.
    ///
    /// ```
    /// use openworkflow::{RetryPolicy, WorkflowSpec};
    ///
    /// static GREET: WorkflowSpec<String, String> =
    ///     WorkflowSpec::new("greet").version("2").retry(RetryPolicy::attempts(3));
    /// ```
    #[must_use]
    pub const fn version(mut self, version: &'static str) -> Self {
        self.version = Some(version);
        self
    }

    /// Sets the retry policy for errors of the workflow's own code.
    #[must_use]
    pub const fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn version_name(&self) -> Option<&'static str> {
        self.version
    }

    /// Gives the code a state: what its executions share, as a connection pool or a client. Each
    /// execution gets a clone of it, before the input.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use openworkflow::WorkflowSpec;
    ///
    /// # #[derive(Default)]
    /// struct Db;
    /// # impl Db { async fn title_of(&self, _: &str) -> std::io::Result<String> { Ok("Dr.".into()) } }
    ///
    /// static GREET: WorkflowSpec<String, String> = WorkflowSpec::new("greet");
    ///
    /// let db = Arc::new(Db::default());
    /// let greet = GREET.state(db).implement(|wf, db, name: String| async move {
    ///     let title = wf.run("look-up", async || Ok(db.title_of(&name).await?)).await?;
    ///     Ok(format!("Hello, {title} {name}!"))
    /// });
    /// # assert_eq!(greet.name(), "greet");
    /// ```
    ///
    /// What cannot be cloned, or not for little, goes into an [`Arc`].
    pub fn state<S>(&self, state: S) -> StatefulSpec<'_, I, O, S>
    where
        S: Clone + Send + Sync + 'static, // as an `Arc` of anything is
    {
        StatefulSpec { spec: self, state }
    }

    /// The implementation, for a worker. See [`Workflow::new`] about `code`.
    pub fn implement<F, Fut>(&self, code: F) -> Workflow
    where
        F: Fn(WorkflowContext, I) -> Fut + Send + Sync + 'static, // called anew each time: share by `.state(…)`
        Fut: Future<Output = Result<O>> + Send + 'static, // on any thread: no `Rc`, no lock's guard over an `.await`
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
    {
        let workflow = Workflow::new(self.name, code).retry(self.retry);
        match self.version {
            Some(version) => workflow.version(version),
            None => workflow,
        }
    }
}

impl<I, O> fmt::Debug for WorkflowSpec<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkflowSpec")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("retry", &self.retry)
            .finish()
    }
}

/// A workflow's declaration with the state of its code; see [`WorkflowSpec::state`].
pub struct StatefulSpec<'a, I, O, S> {
    spec: &'a WorkflowSpec<I, O>,
    state: S,
}

impl<I, O, S> StatefulSpec<'_, I, O, S>
where
    S: Clone + Send + Sync + 'static,
{
    /// The implementation, for a worker. See [`Workflow::new`] about `code`.
    pub fn implement<F, Fut>(self, code: F) -> Workflow
    where
        F: Fn(WorkflowContext, S, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
    {
        let Self { spec, state } = self;
        spec.implement(move |wf, input| code(wf, state.clone(), input))
    }
}

impl<I, O, S> fmt::Debug for StatefulSpec<'_, I, O, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatefulSpec")
            .field("spec", self.spec)
            .finish_non_exhaustive()
    }
}

type Running = BoxFuture<'static, Result<Payload>>;
type Code = dyn Fn(WorkflowContext, Payload) -> Result<Running> + Send + Sync;

/// A workflow's implementation, to be registered with a [`Worker`](crate::Worker).
#[derive(Clone)]
pub struct Workflow {
    key: WorkflowKey,
    retry: RetryPolicy,
    code: Arc<Code>,
}

impl Workflow {
    /// A workflow without a version that is not retried. Its name is checked where it is used: by
    /// [`WorkerBuilder::build`](crate::WorkerBuilder::build).
    ///
    /// `code` runs from its start in every execution, with the steps that finished before answered
    /// from history. Between steps it must do the same each time: no clocks, no random numbers, no
    /// input or output other than through steps. It may be dropped at any `await`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use openworkflow::Workflow;
    ///
    /// let remind = Workflow::new("remind", |wf, text: String| async move {
    ///     wf.sleep("a-day", Duration::from_secs(86_400)).await?;
    ///     wf.run("print", || async {
    ///         println!("{text}");
    ///         Ok(())
    ///     })
    ///     .await
    /// });
    /// # assert_eq!(remind.name(), "remind");
    /// ```
    pub fn new<I, O, F, Fut>(name: impl Into<String>, code: F) -> Self
    where
        F: Fn(WorkflowContext, I) -> Fut + Send + Sync + 'static, // called anew each time: share by `.state(…)`
        Fut: Future<Output = Result<O>> + Send + 'static, // on any thread: no `Rc`, no lock's guard over an `.await`
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
    {
        let name = name.into();
        let subject = format!("the input of workflow {name:?}");
        let code = Arc::new(code);
        let code = move |context, input: Payload| -> Result<Running> {
            let input = payload::decode_stored(&input, &subject)?;
            let code = Arc::clone(&code);
            Ok(Box::pin(async move {
                let output = code(context, input).await.map_err(naming::by_cause)?;
                payload::encode(&output, "the workflow's output")
            }))
        };
        Self {
            key: WorkflowKey::new(name, None),
            retry: RetryPolicy::none(),
            code: Arc::new(code),
        }
    }

    /// As [`new`](Self::new), of code that is given a clone of `state` in each execution, before the
    /// input; see [`WorkflowSpec::state`].
    ///
    /// ```
    /// use openworkflow::{Client, Workflow};
    ///
    /// # fn example(client: Client) -> Workflow {
    /// Workflow::with_state("tell", client, |wf, client, run_id: String| async move {
    ///     wf.run("cancel", async || Ok(client.cancel(&run_id).await?)).await
    /// })
    /// # }
    /// ```
    pub fn with_state<S, I, O, F, Fut>(name: impl Into<String>, state: S, code: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        F: Fn(WorkflowContext, S, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O>> + Send + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
    {
        Self::new(name, move |wf, input| code(wf, state.clone(), input))
    }

    /// Sets the version. A worker runs exactly the versions that it knows.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.key.version = Some(version.into());
        self
    }

    /// Sets the retry policy for errors of the workflow's own code.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.key.name
    }

    pub(crate) fn key(&self) -> &WorkflowKey {
        &self.key
    }

    pub(crate) fn retry_policy(&self) -> &RetryPolicy {
        &self.retry
    }

    /// The code, about to begin; an error where the input cannot be read.
    pub(crate) fn call(&self, context: WorkflowContext, input: Payload) -> Result<Running> {
        (self.code)(context, input)
    }
}

impl fmt::Debug for Workflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workflow")
            .field("key", &self.key)
            .field("retry", &self.retry)
            .finish()
    }
}
