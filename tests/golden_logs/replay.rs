//! What workflow code logs between steps is logged once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{join, join3};
use openworkflow::otel::OtelInterceptor;
use openworkflow::otel::opentelemetry::context::FutureExt as _;
use openworkflow::{Error, ExecuteRun, ExecutionOutcome, Interceptor, Next, Result, WorkflowSpec};
use openworkflow::{JoinSet, StepCall, StepOutcome, async_trait};
use openworkflow_tests::{Database, Gate, wait_until};
use serde_json::Value;
use tracing::info;

use super::{HOUR, harness, own, title, with};

static WORK: WorkflowSpec<(), ()> = WorkflowSpec::new("work");

/// A library that logs by itself.
fn call_tool() {
    info!(target: "a_library", "tool called");
}

#[tokio::test]
async fn code_between_steps_is_logged_once_and_steps_always() {
    let work = WORK.implement(|wf, ()| async move {
        info!("begins");
        wf.run("first", || async {
            call_tool();
            Ok(())
        })
        .await?;
        info!(branch = "slow", "decided");
        wf.sleep("nap", HOUR).await?;
        // The end of a sleep passes no interceptor: this is new though the step was asked for before.
        info!("slept");
        wf.run("second", || async {
            info!("working");
            Ok(())
        })
        .await?;
        info!("after second");
        wf.sleep("again", HOUR).await?;
        info!("ends");
        Ok(())
    });
    let (mut harness, book) = with(work).await;
    let run = harness.start(&WORK, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.parked(run.id(), 2).await;
    harness.advance(HOUR).await;
    harness.output(&run).await;
    harness.stop().await;
    assert_eq!(
        own(&book.lines(run.id())),
        [
            "begins",
            "tool called [first]",
            "decided",
            "slept",
            "working [second]",
            "after second",
            "ends"
        ]
    );
    // The same, in the order of the executions, and marked where it is repeated.
    let lines = book.lines_with_replays(run.id());
    let shown = |line: &Value| {
        let marked = line.get("workflow_run.replaying") == Some(&Value::Bool(true));
        let replayed = if marked { " again" } else { "" };
        format!("{}{replayed} {}", title(line), line["workflow_run.attempt"])
    };
    let theirs = lines.iter().filter(|line| line["target"] != "openworkflow");
    assert_eq!(
        theirs.map(shown).collect::<Vec<_>>(),
        [
            "begins 1",
            "tool called 1",
            "decided 1",
            "begins again 2",
            "decided again 2",
            "slept 2",
            "working 2",
            "after second 2",
            "begins again 3",
            "decided again 3",
            "slept again 3",
            "after second again 3",
            "ends 3"
        ]
    );
    // Nothing of the engine's own is a replay's.
    let marked = |line: &&Value| line.get("workflow_run.replaying").is_some();
    let ours = lines.iter().filter(|line| line["target"] == "openworkflow");
    assert_eq!(ours.clone().filter(marked).count(), 0);
    assert_eq!(
        ours.filter(|line| title(line) == "execution.start").count(),
        3
    );
}

#[tokio::test]
async fn branches_that_were_ahead_are_not_logged_again_beside_a_new_step() {
    let work = WORK.implement(|wf, ()| async move {
        let slow = async {
            info!("slow begins");
            wf.run("a", || async { Ok(()) }).await?;
            info!("a done");
            wf.sleep("nap", HOUR).await?;
            info!("slept");
            wf.run("b", || async {
                info!("in b");
                Ok(())
            })
            .await
        };
        let quick = async {
            info!("quick begins");
            wf.run("c", || async { Ok(()) }).await?;
            info!("c done");
            wf.run("d", || async { Ok(()) }).await?;
            info!("d done");
            let word: Option<()> = wf.wait_for_signal("word").timeout("1 day").await?;
            info!(word = word.is_some(), "word came");
            Ok::<_, Error>(())
        };
        let (slow, quick) = join(slow, quick).await;
        slow.and(quick)
    });
    let (mut harness, book) = with(work).await;
    let run = harness.start(&WORK, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.parked(run.id(), 2).await;
    harness.client.send_signal("word", &()).await.unwrap();
    harness.output(&run).await;
    harness.stop().await;
    let mut first = own(&book.lines(run.id()));
    let then = first.split_off(5);
    first.sort();
    let before = ["a done", "c done", "d done", "quick begins", "slow begins"];
    assert_eq!(first, before);
    assert_eq!(then, ["slept", "in b [b]", "word came"]);
}

#[tokio::test]
async fn a_step_asked_for_first_does_not_end_the_replay_of_its_siblings() {
    // In the second execution the new step is asked for in the poll in which the code replays the rest.
    let failed = Arc::new(AtomicBool::new(false));
    let work = WORK.implement(move |wf, ()| {
        let failed = Arc::clone(&failed);
        async move {
            let tried = async {
                wf.run("flaky", || async {
                    if failed.swap(true, Ordering::Relaxed) {
                        info!("works");
                        return Ok(());
                    }
                    Err(Error::new("Flaky", "not yet"))
                })
                .await?;
                info!("flaky done");
                Ok::<_, Error>(())
            };
            let mut set = JoinSet::new();
            for n in 0..3 {
                let wf = &wf;
                set.spawn(async move {
                    info!("branch {n}");
                    wf.run(format!("step-{n}"), || async { Ok(()) }).await?;
                    info!("branch {n} done");
                    Ok::<_, Error>(())
                });
            }
            let joined = async {
                while let Some(done) = set.join_next().await {
                    done?;
                }
                info!("all joined");
                Ok::<_, Error>(())
            };
            let silent = async { Ok::<_, Error>(()) };
            let (tried, joined, _) = join3(tried, joined, silent).await;
            tried.and(joined)
        }
    });
    let (mut harness, book) = with(work).await;
    let run = harness.start(&WORK, ()).await;
    harness.retrying(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.output(&run).await;
    harness.stop().await;
    let mut lines = own(&book.lines(run.id()));
    let last = lines.split_off(7);
    lines.sort();
    let before = [
        "all joined",
        "branch 0",
        "branch 0 done",
        "branch 1",
        "branch 1 done",
        "branch 2",
        "branch 2 done",
    ];
    assert_eq!(lines, before);
    assert_eq!(last, ["works [flaky]", "flaky done"]);
}

#[tokio::test]
async fn a_step_that_a_crash_left_nothing_of_does_not_end_the_replay_either() {
    let gate = Gate::closed();
    let work = || {
        let gate = gate.clone();
        WORK.implement(move |wf, ()| {
            let gate = gate.clone();
            async move {
                let held = async {
                    wf.run("held", || async {
                        gate.pass().await;
                        Ok(())
                    })
                    .await?;
                    info!("held done");
                    Ok::<_, Error>(())
                };
                let quick = async {
                    wf.run("quick", || async { Ok(()) }).await?;
                    info!("quick done");
                    wf.sleep("nap", HOUR).await
                };
                let (held, quick) = join(held, quick).await;
                held.and(quick)
            }
        })
    };
    let (mut harness, book) =
        harness(|otel| otel, |worker| worker.workflow(work()).concurrency(1)).await;
    let run = harness.start(&WORK, ()).await;
    gate.reached_by(1).await;
    wait_until("the nap is set up", async || {
        !harness.step(run.id(), "nap").await.is_empty()
    })
    .await;
    harness.worker.take().unwrap().abort().await;
    harness
        .execute("DELETE FROM step_attempts WHERE step_name = 'held'")
        .await;
    harness.advance(HOUR).await;
    let otel = OtelInterceptor::builder().tracer_provider(&book.spans.provider());
    let otel = otel.build();
    harness.start_worker(|worker| worker.workflow(work()).interceptor(otel));
    gate.reached_by(2).await;
    gate.open();
    harness.output(&run).await;
    harness.stop().await;
    assert_eq!(own(&book.lines(run.id())), ["quick done", "held done"]);
    let attempts = book.lines(run.id());
    let taken_over = attempts.iter().any(|line| title(line) == "run.taken_over");
    assert!(taken_over, "{attempts:#?}");
}

#[tokio::test]
async fn races_and_selects_are_logged_once() {
    let work = WORK.implement(|wf, ()| async move {
        let won = openworkflow::race!(wf;
            word = wf.wait_for_signal::<()>("word") => { word?; "word" },
            slept = wf.sleep("short", HOUR) => { slept?; "sleep" },
        );
        info!("{won} won");
        tokio::select! {
            slept = wf.sleep("long", 2 * HOUR) => slept?,
            word = wf.wait_for_signal::<()>("other") => { word?; }
        }
        info!("selected");
        wf.sleep("last", HOUR).await
    });
    let (mut harness, book) = with(work).await;
    let run = harness.start(&WORK, ()).await;
    for (attempt, hours) in [(1, 1), (2, 2), (3, 1)] {
        harness.parked(run.id(), attempt).await;
        harness.advance(hours * HOUR).await;
    }
    harness.output(&run).await;
    harness.stop().await;
    assert_eq!(own(&book.lines(run.id())), ["sleep won", "selected"]);
}

#[tokio::test]
async fn a_failure_that_the_code_is_told_of_again_is_logged_once() {
    let work = WORK.implement(|wf, ()| async move {
        let failed = wf
            .run("pay", || async {
                Err::<(), _>(Error::new("Declined", "no money").non_retryable())
            })
            .await;
        if let Err(error) = failed {
            tracing::warn!(%error, "goes another way");
        }
        wf.sleep("nap", HOUR).await
    });
    let (mut harness, book) = with(work).await;
    let run = harness.start(&WORK, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.output(&run).await;
    harness.stop().await;
    assert_eq!(own(&book.lines(run.id())), ["goes another way"]);
}

#[tokio::test]
async fn the_code_before_its_future_is_code_too() {
    let work = WORK.implement(|wf, ()| {
        info!("called");
        async move { wf.sleep("nap", HOUR).await }
    });
    let (mut harness, book) = with(work).await;
    let run = harness.start(&WORK, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.output(&run).await;
    harness.stop().await;
    assert_eq!(own(&book.lines(run.id())), ["called"]);
}

#[tokio::test]
async fn a_run_that_continues_is_a_new_one_to_the_log() {
    static COUNT: WorkflowSpec<u32, u32> = WorkflowSpec::new("count");
    let count = COUNT.implement(|wf, n: u32| async move {
        info!(n, "round");
        wf.sleep("nap", HOUR).await?;
        if n < 2 {
            wf.continue_as_new(&(n + 1)).await?;
        }
        Ok(n)
    });
    let (mut harness, book) = with(count).await;
    let run = harness.start(&COUNT, 1).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.ended(run.id()).await;
    let runs = harness.runs().await;
    let next = runs.iter().find(|row| row.id != run.id()).unwrap();
    harness.parked(&next.id, 1).await;
    harness.advance(HOUR).await;
    harness.ended(&next.id).await;
    harness.stop().await;
    assert_eq!(own(&book.lines(run.id())), ["round"]);
    assert_eq!(own(&book.lines(&next.id)), ["round"]);
    // The new run is told of in the trace, and as itself.
    let lines = book.lines(&next.id);
    assert_eq!(title(&lines[0]), "run.created");
    assert_eq!(book.span_of(&lines[0]), "workflow.execute count");
}

/// Logs what it sees, as an application's own interceptor may.
struct Talker;

#[async_trait]
impl Interceptor for Talker {
    async fn execute(
        &self,
        call: ExecuteRun,
        next: Next<'_, ExecuteRun>,
    ) -> Result<ExecutionOutcome> {
        info!("hook of execution");
        next.run(call).await
    }

    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        info!("hook of {}", call.name);
        next.run(call).await
    }

    fn event(&self, event: &openworkflow::Event<'_>) {
        if let openworkflow::Event::StepReplayed { step_name, .. } = event {
            info!("{step_name} is replayed");
        }
    }
}

#[tokio::test]
async fn what_interceptors_log_is_no_replay() {
    let work = WORK.implement(|wf, ()| async move {
        info!("code");
        wf.run("step", || async { Ok(()) }).await?;
        wf.sleep("nap", HOUR).await
    });
    let (mut harness, book) = harness(
        |otel| otel,
        |worker| worker.workflow(work).interceptor(Talker),
    )
    .await;
    let run = harness.start(&WORK, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.output(&run).await;
    harness.stop().await;
    assert_eq!(
        own(&book.lines(run.id())),
        [
            "hook of execution",
            "code",
            "hook of step [step]",
            "hook of nap [nap]",
            "hook of execution",
            "step is replayed"
        ]
    );
}

#[tokio::test]
async fn tasks_spawned_in_a_step_log_with_its_ids_whatever_the_code_replays() {
    let gate = Gate::closed();
    let gates = gate.clone();
    let work = WORK.implement(move |wf, ()| {
        let gate = gates.clone();
        async move {
            wf.sleep("nap", HOUR).await?;
            wf.run("upload", || async {
                let task = async move {
                    gate.pass().await;
                    info!("in a task");
                };
                let task = tokio::spawn(task.with_current_context());
                task.await
                    .map_err(|error| Error::new("Task", error.to_string()))
            })
            .await
        }
    });
    let (mut harness, book) = with(work).await;
    let run = harness.start(&WORK, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    gate.reached_by(1).await;
    gate.open();
    harness.output(&run).await;
    harness.stop().await;
    assert_eq!(own(&book.lines(run.id())), ["in a task [upload]"]);
}
