use std::sync::Arc;

use openworkflow::{Next, StepCall, WorkerBuilder, from_fn};

fn counted(worker: WorkerBuilder, limit: Arc<u32>) -> WorkerBuilder {
    worker.interceptor(from_fn(async move |call: StepCall, next: Next<'_, StepCall>| {
        println!("{limit}");
        next.run(call).await
    }))
}

fn main() {}
