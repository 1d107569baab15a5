//! A worker in a process of its own, and the signals of the operating system.
#![cfg(unix)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use openworkflow::{Progress, RunHandle, WorkflowSpec};
use openworkflow_tests::{Database, wait_until};

use super::{Harness, LEASE};

static SLOW: WorkflowSpec<u64, String> = WorkflowSpec::new("slow");
static IMPORT: WorkflowSpec<u64, String> = WorkflowSpec::new("import");

/// A child process that does not outlive its test.
struct Process(Child);

impl Process {
    fn start(harness: &Harness, under_way: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_test_worker"))
            .arg(harness.url())
            .arg(under_way)
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("the process starts"))
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.0.id().to_string())
            .status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for the end; whether that was a success.
    async fn ended(&mut self) -> bool {
        let mut success = false;
        wait_until("the process ends", || {
            let status = self.0.try_wait().expect("the process is ours");
            success = status.is_some_and(|status| status.success());
            async move { status.is_some() }
        })
        .await;
        success
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Mostly it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A run of `SLOW` that is under way in a process of its own.
async fn under_way(
    harness: &Harness,
    step: Duration,
) -> (Process, RunHandle<String>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("under-way");
    let run = harness.start(&SLOW, step.as_millis() as u64).await;
    let process = Process::start(harness, &file);
    wait_until("the step is under way", || async { file.exists() }).await;
    (process, run, folder)
}

async fn finishes_its_work_after(signal: &str) {
    let harness = Harness::idle().await;
    let (mut process, run, _folder) = under_way(&harness, Duration::from_millis(600)).await;
    process.signal(signal);
    assert!(process.ended().await, "it ends with success");
    let row = harness.run(run.id()).await;
    assert_eq!((row.status.as_str(), row.attempts), ("completed", 1));
    assert_eq!(row.output, Some("done".into()));
}

#[tokio::test]
async fn sigterm_lets_it_finish() {
    finishes_its_work_after("TERM").await;
}

#[tokio::test]
async fn ctrl_c_lets_it_finish() {
    finishes_its_work_after("INT").await;
}

#[tokio::test]
async fn a_second_signal_stops_hard() {
    let harness = Harness::idle().await;
    let (mut process, run, _folder) = under_way(&harness, Duration::from_secs(3600)).await;
    process.signal("TERM");
    // The two must not become one.
    wait_until("the first signal is handled", || async {
        process.signal("TERM");
        tokio::time::sleep(Duration::from_millis(50)).await;
        !is_running(&process)
    })
    .await;
    assert!(process.ended().await);
    let row = harness.run(run.id()).await;
    assert_eq!(row.status, "running");
    assert!(row.worker_id.is_some(), "nothing is given back");
}

fn is_running(process: &Process) -> bool {
    // A process that ended and was not waited for still takes signals, so ask for its state.
    let state = std::fs::read_to_string(format!("/proc/{}/stat", process.0.id()));
    state.is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_killed_worker_is_taken_over_from_after_its_lease() {
    let mut harness = Harness::idle().await;
    let (mut process, run, _folder) = under_way(&harness, Duration::from_secs(3600)).await;
    wait_until("the step is recorded", || async {
        !harness.steps(run.id()).await.is_empty()
    })
    .await;
    process.signal("KILL");
    assert!(!process.ended().await);
    harness.start_worker(|worker| {
        worker.workflow(SLOW.implement(|wf, _| async move {
            wf.run("take-your-time", || async { Ok("taken over".to_owned()) })
                .await
        }))
    });
    assert_eq!(harness.run(run.id()).await.status, "running");
    // The process went by its own clock.
    harness.advance(LEASE * 2).await;
    assert_eq!(harness.output(&run).await, "taken over");
    assert_eq!(harness.run(run.id()).await.attempts, 2);
}

#[tokio::test]
async fn what_a_killed_worker_saved_of_its_progress_is_found_again() {
    let mut harness = Harness::idle().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("under-way");
    let run = harness.start(&IMPORT, 4711).await;
    let mut process = Process::start(&harness, &file);
    wait_until("the progress is saved", || async { file.exists() }).await;
    process.signal("KILL");
    assert!(!process.ended().await);
    harness.start_worker(|worker| {
        worker.workflow(IMPORT.implement(|wf, _| async move {
            wf.run_with_progress("import", |progress: Progress<u64>| async move {
                Ok(format!("from {:?}", progress.last()))
            })
            .await
        }))
    });
    // The process went by its own clock.
    harness.advance(LEASE * 2).await;
    assert_eq!(harness.output(&run).await, "from Some(4711)");
    assert_eq!(harness.run(run.id()).await.attempts, 2);
}
