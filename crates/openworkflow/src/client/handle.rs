//! A run from its client's point of view.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::outage::Outage;
use super::{Client, ClientError, ClientResult, Shared};
use crate::backend::{RunStatus, StoredError, WorkflowRun};
use crate::payload;

const POLL_MIN: Duration = Duration::from_millis(50);
const POLL_MAX: Duration = Duration::from_secs(1);

/// A run that was started: its id, and its result once there is one. Cloning is cheap.
///
/// ```no_run
/// use std::time::Duration;
/// use openworkflow::{Client, ClientError};
///
/// # async fn example(client: Client) -> Result<(), ClientError> {
/// let run = client.handle::<String>("6f9c1c2e");
/// match run.result_within(Duration::from_secs(5)).await {
///     Ok(greeting) => println!("{greeting}"),
///     Err(ClientError::RunFailed { error, .. }) => println!("failed: {error}"),
///     Err(ClientError::TimedOut { .. }) => run.cancel().await?,
///     Err(error) => return Err(error),
/// }
/// # Ok(()) }
/// ```
pub struct RunHandle<O> {
    client: Arc<Shared>,
    run_id: Arc<str>,
    output: PhantomData<fn() -> O>,
}

impl<O> RunHandle<O> {
    pub(super) fn new(client: Arc<Shared>, run_id: Arc<str>) -> Self {
        Self {
            client,
            run_id,
            output: PhantomData,
        }
    }

    /// The run's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.run_id
    }

    /// Waits for the run to end and returns its output. Where it
    /// [continued as a new run](crate::WorkflowContext::continue_as_new), that is the last one's.
    ///
    /// Where the run ends in this process the wait ends at once; otherwise the run is read again every
    /// second at most. There is no time limit: see [`result_within`](Self::result_within). An outage of
    /// the database is outlasted if it is no longer than
    /// [the client allows](super::ClientBuilder::retry_for). Dropping the future is harmless.
    ///
    /// # Errors
    ///
    /// [`ClientError::RunFailed`], [`ClientError::RunCanceled`], [`ClientError::RunNotFound`],
    /// [`ClientError::Invalid`] where the output does not fit `O` or no run has such an id, or the
    /// database's. A run that is deleted meanwhile is not found.
    pub async fn result(&self) -> ClientResult<O>
    where
        O: DeserializeOwned,
    {
        let mut outage = Outage::new(self.client.retry_for);
        self.end(&mut outage, &mut None).await
    }

    /// Leaves in `last` how the run was when it was last read and went on.
    async fn end(&self, outage: &mut Outage, last: &mut Option<Box<WorkflowRun>>) -> ClientResult<O>
    where
        O: DeserializeOwned,
    {
        self.client
            .check_lookup(&[("the run's id", &self.run_id)])?;
        let wakeups = self.client.backend.wakeups();
        let mut delay = POLL_MIN;
        let mut run_id = Arc::clone(&self.run_id);
        // Of the runs that continued as others.
        let mut passed: HashSet<Arc<str>> = HashSet::new();
        loop {
            // Listens from before the read, so that an end in between is not missed.
            let watch = wakeups.watch(&run_id);
            let ended = watch.notified();
            let asked = Instant::now();
            let read = self
                .client
                .backend
                .get_run(&self.client.namespace_id, &run_id);
            let run = match read.await {
                Ok(run) => run.ok_or_else(|| ClientError::RunNotFound {
                    run_id: run_id.to_string(),
                })?,
                Err(error) => {
                    outage.outlast(asked, error).await?;
                    continue;
                }
            };
            outage.is_over();
            if let Some(next) = run.successor() {
                if !passed.insert(Arc::clone(&run_id)) {
                    return Err(ClientError::from(run.continues_in_a_circle()));
                }
                run_id = next.into();
                delay = POLL_MIN;
                continue;
            }
            match run.status {
                RunStatus::Completed | RunStatus::Succeeded => {
                    let subject = format!("the output of workflow {:?}", run.workflow_name);
                    return payload::decode(&run.output, &subject).map_err(ClientError::from_chain);
                }
                RunStatus::Failed => {
                    let error = run.error.unwrap_or_else(StoredError::unknown);
                    return Err(ClientError::RunFailed {
                        run_id: run.id,
                        error: Box::new(error),
                    });
                }
                RunStatus::Canceled => {
                    return Err(ClientError::RunCanceled { run_id: run.id });
                }
                _ => {}
            }
            *last = Some(Box::new(run));
            // A timeout is the poll: both ways lead to another look.
            let _ = tokio::time::timeout(delay, ended).await;
            delay = (delay * 2).min(POLL_MAX);
        }
    }

    /// Waits for the run to end, for `limit` at most, and returns its output. The run goes on when the
    /// limit is reached. Outages of the database are outlasted until then. Dropping the future is
    /// harmless.
    ///
    /// # Errors
    ///
    /// [`ClientError::TimedOut`], the database's where it does not answer in the end, and those of [`result`](Self::result).
    pub async fn result_within(&self, limit: Duration) -> ClientResult<O>
    where
        O: DeserializeOwned,
    {
        let mut outage = Outage::new(limit.max(self.client.retry_for));
        let mut last = None;
        let end = self.end(&mut outage, &mut last);
        if let Ok(result) = tokio::time::timeout(limit, end).await {
            return result;
        }
        let timed_out = ClientError::TimedOut {
            run_id: self.run_id.to_string(),
            last,
        };
        Err(outage.into_error().map_or(timed_out, ClientError::from))
    }

    /// Reads the run.
    ///
    /// # Errors
    ///
    /// As [`Client::describe`].
    pub async fn describe(&self) -> ClientResult<WorkflowRun> {
        Client(Arc::clone(&self.client))
            .describe(&self.run_id)
            .await
    }

    /// Cancels the run, or the one as which it [goes on](crate::WorkflowContext::continue_as_new) by now.
    ///
    /// # Errors
    ///
    /// As [`Client::cancel`].
    pub async fn cancel(&self) -> ClientResult<()> {
        let client = Client(Arc::clone(&self.client));
        let mut run_id = Arc::clone(&self.run_id);
        let mut passed: HashSet<Arc<str>> = HashSet::new();
        loop {
            let canceled = client.cancel(&run_id).await;
            let Err(ClientError::NotCancelable { .. }) = &canceled else {
                return canceled;
            };
            let run = client.describe(&run_id).await?;
            match run.successor() {
                Some(next) if passed.insert(Arc::clone(&run_id)) => run_id = next.into(),
                _ => return canceled,
            }
        }
    }
}

impl<O> Clone for RunHandle<O> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.client), Arc::clone(&self.run_id))
    }
}

impl<O> fmt::Debug for RunHandle<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunHandle")
            .field("run_id", &self.run_id)
            .finish_non_exhaustive()
    }
}
