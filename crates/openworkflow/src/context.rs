//! What a workflow's code is given: its run, and its steps.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use workflow_core::{Execution, Result};

use crate::cancellation::Cancellation;
use crate::execution::ExecutionState;
use crate::payload::{self, Subject};
use crate::progress::Progress;
use crate::step::{
    RunStep, RunWorkflowConfig, RunWorkflowStep, SendSignalStep, SleepStep, WaitForSignalStep,
};
use crate::when::When;
use crate::worker::successor;
use crate::workflow::WorkflowSpec;

/// The run that a workflow's code is part of, and the steps it can take.
///
/// A step is a future that does nothing until it is awaited. Steps can be awaited side by side, with
/// `tokio::join!`, `try_join!`, `select!`, [`race!`](crate::race), or in a collection of futures. Each
/// has a name, unique in its run: where one is used again, the later uses become `name:1`, `name:2` and
/// so on *in the order in which the steps are first polled*, so give branches that run side by side
/// names of their own.
///
/// A step's result is durable when its future resolves. A step that failed but is tried again does
/// not resolve in this execution, and neither does one that waits: the run parks and a later execution
/// goes on. That is not an error and cannot be caught. When a step has failed for good, its future
/// resolves with the error as soon as no other step is at work.
///
/// An error that the workflow catches is told again by later executions, with the same kind, name,
/// message and retryability. Its [source](workflow_core::Error::source) is there only in the
/// execution in which the step failed, so what the workflow does next should not depend on it.
///
/// # Order
///
/// Results are observed one at a time, in an order that is kept with them: whatever awaits them,
/// every later execution sees the same results in the same order. So the same branch of a `select!` wins
/// again, and a `FuturesUnordered` yields its items as it did before. `docs/guarantees.md` says what
/// that promises.
///
/// Steps are for the workflow's own task. One that is moved into a spawned task works as long as the
/// workflow awaits that task, and is forgotten there once the run parks; but tasks are ordered by the
/// runtime's scheduler, and no replay repeats that order. It is warned of in the log, once for each
/// workflow. A [`JoinSet`](crate::JoinSet) is what to use in place of tasks.
///
/// # Dropping steps
///
/// Steps can be dropped, in a `select!` say. A function then stops where it is, and runs again if a
/// later execution comes by. A wait no longer keeps the run; its row stays, so the signal counts as
/// waited for, and the child goes on. [`race!`](crate::race) closes the rows of the waits that lost.
#[derive(Clone)]
pub struct WorkflowContext(Arc<ExecutionState>);

impl WorkflowContext {
    pub(crate) fn new(state: Arc<ExecutionState>) -> Self {
        Self(state)
    }

    /// Runs a function and remembers its result. The function may borrow from the workflow.
    ///
    /// It runs at least once: where a worker dies in the middle, it runs again. A failure is tried
    /// again by the step's [retry policy](RunStep::retry). A panic is a failure.
    ///
    /// # Errors
    ///
    /// The last error, once the policy gives up or the error is
    /// [non-retryable](workflow_core::Error::non_retryable). Of kind
    /// [`InvalidPayload`](crate::ErrorKind::InvalidPayload) where the result cannot be read back from
    /// JSON, and [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the name is empty or
    /// longer than 1024 bytes, or the policy makes no sense.
    ///
    /// ```
    /// # use openworkflow::Workflow;
    /// # let _ = Workflow::new("w", |wf, order: u64| async move {
    /// let total = wf.run("price", || async { Ok(order * 3) }).await?;
    /// # Ok(total) });
    /// ```
    pub fn run<'a, T, F, Fut>(&self, name: impl Into<String>, body: F) -> RunStep<'a, T>
    where
        T: Serialize + DeserializeOwned + Send + 'a,
        F: FnOnce() -> Fut + Send + 'a,
        Fut: Future<Output = Result<T>> + Send + 'a,
    {
        RunStep::new(Arc::clone(&self.0), name.into(), body)
    }

    /// As [`run`](Self::run), for a function that works for long: it can save how far it got, and the next
    /// attempt at the step goes on from there. That may be after its worker died, was stopped or lost the
    /// run, or after the function failed and is tried again.
    ///
    /// ```
    /// use openworkflow::{Client, Error, Progress, Sqlite, Worker, WorkflowSpec};
    ///
    /// static IMPORT: WorkflowSpec<u64, u64> = WorkflowSpec::new("import");
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let import = IMPORT.implement(|wf, rows: u64| async move {
    ///     let import = wf.run_with_progress("import", |progress: Progress<u64>| async move {
    ///         let from = progress.last().copied().unwrap_or(0);
    ///         for row in from..rows {
    ///             // Import the row here.
    ///             if row % 100 == 99 {
    ///                 progress.save(&(row + 1)).await?;
    ///             }
    ///             if from == 0 && row == 250 {
    ///                 return Err(Error::new("Unplugged", "the disk is gone"));
    ///             }
    ///         }
    ///         Ok(rows - from)
    ///     });
    ///     import.await
    /// });
    /// # let store = Sqlite::open_in_memory().await?;
    /// # let mut worker = Worker::builder(store.clone()).workflow(import).build()?.start();
    /// let run = Client::new(store).start(&IMPORT, &300).await?;
    /// // The second attempt began at row 200.
    /// assert_eq!(run.result().await?, 100);
    /// # worker.stop().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// The function still runs at least once, and what it did after it saved last it does again. `P` is read
    /// by code of later versions, too: where that cannot read it, the run is put back, with an error in the
    /// log and on the run, until it can. It is kept with the attempt, not with the result; other steps have
    /// their own.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run). [`Progress::save`] has its own.
    pub fn run_with_progress<'a, P, T, F, Fut>(
        &self,
        name: impl Into<String>,
        body: F,
    ) -> RunStep<'a, T>
    where
        P: Serialize + DeserializeOwned + Send + Sync + 'a,
        T: Serialize + DeserializeOwned + Send + 'a,
        F: FnOnce(Progress<P>) -> Fut + Send + 'a,
        Fut: Future<Output = Result<T>> + Send + 'a,
    {
        RunStep::with_progress(Arc::clone(&self.0), name.into(), body)
    }

    /// Sleeps for a duration, or until an instant. The run parks meanwhile and costs nothing.
    ///
    /// ```
    /// # use openworkflow::Workflow;
    /// # let _ = Workflow::new("w", |wf, _: ()| async move {
    /// wf.sleep("cool-down", "30 days").await
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// Of kind [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where `until` is no time, or the
    /// name is empty or longer than 1024 bytes.
    pub fn sleep(&self, name: impl Into<String>, until: impl Into<When>) -> SleepStep {
        SleepStep::new(Arc::clone(&self.0), name.into(), until.into())
    }

    /// Runs another workflow as a child, in the same namespace, and waits for its output.
    ///
    /// ```
    /// # use openworkflow::{Workflow, WorkflowSpec};
    /// static SHIP: WorkflowSpec<String, u64> = WorkflowSpec::new("ship");
    ///
    /// # let _ = Workflow::new("w", |wf, order: String| async move {
    /// let parcel = wf.run_workflow(&SHIP, &order).timeout("2 days").await?;
    /// # Ok(parcel) });
    /// ```
    ///
    /// # Errors
    ///
    /// Where the child failed ([`ChildFailed`](crate::ErrorKind::ChildFailed)), was canceled
    /// ([`ChildCanceled`](crate::ErrorKind::ChildCanceled)), or did not end in time
    /// ([`Timeout`](crate::ErrorKind::Timeout)), or where its output does not fit `O`
    /// ([`InvalidPayload`](crate::ErrorKind::InvalidPayload)). The child's own policy has tried again
    /// what was to be tried again, so none of this is. Canceling a parent does not cancel its
    /// children, except for those [that are to be](RunWorkflowStep::cancel_with_parent).
    pub fn run_workflow<I, O>(&self, workflow: &WorkflowSpec<I, O>, input: &I) -> RunWorkflowStep<O>
    where
        I: Serialize,
        O: DeserializeOwned + Send + 'static,
    {
        let subject = format!("the input of child workflow {:?}", workflow.name());
        RunWorkflowStep::new(RunWorkflowConfig {
            state: Arc::clone(&self.0),
            workflow_name: workflow.name(),
            version: workflow.version_name(),
            input: payload::encode(input, &subject),
            name: None,
            timeout: When::A_YEAR_FROM_NOW,
            cancel_with_parent: false,
        })
    }

    /// Waits for a signal; `None` where it does not come in time. A signal that is sent while nobody
    /// waits for it is lost.
    ///
    /// ```
    /// # use openworkflow::Workflow;
    /// # let _ = Workflow::new("w", |wf, order: String| async move {
    /// let paid: Option<u64> = wf.wait_for_signal(format!("paid:{order}")).timeout("1h").await?;
    /// # Ok(paid) });
    /// ```
    ///
    /// # Errors
    ///
    /// Where the data does not fit `T` ([`InvalidPayload`](crate::ErrorKind::InvalidPayload)), or
    /// another step of the run waits for the same signal
    /// ([`InvalidArgument`](crate::ErrorKind::InvalidArgument)), be it one that was dropped.
    pub fn wait_for_signal<T>(&self, signal: impl Into<String>) -> WaitForSignalStep<T>
    where
        T: DeserializeOwned + Send + 'static,
    {
        WaitForSignalStep::new(Arc::clone(&self.0), signal.into())
    }

    /// Sends a signal to every run that waits for it, and answers their ids.
    ///
    /// ```
    /// # use openworkflow::Workflow;
    /// # let _ = Workflow::new("w", |wf, order: String| async move {
    /// let run_ids = wf.send_signal(format!("paid:{order}"), &1200).await?;
    /// # Ok(run_ids.len()) });
    /// ```
    ///
    /// A signal that nobody waits for is lost, unless it is to be sent
    /// [until somebody receives it](SendSignalStep::until_received). One that was delivered is not delivered again, even if
    /// the worker dies before the step's result is kept.
    ///
    /// # Errors
    ///
    /// Where the data cannot be written as JSON
    /// ([`InvalidPayload`](crate::ErrorKind::InvalidPayload)), the signal's name is empty or longer
    /// than 1024 bytes ([`InvalidArgument`](crate::ErrorKind::InvalidArgument)), or nobody received it
    /// where somebody was to ([`Timeout`](crate::ErrorKind::Timeout)).
    pub fn send_signal<T>(&self, signal: impl Into<String>, data: &T) -> SendSignalStep
    where
        T: Serialize + ?Sized,
    {
        let signal = signal.into();
        let data = payload::encode(data, Subject("the data of signal", &signal));
        SendSignalStep::new(Arc::clone(&self.0), signal, data)
    }

    /// Ends this run in favor of a new one of the same workflow and version, with a new input: for loops
    /// without an end, since a run has 1000 step attempts at most. Write `return wf.continue_as_new(…).await`:
    /// that never resolves, and cannot be caught, unless it is refused.
    ///
    /// ```
    /// use openworkflow::WorkflowSpec;
    ///
    /// static WATCH: WorkflowSpec<u64, String> = WorkflowSpec::new("watch");
    ///
    /// let watch = WATCH.implement(|wf, mut seen: u64| async move {
    ///     for _ in 0..100 {
    ///         let stop: Option<String> = wf.wait_for_signal("stop").timeout("1h").await?;
    ///         if let Some(reason) = stop {
    ///             return Ok(format!("{reason}, after {seen} hours"));
    ///         }
    ///         seen += 1;
    ///     }
    ///     wf.continue_as_new(&seen).await
    /// });
    /// # assert_eq!(watch.name(), "watch");
    /// ```
    ///
    /// This run is completed and the new one is created in one transaction, when the steps at work are done.
    /// The new run has this one's deadline and carrier: it is traced under the same caller, and reads the same
    /// baggage. It has no history, and neither waits nor idempotency key: signals that come before it waits
    /// again are lost. A [handle](crate::RunHandle)'s result is that of the last run;
    /// [`WorkflowRun::continued_as`](crate::backend::WorkflowRun::continued_as) leads from one to the next.
    ///
    /// `input` is what the workflow takes: one of another type fails the new run.
    ///
    /// # Errors
    ///
    /// Where the input cannot be written as JSON ([`InvalidPayload`](crate::ErrorKind::InvalidPayload)), or the
    /// run is a child ([`InvalidArgument`](crate::ErrorKind::InvalidArgument)): its parent waits for this run.
    pub fn continue_as_new<I, O>(
        &self,
        input: &I,
    ) -> impl Future<Output = Result<O>> + Send + 'static + use<I, O>
    where
        I: Serialize + ?Sized,
    {
        let state = Arc::clone(&self.0);
        let input = payload::encode(input, "the input with which the workflow continues");
        async move {
            let input = successor::input_of(&state.owner.run_id, state.is_child, input)?;
            state.continue_as_new(input).await
        }
    }

    /// Drops branches and closes the rows of the waits in them.
    pub(crate) async fn withdraw(&self, drop_branches: impl FnOnce()) {
        let waits = self.0.collect_withdrawn(drop_branches);
        self.0.withdraw(waits).await;
    }

    /// What says when this execution is over, for work that a step has handed to a blocking thread or to a
    /// task of its own: such work goes on when the step's future is dropped.
    ///
    /// It is heard of as soon as the engine knows: at once where the worker stops, where a write of the
    /// execution is refused, and where the run was canceled (or failed by its deadline) in this process, or
    /// in any on PostgreSQL with notifications; otherwise within half of the
    /// [lease](crate::WorkerBuilder::lease), 15 seconds. Where the database does not answer, when the lease
    /// is over.
    ///
    /// A function that is dropped while its execution goes on (by a [time-out](RunStep::timeout), or as the
    /// loser of a `select!`) is no end of the execution.
    ///
    /// [`Cancellation`] has an example.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        self.0.cancellation()
    }

    /// The execution under way: the run's id, name and version, the attempt, the worker.
    #[must_use]
    pub fn execution(&self) -> &Execution {
        &self.0.execution
    }

    /// The run's id.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.0.execution.run.id
    }

    /// Which execution of the run this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.execution.attempt
    }

    /// Whether the run had history when this execution began.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.0.execution.replay
    }

    /// When the run was created. The same in every execution, unlike the clock.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        self.0.created_at
    }

    /// When the run fails if it has not ended.
    #[must_use]
    pub fn deadline_at(&self) -> Option<SystemTime> {
        self.0.deadline_at
    }
}

impl fmt::Debug for WorkflowContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkflowContext")
            .field("execution", &self.0.execution)
            .finish()
    }
}
