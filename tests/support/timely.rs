//! Workflows in which it matters what time it is, for workers whose clocks are off.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openworkflow::{Error, Result, RetryPolicy, WorkerBuilder, WorkflowSpec};

/// Sleeps for a second.
pub static NAP: WorkflowSpec<(), ()> = WorkflowSpec::new("nap");
/// Sleeps until a time, in milliseconds since 1970.
pub static ALARM: WorkflowSpec<u64, ()> = WorkflowSpec::new("alarm");
/// Has a step that succeeds when it is tried for the fourth time, which is its last.
pub static STUBBORN: WorkflowSpec<(), u32> = WorkflowSpec::new("stubborn");
/// Succeeds when it is tried for the fourth time, which is its last.
pub static RESTLESS: WorkflowSpec<(), u32> = WorkflowSpec::new("restless");
/// Waits for a signal that never comes, for 300 ms. Says whether it came.
pub static DEAF: WorkflowSpec<(), bool> = WorkflowSpec::new("deaf");
/// Waits for [`ENDLESS`] for 300 ms, and says what became of that.
pub static ANXIOUS: WorkflowSpec<(), String> = WorkflowSpec::new("anxious");
/// Sleeps for a day.
pub static ENDLESS: WorkflowSpec<(), ()> = WorkflowSpec::new("endless");
/// Has a step that goes on until somebody [lets it go](let_go).
pub static BUSY: WorkflowSpec<(), u32> = WorkflowSpec::new("busy");

/// How long after a failure [`STUBBORN`] and [`RESTLESS`] are tried again.
pub const DELAY: Duration = Duration::from_millis(50);

const POLICY: RetryPolicy = RetryPolicy::attempts(4)
    .initial_interval(DELAY)
    .backoff_coefficient(1.0);

/// Has the step of a run of [`BUSY`] end, whose worker writes to `folder`.
///
/// # Panics
///
/// Where that folder takes no file.
pub fn let_go(folder: &Path, run_id: &str) {
    File::create_new(gone(folder, run_id)).expect("the file is made");
}

fn gone(folder: &Path, run_id: &str) -> PathBuf {
    folder.join(format!("{run_id}-gone"))
}

/// Adds them all to a worker. Their bodies count themselves in `folder`.
pub fn register(worker: WorkerBuilder, folder: &Path) -> WorkerBuilder {
    let folder: Arc<Path> = folder.into();
    let stubborn = {
        let folder = Arc::clone(&folder);
        STUBBORN.implement(move |wf, ()| {
            let folder = Arc::clone(&folder);
            async move {
                let body = || async { the_fourth(&folder, wf.run_id()) };
                wf.run("stubborn", body).retry(POLICY).await
            }
        })
    };
    let restless = {
        let folder = Arc::clone(&folder);
        RESTLESS.implement(move |wf, ()| {
            let folder = Arc::clone(&folder);
            async move { the_fourth(&folder, wf.run_id()) }
        })
    };
    worker
        .workflow(
            NAP.implement(|wf, ()| async move { wf.sleep("nap", Duration::from_secs(1)).await }),
        )
        .workflow(ALARM.implement(|wf, at| async move {
            wf.sleep("alarm", SystemTime::UNIX_EPOCH + Duration::from_millis(at))
                .await
        }))
        .workflow(stubborn)
        .workflow(restless.retry(POLICY))
        .workflow(DEAF.implement(|wf, ()| async move {
            let wait = wf.wait_for_signal::<()>("never").timeout("300ms");
            Ok(wait.await?.is_some())
        }))
        .workflow(ANXIOUS.implement(|wf, ()| async move {
            match wf.run_workflow(&ENDLESS, &()).timeout("300ms").await {
                Ok(()) => Ok("it ended".to_owned()),
                Err(error) => Ok(error.to_string()),
            }
        }))
        .workflow(ENDLESS.implement(|wf, ()| async move { wf.sleep("endless", "1d").await }))
        .workflow(busy(&folder))
}

/// Adds [`BUSY`] alone.
pub fn register_busy(worker: WorkerBuilder, folder: &Path) -> WorkerBuilder {
    worker.workflow(busy(&folder.into()))
}

fn busy(folder: &Arc<Path>) -> openworkflow::Workflow {
    let folder = Arc::clone(folder);
    BUSY.implement(move |wf, ()| {
        let folder = Arc::clone(&folder);
        async move {
            let body = || async {
                let number = count(&folder, wf.run_id())?;
                while !gone(&folder, wf.run_id()).exists() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(number)
            };
            wf.run("busy", body).await
        }
    })
}

fn the_fourth(folder: &Path, run_id: &str) -> Result<u32> {
    match count(folder, run_id)? {
        number @ 4.. => Ok(number),
        number => Err(Error::new("NotYet", format!("this is number {number}"))),
    }
}

/// How often that was asked of a run, whichever process asked.
fn count(folder: &Path, run_id: &str) -> std::io::Result<u32> {
    let mut number = 1;
    loop {
        match File::create_new(folder.join(format!("{run_id}-{number}"))) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            made => return made.map(|_| number),
        }
    }
}
