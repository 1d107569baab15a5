//! Branches that overtake each other: what a race leaves behind, when the code goes on after it, and
//! steps that the code holds without polling them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::pending;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, poll};
use openworkflow::{
    Error, Interceptor, Next, Result, StepCall, StepOutcome, StepPhase, WorkflowContext,
    WorkflowSpec, async_trait, race,
};
use openworkflow_tests::{Database, Log};
use serde_json::json;

use super::{DAY, HOUR, Harness, LEASE};

static W: WorkflowSpec<(), String> = WorkflowSpec::new("w");
static CHILD: WorkflowSpec<(), ()> = WorkflowSpec::new("child");

async fn quick(wf: &WorkflowContext, name: &str) -> Result<String> {
    wf.run(name, || async { Ok(name.to_owned()) }).await
}

/// Does to certain steps what the test says, and notes when the set-up of the others begins and ends.
struct Meddler {
    log: Log,
    meddle: fn(&StepCall) -> Meddling,
}

enum Meddling {
    Leave,
    Refuse,
    /// It never ends.
    Hold,
    /// It ends when the runtime has had its turn so often.
    Yield(usize),
}

#[async_trait]
impl Interceptor for Meddler {
    async fn step(&self, call: StepCall, next: Next<'_, StepCall>) -> Result<StepOutcome> {
        let name = Arc::clone(&call.name);
        match (self.meddle)(&call) {
            Meddling::Leave => {}
            Meddling::Refuse => return Err(Error::new("Refused", "no").non_retryable()),
            Meddling::Hold => pending().await,
            Meddling::Yield(times) => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.log.add(format!("{name} begins"));
        let outcome = next.run(call).await;
        self.log.add(format!("{name} stands"));
        outcome
    }
}

#[tokio::test]
async fn a_wait_that_is_over_when_it_loses_is_closed_as_well() {
    let workflow = W.implement(|wf, ()| async move {
        let winner = race!(wf;
            slept = wf.sleep("nap", HOUR) => { slept?; "nap" },
            heard = wf.wait_for_signal::<u32>("go").timeout("1h") => { heard?; "signal" },
        );
        wf.sleep("after", DAY).await?;
        Ok(winner.to_owned())
    });
    let meddler = Meddler {
        log: Log::new(),
        meddle: |call| match (&*call.name, call.phase) {
            ("go", StepPhase::Resolve) => Meddling::Hold,
            _ => Meddling::Leave,
        },
    };
    let harness = Harness::new(|worker| worker.workflow(workflow).interceptor(meddler)).await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.parked(run.id(), 2).await;
    let row = &harness.step(run.id(), "go").await[0];
    assert_eq!(row.config, Some(json!({ "withdrawn": true })));
    assert_eq!(row.status, "completed");
    let received = harness.client.send_signal("go", &1).await.unwrap();
    assert_eq!(received, [""; 0], "nobody waits for it");
    harness.advance(DAY).await;
    assert_eq!(harness.output(&run).await, "nap");
}

#[tokio::test]
async fn a_race_that_a_crash_interrupted_closes_in_the_replay_what_is_over_by_then() {
    let workflow = W.implement(|wf, ()| async move {
        let winner = race!(wf;
            won = quick(&wf, "quick") => won?,
            heard = wf.wait_for_signal::<u32>("go").timeout("1h") => format!("{:?}", heard?),
            slept = wf.sleep("nap", HOUR) => format!("{:?}", slept?),
        );
        wf.sleep("after", DAY).await?;
        Ok(winner)
    });
    let harness = Harness::new(|worker| worker.workflow(workflow)).await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    // As they are before the race closes them.
    harness
        .execute(
            "UPDATE step_attempts SET status = 'running', config = '{}', finished_at = NULL
             WHERE step_name IN ('go', 'nap')",
        )
        .await;
    harness.advance(DAY).await;
    assert_eq!(harness.output(&run).await, "quick");
    for lost in ["go", "nap"] {
        let row = &harness.step(run.id(), lost).await[0];
        assert_eq!(row.config, Some(json!({ "withdrawn": true })), "{lost}");
    }
}

#[tokio::test]
async fn a_wait_that_failed_when_it_loses_stays_as_it_is() {
    let workflow = W.implement(|wf, ()| async move {
        Ok(race!(wf;
            won = quick(&wf, "quick") => won?,
            heard = wf.wait_for_signal::<u32>("go") => format!("{:?}", heard?),
        ))
    });
    let meddler = Meddler {
        log: Log::new(),
        meddle: |call| match &*call.name {
            "go" => Meddling::Refuse,
            _ => Meddling::Leave,
        },
    };
    let harness = Harness::new(|worker| worker.workflow(workflow).interceptor(meddler)).await;
    let run = harness.start(&W, ()).await;
    assert_eq!(harness.output(&run).await, "quick");
    assert_eq!(harness.run(run.id()).await.attempts, 1);
    let row = &harness.step(run.id(), "go").await[0];
    assert_eq!(row.status, "failed");
}

#[tokio::test]
async fn a_signal_can_be_waited_for_again_after_a_wait_for_it_has_lost() {
    let workflow = W.implement(|wf, ()| async move {
        for round in 0..3 {
            let wait = wf.wait_for_signal::<u32>("go");
            let heard = race!(wf;
                heard = wait.name(format!("wait-{round}")) => heard?,
                slept = wf.sleep(format!("nap-{round}"), HOUR) => { slept?; None },
            );
            if heard.is_some() {
                return Ok(format!("{heard:?} in round {round}"));
            }
        }
        Ok("nothing".to_owned())
    });
    let harness = Harness::new(|worker| worker.workflow(workflow)).await;
    let run = harness.start(&W, ()).await;
    for attempt in 1..=2 {
        harness.parked(run.id(), attempt).await;
        harness.advance(HOUR).await;
    }
    harness.parked(run.id(), 3).await;
    harness.client.send_signal("go", &7).await.unwrap();
    assert_eq!(harness.output(&run).await, "Some(7) in round 2");
}

#[tokio::test]
async fn the_code_goes_on_after_a_race_before_anything_else_happens() {
    let log = Log::new();
    let lines = log.clone();
    let workflow = W.implement(move |wf, ()| {
        let log = lines.clone();
        async move {
            let racing = async {
                Ok(race!(wf;
                    won = quick(&wf, "racing") => won?,
                    slept = wf.sleep("nap", DAY) => format!("{:?}", slept?),
                ))
            };
            // What a replay need not close must not end any earlier than what has to be closed.
            let branches: [openworkflow::BoxFuture<'_, Result<String>>; 3] = [
                Box::pin(racing),
                Box::pin(quick(&wf, "beside")),
                Box::pin(quick(&wf, "beside-too")),
            ];
            let ended: FuturesUnordered<_> = branches.into_iter().collect();
            let ended: Vec<_> = ended.map(Result::unwrap).collect().await;
            log.add(ended.join(" "));
            wf.sleep("after", HOUR).await?;
            Ok(ended.join(" "))
        }
    });
    let harness = Harness::new(|worker| worker.workflow(workflow)).await;
    for _ in 0..5 {
        log.clear();
        let run = harness.start(&W, ()).await;
        harness.parked(run.id(), 1).await;
        harness.advance(HOUR).await;
        let ended = harness.output(&run).await;
        assert_eq!(log.lines(), [&*ended, &*ended]);
    }
}

#[tokio::test]
async fn no_result_is_observed_while_the_code_goes_on_after_a_race() {
    let log = Log::new();
    let lines = log.clone();
    let workflow = W.implement(move |wf, ()| {
        let log = lines.clone();
        async move {
            let mut held = pin!(quick(&wf, "held"));
            assert!(poll!(&mut held).is_pending());
            let won = race!(wf;
                won = quick(&wf, "won") => won?,
                slept = wf.sleep("nap", DAY) => format!("{:?}", slept?),
            );
            // The step beside it is asked for in the poll in which the code goes on.
            let seen = AtomicUsize::new(0);
            let (held, beside) = tokio::join!(
                biased;
                async {
                    let held = held.await;
                    seen.fetch_add(1, Ordering::Relaxed);
                    held
                },
                async { quick(&wf, &format!("seen-{}", seen.load(Ordering::Relaxed))).await },
            );
            let observed = [won, held?, beside?].join(" ");
            log.add(&*observed);
            wf.sleep("after", HOUR).await?;
            Ok(observed)
        }
    });
    let harness = Harness::new(|worker| worker.workflow(workflow).strict_replay(true)).await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "won held seen-0");
    assert_eq!(log.lines().len(), 2);
}

const ONE_AFTER_THE_OTHER: [&str; 4] = ["go begins", "go stands", "child begins", "child stands"];

fn set_ups(log: &Log) -> Vec<String> {
    let mut lines = log.lines();
    lines.retain(|line| line.starts_with("go") || line.starts_with("child"));
    lines
}

/// The child would send at once: its set-up begins when the wait stands, no earlier.
#[tokio::test]
async fn what_a_replay_asks_for_beside_a_wait_begins_when_the_wait_stands() {
    static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);
    let workflow = || {
        W.implement(|wf, ()| async move {
            ATTEMPTS.store(wf.attempt() as usize, Ordering::SeqCst);
            let meeting = async {
                quick(&wf, "before").await?;
                tokio::join!(
                    biased;
                    wf.wait_for_signal::<u32>("go").timeout("1h"),
                    wf.run_workflow(&CHILD, &()),
                )
                .1
            };
            let beside = async {
                let slow = || async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(())
                };
                wf.run("beside", slow).await
            };
            let (meeting, beside) = tokio::join!(meeting, beside);
            meeting?;
            beside?;
            Ok("done".to_owned())
        })
    };
    let child = || CHILD.implement(|wf, ()| async move { wf.sleep("long", DAY).await });
    let log = Log::new();
    let meddler = || Meddler {
        log: log.clone(),
        // The first execution gets no further than to the results of "before" and "beside".
        meddle: |call| match (&*call.name, ATTEMPTS.load(Ordering::SeqCst)) {
            ("go" | "child", 1) => Meddling::Hold,
            ("go", _) => Meddling::Yield(3),
            _ => Meddling::Leave,
        },
    };
    let worker = |worker: openworkflow::WorkerBuilder| {
        let worker = worker.workflow(workflow()).workflow(child());
        worker.interceptor(meddler())
    };
    let mut harness = Harness::new(worker).await;
    let run = harness.start(&W, ()).await;
    openworkflow_tests::wait_until("both results are there", || async {
        let steps = harness.steps(run.id()).await;
        steps.iter().filter(|s| s.status == "completed").count() == 2
    })
    .await;
    harness.worker.take().unwrap().abort().await;
    log.clear();
    harness.advance(2 * LEASE).await;
    harness.start_worker(worker);
    harness.parked(run.id(), 2).await;
    assert_eq!(set_ups(&log), ONE_AFTER_THE_OTHER);
}

#[tokio::test]
async fn what_is_held_beside_a_wait_begins_when_the_wait_stands() {
    let workflow = W.implement(|wf, ()| async move {
        let mut meeting = pin!(async {
            tokio::join!(
                biased;
                wf.wait_for_signal::<u32>("go").timeout("1h"),
                wf.run_workflow(&CHILD, &()),
            )
        });
        assert!(poll!(&mut meeting).is_pending());
        // Nobody polls the two meanwhile.
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        };
        wf.run("between", slow).await?;
        let (_, child) = meeting.await;
        child?;
        Ok("done".to_owned())
    });
    let child = CHILD.implement(|wf, ()| async move { wf.sleep("long", DAY).await });
    let log = Log::new();
    let meddler = Meddler {
        log: log.clone(),
        meddle: |call| match &*call.name {
            "go" => Meddling::Yield(3),
            _ => Meddling::Leave,
        },
    };
    let harness = Harness::new(|worker| {
        let worker = worker.workflow(workflow).workflow(child);
        worker.interceptor(meddler)
    })
    .await;
    let run = harness.start(&W, ()).await;
    harness.parked(run.id(), 1).await;
    assert_eq!(set_ups(&log), ONE_AFTER_THE_OTHER);
}

#[tokio::test]
async fn steps_that_are_held_in_the_middle_of_their_writes_hold_nobody_up() {
    let workflow = W.implement(|wf, ()| async move {
        let wf = &wf;
        // More than there are connections.
        let mut held: Vec<openworkflow::BoxFuture<'_, Result<()>>> = Vec::new();
        for n in 0..50 {
            held.push(Box::pin(async move {
                wf.send_signal(format!("send-{n}"), &n).await?;
                Ok(())
            }));
        }
        for n in 0..50 {
            held.push(Box::pin(async move {
                quick(wf, &format!("run-{n}")).await?;
                Ok(())
            }));
        }
        for step in &mut held {
            assert!(poll!(step).is_pending());
        }
        let beside = quick(wf, "beside").await?;
        for step in held {
            step.await?;
        }
        Ok(beside)
    });
    let harness = Harness::new(|worker| worker.workflow(workflow)).await;
    assert_eq!(harness.complete(&W, ()).await, "beside");
}
