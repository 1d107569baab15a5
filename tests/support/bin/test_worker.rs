//! A worker in a process of its own. Its arguments: the database's URL, and a file that it creates
//! when its step is under way.
//!
//! The workflow `slow` has one step, which takes as many milliseconds as the run's input says. `import` has
//! one that saves the input as its progress and works without an end.

use std::time::Duration;

use openworkflow::{Progress, Workflow};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("the first argument is a URL")?;
    let under_way = arguments.next().ok_or("the second argument is a file")?;
    let file = under_way.clone();
    let import = Workflow::new("import", move |wf, row: u64| {
        let under_way = file.clone();
        async move {
            wf.run_with_progress("import", |progress: Progress<u64>| async move {
                progress.save(&row).await?;
                std::fs::write(&under_way, "")?;
                std::future::pending::<openworkflow::Result<String>>().await
            })
            .await
        }
    });
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
    let worker = worker.workflow(slow).workflow(import);
    worker.build()?.run().await?;
    println!("stopped");
    Ok(())
}
