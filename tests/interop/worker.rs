//! A Rust worker in a process of its own, for suites that kill it: `interop_worker URL`.

mod workflows;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("the argument is a URL")?;
    let mut worker = openworkflow_tests::store::worker(&url).await;
    for workflow in workflows::all() {
        worker = worker.workflow(workflow);
    }
    worker.build()?.run().await?;
    Ok(())
}
