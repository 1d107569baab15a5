//! Workers: how much they do at a time, how they stop, and who takes over from whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use openworkflow::{RetryPolicy, Worker, Workflow, WorkflowContext, WorkflowSpec};
use openworkflow_tests::{Database, Gate, Log, wait_until};

use super::{HOUR, Harness, LEASE, SECOND};

static W: WorkflowSpec<u32, u32> = WorkflowSpec::new("w");

/// Says when the workflow's code is dropped, and why.
struct OnDrop(WorkflowContext, Log);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let reason = self.0.execution().interruption();
        self.1.add(format!("dropped: {reason:?}"));
    }
}

/// Two steps, the first behind the gate. The log tells who did what: `who` is the worker's name.
fn gated(who: &'static str, gate: &Gate, log: &Log) -> Workflow {
    let (gate, log) = (gate.clone(), log.clone());
    W.implement(move |wf, n: u32| {
        let (gate, log) = (gate.clone(), log.clone());
        async move {
            let _guard = OnDrop(wf.clone(), log.clone());
            wf.run("first", || async {
                log.add(format!("{who}: first"));
                gate.pass().await;
                Ok(())
            })
            .await?;
            wf.run("second", || async {
                log.add(format!("{who}: second"));
                Ok(())
            })
            .await?;
            Ok(n)
        }
    })
}

#[tokio::test]
async fn so_many_runs_at_a_time_and_no_more() {
    let gate = Gate::closed();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (held, at_work, peak) = (gate.clone(), Arc::clone(&now), Arc::clone(&most));
    let harness = Harness::new(|worker| {
        worker
            .concurrency(3)
            .workflow(W.implement(move |wf, n: u32| {
                let (gate, now, most) = (held.clone(), Arc::clone(&at_work), Arc::clone(&peak));
                async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    wf.run("step", || async {
                        gate.pass().await;
                        Ok(())
                    })
                    .await?;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(n)
                }
            }))
    })
    .await;
    let mut runs = Vec::new();
    for n in 0..10 {
        runs.push(harness.start(&W, n).await);
    }
    gate.reached_by(3).await;
    let claimed = harness
        .runs()
        .await
        .into_iter()
        .filter(|run| run.attempts > 0);
    assert_eq!(claimed.count(), 3);
    for _ in 0..7 {
        gate.let_one_through();
    }
    // Each slot that becomes free is filled.
    gate.reached_by(10).await;
    gate.open();
    for run in &runs {
        harness.output(run).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!(harness.runs().await.iter().all(|run| run.attempts == 1));
}

#[tokio::test]
async fn a_worker_reuses_a_few_ids_of_its_own() {
    let harness = Harness::new(|worker| {
        worker
            .concurrency(2)
            .workflow(W.implement(|_, n: u32| async move { Ok(n) }))
    })
    .await;
    for n in 0..8 {
        harness.complete(&W, n).await;
    }
    let ids: std::collections::HashSet<_> = harness
        .runs()
        .await
        .into_iter()
        .map(|run| run.worker_id)
        .collect();
    // Two for each slot: one that executes, and one whose last write is on its way.
    assert!((1..=4).contains(&ids.len()), "{ids:?}");
}

#[tokio::test]
async fn a_graceful_stop_finishes_what_is_under_way_and_claims_nothing_more() {
    let (gate, log) = (Gate::closed(), Log::new());
    // Its one slot is taken, so that no claim is under way when it is to stop.
    let mut harness = Harness::new(|worker| {
        let worker = worker.concurrency(1);
        worker.workflow(gated("one", &gate, &log))
    })
    .await;
    let run = harness.start(&W, 1).await;
    gate.reached_by(1).await;
    let mut worker = harness.worker.take().unwrap();
    let stopping = tokio::spawn(async move { worker.stop().await });
    tokio::task::yield_now().await;
    let late = harness.start(&W, 2).await;
    assert!(!stopping.is_finished());
    gate.open();
    stopping.await.unwrap().unwrap();
    assert_eq!(harness.run(run.id()).await.status, "completed");
    assert_eq!(harness.run(late.id()).await.attempts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_much_work_leaves_no_run_claimed() {
    let mut harness = Harness::idle().await;
    let starts = (0..400).map(|n| harness.start(&W, n));
    futures::future::join_all(starts).await;
    for round in 1..=8 {
        harness.start_worker(|worker| {
            worker.workflow(
                W.implement(|wf, n: u32| async move { wf.run("step", || async { Ok(n) }).await }),
            )
        });
        wait_until("some are done", || async {
            let counts = harness.client.count_runs().await.unwrap();
            counts.completed >= round * 20
        })
        .await;
        harness.stop().await;
        for run in harness.runs().await {
            assert_ne!(run.status, "running", "{run:?}");
        }
    }
}

#[tokio::test]
async fn a_stop_lets_a_waiting_run_park() {
    let (gate, log) = (Gate::closed(), Log::new());
    let held = gate.clone();
    let mut harness = Harness::new(|worker| {
        worker.workflow(W.implement(move |wf, n: u32| {
            let gate = held.clone();
            async move {
                wf.run("first", || async {
                    gate.pass().await;
                    Ok(())
                })
                .await?;
                wf.sleep("nap", HOUR).await?;
                Ok(n)
            }
        }))
    })
    .await;
    let run = harness.start(&W, 1).await;
    gate.reached_by(1).await;
    gate.open();
    harness.stop().await;
    let row = harness.run(run.id()).await;
    assert!(row.is_parked(harness.now()), "{row:?}");
    assert_eq!(log.lines(), [""; 0]);
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_given_back_and_picked_up_at_once() {
    let (gate, log) = (Gate::closed(), Log::new());
    let mut harness = Harness::new(|worker| {
        worker
            .workflow(gated("one", &gate, &log))
            .stop_deadline(Duration::from_millis(50))
    })
    .await;
    let run = harness.start(&W, 5).await;
    gate.reached_by(1).await;
    harness.stop().await;
    assert_eq!(log.lines(), ["one: first", "dropped: Some(WorkerStopped)"]);
    let row = harness.run(run.id()).await;
    assert_eq!((row.status.as_str(), row.worker_id), ("running", None));
    harness.assert_after_now(row.available_at, Duration::ZERO);
    assert!(row.started_at.is_some());

    // The clock stands still: the lease of the first has not run out.
    gate.open();
    harness.start_worker(|worker| worker.workflow(gated("two", &gate, &log)));
    assert_eq!(harness.output(&run).await, 5);
    assert_eq!(harness.run(run.id()).await.attempts, 2);
    assert_eq!(log.count("two: first"), 1);
}

#[tokio::test]
async fn after_a_hard_stop_the_lease_has_to_run_out() {
    let (gate, log) = (Gate::closed(), Log::new());
    let mut harness = Harness::new(|worker| worker.workflow(gated("one", &gate, &log))).await;
    let run = harness.start(&W, 5).await;
    gate.reached_by(1).await;
    wait_until("the step is recorded", || async {
        !harness.steps(run.id()).await.is_empty()
    })
    .await;
    let before = harness.run(run.id()).await;
    harness.worker.as_mut().unwrap().abort().await;
    assert_eq!(log.lines(), ["one: first", "dropped: Some(WorkerStopped)"]);
    let after = harness.run(run.id()).await;
    assert_eq!(
        format!("{after:?}"),
        format!("{before:?}"),
        "nothing is written"
    );

    gate.open();
    harness.start_worker(|worker| worker.workflow(gated("two", &gate, &log)));
    // It has work to do, and leaves this run alone.
    assert_eq!(harness.complete(&W, 6).await, 6);
    assert_eq!(harness.run(run.id()).await.attempts, 1);
    harness.advance(LEASE).await;
    assert_eq!(harness.output(&run).await, 5);
    assert_eq!(harness.run(run.id()).await.attempts, 2);
    let mut steps = harness.step_summary(run.id()).await;
    steps.sort();
    assert_eq!(
        steps,
        [
            "first function completed",
            "first function running",
            "second function completed",
        ]
    );
}

#[tokio::test]
async fn dropping_the_handle_is_a_hard_stop() {
    let (gate, log) = (Gate::closed(), Log::new());
    let mut harness = Harness::new(|worker| worker.workflow(gated("one", &gate, &log))).await;
    let run = harness.start(&W, 5).await;
    gate.reached_by(1).await;
    harness.worker = None;
    log.reached("dropped: Some(WorkerStopped)", 1).await;
    let row = harness.run(run.id()).await;
    assert_eq!(row.status, "running");
    assert!(row.worker_id.is_some(), "nothing is given back");
}

#[tokio::test]
async fn an_owner_whose_lease_ran_out_writes_nothing_more() {
    let (first_gate, second_gate, log) = (Gate::closed(), Gate::closed(), Log::new());
    let harness = Harness::new(|worker| worker.workflow(gated("one", &first_gate, &log))).await;
    let run = harness.start(&W, 5).await;
    first_gate.reached_by(1).await;
    wait_until("the step is recorded", || async {
        !harness.steps(run.id()).await.is_empty()
    })
    .await;
    let first_owner = harness.run(run.id()).await.worker_id;
    let first_attempt = harness.steps(run.id()).await.remove(0);

    // The first worker must not be the one that takes over.
    let mut harness = harness;
    let mut first = harness.worker.take().unwrap();
    let stopping = tokio::spawn(async move { first.stop().await });
    tokio::task::yield_now().await;
    harness.start_worker(|worker| worker.workflow(gated("two", &second_gate, &log)));
    harness.advance(LEASE).await;
    second_gate.reached_by(1).await;
    let second_owner = harness.run(run.id()).await.worker_id;
    assert_ne!(first_owner, second_owner);

    // The first, still alive, finishes its step.
    let before = harness.run(run.id()).await;
    first_gate.open();
    log.reached("dropped: Some(LeaseLost)", 1).await;
    stopping.await.unwrap().unwrap();
    assert_eq!(
        format!("{:?}", harness.run(run.id()).await),
        format!("{before:?}")
    );
    let steps = harness.step(run.id(), "first").await;
    let left = steps
        .iter()
        .find(|step| step.id == first_attempt.id)
        .unwrap();
    assert_eq!(left.status, "running", "its result was refused");

    second_gate.open();
    assert_eq!(harness.output(&run).await, 5);
    assert_eq!(harness.run(run.id()).await.attempts, 2);
    assert_eq!(log.count("one: second"), 0);
    assert_eq!(log.count("two: second"), 1);
}

#[tokio::test]
async fn a_heartbeat_keeps_a_long_step() {
    let (gate, log) = (Gate::closed(), Log::new());
    let lease = 2 * SECOND;
    let harness =
        Harness::new(|worker| worker.workflow(gated("one", &gate, &log)).lease(lease)).await;
    let run = harness.start(&W, 5).await;
    gate.reached_by(1).await;
    let _thief = harness.another_worker(|worker| worker.workflow(gated("two", &gate, &log)));
    // Much longer than a lease in all, but never without a sign of life for so long.
    for _ in 0..3 {
        harness.advance(lease * 2 / 5).await;
        let lease_end = harness.now() + lease;
        harness
            .run_where("is kept", run.id(), |row| {
                row.available_at
                    .is_some_and(|at| at + Duration::from_millis(1) >= lease_end)
            })
            .await;
    }
    gate.open();
    assert_eq!(harness.output(&run).await, 5);
    assert_eq!(harness.run(run.id()).await.attempts, 1);
    assert_eq!(log.count("two: first"), 0);
}

/// Tokio's timers go on for a fraction of the time between two polls, so no poll ever happens: what
/// begins, begins because the worker was told. (They do go on, because a retry may be due some
/// microseconds from now, where ours is not the clock that decides.)
#[tokio::test]
async fn work_of_the_same_process_is_picked_up_without_a_poll() {
    static PARENT: WorkflowSpec<u32, u32> = WorkflowSpec::new("parent");
    static FLAKY: WorkflowSpec<u32, u32> = WorkflowSpec::new("flaky");
    let harness = Harness::new(|worker| {
        worker
            .workflow(W.implement(|wf, n: u32| async move {
                let signal: Option<u32> = wf.wait_for_signal("go").timeout(HOUR).await?;
                Ok(n + signal.unwrap_or(100))
            }))
            .workflow(FLAKY.implement(|wf, n: u32| async move {
                wf.run("flaky", || async {
                    match wf.attempt() {
                        1 => Err(openworkflow::Error::new("Flaky", "not yet")),
                        _ => Ok(n * 10),
                    }
                })
                .retry(RetryPolicy::attempts(2).initial_interval(Duration::ZERO))
                .await
            }))
            .workflow(PARENT.implement(|wf, n: u32| async move {
                Ok(wf.run_workflow(&FLAKY, &n).await? + wf.run_workflow(&W, &n).await?)
            }))
    })
    .await;
    // The worker has nothing to do and waits for its next poll.
    harness.complete(&FLAKY, 1).await;

    tokio::time::pause();
    // A blocking task keeps tokio from moving the time on by itself while everybody waits.
    let (done, never) = mpsc::channel::<()>();
    let mut patience = tokio::task::spawn_blocking(move || {
        never.recv_timeout(Duration::from_secs(20)) == Err(mpsc::RecvTimeoutError::Timeout)
    });
    let run = harness.start(&PARENT, 4).await;
    let signal_and_wait = async {
        // A signal that comes too early is dropped.
        while harness
            .client
            .send_signal("go", &7)
            .await
            .unwrap()
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
        run.result().await.unwrap()
    };
    let some_milliseconds = async {
        for _ in 0..20 {
            let pause = || std::thread::sleep(Duration::from_millis(50));
            tokio::task::spawn_blocking(pause).await.unwrap();
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        std::future::pending::<()>().await;
    };
    let result = tokio::select! {
        result = signal_and_wait => result,
        _ = &mut patience => panic!("it would have taken a poll"),
        () = some_milliseconds => unreachable!("it never ends"),
    };
    drop(done);
    assert!(!patience.await.unwrap());
    tokio::time::resume();
    assert_eq!(result, 40 + 11);
    // Once until the first child waits, and once after each.
    assert_eq!(harness.run(run.id()).await.attempts, 3);
}

#[tokio::test]
async fn run_until_stops_gracefully() {
    let harness = Harness::idle().await;
    let (gate, log) = (Gate::closed(), Log::new());
    let worker = Worker::builder(harness.store()).workflow(gated("one", &gate, &log));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let working = tokio::spawn(worker.build().unwrap().run_until(async {
        let _ = stopped.await;
    }));
    let run = harness.start(&W, 3).await;
    gate.reached_by(1).await;
    stop.send(()).unwrap();
    tokio::task::yield_now().await;
    assert!(!working.is_finished());
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(harness.run(run.id()).await.status, "completed");
}

#[tokio::test]
async fn a_worker_that_makes_no_sense_is_not_built() {
    let harness = Harness::idle().await;
    let builder = || Worker::builder(harness.store());
    let done = || W.implement(|_, n: u32| async move { Ok(n) });
    static V1: WorkflowSpec<u32, u32> = WorkflowSpec::new("w").version("v1");
    let versioned = || V1.implement(|_, n: u32| async move { Ok(n) });
    assert!(
        builder()
            .workflow(done())
            .workflow(versioned())
            .build()
            .is_ok()
    );
    // Meant to tell of what nobody knows.
    assert!(builder().claim_unregistered(true).build().is_ok());
    for (worker, problem) in [
        (
            builder().workflow(done()).workflow(done()),
            "Workflow \"w\" is registered twice",
        ),
        (
            builder().workflow(versioned()).workflow(versioned()),
            "Workflow \"w\" (version: v1) is registered twice",
        ),
        (builder(), "it has no workflow"),
        (builder().concurrency(0), "the concurrency is 0"),
        (builder().lease(Duration::from_millis(99)), "too short"),
        (
            builder().workflow(Workflow::new("", |_, ()| async { Ok(()) })),
            "a workflow is empty",
        ),
        (
            builder().workflow(done().retry(RetryPolicy::none().backoff_coefficient(f64::NAN))),
            "backoff coefficient is NaN",
        ),
    ] {
        let error = worker.build().map(drop).unwrap_err().to_string();
        assert!(error.starts_with("cannot build the worker: "), "{error}");
        assert!(error.contains(problem), "{error}");
    }
}

#[tokio::test]
async fn a_worker_survives_until_its_database_is_closed() {
    let done = || W.implement(|_, n: u32| async move { Ok(n) });
    let harness = Harness::new(|worker| worker.workflow(done())).await;
    let mut handle = harness.another_worker(|worker| worker.workflow(done()));
    handle.stop().await.unwrap();
    handle.stop().await.unwrap();
    handle.wait().await.unwrap();
    handle.abort().await;
}

#[tokio::test]
async fn many_runs_on_two_workers_each_run_once() {
    let log = Log::new();
    let counting = |log: &Log| {
        let log = log.clone();
        W.implement(move |wf, n: u32| {
            let log = log.clone();
            async move {
                for step in 0..3 {
                    wf.run(format!("s{step}"), || async {
                        log.add("step");
                        Ok(())
                    })
                    .await?;
                }
                Ok(n)
            }
        })
    };
    let harness = Harness::new(|worker| worker.workflow(counting(&log))).await;
    let other = Worker::builder(harness.open().await).workflow(counting(&log));
    let _other = other.build().unwrap().start();
    let mut runs = Vec::new();
    for n in 0..60 {
        runs.push(harness.start(&W, n).await);
    }
    for run in &runs {
        harness.output(run).await;
    }
    assert_eq!(log.count("step"), 180);
    assert!(harness.runs().await.iter().all(|run| run.attempts == 1));
}
