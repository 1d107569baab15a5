//! Branches of a workflow in a set that grows and drains, in an order that replays repeat.

use std::fmt;
use std::future::Future;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use workflow_core::BoxFuture;

/// A set of branches that run side by side on the workflow's own task.
///
/// What `tokio::task::JoinSet` is to tasks. Spawned tasks end in the order in which the runtime
/// happens to schedule them, which no replay repeats; the branches of this set end in the order in
/// which the results of their steps are observed, and that is the same in every execution.
///
/// A branch begins, and goes on, while the set is awaited. It may borrow from the workflow.
///
/// ```
/// # use openworkflow::Workflow;
/// use openworkflow::JoinSet;
///
/// # async fn fetch(page: u32) -> openworkflow::Result<u32> { Ok(page) }
/// # let _ = Workflow::new("crawl", |wf, pages: u32| async move {
/// let wf = &wf;
/// let mut set = JoinSet::new();
/// for page in 0..pages {
///     set.spawn(async move { wf.run(format!("page-{page}"), || fetch(page)).await });
/// }
/// let mut links = 0;
/// while let Some(found) = set.join_next().await {
///     links += found?;
/// }
/// # Ok(links) });
/// ```
#[must_use = "branches do nothing unless the set is awaited"]
pub struct JoinSet<'a, T> {
    branches: FuturesUnordered<BoxFuture<'a, T>>,
}

impl<'a, T> JoinSet<'a, T> {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            branches: FuturesUnordered::new(),
        }
    }

    /// Adds a branch. It begins when the set is next awaited.
    pub fn spawn(&mut self, branch: impl Future<Output = T> + Send + 'a) {
        self.branches.push(Box::pin(branch));
    }

    /// Waits for the next branch to end; `None` where the set is empty.
    ///
    /// Dropping the future loses nothing: the branches stay in the set. A branch that panics ends the
    /// workflow as any panic in its code does.
    pub async fn join_next(&mut self) -> Option<T> {
        self.branches.next().await
    }

    /// Waits for all branches, and gives what they returned in the order of their ends.
    pub async fn join_all(mut self) -> Vec<T> {
        let mut results = Vec::with_capacity(self.len());
        while let Some(result) = self.join_next().await {
            results.push(result);
        }
        results
    }

    /// Drops all branches where they are; see
    /// [`WorkflowContext`](crate::WorkflowContext#dropping-steps) on what becomes of their steps.
    pub fn abort_all(&mut self) {
        self.branches.clear();
    }

    /// How many branches have not been joined.
    #[must_use]
    pub fn len(&self) -> usize {
        self.branches.len()
    }

    /// Whether no branch is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.branches.is_empty()
    }
}

impl<T> Default for JoinSet<'_, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for JoinSet<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinSet").field("len", &self.len()).finish()
    }
}
