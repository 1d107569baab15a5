//! What a function saves of its progress: who finds it again, and what becomes of the rest.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join_all, poll_immediate};
use openworkflow::{
    Error, ErrorKind, Progress, Result, RetryPolicy, Workflow, WorkflowContext, WorkflowSpec,
};
use openworkflow_tests::{Database, Gate, Log, StepRow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{HOUR, Harness, LEASE, SECOND};

static W: WorkflowSpec<(), String> = WorkflowSpec::new("w");

/// What the attempts at a step saved, the oldest first.
fn saved(attempts: &[StepRow]) -> Vec<Value> {
    let saved = attempts.iter().map(|attempt| {
        let config = attempt.config.as_ref().expect("there is a config");
        config.get("progress").cloned().unwrap_or_default()
    });
    saved.collect()
}

/// A handle that a function left behind.
type Left<P> = Arc<Mutex<Option<Progress<P>>>>;

fn take<P>(left: &Left<P>) -> Progress<P> {
    left.lock().unwrap().take().expect("a handle was left")
}

#[tokio::test]
async fn what_a_failed_attempt_saved_last_is_found_by_the_next_that_looks() {
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, ()| {
            let log = lines.clone();
            async move {
                wf.run_with_progress("import", |progress: Progress<u64>| async move {
                    log.add(format!("{:?}", progress.last()));
                    match log.lines().len() {
                        1 => {
                            for row in 1..=30 {
                                progress.save(&row).await?;
                            }
                            Err(Error::new("Unplugged", "gone"))
                        }
                        // It did not get far enough to save anything.
                        2 => Err(Error::new("Unplugged", "gone again")),
                        3 => {
                            progress.save(&40).await?;
                            assert_eq!(progress.last(), Some(&30), "it does not change");
                            Err(Error::new("Unplugged", "and again"))
                        }
                        _ => Ok("imported".to_owned()),
                    }
                })
                .await
            }
        }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    for failures in 1..=3 {
        harness.retrying(run.id(), failures).await;
        harness.advance(SECOND * 4).await;
    }
    assert_eq!(harness.output(&run).await, "imported");
    assert_eq!(log.lines(), ["None", "Some(30)", "Some(30)", "Some(40)"]);
    let attempts = harness.step(run.id(), "import").await;
    assert_eq!(
        saved(&attempts),
        [json!([30]), json!(null), json!([40]), json!(null)]
    );
    let statuses: Vec<_> = attempts.iter().map(|step| step.status.as_str()).collect();
    assert_eq!(statuses, ["failed", "failed", "failed", "completed"]);
    assert_eq!(harness.run(run.id()).await.attempts, 4);
}

/// Saves a row more than was saved before, and says what it found. Then it works without an end, unless the
/// gate is open.
fn stops_in_the_middle(gate: &Gate, log: &Log) -> Workflow {
    let (gate, log) = (gate.clone(), log.clone());
    W.implement(move |wf, ()| {
        let (gate, log) = (gate.clone(), log.clone());
        async move {
            wf.run_with_progress("import", |progress: Progress<u64>| async move {
                let row = progress.last().copied().unwrap_or(0) + 1;
                progress.save(&row).await?;
                log.add(format!("at {row}"));
                gate.pass().await;
                Ok(format!("done at {row}"))
            })
            .await
        }
    })
}

#[tokio::test]
async fn it_outlasts_every_way_in_which_a_worker_ends() {
    let (gate, log) = (Gate::closed(), Log::new());
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(stops_in_the_middle(&gate, &log))
            .stop_deadline(Duration::from_millis(50))
    })
    .await;
    let run = harness.start(&W, ()).await;
    log.reached("at 1", 1).await;
    // Gracefully: the run is given back.
    harness.stop().await;
    harness.start_worker(|worker| worker.workflow(stops_in_the_middle(&gate, &log)));
    log.reached("at 2", 1).await;
    // Hard: the lease has to run out.
    harness.worker.as_mut().unwrap().abort().await;
    harness.advance(LEASE).await;
    harness.start_worker(|worker| worker.workflow(stops_in_the_middle(&gate, &log)));
    log.reached("at 3", 1).await;
    gate.open();
    assert_eq!(harness.output(&run).await, "done at 3");
    let mut attempts = harness.step(run.id(), "import").await;
    attempts.sort_by_key(|attempt| saved(std::slice::from_ref(attempt))[0].to_string());
    assert_eq!(saved(&attempts), [json!([1]), json!([2]), json!([3])]);
    let statuses: Vec<_> = attempts.iter().map(|step| step.status.as_str()).collect();
    assert_eq!(statuses, ["running", "running", "completed"]);
    let last = json!({"progress": [3], "order": 1});
    assert_eq!(attempts[2].config, Some(last));
}

/// Nothing of another value is left in it, and what is null stays.
#[tokio::test]
async fn a_value_replaces_the_one_before_it_whole() {
    type State = BTreeMap<String, Option<u64>>;
    let log = Log::new();
    let lines = log.clone();
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, ()| {
            let log = lines.clone();
            async move {
                wf.run_with_progress("import", |progress: Progress<State>| async move {
                    let state = |entries: &[(&str, Option<u64>)]| -> State {
                        let entries = entries.iter();
                        entries
                            .map(|(key, row)| ((*key).to_owned(), *row))
                            .collect()
                    };
                    if let Some(last) = progress.last() {
                        return Ok(serde_json::to_string(last)?);
                    }
                    progress
                        .save(&state(&[("a", Some(1)), ("b", None)]))
                        .await?;
                    progress
                        .save(&state(&[("b", None), ("c", Some(2))]))
                        .await?;
                    log.add("saved");
                    Err(Error::new("Unplugged", "gone"))
                })
                .await
            }
        }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.retrying(run.id(), 1).await;
    harness.advance(SECOND).await;
    assert_eq!(harness.output(&run).await, r#"{"b":null,"c":2}"#);
    assert_eq!(log.count("saved"), 1);
}

/// The first save makes the row, before the step is recorded as one that takes long.
#[tokio::test]
async fn a_quick_step_saves_too() {
    let harness = Arc::new(Harness::idle().await);
    let looks = Arc::downgrade(&harness);
    let quick = W.implement(move |wf, ()| {
        let looks = looks.clone();
        async move {
            let run_id = wf.run_id().to_owned();
            wf.run_with_progress("quick", |progress: Progress<Option<u64>>| async move {
                progress.save(&Some(7)).await?;
                let harness = looks.upgrade().expect("the test goes on");
                let row = harness.step(&run_id, "quick").await.remove(0);
                assert_eq!(row.status, "running");
                assert_eq!(row.config, Some(json!({"progress": [7]})));
                progress.save(&None).await?;
                Ok("done".to_owned())
            })
            .retry(RetryPolicy::none())
            .await
        }
    });
    let _worker = harness.another_worker(|worker| worker.workflow(quick));
    let run = harness.start(&W, ()).await;
    assert_eq!(harness.output(&run).await, "done");
    let attempts = harness.step(run.id(), "quick").await;
    assert_eq!(attempts.len(), 1);
    let config = json!({"progress": [null], "order": 1});
    assert_eq!(attempts[0].config, Some(config));
}

#[tokio::test]
async fn steps_side_by_side_keep_their_own_and_the_order_of_their_results() {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    async fn part(wf: &WorkflowContext, name: &'static str, gate: &Gate) -> Result<String> {
        wf.run_with_progress(name, |progress: Progress<String>| async move {
            match progress.last() {
                None => {
                    progress.save(&format!("of {name}")).await?;
                    Err(Error::new("Unplugged", "gone"))
                }
                Some(last) => {
                    progress.save(&format!("again {last}")).await?;
                    gate.pass().await;
                    Ok(last.clone())
                }
            }
        })
        .await
    }
    let order = Log::new();
    let (first, second) = (Gate::closed(), Gate::closed());
    let (lines, gates) = (order.clone(), (first.clone(), second.clone()));
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, ()| {
            let (order, (first, second)) = (lines.clone(), gates.clone());
            async move {
                RUN.fetch_add(1, Ordering::SeqCst);
                let heard = async |name, gate| {
                    let result = part(&wf, name, gate).await?;
                    order.add(format!("{name}: {result}"));
                    Ok::<_, Error>(())
                };
                tokio::try_join!(heard("x", &first), heard("y", &second))?;
                wf.sleep("nap", HOUR).await?;
                Ok("done".to_owned())
            }
        }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.retrying(run.id(), 1).await;
    harness.advance(SECOND).await;
    first.reached_by(1).await;
    second.reached_by(1).await;
    second.open();
    order.reached("y: of y", 1).await;
    first.open();
    harness.parked(run.id(), 2).await;
    harness.advance(HOUR).await;
    // The replay answers from the results, in their order, and runs no function.
    assert_eq!(harness.output(&run).await, "done");
    assert_eq!(order.lines(), ["y: of y", "x: of x", "y: of y", "x: of x"]);
    assert_eq!(RUN.load(Ordering::SeqCst), 3);
    assert_eq!((first.arrived(), second.arrived()), (1, 1));
    let mut places = Vec::new();
    for name in ["y", "x"] {
        let attempts = harness.step(run.id(), name).await;
        let first = json!([format!("of {name}")]);
        assert_eq!(
            saved(&attempts),
            [first, json!([format!("again of {name}")])]
        );
        places.push(attempts[1].config.as_ref().unwrap()["order"].as_u64());
    }
    assert!(places[0].is_some() && places[0] < places[1], "{places:?}");
}

#[tokio::test]
async fn what_the_code_cannot_read_puts_the_run_back_until_it_can() {
    let log = Log::new();
    let text = W.implement(|wf: WorkflowContext, ()| async move {
        wf.run_with_progress("import", |progress: Progress<String>| async move {
            match progress.last() {
                Some(last) => Ok(last.clone()),
                None => {
                    progress.save(&"page 3".to_owned()).await?;
                    Err(Error::new("Unplugged", "gone"))
                }
            }
        })
        .retry(RetryPolicy::attempts(2))
        .await
    });
    let lines = log.clone();
    let number = W.implement(move |wf: WorkflowContext, ()| {
        let log = lines.clone();
        async move {
            let import = wf.run_with_progress("import", |_: Progress<u64>| async {
                log.add("the function ran");
                Ok(String::new())
            });
            let caught = import.await;
            log.add(format!("the code heard of {caught:?}"));
            caught
        }
    });
    let mut harness = Harness::new(|worker| worker.workflow(text.clone())).await;
    let run = harness.start(&W, ()).await;
    harness.retrying(run.id(), 1).await;
    harness.stop().await;

    harness.start_worker(|worker| worker.workflow(number));
    harness.advance(SECOND).await;
    let row = harness.retrying(run.id(), 2).await;
    let message = row.error_message().unwrap();
    for part in ["progress", "\"import\"", run.id(), "u64", "mend the type"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(
        !message.contains("page 3"),
        "values are nobody's: {message}"
    );
    assert_eq!(row.error.as_ref().unwrap()["step"], "import");
    assert!(log.lines().is_empty());
    // It is no attempt, and nothing is lost.
    assert_eq!(harness.step(run.id(), "import").await.len(), 1);
    harness.stop().await;

    harness.start_worker(|worker| worker.workflow(text));
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "page 3");
}

/// What only this type can write, and nothing reads.
#[derive(Clone, Default)]
struct Odd {
    as_map: bool,
    row: f64,
    text: String,
}

impl Serialize for Odd {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self.as_map {
            // JSON has no such keys.
            true => BTreeMap::from([((1, 2), 3)]).serialize(to),
            false => (self.row, &self.text).serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let (row, text) = Deserialize::deserialize(from)?;
        Ok(Self {
            as_map: false,
            row,
            text,
        })
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_kept_is_refused_and_the_step_goes_on() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf: WorkflowContext, ()| async move {
            wf.run_with_progress("import", |progress: Progress<Odd>| async move {
                let fine = Odd {
                    row: 1.5,
                    ..Odd::default()
                };
                progress.save(&fine).await?;
                let refused = [
                    (
                        Odd {
                            as_map: true,
                            ..fine.clone()
                        },
                        "cannot be written as JSON",
                    ),
                    (
                        Odd {
                            text: "a\0b".to_owned(),
                            ..fine.clone()
                        },
                        "U+0000",
                    ),
                    // JSON has none, and null is no number.
                    (
                        Odd {
                            row: f64::NAN,
                            ..fine.clone()
                        },
                        "does not fit the type",
                    ),
                ];
                for (value, problem) in refused {
                    let error = progress.save(&value).await.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
                    for part in ["the progress of step \"import\" of run ", problem] {
                        assert!(error.message().contains(part), "{part} in {error}");
                    }
                }
                Ok("went on".to_owned())
            })
            .retry(RetryPolicy::none())
            .await
        }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    assert_eq!(harness.output(&run).await, "went on");
    let attempts = harness.step(run.id(), "import").await;
    assert_eq!(saved(&attempts), [json!([[1.5, ""]])]);
}

#[track_caller]
fn assert_refused(saved: Result<()>, why: &str) {
    let error = saved.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    for part in ["the progress of step \"import\" of run ", why] {
        assert!(error.message().contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn a_handle_that_outlives_its_attempt_saves_nothing() {
    let left = Left::default();
    let leaves = Arc::clone(&left);
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, ()| {
            let left = Arc::clone(&leaves);
            async move {
                wf.run_with_progress("import", |progress: Progress<u64>| async move {
                    progress.save(&1).await?;
                    *left.lock().unwrap() = Some(progress.clone());
                    if progress.last().is_none() {
                        // Until the limit of time.
                        pending::<()>().await;
                    }
                    Ok("done".to_owned())
                })
                .timeout("30ms")
                .await
            }
        }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.retrying(run.id(), 1).await;
    let first = take(&left);
    assert_refused(first.save(&2).await, "the attempt is over");
    harness.advance(SECOND).await;
    assert_eq!(harness.output(&run).await, "done");
    // Neither in the attempt that failed, nor in the one that goes on under its name.
    assert_refused(first.save(&3).await, "the attempt is over");
    assert_refused(take(&left).save(&4).await, "the attempt is over");
    let attempts = harness.step(run.id(), "import").await;
    assert_eq!(saved(&attempts), [json!([1]), json!([1])]);
}

#[tokio::test]
async fn a_run_that_another_worker_has_is_not_written_to() {
    let left = Left::default();
    let (leaves, log) = (Arc::clone(&left), Log::new());
    let (lines, recorded) = (log.clone(), Gate::closed());
    let gate = recorded.clone();
    let harness = Harness::new(|worker| {
        // Too long for a sign of life to tell of the loss.
        let worker = worker.lease(HOUR);
        worker.workflow(W.implement(move |wf, ()| {
            let (left, log, gate) = (Arc::clone(&leaves), lines.clone(), gate.clone());
            async move {
                let cancellation = wf.cancellation();
                tokio::spawn(async move {
                    log.add(format!("over: {:?}", cancellation.canceled().await));
                });
                wf.run_with_progress("import", |progress: Progress<u64>| async move {
                    gate.pass().await;
                    progress.save(&1).await?;
                    *left.lock().unwrap() = Some(progress);
                    pending::<Result<String>>().await
                })
                .await
            }
        }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    // The engine has nothing of its own to write any more, by which it would hear of the loss.
    openworkflow_tests::wait_until("the function is recorded", || async {
        !harness.steps(run.id()).await.is_empty()
    })
    .await;
    recorded.let_one_through();
    openworkflow_tests::wait_until("the function is under way", || async {
        left.lock().unwrap().is_some()
    })
    .await;
    harness
        .execute("UPDATE workflow_runs SET worker_id = 'another', attempts = attempts + 1")
        .await;
    let before = format!("{:?}", harness.steps(run.id()).await);
    let progress = take(&left);
    assert_refused(
        progress.save(&2).await,
        "the run is no longer this worker's (lease_lost)",
    );
    assert_eq!(format!("{:?}", harness.steps(run.id()).await), before);
    // The execution hears of it as of any other write.
    log.reached("over: Some(LeaseLost)", 1).await;
    assert_refused(progress.save(&3).await, "the attempt is over");
}

/// All of them are durable, the last one stands, and the end of the step comes after them.
#[tokio::test]
async fn saves_side_by_side_come_in_the_order_in_which_they_were_asked_for() {
    let harness = Harness::new(|worker| {
        worker.workflow(W.implement(|wf: WorkflowContext, ()| async move {
            let run_id = wf.run_id().to_owned();
            wf.run_with_progress("import", |progress: Progress<u64>| async move {
                let saves: Vec<_> = (0..50)
                    .map(|row| {
                        let progress = progress.clone();
                        tokio::task::spawn_blocking(move || {
                            tokio::runtime::Handle::current().block_on(progress.save(&row))
                        })
                    })
                    .collect();
                for saved in join_all(saves).await {
                    saved??;
                }
                let mut asked = Vec::new();
                for row in 100..150 {
                    let mut save = Box::pin(progress.save(&row));
                    assert!(poll_immediate(&mut save).await.is_none());
                    asked.push(save);
                }
                // Some go away, and some are held and not polled.
                asked.truncate(25);
                std::mem::forget(asked);
                Ok(run_id)
            })
            .await
        }))
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.output(&run).await;
    let attempts = harness.step(run.id(), "import").await;
    let config = json!({"progress": [149], "order": 1});
    assert_eq!(attempts[0].config, Some(config));
}
