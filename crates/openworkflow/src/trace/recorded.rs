//! The executions of a run, as they are recorded, else as they are concluded.

use super::execution::TraceExecution;
use super::steps::Tale;
use super::{Story, inference};

/// The executions of a run, in their order.
pub(super) fn executions(story: &Story, tales: &[Tale<'_>]) -> Vec<TraceExecution> {
    if story.run.attempts == 0 {
        return Vec::new();
    }
    inference::executions(story, tales)
}
