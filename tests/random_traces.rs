//! What holds for the trace, the metrics and the log of any workflow, crashed or not: random workflows on a
//! real SQLite file, with every span, data point and event collected.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use openworkflow::backend::{RunStatus, StepAttempt, StepAttemptKind, StepStatus, WorkflowRun};
use openworkflow::otel::opentelemetry::trace::SpanId;
use openworkflow::otel::opentelemetry_sdk::trace::SpanData;
use openworkflow::otel::testing::SpanCollector;
use openworkflow::{Event, Interceptor};
use openworkflow_tests::random::{
    Checked, Database, Outcome, Program, Setup, SqliteFile, block_on, config, drive, programs,
};
use openworkflow_tests::{Logbook, Points};
use proptest::prelude::*;
use serde_json::Value;

/// Counts what is answered from history.
#[derive(Default)]
struct Replays(AtomicI64);

impl Interceptor for Replays {
    fn event(&self, event: &Event<'_>) {
        if let Event::StepReplayed { .. } = event {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs a program with every span and data point collected. What a replay counts, and that no payload is
/// in any signal, holds for all.
async fn traced(
    program: &Program,
    concurrency: usize,
    crashes: &[u32],
) -> Result<(Outcome, SpanCollector, Points), TestCaseError> {
    let replays = Arc::new(Replays::default());
    let spans = SpanCollector::new();
    let points = Points::default();
    let otel = points
        .interceptor()
        .tracer_provider(&spans.provider())
        .build();
    let setup = Setup {
        concurrency,
        crashes,
        chance: None,
        worker: &|worker| {
            let worker = worker.interceptor(Arc::clone(&replays));
            worker.interceptor(otel.clone())
        },
        client: &|client| client.interceptor(otel.clone()),
    };
    let outcome = drive(&SqliteFile::create().await, program, &setup).await;
    prop_assert_eq!(
        otel.losses(),
        Default::default(),
        "nothing was lost on the way"
    );
    let replays = replays.0.load(Ordering::Relaxed);
    prop_assert_eq!(points.count("step.replayed", &[]), replays);
    prop_assert_eq!(spans.mentions(&program.marker), Vec::<String>::new());
    let measured = points.text();
    prop_assert!(!measured.contains(&program.marker), "{}", measured);
    let logged = Logbook::open().mentions(&program.marker);
    prop_assert_eq!(logged, Vec::<String>::new());
    Ok((outcome, spans, points))
}

fn text(span: &SpanData, key: &str) -> String {
    let found = span.attributes.iter().find(|kv| kv.key.as_str() == key);
    found.map(|kv| kv.value.to_string()).unwrap_or_default()
}

fn operation(span: &SpanData) -> &str {
    span.name.split(' ').next().unwrap_or_default()
}

/// Start and end, one end, one root, every parent, nobody else's parent.
fn check_trace(spans: &SpanCollector) -> Checked {
    prop_assert_eq!(spans.violations(), Vec::<String>::new());
    let all = spans.spans();
    let by_id: HashMap<SpanId, &SpanData> = all
        .iter()
        .map(|span| (span.span_context.span_id(), span))
        .collect();
    let traces: HashSet<_> = all
        .iter()
        .map(|span| span.span_context.trace_id())
        .collect();
    prop_assert_eq!(traces.len(), 1, "one run, one trace, whatever became of it");
    for span in &all {
        let Some(parent) = by_id.get(&span.parent_span_id) else {
            prop_assert_eq!(operation(span), "workflow.start", "the only root");
            continue;
        };
        let run_id = text(span, "workflow_run.id");
        let expected = match (operation(span), operation(parent)) {
            ("workflow.execute", "workflow.start") => text(parent, "workflow_run.id"),
            ("workflow.execute", "step.run_workflow") => text(parent, "child_workflow_run.id"),
            (step, "workflow.execute") if step.starts_with("step.") => {
                prop_assert_eq!(
                    text(span, "workflow_run.attempt"),
                    text(parent, "workflow_run.attempt")
                );
                text(parent, "workflow_run.id")
            }
            (child, parent) => {
                return Err(TestCaseError::fail(format!("{child} under {parent}")));
            }
        };
        prop_assert_eq!(run_id, expected, "{} is where it belongs", span.name);
    }
    Ok(())
}

/// Without crashes, every span has its row and every row its spans.
fn check_rows(runs: &[(WorkflowRun, Vec<StepAttempt>)], spans: &[SpanData]) -> Checked {
    let mut of_attempt: HashMap<String, Vec<&SpanData>> = HashMap::new();
    let mut executions: HashMap<String, u32> = HashMap::new();
    for span in spans {
        match operation(span) {
            "workflow.start" => {}
            "workflow.execute" => {
                *executions.entry(text(span, "workflow_run.id")).or_default() += 1;
            }
            _ => of_attempt
                .entry(text(span, "step_attempt.id"))
                .or_default()
                .push(span),
        }
    }
    for (run, attempts) in runs {
        prop_assert_eq!(
            executions.get(&run.id),
            Some(&run.attempts),
            "a span per execution"
        );
        for attempt in attempts {
            let of_attempt = of_attempt.remove(&attempt.id).unwrap_or_default();
            let parked = of_attempt
                .iter()
                .filter(|span| text(span, "step.outcome") == "parked")
                .count();
            let ended = of_attempt.len() - parked;
            let expected = match attempt.kind {
                // Silent at its end.
                StepAttemptKind::Sleep => (1, 0),
                StepAttemptKind::Function | StepAttemptKind::SignalSend => (0, 1),
                // A wait that the workflow gave up is never observed.
                _ => (1, ended.min(1)),
            };
            prop_assert_eq!(
                (parked, ended),
                expected,
                "the spans of {} {}",
                &attempt.step_name,
                &attempt.kind
            );
        }
    }
    prop_assert_eq!(
        of_attempt.len(),
        0,
        "no span without a row: {:?}",
        of_attempt.keys()
    );
    Ok(())
}

/// Without crashes, what was counted is what the database says, and what the spans are.
fn check_counts(
    runs: &[(WorkflowRun, Vec<StepAttempt>)],
    spans: &[SpanData],
    points: &Points,
) -> Checked {
    let number = |count: usize| i64::try_from(count).unwrap();
    prop_assert_eq!(points.count("active_workflows", &[]), 0);
    prop_assert_eq!(
        points.count("workflow.runs.created", &[]),
        number(runs.len())
    );
    let executions: u32 = runs.iter().map(|(run, _)| run.attempts).sum();
    prop_assert_eq!(
        points.count("workflow.executions", &[]),
        i64::from(executions)
    );
    prop_assert_eq!(
        points.count("workflow.queue.duration", &[]),
        i64::from(executions)
    );
    for (word, status) in [
        ("completed", RunStatus::Completed),
        ("failed", RunStatus::Failed),
        ("canceled", RunStatus::Canceled),
    ] {
        let ended = runs.iter().filter(|(run, _)| run.status == status).count();
        let counted = points.count("workflow.duration", &[("workflow_run.status", word)]);
        prop_assert_eq!(counted, number(ended), "runs that were {}", word);
        if status != RunStatus::Canceled {
            let counted = points.count("workflow.executions", &[("workflow.outcome", word)]);
            prop_assert_eq!(counted, number(ended), "executions that ended as {}", word);
        }
    }
    let steps = spans.iter().filter(|span| span.name.starts_with("step."));
    prop_assert_eq!(points.count("step.duration", &[]), number(steps.count()));
    let failed = |attempt: &&StepAttempt| attempt.status == StepStatus::Failed;
    let failures = runs
        .iter()
        .flat_map(|(_, attempts)| attempts)
        .filter(failed);
    let retried = runs.iter().map(|(_, attempts)| {
        let names = attempts.iter().map(|attempt| &attempt.step_name);
        let names: HashSet<_> = names.collect();
        // Each attempt but the first follows a failure.
        attempts.len() - names.len()
    });
    let (retried, failures) = (number(retried.sum()), number(failures.count()));
    let retries = points.count("step.retries", &[]);
    prop_assert!(
        (retried..=failures).contains(&retries),
        "{retries} retries, with {failures} failures and {retried} further attempts"
    );
    Ok(())
}

/// Without crashes, what was logged is what the database says, and each thing once, however often it was
/// replayed.
fn check_log(runs: &[(WorkflowRun, Vec<StepAttempt>)]) -> Checked {
    let book = Logbook::open();
    for (run, attempts) in runs {
        let lines = book.lines_with_replays(&run.id);
        let named = |name: &str| {
            let found = lines.iter().filter(|line| line["event.name"] == name);
            found.collect::<Vec<_>>()
        };
        let executions = usize::try_from(run.attempts).unwrap();
        prop_assert_eq!(named("run.created").len(), 1);
        prop_assert_eq!(named("execution.start").len(), executions);
        // A process that is ended when the last run is over may have had no time to tell.
        let ends = named("execution.end").len();
        prop_assert!((executions - 1..=executions).contains(&ends), "{ends} ends");
        let told = |name: &str| counted(named(name).into_iter().map(step_of));
        let rows = |status: StepStatus| {
            let those = attempts.iter().filter(|attempt| attempt.status == status);
            counted(those.map(|attempt| attempt.step_name.clone()))
        };
        prop_assert_eq!(told("step.complete"), rows(StepStatus::Completed));
        prop_assert_eq!(told("step.failed"), rows(StepStatus::Failed));
    }
    Ok(())
}

fn step_of(line: &Value) -> String {
    line["step.name"].as_str().unwrap_or_default().to_owned()
}

fn counted(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Rows without what an interceptor is there to add: the carrier.
fn without_carriers(rows: &[String]) -> Vec<String> {
    let mut rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let mut columns: Vec<_> = row.split(" | ").collect();
            if columns[0] == "run" {
                columns[8] = "context";
            }
            columns.join(" | ")
        })
        .collect();
    rows.sort();
    rows
}

async fn check_undisturbed(program: Program, concurrency: usize) -> Checked {
    let untraced = Setup {
        concurrency,
        ..Setup::default()
    };
    let untraced = drive(&SqliteFile::create().await, &program, &untraced).await;
    let (outcome, spans, points) = traced(&program, concurrency, &[]).await?;
    prop_assert_eq!(&outcome.violations, &Vec::<String>::new());
    prop_assert_eq!(&outcome.result, &untraced.result);
    prop_assert_eq!(
        without_carriers(&outcome.rows),
        without_carriers(&untraced.rows)
    );
    check_trace(&spans)?;
    check_rows(&outcome.runs, &spans.spans())?;
    check_log(&outcome.runs)?;
    check_counts(&outcome.runs, &spans.spans(), &points)
}

async fn check_crashed(program: Program, concurrency: usize, crashes: Vec<u32>) -> Checked {
    let (outcome, spans, points) = traced(&program, concurrency, &crashes).await?;
    prop_assert_eq!(&outcome.violations, &Vec::<String>::new());
    check_trace(&spans)?;
    prop_assert_eq!(points.count("active_workflows", &[]), 0);
    let runs = i64::try_from(outcome.runs.len()).unwrap();
    let (created, ended) = ("workflow.runs.created", "workflow.duration");
    prop_assert!(points.count(created, &[]) <= runs, "each is counted once");
    prop_assert!(points.count(ended, &[]) <= runs, "each ends once");
    Ok(())
}

proptest! {
    #![proptest_config(config(15))]

    #[test]
    fn a_trace_is_the_history(program in programs(), concurrency in 1_usize..5) {
        // Before anything is logged.
        Logbook::open();
        block_on(check_undisturbed(program, concurrency))?;
    }

    #[test]
    fn a_trace_survives_crashes(
        program in programs(),
        concurrency in 1_usize..5,
        crashes in proptest::collection::vec(1_u32..60, 1..6),
    ) {
        Logbook::open();
        block_on(check_crashed(program, concurrency, crashes))?;
    }
}
