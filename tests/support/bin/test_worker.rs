//! A worker in a process of its own. Its arguments: the database's URL, and a file that it creates
//! when its step is under way.
//!
//! The workflow `slow` has one step, which takes as many milliseconds as the run's input says.

use std::time::Duration;

use openworkflow::Workflow;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("the first argument is a URL")?;
    let under_way = arguments.next().ok_or("the second argument is a file")?;
    let slow = Workflow::new("slow", move |wf, millis: u64| {
        let under_way = under_way.clone();
        async move {
            wf.run("take-your-time", || async {
                std::fs::write(&under_way, "")?;
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok("done".to_owned())
            })
            .await
        }
    });
    let worker = openworkflow_tests::store::worker(&url).await;
    worker.workflow(slow).build()?.run().await?;
    println!("stopped");
    Ok(())
}
