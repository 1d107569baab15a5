//! Steps: results that are remembered, names, sleeps, and what the context says.

use std::time::SystemTime;

use openworkflow::{ErrorKind, Workflow, WorkflowSpec};
use openworkflow_tests::{Database, Log};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{DAY, HOUR, Harness, SECOND};

static UNIT: WorkflowSpec<(), ()> = WorkflowSpec::new("unit");

#[tokio::test]
async fn a_result_is_remembered_and_its_step_runs_once() {
    static SUM: WorkflowSpec<u32, u32> = WorkflowSpec::new("sum");
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(SUM.implement(move |wf, start: u32| {
            let log = lines.clone();
            async move {
                log.add("code");
                let first = wf
                    .run("first", || async {
                        log.add("first");
                        Ok(start + 1)
                    })
                    .await?;
                wf.sleep("pause", HOUR).await?;
                let second = wf
                    .run("second", || async {
                        log.add("second");
                        Ok(first + 10)
                    })
                    .await?;
                Ok(first + second)
            }
        }))
    })
    .await;
    let run = harness.start(&SUM, 1).await;
    harness.parked(run.id(), 1).await;
    assert_eq!(log.lines(), ["code", "first"]);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, 14);
    assert_eq!(log.lines(), ["code", "first", "code", "second"]);
    let first = harness.step(run.id(), "first").await.remove(0);
    assert_eq!(first.output, Some(json!(2)));
    assert_eq!((first.context, first.error), (None, None));
    assert_eq!(harness.run(run.id()).await.output, Some(json!(14)));
}

#[tokio::test]
async fn repeated_names_are_numbered_across_kinds() {
    let harness = Harness::new(|worker| {
        worker.workflow(UNIT.implement(|wf, ()| async move {
            for base in ["x", "x", "x", "x:1", "x", "x:1"] {
                wf.run(base, || async { Ok(()) }).await?;
            }
            wf.sleep("x", "0s").await?;
            wf.send_signal("x", &()).await?;
            let _: Option<()> = wf.wait_for_signal("x").timeout("0s").await?;
            Ok(())
        }))
    })
    .await;
    let run = harness.start(&UNIT, ()).await;
    harness.output(&run).await;
    let mut names = harness.step_summary(run.id()).await;
    names.sort();
    assert_eq!(
        names,
        [
            "x function completed",
            "x:1 function completed",
            "x:1:1 function completed",
            "x:1:2 function completed",
            "x:2 function completed",
            "x:3 function completed",
            "x:4 sleep completed",
            "x:5 signal-send completed",
            "x:6 signal-wait completed",
        ]
    );
}

#[tokio::test]
async fn steps_are_named_after_what_they_are_about_unless_named() {
    static CHILD: WorkflowSpec<(), ()> = WorkflowSpec::new("the-child");
    let harness = Harness::new(|worker| {
        worker
            .workflow(UNIT.implement(|wf, ()| async move {
                wf.run_workflow(&CHILD, &()).await?;
                wf.run_workflow(&CHILD, &()).await?;
                wf.run_workflow(&CHILD, &()).name("named-child").await?;
                wf.send_signal("ping", &()).await?;
                wf.send_signal("ping", &()).name("named-send").await?;
                let _: Option<()> = wf.wait_for_signal("pong").timeout("0s").await?;
                let _: Option<()> = wf
                    .wait_for_signal("pong")
                    .name("named-wait")
                    .timeout("0s")
                    .await?;
                Ok(())
            }))
            .workflow(CHILD.implement(|_, ()| async { Ok(()) }))
    })
    .await;
    let run = harness.start(&UNIT, ()).await;
    harness.output(&run).await;
    let mut names = harness.step_summary(run.id()).await;
    names.sort();
    assert_eq!(
        names,
        [
            "named-child workflow completed",
            "named-send signal-send completed",
            "named-wait signal-wait completed",
            "ping signal-send completed",
            "pong signal-wait completed",
            "the-child workflow completed",
            "the-child:1 workflow completed",
        ]
    );
}

#[tokio::test]
async fn absent_values_are_null_in_the_database() {
    static ECHO: WorkflowSpec<Option<u32>, Option<u32>> = WorkflowSpec::new("echo");
    let harness = Harness::new(|worker| {
        worker.workflow(ECHO.implement(|wf, input: Option<u32>| async move {
            wf.run("nothing", || async { Ok(()) }).await?;
            let output = wf.run("echo", || async { Ok(input) }).await?;
            wf.sleep("replay", "0s").await?;
            Ok(output)
        }))
    })
    .await;
    for (input, stored) in [(None, None), (Some(7), Some(json!(7)))] {
        let run = harness.start(&ECHO, input).await;
        assert_eq!(harness.output(&run).await, input);
        let row = harness.run(run.id()).await;
        assert_eq!((&row.input, &row.output), (&stored, &stored));
        assert_eq!(harness.step(run.id(), "nothing").await[0].output, None);
        assert_eq!(harness.step(run.id(), "echo").await[0].output, stored);
    }
}

#[tokio::test]
async fn values_keep_their_shape() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Parcel {
        #[serde(rename = "trackingNumber")]
        tracking: String,
        pieces: Vec<(String, u32)>,
        note: Option<String>,
    }
    static SHIP: WorkflowSpec<Parcel, Parcel> = WorkflowSpec::new("ship");
    let harness = Harness::new(|worker| {
        worker.workflow(SHIP.implement(|wf, parcel: Parcel| async move {
            // The body borrows what belongs to the workflow.
            let kept = wf.run("keep", || async { Ok(parcel.clone()) }).await?;
            wf.sleep("replay", "0s").await?;
            assert_eq!(kept, parcel);
            Ok(kept)
        }))
    })
    .await;
    let parcel = Parcel {
        tracking: "Ä\u{1F4E6}\"\\\n".to_owned(),
        pieces: vec![("teapot".to_owned(), 1), (String::new(), u32::MAX)],
        note: None,
    };
    let run = harness.start(&SHIP, parcel.clone()).await;
    assert_eq!(harness.output(&run).await, parcel);
    let row = harness.run(run.id()).await;
    assert_eq!(row.input, row.output);
    assert_eq!(row.input.unwrap()["trackingNumber"], "Ä\u{1F4E6}\"\\\n");
}

#[tokio::test]
async fn a_sleep_takes_durations_texts_and_instants() {
    let harness = Harness::idle().await;
    let instant = harness.now() + 3 * DAY;
    let mut harness = harness;
    harness.start_worker(|worker| {
        worker.workflow(UNIT.implement(move |wf, ()| async move {
            wf.sleep("an-instant", instant).await?;
            wf.sleep("a-duration", HOUR).await?;
            wf.sleep("a-text", "1.5 hours").await?;
            wf.sleep("the-past", SystemTime::UNIX_EPOCH).await
        }))
    });
    let run = harness.start(&UNIT, ()).await;
    let row = harness.parked(run.id(), 1).await;
    harness.assert_after_now(row.available_at, 3 * DAY);
    harness.advance(3 * DAY).await;
    let row = harness.parked(run.id(), 2).await;
    harness.assert_after_now(row.available_at, HOUR);
    harness.advance(HOUR).await;
    let row = harness.parked(run.id(), 3).await;
    harness.assert_after_now(row.available_at, HOUR * 3 / 2);
    harness.advance(HOUR * 3 / 2).await;
    harness.output(&run).await;
    assert_eq!(harness.run(run.id()).await.attempts, 5);
}

#[tokio::test]
async fn a_sleep_is_not_over_a_moment_too_early() {
    let harness = Harness::new(|worker| {
        worker.workflow(UNIT.implement(|wf, ()| async move { wf.sleep("nap", HOUR).await }))
    })
    .await;
    let run = harness.start(&UNIT, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR - 10 * SECOND).await;
    // Another run comes and goes, so the worker has looked.
    static OTHER: WorkflowSpec<(), ()> = WorkflowSpec::new("other");
    let mut other =
        harness.another_worker(|worker| worker.workflow(OTHER.implement(|_, ()| async { Ok(()) })));
    harness.complete(&OTHER, ()).await;
    other.stop().await.unwrap();
    assert_eq!(harness.run(run.id()).await.attempts, 1);
    harness.advance(10 * SECOND).await;
    harness.output(&run).await;
    let nap = harness.step(run.id(), "nap").await;
    assert_eq!(nap.len(), 1, "the sleep is resumed, not begun anew");
}

#[tokio::test]
async fn the_context_tells_about_the_run() {
    static TELL: WorkflowSpec<(), Vec<String>> = WorkflowSpec::new("tell").version("v2");
    let harness = Harness::new(|worker| {
        worker.workflow(TELL.implement(|wf, ()| async move {
            let execution = wf.execution();
            let facts = vec![
                wf.run_id().to_owned(),
                format!("{}", wf.attempt()),
                format!("{}", wf.is_replay()),
                format!("{:?}", wf.created_at()),
                format!("{:?}", wf.deadline_at()),
                execution.run.workflow_name.to_string(),
                format!("{:?}", execution.run.workflow_version.as_deref()),
                execution.run.namespace_id.to_string(),
                (!execution.worker_id.is_empty()).to_string(),
            ];
            let before = wf.run("before", || async { Ok(facts.clone()) }).await?;
            wf.sleep("nap", "1h").await?;
            Ok([before, facts].concat())
        }))
    })
    .await;
    let started = harness.client.start(&TELL, &()).deadline("2h").await;
    let run = started.unwrap();
    harness.parked(run.id(), 1).await;
    let created_at = harness.run(run.id()).await.created_at.unwrap();
    let deadline_at = harness.run(run.id()).await.deadline_at;
    harness.assert_time(deadline_at, harness.now() + 2 * HOUR);
    harness.advance(HOUR).await;
    let facts = harness.output(&run).await;
    let row = harness.run(run.id()).await;
    assert_eq!(row.version.as_deref(), Some("v2"));
    let expected = |attempt: &str, replay: &str| {
        [
            run.id(),
            attempt,
            replay,
            &format!("{created_at:?}"),
            &format!("{deadline_at:?}"),
            "tell",
            "Some(\"v2\")",
            "default",
            "true",
        ]
        .map(str::to_owned)
    };
    if crate::Db::CLOCK_TOLERANCE.is_zero() {
        assert_eq!(facts[..9], expected("1", "false"));
        assert_eq!(facts[9..], expected("2", "true"));
    } else {
        // Where time passes by moving the rows, the times have moved as well.
        for (facts, expected) in [
            (&facts[..9], expected("1", "false")),
            (&facts[9..], expected("2", "true")),
        ] {
            assert_eq!(facts[..3], expected[..3]);
            assert_eq!(facts[5..], expected[5..]);
        }
    }
}

#[tokio::test]
async fn parking_is_no_error_that_code_could_catch() {
    static CATCH: WorkflowSpec<(), String> = WorkflowSpec::new("catch");
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(CATCH.implement(move |wf, ()| {
            let log = lines.clone();
            async move {
                let slept = wf.sleep("nap", HOUR).await;
                log.add(format!("slept: {}", slept.is_ok()));
                let signal = wf.wait_for_signal::<u32>("go").timeout(HOUR).await;
                log.add(format!("signal: {:?}", signal.as_ref().ok()));
                // Whatever code makes of a result, it has none before there is one.
                Ok(signal
                    .unwrap_or_default()
                    .map_or("none", |_| "some")
                    .to_owned())
            }
        }))
    })
    .await;
    let run = harness.start(&CATCH, ()).await;
    harness.parked(run.id(), 1).await;
    assert_eq!(log.lines(), [""; 0]);
    harness.advance(HOUR).await;
    harness.parked(run.id(), 2).await;
    assert_eq!(log.lines(), ["slept: true"]);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "none");
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_errors_of_the_workflow() {
    static SENSE: WorkflowSpec<(), Vec<String>> = WorkflowSpec::new("sense");
    let harness = Harness::new(|worker| {
        worker.workflow(SENSE.implement(|wf, ()| async move {
            let mut kinds = Vec::new();
            for error in [
                wf.sleep("nap", "a while").await.unwrap_err(),
                wf.run("", || async { Ok(()) }).await.unwrap_err(),
                wf.wait_for_signal::<()>("").await.unwrap_err(),
                wf.send_signal("", &()).await.unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
                kinds.push(error.message().to_owned());
            }
            Ok(kinds)
        }))
    })
    .await;
    let messages = harness.complete(&SENSE, ()).await;
    assert!(
        messages[0].contains("\"a while\" is no duration"),
        "{}",
        messages[0]
    );
    assert!(messages[1].contains("a step is empty"), "{}", messages[1]);
    assert!(messages[2].contains("a signal is empty"), "{}", messages[2]);
}

#[tokio::test]
async fn a_step_works_in_a_task_that_the_workflow_awaits() {
    let harness = Harness::new(|worker| {
        worker.workflow(UNIT.implement(|wf, ()| async move {
            let step = wf.run("elsewhere", || async { Ok(7) });
            let seven: u32 = tokio::spawn(step).await??;
            wf.run("here", || async move { Ok(seven) }).await?;
            Ok(())
        }))
    })
    .await;
    let run = harness.start(&UNIT, ()).await;
    harness.output(&run).await;
    assert_eq!(
        harness.step(run.id(), "elsewhere").await[0].output,
        Some(json!(7))
    );
}

#[tokio::test]
async fn a_workflow_without_steps_completes() {
    let harness =
        Harness::new(|worker| worker.workflow(Workflow::new("unit", |_, ()| async { Ok(()) })))
            .await;
    let run = harness.start(&UNIT, ()).await;
    harness.output(&run).await;
    let row = harness.run(run.id()).await;
    assert_eq!((row.status.as_str(), row.attempts), ("completed", 1));
}
