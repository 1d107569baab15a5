//! Due runs that no worker seems to take: how they are looked for, and what is found.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use std::time::SystemTime;

use super::WorkflowKey;

/// A look for runs that are due and not for a certain worker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OrphanSearch {
    /// The namespace.
    pub namespace_id: Arc<str>,
    /// The workflows that the worker has.
    pub workflows: Arc<[WorkflowKey]>,
    /// How many due runs of each status are read at most, those that are due for the longest time.
    pub limit: u32,
}

impl OrphanSearch {
    /// A look that reads up to 100 runs of each status.
    #[must_use]
    pub fn new(namespace_id: Arc<str>, workflows: Arc<[WorkflowKey]>) -> Self {
        Self {
            namespace_id,
            workflows,
            limit: 100,
        }
    }
}

/// Due runs of one workflow, in one version, that a worker does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Orphans {
    /// The workflow.
    pub workflow: WorkflowKey,
    /// How many there are, as far as was read.
    pub runs: u64,
    /// Whether there may be more of them than were read.
    pub at_least: bool,
    /// The run that is due for the longest time.
    pub oldest_run_id: String,
    /// For how long that is.
    pub due_for: Duration,
}

impl Orphans {
    /// For backends.
    pub fn new(
        workflow: WorkflowKey,
        runs: u64,
        at_least: bool,
        oldest_run_id: impl Into<String>,
        due_for: Duration,
    ) -> Self {
        Self {
            workflow,
            runs,
            at_least,
            oldest_run_id: oldest_run_id.into(),
            due_for,
        }
    }
}

/// A run that is due.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) struct DueRun {
    pub(super) workflow: WorkflowKey,
    pub(super) id: String,
    pub(super) since: SystemTime,
}

/// Gathers the runs that were read, of which `at_least` says that there may be more, into groups: the one
/// that waits for the longest time first.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(super) fn gather(
    search: &OrphanSearch,
    now: SystemTime,
    due: Vec<DueRun>,
    at_least: bool,
) -> Vec<Orphans> {
    let known: HashSet<_> = search.workflows.iter().collect();
    let mut groups: HashMap<WorkflowKey, Orphans> = HashMap::new();
    for run in due {
        if known.contains(&run.workflow) {
            continue;
        }
        let due_for = now.duration_since(run.since).unwrap_or_default();
        match groups.get_mut(&run.workflow) {
            Some(group) => {
                group.runs += 1;
                if due_for > group.due_for {
                    group.due_for = due_for;
                    group.oldest_run_id = run.id;
                }
            }
            None => {
                let group = Orphans::new(run.workflow.clone(), 1, at_least, run.id, due_for);
                groups.insert(run.workflow, group);
            }
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by(|a, b| (b.due_for, &a.workflow).cmp(&(a.due_for, &b.workflow)));
    groups
}
