use std::sync::Arc;

use openworkflow::{Workflow, WorkflowSpec};

static COUNT: WorkflowSpec<(), u32> = WorkflowSpec::new("count");

fn workflow(db: Arc<u32>) -> Workflow {
    COUNT.implement(move |wf, ()| async move { wf.run("count", async || Ok(*db)).await })
}

fn main() {}
