//! A run that goes on as a new one: the successor, and the write that ends the one and creates the other.

use std::sync::{Arc, Mutex, PoisonError};

use workflow_core::{
    CreateRun, CreatedRun, Error, ErrorKind, Execution, ExecutionOutcome, Payload, Result, RunInfo,
};

use super::slot::SlotRun;
use crate::backend::{BackendError, BackendResult, ExecutionEnd, NewRun};
use crate::execution::retry_transient;
use crate::{log, payload};

impl SlotRun {
    /// Ends the run as one that goes on as `run_id`, and gives what became of it. The creation goes through
    /// the interceptors as any other does.
    pub(super) async fn go_on_as(
        &self,
        execution: &Arc<Execution>,
        run_id: Arc<str>,
        input: Option<Payload>,
    ) -> (ExecutionOutcome, BackendResult<()>) {
        let Some(input) = input else {
            let error = Error::of_kind(
                ErrorKind::InvalidArgument,
                "an interceptor answered that the run continues as a new one, which only the workflow's \
                 code can say",
            );
            return self.end_as(self.refused(error.non_retryable())).await;
        };
        let run = &execution.run;
        let mut info = RunInfo::new(
            Arc::clone(&run.namespace_id),
            run_id,
            Arc::clone(&run.workflow_name),
        );
        info.workflow_version.clone_from(&run.workflow_version);
        info.carrier = run.carrier.clone();
        let mut call = CreateRun::new(info, input);
        call.deadline_at = self.run.deadline_at;
        call.continues = Some(Arc::clone(execution));

        let written = Mutex::new(None);
        let create = |call: CreateRun| async {
            let run_id = Arc::clone(&call.run.id);
            let end = ExecutionEnd::Continue {
                successor: Box::new(NewRun::from_call(call)),
            };
            let backend = &self.shared.backend;
            let result = retry_transient(|| backend.end_execution(&self.owner, end.clone())).await;
            let told = match &result {
                Ok(()) => Ok(CreatedRun::new(Arc::clone(&run_id), false)),
                Err(error) => Err(Error::of_kind(ErrorKind::Backend, error.to_string())),
            };
            let result = result.map(|()| run_id);
            *written.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            told
        };
        let answer = self.shared.chain.call(call, create).await;
        let written = written.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (written, answer) {
            // What is written is written, whatever a hook makes of it.
            (Some(Ok(run_id)), _) => {
                self.shared.chain.within(execution, || {
                    log::run_created(&run.workflow_name, &run_id, false);
                });
                (ExecutionOutcome::Continued { run_id }, Ok(()))
            }
            (Some(Err(BackendError::ValueRefused { problem, .. })), _) => {
                let subject = format!(
                    "the input, or the carrier, with which workflow {:?} continues",
                    run.workflow_name
                );
                let error = payload::refused(&subject, &problem);
                self.end_as(ExecutionOutcome::Failed { error }).await
            }
            (Some(Err(error)), _) => {
                let run_id = Arc::clone(&run.id);
                (ExecutionOutcome::Continued { run_id }, Err(error))
            }
            (None, Err(error)) => self.end_as(self.refused(error)).await,
            (None, Ok(_)) => {
                let error = Error::of_kind(
                    ErrorKind::InvalidArgument,
                    "an interceptor answered for the creation of the run as which another continues \
                     without creating it; pass the call on, or refuse it",
                );
                self.end_as(self.refused(error.non_retryable())).await
            }
        }
    }

    async fn end_as(&self, outcome: ExecutionOutcome) -> (ExecutionOutcome, BackendResult<()>) {
        let written = self.write(&outcome, &[]).await;
        (outcome, written)
    }
}

/// The input with which a run is to continue, where that is possible.
pub(crate) fn input_of(run_id: &str, is_child: bool, input: Result<Payload>) -> Result<Payload> {
    if is_child {
        let message = format!(
            "run {run_id} is a child and cannot continue as a new run: its parent waits for this one. Return \
             to the parent, and let it run the child again or continue as a new run itself"
        );
        return Err(Error::of_kind(ErrorKind::InvalidArgument, message).non_retryable());
    }
    input
}
