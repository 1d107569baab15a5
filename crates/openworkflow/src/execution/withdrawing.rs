//! Waits that the code has given up for good, and how their rows are closed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use workflow_core::Payload;

use super::{ExecutionState, Pending, never};
use crate::backend::{EndedStep, NewStepAttempt, codec};

impl ExecutionState {
    /// A wait that stands in the database, or is about to.
    pub(crate) fn standing(self: &Arc<Self>, attempt: &NewStepAttempt) -> StandingWait {
        let closed = attempt.clone().with_config(codec::encode_withdrawn());
        StandingWait {
            state: Arc::clone(self),
            closed: EndedStep::new(closed, Ok(Payload::NULL)),
        }
    }

    /// Waits for nothing, as a wait that the code has withdrawn: never resolves.
    pub(crate) async fn withdrawn(&self) -> ! {
        never().await
    }

    /// Collects the waits that the code gives up while `drops` runs.
    pub(crate) fn collect_withdrawn(&self, drops: impl FnOnce()) -> Vec<EndedStep> {
        let outer = self.lock().withdrawing.replace(Vec::new());
        drops();
        let mut inner = self.lock();
        let collected = std::mem::replace(&mut inner.withdrawing, outer);
        collected.unwrap_or_default()
    }

    /// Closes the rows of waits that the code has given up, so that nothing is delivered to them.
    pub(crate) async fn withdraw(self: &Arc<Self>, waits: Vec<EndedStep>) {
        if waits.is_empty() {
            return;
        }
        let names: HashSet<_> = waits
            .iter()
            .map(|wait| Arc::clone(&wait.attempt.step_name))
            .collect();
        let at_work = self.at_work_withdrawing();
        let closed = waits.into_iter().map(|wait| async move {
            self.commit(|| self.backend.end_step(&self.owner, wait.clone()))
                .await;
        });
        at_work.during(futures_util::future::join_all(closed)).await;
        self.lock().history.clear_waiters(&names);
    }
}

/// The code awaits a wait whose row may stand in the database while this lives.
pub(crate) struct StandingWait {
    state: Arc<ExecutionState>,
    /// How its row is closed where the code withdraws it.
    pub(super) closed: EndedStep,
}

impl StandingWait {
    /// Waits until a later execution: never resolves. The run may park.
    pub(crate) async fn wait(&self, until: SystemTime) -> ! {
        let attempt = self.closed.attempt.clone();
        self.state.pend(Pending::Wait { attempt, until }).await
    }
}

impl Drop for StandingWait {
    fn drop(&mut self) {
        if let Some(withdrawing) = &mut self.state.lock().withdrawing {
            withdrawing.push(self.closed.clone());
        }
    }
}
