//! The log that one call sets up leaves out what replays repeat.

use std::process::Command;
use std::time::Duration;

use openworkflow::otel::export::Telemetry;
use openworkflow::otel::logs::ReplayedEvents;
use openworkflow::{Client, Sqlite, Worker, WorkflowSpec};
use tracing::info;

static WORK: WorkflowSpec<(), ()> = WorkflowSpec::new("work");

/// Names the process in which [`in_a_process_of_its_own`] does its part.
const SHOWN: &str = "GOLDEN_LOGS_REPLAYED";

/// What a process logs to standard error.
fn logged(shown: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args([
            "--exact",
            "init::in_a_process_of_its_own",
            "--ignored",
            "--nocapture",
        ])
        .env(SHOWN, shown)
        // Nothing is exported.
        .env("OTEL_SDK_DISABLED", "true")
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn code_is_logged_once_unless_somebody_wants_to_see_it_all() {
    for (shown, times) in [("no", 1), ("yes", 2)] {
        let text = logged(shown);
        assert_eq!(text.matches("code begins").count(), times, "{text}");
        assert_eq!(text.matches("code ends").count(), 1, "{text}");
        assert_eq!(text.matches("execution started").count(), 2, "{text}");
    }
}

#[tokio::test]
#[ignore = "is run by the test above"]
async fn in_a_process_of_its_own() {
    let mut telemetry = Telemetry::builder();
    if std::env::var(SHOWN).as_deref() == Ok("yes") {
        telemetry = telemetry.replayed_events(ReplayedEvents::Shown);
    }
    let telemetry = telemetry.init().unwrap();
    let store = Sqlite::open_in_memory().await.unwrap();
    let work = WORK.implement(|wf, ()| async move {
        info!("code begins");
        wf.sleep("nap", Duration::from_millis(20)).await?;
        info!("code ends");
        Ok(())
    });
    let worker = Worker::builder(store.clone()).workflow(work);
    let mut worker = worker.build().unwrap().start();
    let run = Client::new(store).start(&WORK, &()).await.unwrap();
    run.result_within(Duration::from_secs(60)).await.unwrap();
    worker.stop().await.unwrap();
    telemetry.shutdown(Duration::from_secs(5)).await;
}
