use openworkflow::{Interceptor, Next, Result, StepCall, StepOutcome};

struct Audit;

impl Interceptor for Audit {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        next.run(call).await
    }
}

fn main() {}
