//! How work that outlives the future of its step hears that its execution is over.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::watch;
use workflow_core::Interruption;

/// Says whether an execution is over, to work that its step has handed to a blocking thread or to a task of
/// its own; see [`WorkflowContext::cancellation`](crate::WorkflowContext::cancellation). Cloning is cheap.
///
/// The function of a step needs none of it as long as it only awaits: its future is dropped. What it has
/// handed away goes on, beside the next execution of the run if it comes to that.
///
/// An execution is over when it was interrupted (the run was canceled, its deadline passed, another worker
/// has it, or this one stopped), and when it came to its own end: it completed, failed or parked, and
/// nobody waits for its work any more.
///
/// ```
/// # use openworkflow::Workflow;
/// # fn import(row: u64) {}
/// # let _ = Workflow::new("w", |wf, rows: u64| async move {
/// let cancellation = wf.cancellation();
/// wf.run("import", || async {
///     let cancellation = cancellation.clone();
///     let imported = tokio::task::spawn_blocking(move || {
///         for row in 0..rows {
///             if cancellation.is_canceled() {
///                 return row;
///             }
///             import(row);
///         }
///         rows
///     });
///     Ok(imported.await?)
/// })
/// .await
/// # });
/// ```
#[derive(Clone)]
pub struct Cancellation(watch::Receiver<Standing>);

/// How an execution stands: under way, or over, with the reason if it was interrupted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    UnderWay,
    Over(Option<Interruption>),
}

impl Cancellation {
    /// Whether the execution is over.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        // Without the sender, nothing is left of the execution.
        *self.0.borrow() != Standing::UnderWay || self.0.has_changed().is_err()
    }

    /// Why the execution was interrupted. `None` while it is under way, and where it came to its own end.
    #[must_use]
    pub fn reason(&self) -> Option<Interruption> {
        match *self.0.borrow() {
            Standing::UnderWay => None,
            Standing::Over(reason) => reason,
        }
    }

    /// Resolves when the execution is over, with [the reason](Self::reason). Dropping the future is
    /// harmless.
    ///
    /// ```
    /// # use openworkflow::Workflow;
    /// # async fn transcode(film: String) {}
    /// # let _ = Workflow::new("w", |wf, film: String| async move {
    /// let cancellation = wf.cancellation();
    /// wf.run("transcode", || async {
    ///     let (film, cancellation) = (film.clone(), cancellation.clone());
    ///     let work = tokio::spawn(async move {
    ///         tokio::select! {
    ///             () = transcode(film) => true,
    ///             _ = cancellation.canceled() => false,
    ///         }
    ///     });
    ///     Ok(work.await?)
    /// })
    /// .await
    /// # });
    /// ```
    pub async fn canceled(&self) -> Option<Interruption> {
        let mut standing = self.0.clone();
        // Without the sender, nothing is left of the execution.
        let _ = standing.wait_for(|now| *now != Standing::UnderWay).await;
        self.reason()
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation")
            .field("is_canceled", &self.is_canceled())
            .field("reason", &self.reason())
            .finish()
    }
}

/// What an execution knows of those who want to hear of its end. Costs nothing until somebody does.
#[derive(Debug, Default)]
pub(crate) struct Canceler {
    over: Option<Option<Interruption>>,
    told: Option<watch::Sender<Standing>>,
    /// Resolves when this process hears that the run has ended.
    ended: Option<OwnedNotified>,
}

impl Canceler {
    /// Somebody wants to hear of it, from now on. `ended` is notified when this process hears that the run
    /// has ended. Says whether they are the first.
    pub(crate) fn listen(&mut self, ended: impl FnOnce() -> Arc<Notify>) -> (Cancellation, bool) {
        let is_first = self.told.is_none();
        let standing = self.over.map_or(Standing::UnderWay, Standing::Over);
        let told = self.told.get_or_insert_with(|| {
            self.ended = Some(ended().notified_owned());
            watch::Sender::new(standing)
        });
        (Cancellation(told.subscribe()), is_first)
    }

    /// The execution is over. The first reason stands.
    pub(crate) fn over(&mut self, reason: Option<Interruption>) {
        let reason = *self.over.get_or_insert(reason);
        if let Some(told) = &self.told {
            told.send_replace(Standing::Over(reason));
        }
    }

    /// Resolves when this process hears that the run has ended; `None` where nobody wants to hear of it, or
    /// it was asked for before.
    pub(crate) fn ended(&mut self) -> Option<OwnedNotified> {
        self.ended.take()
    }
}
