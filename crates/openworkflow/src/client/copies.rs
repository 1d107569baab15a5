//! New runs made of runs that are over: from the start, from where they failed, from a step.

use std::sync::Arc;

use workflow_core::{Carrier, CreateRun, CreatedRun, RunInfo};

use super::outage::ride_out;
use super::results::Results;
use super::{Client, ClientError, ClientResult};
use crate::backend::{
    CopiedAttempt, CopyKind, CopyOutcome, NewRun, RelatedRuns, RunCopy, RunRecord, RunStatus,
    WorkflowRun,
};
use crate::execution::new_id;
use crate::log;

impl Client {
    /// Starts a run over: a new run of the same workflow and version, from the same input. The old one stays
    /// as it is. Gives the new run's id.
    ///
    /// The new run has no parent, no deadline and no idempotency key, even where the old one has: a
    /// parent went on with what became of its child. What else is in the old run's carrier goes
    /// along, but for what traces it; [`related_runs`](Self::related_runs) leads from one to the other, and
    /// the new run's first span links to the old run's last.
    ///
    /// Interceptors see a creation. The input is copied within the database: what a hook makes of it does
    /// not count. If the future is dropped, the new run may or may not have been made.
    ///
    /// ```no_run
    /// # async fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let run_id = client.retry("6f9c1c2e").await?;
    /// let output: u64 = client.handle(run_id).result().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::RunNotFound`], [`ClientError::NotOver`] for a run that still goes on,
    /// [`ClientError::Invalid`] for an id that no run has, [`ClientError::Refused`] by an interceptor, or
    /// the database's, such as one that names what cannot be read in the run's row.
    pub async fn retry(&self, run_id: &str) -> ClientResult<String> {
        let run = self.describe(run_id).await?;
        self.make(run, CopyKind::Retried, Vec::new()).await
    }

    /// Goes on where a run failed or was canceled: a new run, as [`retry`](Self::retry) makes it, that has
    /// the results of all completed steps. Gives its id.
    ///
    /// The step that the run failed with is done anew, and so is what the code did on account of that
    /// failure, such as to undo earlier steps: use [`fork`](Self::fork) where that cannot be done twice.
    /// Failures that the code had dealt with before stay as they are. Signals that were delivered to the
    /// old run are delivered to the new one; sleeps that had not ended begin anew.
    ///
    /// # Errors
    ///
    /// As [`retry`](Self::retry); [`ClientError::NothingToResume`] for a run that is completed; and the
    /// database's for a step attempt that cannot be read.
    pub async fn resume(&self, run_id: &str) -> ClientResult<String> {
        let record = self.record(run_id).await?;
        if matches!(
            record.run.status,
            RunStatus::Completed | RunStatus::Succeeded
        ) {
            return Err(ClientError::NothingToResume {
                run_id: run_id.to_owned(),
            });
        }
        let error = record.run.error.clone();
        let results = Results::new(record.attempts)?;
        let attempts = results.before_failure(error.as_ref());
        self.make(record.run, CopyKind::Resumed, attempts).await
    }

    /// Goes on from a step of a run: a new run, as [`retry`](Self::retry) makes it, that has the results
    /// which the code of the old one got before that of `from_step`. That step, and what came after, is
    /// done anew; steps beside it whose results came earlier are not. Gives the new run's id.
    ///
    /// ```no_run
    /// # async fn example(client: openworkflow::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let run_id = client.fork("6f9c1c2e", "charge-card").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`retry`](Self::retry); [`ClientError::StepNotFound`]; and the database's for a step attempt that
    /// cannot be read.
    pub async fn fork(&self, run_id: &str, from_step: &str) -> ClientResult<String> {
        let record = self.record(run_id).await?;
        let results = Results::new(record.attempts)?;
        let Some(attempts) = results.before_step(from_step) else {
            return Err(ClientError::StepNotFound {
                run_id: run_id.to_owned(),
                step_name: from_step.to_owned(),
            });
        };
        self.make(record.run, CopyKind::Forked, attempts).await
    }

    /// Tells which run a run was made of by [`retry`](Self::retry), [`resume`](Self::resume) or
    /// [`fork`](Self::fork), and which were made of it.
    ///
    /// # Errors
    ///
    /// As [`describe`](Self::describe).
    pub async fn related_runs(&self, run_id: &str) -> ClientResult<RelatedRuns> {
        let record = self.record(run_id).await?;
        Ok(RelatedRuns::decode(record.config.as_deref()))
    }

    async fn record(&self, run_id: &str) -> ClientResult<RunRecord> {
        self.0.check_lookup(&[("the run's id", run_id)])?;
        let read = || self.0.backend.load_record(&self.0.namespace_id, run_id);
        let record = ride_out(self.0.retry_for, read).await?;
        record.ok_or_else(|| ClientError::RunNotFound {
            run_id: run_id.to_owned(),
        })
    }

    async fn make(
        &self,
        origin: WorkflowRun,
        kind: CopyKind,
        attempts: Vec<String>,
    ) -> ClientResult<String> {
        let not_over = |status| ClientError::NotOver {
            run_id: origin.id.to_string(),
            status,
        };
        if !origin.status.is_terminal() {
            return Err(not_over(origin.status.clone()));
        }
        let mut run = RunInfo::new(
            Arc::clone(&self.0.namespace_id),
            new_id(),
            &*origin.workflow_name,
        );
        run.workflow_version = origin.version.as_deref().map(Arc::from);
        run.carrier = carrier(&origin, kind);
        let call = CreateRun::new(run, origin.input.clone());
        let attempts: Vec<CopiedAttempt> = attempts
            .into_iter()
            .map(|from_id| CopiedAttempt::new(from_id, new_id()))
            .collect();
        let create = |call: CreateRun| async {
            let mut copy = RunCopy::new(&*origin.id, kind, NewRun::from_call(call));
            copy.attempts = attempts;
            let made = ride_out(self.0.retry_for, || self.0.backend.copy_run(copy.clone()));
            match made.await {
                Ok(CopyOutcome::Made) => {
                    let new = copy.run;
                    log::run_created(&new.workflow_name, &new.id, false);
                    Ok(CreatedRun::new(new.id, false))
                }
                Ok(CopyOutcome::NotOver(status)) => Err(not_over(status).into_chain()),
                Ok(CopyOutcome::NotFound) => Err(ClientError::RunNotFound {
                    run_id: origin.id.to_string(),
                }
                .into_chain()),
                Err(error) => {
                    let subject =
                        || format!("the carrier of the run that is made of run {}", origin.id);
                    Err(ClientError::of_value(error, subject).into_chain())
                }
            }
        };
        let created = self.0.chain.call(call, create).await;
        let created = created.map_err(ClientError::from_chain)?;
        Ok(created.run_id.to_string())
    }
}

/// What goes along from the carrier of the old run: nothing that belongs to its trace, but for a link to its
/// last execution (`docs/trace-contract.md`).
fn carrier(origin: &WorkflowRun, kind: CopyKind) -> Carrier {
    let mut carrier = Carrier::new();
    for (key, value) in origin.carrier.iter() {
        let is_trace = matches!(key, "traceparent" | "tracestate") || key.starts_with("workflow-");
        if !is_trace {
            carrier.insert(key, value);
        }
    }
    let mut link = format!("{} {}", origin.attempts, origin.id);
    if let Some(parent) = origin.carrier.get("traceparent") {
        link.push(' ');
        link.push_str(parent);
    }
    carrier.insert(format!("workflow-{kind}-from"), link);
    carrier
}
