//! What clients of this library are told of runs that TypeScript executed.

use openworkflow::trace::{StepState, TraceEventKind};
use serde_json::json;

use super::workflows::PHASES;
use super::{By, Sdk, Site};

super::checks! {
    both: a_run_of_typescript_is_told;
    current: a_run_of_both_languages_is_told
}

/// The names of the run's events and of their steps, those that are internal left out.
async fn told(site: &Site, run: &str) -> Vec<String> {
    let trace = site.client.trace_events(run).await;
    let trace = trace.expect("the run is there");
    assert_eq!(trace.unreadable, []);
    let line = |kind: &TraceEventKind| match kind.step() {
        Some(step) => format!("{} {}", kind.name(), step.name),
        None => kind.name().to_owned(),
    };
    trace.events.iter().map(|event| line(&event.kind)).collect()
}

const PHASES_TOLD: [&str; 9] = [
    "run_created",
    "step_started before",
    "step_completed before",
    "step_started go",
    "signal_received go",
    "step_completed go",
    "step_started after",
    "step_completed after",
    "run_completed",
];

async fn a_run_of_typescript_is_told(sdk: Sdk) {
    let site = Site::new(sdk).await;
    let ts = By::TypeScript;
    let run = site.start_by(ts, &PHASES, json!({"signal": "go"})).await;
    site.park_by(ts, &run, 1).await;
    site.signal_by(ts, "go", json!([1])).await;
    site.complete_by(ts, &run).await;
    assert_eq!(told(&site, &run).await, PHASES_TOLD);

    let summary = site.client.trace_summary(&*run).await.unwrap();
    assert_eq!((summary.attempts, summary.retries), (2, 0));
    let states: Vec<_> = summary.steps.iter().map(|step| step.state).collect();
    assert_eq!(states, [StepState::Completed; 3]);
    // Nobody recorded when it was parked, and each number says so.
    assert!(summary.executions.iter().all(|of| of.estimated));
    assert!(summary.time.parts().all(|(_, part)| part.estimated));
    assert_eq!(summary.time.queued, None);
}

async fn a_run_of_both_languages_is_told(sdk: Sdk) {
    for (first, second) in By::BOTH_WAYS {
        let site = Site::new(sdk).await;
        let run = site.start_by(first, &PHASES, json!({"signal": "go"})).await;
        site.park_by(first, &run, 1).await;
        site.signal_by(second, "go", json!([1])).await;
        site.complete_by(second, &run).await;
        assert_eq!(told(&site, &run).await, PHASES_TOLD);
        // Each execution of this library's is recorded, and stays so; none of TypeScript's is.
        let summary = site.client.trace_summary(&*run).await.unwrap();
        let recorded = summary.executions.iter().map(|of| !of.estimated);
        let recorded: Vec<_> = recorded.collect();
        let expected = [first, second].map(|by| by == By::Rust);
        assert_eq!(recorded, expected, "{:#?}", summary.executions);
        for (number, of) in (1..)
            .zip(&summary.executions)
            .filter(|(_, of)| !of.estimated)
        {
            assert_eq!(of.number, Some(number));
            assert!(of.due_at.is_some() && of.due_at <= of.began_at, "{of:#?}");
            assert!(
                of.began_at <= of.ended_at && of.worker_id.is_some(),
                "{of:#?}"
            );
        }
    }
}
