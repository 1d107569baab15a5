//! Steps side by side: all at work at once, drained before a run parks, none run twice for another.

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use openworkflow::{Error, Result, RetryPolicy, WorkflowContext, WorkflowSpec};
use openworkflow_tests::{Database, Gate, Log, wait_until};

use super::{HOUR, Harness, SECOND};

static W: WorkflowSpec<(), String> = WorkflowSpec::new("w");

/// A harness with `W` implemented by `code`, which gets a log and a gate.
async fn harness<F, Fut>(code: F) -> (Harness, Log, Gate)
where
    F: Fn(WorkflowContext, Log, Gate) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String>> + Send + 'static,
{
    let (log, gate) = (Log::new(), Gate::closed());
    let (lines, held) = (log.clone(), gate.clone());
    let workflow = W.implement(move |wf, ()| code(wf, lines.clone(), held.clone()));
    let harness = Harness::new(|worker| worker.workflow(workflow)).await;
    (harness, log, gate)
}

#[tokio::test]
async fn joined_steps_are_at_work_together() {
    let (harness, _, gate) = harness(|wf, _, gate| async move {
        let step = |name: &'static str| {
            let gate = gate.clone();
            wf.run(name, move || async move {
                gate.pass().await;
                Ok(name.to_owned())
            })
        };
        let (a, b, c) = tokio::join!(step("a"), step("b"), step("c"));
        Ok(a? + &b? + &c?)
    })
    .await;
    let run = harness.start(&W, ()).await;
    gate.reached_by(3).await;
    gate.open();
    assert_eq!(harness.output(&run).await, "abc");
    assert_eq!(harness.run(run.id()).await.attempts, 1);
}

#[tokio::test]
async fn many_steps_in_collections_of_futures() {
    let (harness, log, _) = harness(|wf, log, _| async move {
        let step = |group: &str, n: u32| {
            let log = log.clone();
            let name = format!("{group}-{n}");
            wf.run(name.clone(), move || async move {
                log.add(name);
                if n.is_multiple_of(3) {
                    tokio::time::sleep(std::time::Duration::from_millis(u64::from(n))).await;
                }
                Ok(n)
            })
        };
        let all = join_all((0..60).map(|n| step("all", n))).await;
        let mut sum: u32 = all.into_iter().sum::<Result<u32>>()?;
        let mut unordered: FuturesUnordered<_> = (0..60).map(|n| step("unordered", n)).collect();
        while let Some(n) = unordered.next().await {
            sum += n?;
        }
        wf.sleep("replay", "0s").await?;
        Ok(sum.to_string())
    })
    .await;
    let run = harness.start(&W, ()).await;
    assert_eq!(harness.output(&run).await, "3540");
    let lines = log.lines();
    assert_eq!(lines.len(), 120, "each body ran once");
    let steps = harness.steps(run.id()).await;
    assert_eq!(steps.len(), 121);
    assert!(steps.iter().all(|step| step.status == "completed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_steps_on_several_threads() {
    let (harness, log, _) = harness(|wf, log, _| async move {
        let steps = (0..100_u32).map(|n| {
            let log = log.clone();
            wf.run(format!("s{n}"), move || async move {
                tokio::task::yield_now().await;
                log.add(n.to_string());
                Ok(n)
            })
        });
        let sum: u32 = join_all(steps).await.into_iter().sum::<Result<u32>>()?;
        Ok(sum.to_string())
    })
    .await;
    assert_eq!(harness.complete(&W, ()).await, "4950");
    assert_eq!(log.lines().len(), 100);
}

#[tokio::test]
async fn a_step_at_work_is_finished_and_recorded_before_the_run_parks() {
    let (harness, _, gate) = harness(|wf, _, gate| async move {
        let (slept, worked) = tokio::join!(
            wf.sleep("nap", HOUR),
            wf.run("work", || async {
                gate.pass().await;
                Ok("worked".to_owned())
            })
        );
        slept?;
        worked
    })
    .await;
    let run = harness.start(&W, ()).await;
    gate.reached_by(1).await;
    wait_until("the sleep is recorded", || async {
        !harness.step(run.id(), "nap").await.is_empty()
    })
    .await;
    let row = harness.run(run.id()).await;
    assert!(
        row.worker_id.is_some(),
        "the run does not park under a step"
    );
    gate.open();
    let row = harness.parked(run.id(), 1).await;
    harness.assert_after_now(row.available_at, HOUR);
    let steps = harness.step_summary(run.id()).await;
    assert_eq!(steps, ["nap sleep running", "work function completed"]);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "worked");
    assert_eq!(gate.arrived(), 1, "the step ran once");
    assert_eq!(
        harness.steps(run.id()).await.len(),
        2,
        "the sleep was resumed"
    );
}

#[tokio::test]
async fn a_chain_of_steps_beside_a_wait_goes_on_to_its_end() {
    let (harness, log, _) = harness(|wf, log, _| async move {
        let chain = async {
            for n in 0..5 {
                wf.run(format!("s{n}"), || async {
                    log.add(format!("s{n}"));
                    Ok(())
                })
                .await?;
            }
            Ok(())
        };
        tokio::try_join!(wf.sleep("nap", HOUR), chain)?;
        Ok(String::new())
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    assert_eq!(log.lines(), ["s0", "s1", "s2", "s3", "s4"]);
}

#[tokio::test]
async fn a_retry_beside_a_long_step_waits_for_it_and_spares_it() {
    let (harness, log, gate) = harness(|wf, log, gate| async move {
        let failing = wf.run("failing", || async {
            log.add("failing");
            if log.count("failing") == 1 {
                return Err(Error::new("Once", "not yet"));
            }
            Ok("failed once".to_owned())
        });
        let long = wf.run("long", || async {
            gate.pass().await;
            log.add("long");
            Ok(())
        });
        let (failing, long) = tokio::try_join!(failing, long)?;
        let () = long;
        Ok(failing)
    })
    .await;
    let run = harness.start(&W, ()).await;
    log.reached("failing", 1).await;
    wait_until("the failure is recorded", || async {
        !harness.step(run.id(), "failing").await.is_empty()
    })
    .await;
    assert_eq!(harness.run(run.id()).await.status, "running");
    gate.open();
    let row = harness.retrying(run.id(), 1).await;
    assert_eq!(row.error_message(), Some("not yet"));
    harness.advance(SECOND).await;
    assert_eq!(harness.output(&run).await, "failed once");
    assert_eq!(log.count("long"), 1);
    assert_eq!(log.count("failing"), 2);
    assert_eq!(
        harness.step_summary(run.id()).await.len(),
        3,
        "one row for each attempt"
    );
}

#[tokio::test]
async fn a_final_failure_is_told_once_the_steps_beside_it_are_done() {
    let (harness, log, gate) = harness(|wf, log, gate| async move {
        let failing = wf.run("failing", || async {
            Err::<(), _>(Error::new("Bad", "for good").non_retryable())
        });
        let long = wf.run("long", || async {
            gate.pass().await;
            log.add("long");
            Ok(())
        });
        let error = tokio::try_join!(failing, long).expect_err("one failed");
        log.add(format!("told: {error}"));
        wf.sleep("replay", "0s").await?;
        Ok(error.message().to_owned())
    })
    .await;
    let run = harness.start(&W, ()).await;
    wait_until("the failure is recorded", || async {
        let failing = harness.step(run.id(), "failing").await;
        failing.first().is_some_and(|step| step.status == "failed")
    })
    .await;
    assert_eq!(log.lines(), [""; 0], "try_join! would drop the long step");
    gate.open();
    assert_eq!(harness.output(&run).await, "for good");
    assert_eq!(log.lines(), ["long", "told: for good", "told: for good"]);
    assert_eq!(
        harness.step_summary(run.id()).await,
        [
            "failing function failed",
            "long function completed",
            "replay sleep completed",
        ],
        "neither ran again at replay"
    );
}

#[tokio::test]
async fn an_uncaught_final_failure_fails_the_run_with_the_other_steps_recorded() {
    let (harness, _, gate) = harness(|wf, _, gate| async move {
        let failing = wf.run("failing", || async {
            Err::<(), _>(Error::new("Bad", "for good").non_retryable())
        });
        let long = wf.run("long", || async {
            gate.pass().await;
            Ok(())
        });
        tokio::try_join!(failing, long)?;
        Ok(String::new())
    })
    .await;
    let run = harness.start(&W, ()).await;
    gate.reached_by(1).await;
    gate.open();
    let row = harness.failure(&run).await;
    assert_eq!(row.error_message(), Some("for good"));
    assert_eq!(harness.step(run.id(), "long").await[0].status, "completed");
}

#[tokio::test]
async fn a_caught_final_failure_does_not_run_again() {
    let (harness, log, _) = harness(|wf, log, _| async move {
        let policy = RetryPolicy::attempts(2);
        let caught = wf
            .run("failing", || async {
                log.add("failing");
                Err::<(), _>(Error::new("Bad", format!("time {}", log.count("failing"))))
            })
            .retry(policy)
            .await
            .expect_err("it fails each time");
        wf.sleep("nap", HOUR).await?;
        wf.sleep("another", HOUR).await?;
        Ok(format!("{}: {}", caught.name(), caught.message()))
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.retrying(run.id(), 1).await;
    harness.advance(SECOND).await;
    harness.parked(run.id(), 2).await;
    harness.advance(HOUR).await;
    harness.parked(run.id(), 3).await;
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "Bad: time 2");
    assert_eq!(log.lines(), ["failing", "failing"]);
}

#[tokio::test]
async fn a_short_wait_beside_a_longer_sleep_ends_in_time() {
    let (harness, log, _) = harness(|wf, log, _| async move {
        let wait = async {
            let signal: Option<u32> = wf.wait_for_signal("go").timeout(SECOND).await?;
            log.add(format!("{signal:?}"));
            Ok(())
        };
        tokio::try_join!(wf.sleep("nap", 3 * SECOND), wait)?;
        Ok("done".to_owned())
    })
    .await;
    let run = harness.start(&W, ()).await;
    let row = harness.parked(run.id(), 1).await;
    harness.assert_after_now(row.available_at, SECOND);
    let resume_at = harness.step(run.id(), "nap").await[0].context_time("resumeAt");
    harness.assert_after_now(resume_at, 3 * SECOND);

    harness.advance(SECOND).await;
    let row = harness.parked(run.id(), 2).await;
    assert_eq!(log.lines(), ["None"]);
    harness.assert_after_now(row.available_at, 2 * SECOND);
    assert_eq!(harness.step(run.id(), "nap").await.len(), 1);

    harness.advance(2 * SECOND).await;
    assert_eq!(harness.output(&run).await, "done");
    assert_eq!(harness.run(run.id()).await.attempts, 3);
    assert_eq!(
        harness.step_summary(run.id()).await,
        ["go signal-wait completed", "nap sleep completed"]
    );
}

#[tokio::test]
async fn a_delivered_signal_beside_a_pending_sleep_is_handled_at_once_and_once() {
    let (harness, log, _) = harness(|wf, log, _| async move {
        let wait = async {
            let signal: Option<u32> = wf.wait_for_signal("go").await?;
            wf.run("handle", || async {
                log.add(format!("{signal:?}"));
                Ok(())
            })
            .await
        };
        tokio::try_join!(wf.sleep("nap", HOUR), wait)?;
        Ok("done".to_owned())
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    harness.client.send_signal("go", &1).await.unwrap();
    let row = harness.parked(run.id(), 2).await;
    assert_eq!(log.lines(), ["Some(1)"]);
    harness.assert_after_now(row.available_at, HOUR);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "done");
    // Set up, signal, end of the sleep: one execution each.
    assert_eq!(harness.run(run.id()).await.attempts, 3);
    assert_eq!(harness.step(run.id(), "nap").await.len(), 1);
}

#[tokio::test]
async fn a_woken_run_still_respects_the_delay_of_a_retry() {
    let (harness, log, _) = harness(|wf, log, _| async move {
        let failing = wf
            .run("failing", || async {
                log.add("failing");
                match log.count("failing") {
                    1 => Err(Error::new("Once", "not yet")),
                    _ => Ok(()),
                }
            })
            .retry(RetryPolicy::attempts(3).initial_interval(10 * SECOND));
        let wait = async {
            let signal: Option<u32> = wf.wait_for_signal("go").await?;
            log.add(format!("{signal:?}"));
            Ok(())
        };
        tokio::try_join!(failing, wait)?;
        Ok("done".to_owned())
    })
    .await;
    let run = harness.start(&W, ()).await;
    let row = harness.retrying(run.id(), 1).await;
    harness.assert_after_now(row.available_at, 10 * SECOND);
    harness.advance(4 * SECOND).await;
    harness.client.send_signal("go", &1).await.unwrap();
    let row = harness.retrying(run.id(), 2).await;
    assert_eq!(log.lines(), ["failing", "Some(1)"]);
    harness.assert_after_now(row.available_at, 6 * SECOND);
    assert_eq!(row.error_message(), Some("not yet"));
    harness.advance(6 * SECOND).await;
    assert_eq!(harness.output(&run).await, "done");
    assert_eq!(log.count("failing"), 2);
}

#[tokio::test]
async fn a_wait_that_select_drops_does_not_keep_the_run() {
    let (harness, _, _) = harness(|wf, _, _| async move {
        let first = tokio::select! {
            slept = wf.sleep("nap", HOUR) => slept.map(|()| "slept"),
            ran = wf.run("fast", || async { Ok(()) }) => ran.map(|()| "ran"),
        };
        Ok(first?.to_owned())
    })
    .await;
    let run = harness.start(&W, ()).await;
    assert_eq!(harness.output(&run).await, "ran");
    assert_eq!(harness.run(run.id()).await.attempts, 1);
}

#[tokio::test]
async fn after_select_the_run_parks_for_what_is_left() {
    let (harness, _, _) = harness(|wf, _, _| async move {
        // The short sleep is dropped before it ends, and must not wake the run.
        tokio::select! {
            slept = wf.sleep("dropped", SECOND) => slept?,
            ran = wf.run("fast", || async { Ok(()) }) => ran?,
        }
        wf.sleep("kept", HOUR).await?;
        Ok("done".to_owned())
    })
    .await;
    let run = harness.start(&W, ()).await;
    let row = harness.parked(run.id(), 1).await;
    harness.assert_after_now(row.available_at, HOUR);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "done");
    assert_eq!(harness.run(run.id()).await.attempts, 2);
}

#[tokio::test]
async fn select_between_waits_takes_the_first_to_end() {
    for signal_comes in [true, false] {
        let (harness, _, _) = harness(|wf, _, _| async move {
            let outcome = tokio::select! {
                biased;
                signal = wf.wait_for_signal::<u32>("go") => format!("{:?}", signal?),
                slept = wf.sleep("nap", HOUR) => slept.map(|()| "slept".to_owned())?,
            };
            wf.run("after", || async { Ok(()) }).await?;
            Ok(outcome)
        })
        .await;
        let run = harness.start(&W, ()).await;
        harness.parked(run.id(), 1).await;
        let expected = if signal_comes {
            harness.client.send_signal("go", &3).await.unwrap();
            "Some(3)"
        } else {
            harness.advance(HOUR).await;
            "slept"
        };
        assert_eq!(harness.output(&run).await, expected);
        assert_eq!(harness.run(run.id()).await.attempts, 2);
    }
}

#[tokio::test]
async fn a_step_that_select_drops_halfway_leaves_the_run_able_to_park_and_end() {
    let (harness, _, gate) = harness(|wf, _, gate| async move {
        tokio::select! {
            ran = wf.run("stuck", || async {
                gate.pass().await;
                Ok(())
            }) => ran?,
            ran = async {
                gate.reached_by(1).await;
                wf.run("fast", || async { Ok(()) }).await
            } => ran?,
        }
        wf.sleep("nap", HOUR).await?;
        Ok("done".to_owned())
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    gate.open();
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "done");
}

#[tokio::test]
async fn two_sleeps_end_one_after_the_other() {
    let (harness, log, _) = harness(|wf, log, _| async move {
        let nap = |name: &'static str, time| {
            let (wf, log) = (wf.clone(), log.clone());
            async move {
                wf.sleep(name, time).await?;
                wf.run(format!("after-{name}"), || async {
                    log.add(name);
                    Ok(())
                })
                .await
            }
        };
        tokio::try_join!(nap("long", 2 * HOUR), nap("short", HOUR))?;
        Ok("done".to_owned())
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    let row = harness.parked(run.id(), 2).await;
    harness.assert_after_now(row.available_at, HOUR);
    assert_eq!(log.lines(), ["short"]);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "done");
    assert_eq!(log.lines(), ["short", "long"]);
    assert_eq!(harness.run(run.id()).await.attempts, 3);
}

#[tokio::test]
async fn branches_that_were_not_polled_yet_still_get_their_turn() {
    let (harness, log, _) = harness(|wf, log, _| async move {
        // A collection this large makes its executor yield before it has polled everything.
        let branches: FuturesUnordered<_> = (0..200)
            .map(|n| {
                let (wf, log) = (wf.clone(), log.clone());
                async move {
                    wf.sleep(format!("nap-{n}"), HOUR).await?;
                    log.add("woke");
                    Result::Ok(())
                }
            })
            .collect();
        branches
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<()>>()?;
        Ok("done".to_owned())
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    assert_eq!(
        harness.steps(run.id()).await.len(),
        200,
        "all are set up before the run parks"
    );
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "done");
    assert_eq!(log.count("woke"), 200);
}
