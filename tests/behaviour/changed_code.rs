//! Code that changed under a run: what is noticed, what stops the run, and how a new version is deployed.

use std::sync::atomic::{AtomicUsize, Ordering};

use openworkflow::{Error, RunStatus, WorkflowSpec};
use openworkflow_tests::{Database, Log, logged};

use super::replay::{Departures, W, harness};
use super::{DAY, HOUR, Harness};

#[tokio::test]
async fn a_step_of_another_kind_stops_the_run_until_the_right_code_is_there() {
    static CODE: AtomicUsize = AtomicUsize::new(0);
    let (harness, log) = harness(|wf, _, log| async move {
        wf.run("before", || async { Ok(()) }).await?;
        if CODE.load(Ordering::SeqCst) == 0 {
            wf.sleep("step", HOUR).await?;
        } else {
            let ran = wf.run("step", || async {
                log.add("the body ran");
                Ok(())
            });
            let _ = ran.await;
            log.add("went on");
        }
        Ok("done".to_owned())
    })
    .await;
    let run = harness.start(&W, String::new()).await;
    harness.parked(run.id(), 1).await;
    CODE.store(1, Ordering::SeqCst);
    harness.advance(HOUR).await;
    let row = harness.retrying(run.id(), 2).await;
    let message = row.error_message().unwrap();
    for part in [run.id(), "\"step\"", "sleep", "function", "version"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let told = ["departed: step for step"];
    assert_eq!(log.lines(), told, "nothing of the new code happened");
    CODE.store(0, Ordering::SeqCst);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "done");
}

#[tokio::test]
async fn steps_in_another_order_are_told_and_stop_a_strict_worker() {
    static CODE: AtomicUsize = AtomicUsize::new(0);
    let log = Log::new();
    let workflow = || {
        W.implement(|wf, _| async move {
            let step =
                |name: &'static str| wf.run(name, move || async move { Ok(name.to_owned()) });
            let result = if CODE.load(Ordering::SeqCst) == 0 {
                step("one").await? + &step("two").await?
            } else {
                step("two").await? + &step("one").await?
            };
            wf.sleep("nap", HOUR).await?;
            Ok(result)
        })
    };
    let mut harness = Harness::new(|worker| {
        let worker = worker.workflow(workflow());
        worker.interceptor(Departures(log.clone()))
    })
    .await;
    let (logged, _collecting) = logged::collect();
    let lenient = harness.start(&W, String::new()).await;
    let strict = harness.start(&W, String::new()).await;
    for run in [&lenient, &strict] {
        harness.parked(run.id(), 1).await;
    }
    CODE.store(1, Ordering::SeqCst);
    harness.advance(HOUR).await;
    assert_eq!(
        harness.output(&lenient).await,
        "twoone",
        "the results are kept"
    );
    assert_eq!(harness.output(&strict).await, "twoone");
    assert_eq!(log.lines(), ["departed: two for one"; 2]);
    let warned = logged.lines().into_iter();
    let warned: Vec<_> = warned.filter(|line| line.contains("departs")).collect();
    assert_eq!(warned.len(), 2);
    for part in [
        "WARN",
        lenient.id(),
        "recorded_step=\"one\"",
        "asked_step=\"two\"",
    ] {
        assert!(
            warned.iter().any(|line| line.contains(part)),
            "{part} in {warned:?}"
        );
    }

    harness.stop().await;
    CODE.store(0, Ordering::SeqCst);
    harness.start_worker(|worker| {
        let worker = worker.workflow(workflow()).strict_replay(true);
        worker.interceptor(Departures(log.clone()))
    });
    let run = harness.start(&W, String::new()).await;
    harness.parked(run.id(), 1).await;
    CODE.store(1, Ordering::SeqCst);
    harness.advance(HOUR).await;
    let row = harness.retrying(run.id(), 2).await;
    let message = row.error_message().unwrap();
    for part in [run.id(), "\"one\"", "\"two\"", "version"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    CODE.store(0, Ordering::SeqCst);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "onetwo");
}

#[tokio::test]
async fn a_step_that_is_no_longer_asked_for_is_told() {
    for (new_code, told) in [
        ("removed", "departed: nap for one"),
        ("inserted", "departed: new for nap"),
        ("shortened", "departed: nothing for nap"),
    ] {
        static CODE: std::sync::Mutex<&str> = std::sync::Mutex::new("");
        *CODE.lock().unwrap() = "";
        let (harness, log) = harness(|wf, _, _| async move {
            let code = *CODE.lock().unwrap();
            if code != "removed" {
                wf.run("one", || async { Ok(()) }).await?;
            }
            if code == "shortened" {
                return Ok("done".to_owned());
            }
            if code == "inserted" {
                wf.run("new", || async { Ok(()) }).await?;
            }
            wf.sleep("nap", HOUR).await?;
            wf.sleep("again", HOUR).await?;
            Ok("done".to_owned())
        })
        .await;
        let run = harness.start(&W, String::new()).await;
        for attempt in 1..=2 {
            harness.parked(run.id(), attempt).await;
            if attempt == 2 {
                *CODE.lock().unwrap() = new_code;
            }
            harness.advance(HOUR).await;
        }
        assert_eq!(harness.output(&run).await, "done");
        assert_eq!(log.lines(), [told], "{new_code}");
    }
}

/// The recipe of `docs/changing-workflows.md`.
#[tokio::test]
async fn a_changed_workflow_is_deployed_as_a_version_beside_the_old_one() {
    static V1: WorkflowSpec<String, String> = WorkflowSpec::new("order");
    static V2: WorkflowSpec<String, String> = WorkflowSpec::new("order").version("2");
    let v1 = || {
        V1.implement(|wf, order| async move {
            wf.sleep("cool-down", 7 * DAY).await?;
            wf.run("ship", || async { Ok(format!("{order} shipped")) })
                .await
        })
    };
    let v2 = || {
        V2.implement(|wf, order| async move {
            wf.run("pack", || async { Ok(()) }).await?;
            wf.sleep("cool-down", DAY).await?;
            wf.run("ship", || async {
                Ok(format!("{order} packed and shipped"))
            })
            .await
        })
    };
    let mut harness = Harness::new(|worker| worker.workflow(v1())).await;
    let old = harness.start(&V1, "old".to_owned()).await;
    harness.parked(old.id(), 1).await;

    // 1. Workers that have both. 2. Clients that start the new one.
    harness.stop().await;
    let log = Log::new();
    harness.start_worker(|worker| {
        let worker = worker.workflow(v1()).workflow(v2()).strict_replay(true);
        worker.interceptor(Departures(log.clone()))
    });
    let new = harness.start(&V2, "new".to_owned()).await;
    harness.parked(new.id(), 1).await;
    harness.advance(DAY).await;
    assert_eq!(harness.output(&new).await, "new packed and shipped");
    harness.advance(7 * DAY).await;
    assert_eq!(harness.output(&old).await, "old shipped");
    assert_eq!(log.lines(), [""; 0]);

    // 3. Nothing of the old version is left. 4. Workers without it.
    let left = harness
        .client
        .list_runs()
        .status(RunStatus::Running)
        .await
        .unwrap();
    assert!(left.items.iter().all(|run| run.version.is_some()));
    harness.stop().await;
    harness.start_worker(|worker| worker.workflow(v2()));
    let new = harness.start(&V2, "newer".to_owned()).await;
    harness.parked(new.id(), 1).await;
    harness.advance(DAY).await;
    assert_eq!(harness.output(&new).await, "newer packed and shipped");

    // Taken out too early, a run waits, and goes on when its code is there again.
    let early = harness.start(&V1, "early".to_owned()).await;
    harness.stop().await;
    harness.start_worker(|worker| worker.workflow(v1()).workflow(v2()));
    harness.parked(early.id(), 1).await;
    harness.advance(7 * DAY).await;
    assert_eq!(harness.output(&early).await, "early shipped");
}

#[tokio::test]
async fn a_step_inside_of_a_step_is_no_departure_and_a_wait_there_is_refused() {
    let (harness, log) = harness(|wf, _, log| async move {
        let outer = wf
            .run("outer", || async {
                let inner = wf.run("inner", || async { Ok(1) }).await?;
                let bad = || async { Err::<(), _>(Error::new("Bad", "no").non_retryable()) };
                let error = wf.run("bad", bad).await.expect_err("it failed");
                let waited = wf.sleep("nap", HOUR).await.expect_err("it is refused");
                log.add(format!("{} {:?}", error.message(), waited.kind()));
                Ok(inner + 1)
            })
            .await?;
        wf.sleep("after", HOUR).await?;
        Ok(outer.to_string())
    })
    .await;
    let run = harness.start(&W, String::new()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "2");
    assert_eq!(log.lines(), ["no InvalidArgument"], "no departure");
}
