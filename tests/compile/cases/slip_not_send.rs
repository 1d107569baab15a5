use std::rc::Rc;

use openworkflow::{Workflow, WorkflowSpec};

static COUNT: WorkflowSpec<u32, u32> = WorkflowSpec::new("count");

fn workflow() -> Workflow {
    COUNT.implement(|wf, count| async move {
        let shared = Rc::new(count);
        wf.sleep("pause", "1s").await?;
        Ok(*shared)
    })
}

fn main() {}
