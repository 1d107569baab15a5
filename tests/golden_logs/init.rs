//! The log that one call sets up: it leaves out what replays repeat, and says what belongs to which run.

use std::process::Command;
use std::time::Duration;

use openworkflow::otel::Prometheus;
use openworkflow::otel::export::{LogFormat, Telemetry};
use openworkflow::otel::logs::ReplayedEvents;
use openworkflow::{Client, Sqlite, Worker, WorkflowSpec};
use serde_json::Value;
use tracing::info;

static WORK: WorkflowSpec<(), ()> = WorkflowSpec::new("work");

/// Names the process in which [`in_a_process_of_its_own`] does its part.
const SHOWN: &str = "GOLDEN_LOGS_REPLAYED";

/// How the log is written there.
const FORMAT: &str = "GOLDEN_LOGS_FORMAT";

/// What a process logs to standard error, which is a pipe.
fn logged(shown: &str, format: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args([
            "--exact",
            "init::in_a_process_of_its_own",
            "--ignored",
            "--nocapture",
        ])
        .env(SHOWN, shown)
        .env(FORMAT, format)
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
        let text = logged(shown, "");
        assert_eq!(text.matches("code begins").count(), times, "{text}");
        assert_eq!(text.matches("code ends").count(), 1, "{text}");
        assert_eq!(text.matches("execution started").count(), 2, "{text}");
    }
}

#[test]
fn where_there_is_no_terminal_each_event_is_an_object_with_the_ids_of_its_run() {
    for format in ["", "json"] {
        let text = logged("no", format);
        let lines = text.lines().filter(|line| line.starts_with('{'));
        let lines = lines.map(|line| serde_json::from_str(line).unwrap());
        let lines: Vec<Value> = lines.collect();
        let titled = |title: &str| {
            let found = lines.iter().filter(|line| super::title(line) == title);
            found.collect::<Vec<_>>()
        };
        let starts = titled("execution.start");
        let run = &starts[0]["workflow_run.id"];
        assert!(run.is_string(), "{text}");
        for (title, attempt) in [("code begins", 1), ("code ends", 2)] {
            let [line] = titled(title)[..] else {
                panic!("{title} is there once: {text}");
            };
            assert_eq!(&line["workflow_run.id"], run, "{text}");
            assert_eq!(line["workflow.name"], "work", "{text}");
            assert_eq!(line["workflow_run.attempt"], attempt, "{text}");
        }
    }
}

#[test]
fn text_is_for_who_asks_for_it() {
    let text = logged("no", "text");
    let line = text.lines().find(|line| line.contains("code begins"));
    let line = line.unwrap_or_default();
    assert!(line.contains(" INFO ") && !line.starts_with('{'), "{text}");
    assert!(!text.contains('\u{1b}'), "no colors in a pipe: {text}");
}

#[tokio::test]
#[ignore = "is run by the tests above"]
async fn in_a_process_of_its_own() {
    let mut telemetry = Telemetry::builder();
    if std::env::var(SHOWN).as_deref() == Ok("yes") {
        telemetry = telemetry.replayed_events(ReplayedEvents::Shown);
    }
    telemetry = match std::env::var(FORMAT).as_deref() {
        Ok("json") => telemetry.log_format(LogFormat::Json),
        Ok("text") => telemetry.log_format(LogFormat::Text),
        _ => telemetry,
    };
    let prometheus = Prometheus::new();
    let telemetry = telemetry.prometheus(&prometheus).init().unwrap();
    let store = Sqlite::open_in_memory().await.unwrap();
    let work = WORK.implement(|wf, ()| async move {
        info!("code begins");
        wf.sleep("nap", Duration::from_millis(20)).await?;
        info!("code ends");
        Ok(())
    });
    let worker = Worker::builder(store.clone()).workflow(work);
    let worker = worker.interceptor(telemetry.interceptor());
    let mut worker = worker.build().unwrap().start();
    let run = Client::new(store).start(&WORK, &()).await.unwrap();
    run.result_within(Duration::from_secs(60)).await.unwrap();
    worker.stop().await.unwrap();
    // Telemetry is off, so there is nothing to scrape; which is no error.
    let scraped = prometheus.scrape().unwrap();
    assert!(!scraped.contains("workflow"), "{scraped}");
    telemetry.shutdown(Duration::from_secs(5)).await;
}
