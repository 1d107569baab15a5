//! Telling interceptors of executions whose workers are gone.

use workflow_core::{Chain, Event, RunInfo};

use crate::backend::Backend;
use crate::trace;

/// Tells of one execution of a run, where one was lost and is recorded. What cannot be read is not told of:
/// nothing waits for it, and the run goes on.
pub(crate) async fn tell(
    backend: &dyn Backend,
    chain: &Chain,
    run: &RunInfo,
    attempt: Option<u32>,
) {
    let Some(attempt) = attempt.filter(|_| !chain.is_empty()) else {
        return;
    };
    match backend.load_record(&run.namespace_id, &run.id).await {
        Ok(Some(record)) => {
            let created_at = Some(record.run.created_at);
            let lost = trace::lost(record, backend.clock().now(), attempt);
            if let Some(lost) = lost {
                chain.event(&Event::execution_lost(run, created_at, &lost));
            }
        }
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(
                workflow_run.id = &*run.id,
                attempt,
                %error,
                "cannot read what a worker did that is gone: interceptors are not told of it"
            );
        }
    }
}
