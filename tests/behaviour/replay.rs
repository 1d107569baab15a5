//! What the workflow's code observed, it observes again: which result, in which order, whatever it waits
//! with.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::{self, FuturesUnordered};
use openworkflow::{
    Error, ErrorKind, Event, Interceptor, JoinSet, Result, WorkflowContext, WorkflowSpec, race,
};
use openworkflow_tests::{Database, Log, logged, wait_until};
use serde_json::json;

use super::{DAY, HOUR, Harness, SECOND};

pub(super) static W: WorkflowSpec<String, String> = WorkflowSpec::new("w");

/// A harness with `W` implemented by `code`, which gets the run's input and a log.
pub(super) async fn harness<F, Fut>(code: F) -> (Harness, Log)
where
    F: Fn(WorkflowContext, String, Log) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String>> + Send + 'static,
{
    let log = Log::new();
    let lines = log.clone();
    let departures = Departures(log.clone());
    let workflow = W.implement(move |wf, input| code(wf, input, lines.clone()));
    let configure =
        |worker: openworkflow::WorkerBuilder| worker.workflow(workflow).interceptor(departures);
    (Harness::new(configure).await, log)
}

/// Notes when the code departs from its history.
pub(super) struct Departures(pub(super) Log);

impl Interceptor for Departures {
    fn event(&self, event: &Event<'_>) {
        if let Event::NonDeterminism {
            step_name,
            recorded_step_name,
            ..
        } = event
        {
            self.0.add(format!(
                "departed: {} for {}",
                step_name.unwrap_or("nothing"),
                recorded_step_name.unwrap_or("nothing")
            ));
        }
    }
}

fn naps(name: &str) -> Duration {
    // Another length for each name, and no order among them.
    let sum: u64 = name.bytes().map(|byte| u64::from(byte) * 7919).sum();
    Duration::from_millis(sum % 9)
}

async fn nap(wf: &WorkflowContext, name: String) -> Result<String> {
    wf.run(name.clone(), || async {
        tokio::time::sleep(naps(&name)).await;
        Ok(name)
    })
    .await
}

#[tokio::test]
async fn a_select_has_the_same_winner_in_every_execution() {
    let (harness, log) = harness(|wf, id, log| async move {
        let winner = tokio::select! {
            signal = wf.wait_for_signal::<u32>(format!("go:{id}")) => {
                signal?;
                "signal"
            }
            slept = wf.sleep("nap", HOUR) => {
                slept?;
                "nap"
            }
        };
        log.add(format!("{id} {winner}"));
        wf.sleep("after", DAY).await?;
        Ok(winner.to_owned())
    })
    .await;
    let mut runs = Vec::new();
    for id in 0..12 {
        let run = harness.start(&W, id.to_string()).await;
        harness.parked(run.id(), 1).await;
        let received = harness.client.send_signal(format!("go:{id}"), &1).await;
        assert_eq!(received.unwrap(), [run.id()]);
        harness.parked(run.id(), 2).await;
        runs.push(run);
    }
    // The abandoned naps end, and then the sleeps after them.
    harness.advance(2 * HOUR).await;
    harness.advance(DAY).await;
    for (id, run) in runs.iter().enumerate() {
        assert_eq!(harness.output(run).await, "signal");
        assert_eq!(log.count(&format!("{id} nap")), 0);
        assert!(log.count(&format!("{id} signal")) >= 2, "it was replayed");
        let nap = &harness.step(run.id(), "nap").await[0];
        assert_eq!(nap.status, "running", "nobody awaits it any more");
    }
}

#[tokio::test]
async fn waits_that_ended_while_nobody_worked_are_observed_in_the_order_of_their_ends() {
    for (signal_first, winner) in [(true, "signal"), (false, "nap")] {
        let log = Log::new();
        let lines = log.clone();
        let workflow = move || {
            let log = lines.clone();
            W.implement(move |wf, _| {
                let log = log.clone();
                async move {
                    let winner = tokio::select! {
                        signal = wf.wait_for_signal::<u32>("go") => { signal?; "signal" }
                        slept = wf.sleep("nap", HOUR) => { slept?; "nap" }
                    };
                    log.add(winner);
                    Ok(winner.to_owned())
                }
            })
        };
        let mut harness = Harness::new(|worker| worker.workflow(workflow())).await;
        let run = harness.start(&W, String::new()).await;
        harness.parked(run.id(), 1).await;
        harness.stop().await;
        if signal_first {
            harness.client.send_signal("go", &1).await.unwrap();
            harness.advance(2 * HOUR).await;
        } else {
            harness.advance(2 * HOUR).await;
            harness.client.send_signal("go", &1).await.unwrap();
        }
        harness.start_worker(|worker| worker.workflow(workflow()));
        assert_eq!(harness.output(&run).await, winner);
    }
}

#[tokio::test]
async fn collections_yield_in_the_same_order_in_every_execution() {
    let (harness, log) = harness(|wf, how, log| async move {
        let branches = (0..8).map(|n| {
            let wf = wf.clone();
            async move {
                nap(&wf, format!("a{n}")).await?;
                nap(&wf, format!("b{}", n * 5)).await
            }
        });
        let observed: Vec<String> = match &*how {
            "unordered" => {
                let branches: FuturesUnordered<_> = branches.collect();
                branches.map(|name| name.unwrap()).collect().await
            }
            "buffered" => {
                let branches = stream::iter(branches).buffer_unordered(3);
                branches.map(|name| name.unwrap()).collect().await
            }
            "set" => {
                let mut set = JoinSet::new();
                branches.for_each(|branch| set.spawn(branch));
                let ended = set.join_all().await;
                ended.into_iter().collect::<Result<_>>()?
            }
            _ => {
                let ended = join_all(branches).await;
                ended.into_iter().collect::<Result<_>>()?
            }
        };
        let observed = observed.join(" ");
        log.add(&*observed);
        wf.sleep("nap", HOUR).await?;
        wf.sleep("once-more", HOUR).await?;
        Ok(observed)
    })
    .await;
    for how in ["unordered", "buffered", "set", "all"] {
        log.clear();
        let run = harness.start(&W, how.to_owned()).await;
        for attempt in 1..=2 {
            harness.parked(run.id(), attempt).await;
            harness.advance(HOUR).await;
        }
        let observed = harness.output(&run).await;
        assert_eq!(log.lines(), vec![observed; 3], "{how}");
    }
}

#[tokio::test]
async fn a_collection_that_is_filled_while_it_drains_neither_stalls_nor_changes() {
    let (harness, log) = harness(|wf, _, log| async move {
        let wf = &wf;
        let mut set = FuturesUnordered::new();
        for n in 0..4 {
            set.push(nap(wf, format!("first-{n}")));
        }
        let mut observed = Vec::new();
        while let Some(name) = set.next().await {
            let name = name?;
            // Nobody polls the set meanwhile: its branches are at work, and get no further.
            match observed.len() {
                0 => wf.sleep("between", HOUR).await?,
                1 => drop(nap(wf, "between-too".to_owned()).await?),
                _ => {}
            }
            if name.starts_with("first") {
                set.push(nap(wf, format!("then-{name}")));
            }
            observed.push(name);
        }
        log.add(observed.join(" "));
        wf.sleep("end", HOUR).await?;
        Ok(observed.join(" "))
    })
    .await;
    let run = harness.start(&W, String::new()).await;
    for attempt in 1..=2 {
        harness.parked(run.id(), attempt).await;
        harness.advance(HOUR).await;
    }
    let observed = harness.output(&run).await;
    assert_eq!(log.lines(), vec![observed.clone(); 2]);
    assert_eq!(observed.split(' ').count(), 8);
}

#[tokio::test]
async fn a_step_that_is_held_and_not_polled_has_its_turn_when_it_is() {
    let (harness, log) = harness(|wf, _, log| async move {
        let mut held = Box::pin(nap(&wf, "held".to_owned()));
        let first = tokio::select! {
            biased;
            name = &mut held => name?,
            name = nap(&wf, "quick".to_owned()) => name?,
        };
        log.add(&*first);
        wf.sleep("nap", HOUR).await?;
        if first == "quick" {
            log.add(held.await?);
        }
        Ok("done".to_owned())
    })
    .await;
    // Whichever is first is first again.
    let run = harness.start(&W, String::new()).await;
    harness.parked(run.id(), 1).await;
    let first = log.lines().remove(0);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "done");
    assert_eq!(log.lines()[1], first);
}

#[tokio::test]
async fn a_branch_dropped_by_a_failed_join_stays_dropped() {
    let (harness, log) = harness(|wf, _, log| async move {
        let failing = async {
            let bad = || async { Err::<(), _>(Error::new("Bad", "for good").non_retryable()) };
            wf.run("failing", bad).await
        };
        let napping = async {
            wf.sleep("nap", HOUR).await?;
            log.add("woke");
            wf.run("after-nap", || async { Ok(()) }).await
        };
        let error = tokio::try_join!(failing, napping).expect_err("one failed");
        wf.sleep("longer", DAY).await?;
        wf.sleep("longest", DAY).await?;
        Ok(error.message().to_owned())
    })
    .await;
    let run = harness.start(&W, String::new()).await;
    for attempt in 1..=2 {
        harness.parked(run.id(), attempt).await;
        harness.advance(DAY).await;
    }
    assert_eq!(harness.output(&run).await, "for good");
    assert_eq!(log.lines(), [""; 0]);
    assert!(harness.step(run.id(), "after-nap").await.is_empty());
}

#[tokio::test]
async fn a_race_closes_the_waits_that_lost() {
    static CHILD: WorkflowSpec<(), ()> = WorkflowSpec::new("child");
    let log = Log::new();
    let lines = log.clone();
    let racing = W.implement(move |wf, _| {
        let log = lines.clone();
        async move {
            let winner = race!(wf;
                slept = wf.sleep("nap", HOUR) => {
                    slept?;
                    "nap"
                },
                signal = async {
                    let (one, other) = tokio::join!(
                        wf.wait_for_signal::<u32>("one"),
                        wf.wait_for_signal::<u32>("other"),
                    );
                    one?;
                    other
                } => {
                    let _: Option<u32> = signal?;
                    "signal"
                },
                ended = wf.run_workflow(&CHILD, &()) => {
                    ended?;
                    "child"
                },
            );
            log.add(winner);
            wf.sleep("after", HOUR).await?;
            Ok(winner.to_owned())
        }
    });
    let child = CHILD.implement(|wf, ()| async move { wf.sleep("long", 30 * DAY).await });
    let harness = Harness::new(|worker| worker.workflow(racing).workflow(child)).await;
    let run = harness.start(&W, String::new()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    harness.parked(run.id(), 2).await;
    for lost in ["one", "other", "child"] {
        let row = &harness.step(run.id(), lost).await[0];
        assert_eq!(row.status, "completed", "{lost}");
        // A child's has more.
        let config = row.config.clone().unwrap_or_default();
        assert_eq!(config["withdrawn"], true, "{lost}: {config}");
        assert_eq!(row.output, None);
    }
    let received = harness.client.send_signal("one", &1).await.unwrap();
    assert_eq!(received, [""; 0], "nobody waits for it");
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "nap");
    assert_eq!(log.lines(), ["nap", "nap"]);
    assert_eq!(harness.run(run.id()).await.attempts, 3);
}

#[tokio::test]
async fn a_race_among_functions_drops_the_losers_and_repeats_the_winner() {
    let (harness, log) = harness(|wf, _, log| async move {
        let winner = race!(wf;
            name = nap(&wf, "one".to_owned()) => name?,
            name = nap(&wf, "two".to_owned()) => name?,
            name = nap(&wf, "three".to_owned()) => name?,
        );
        log.add(&*winner);
        wf.sleep("after", HOUR).await?;
        Ok(winner)
    })
    .await;
    let run = harness.start(&W, String::new()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(HOUR).await;
    let winner = harness.output(&run).await;
    assert_eq!(log.lines(), [&*winner, &*winner]);
}

#[tokio::test]
async fn a_wait_is_recorded_before_what_the_code_asks_for_after_it_begins() {
    static CHILD: WorkflowSpec<String, ()> = WorkflowSpec::new("child");
    let parent = W.implement(|wf, id: String| async move {
        let (heard, sent) = tokio::join!(
            wf.wait_for_signal::<u32>(format!("heard:{id}"))
                .timeout("1h"),
            wf.run_workflow(&CHILD, &id),
        );
        sent?;
        Ok(format!("{:?}", heard?))
    });
    // Sends at once, and once.
    let child = CHILD.implement(|wf, id: String| async move {
        wf.send_signal(format!("heard:{id}"), &7).await?;
        Ok(())
    });
    let harness = Harness::new(|worker| worker.workflow(parent).workflow(child)).await;
    let mut runs = Vec::new();
    for id in 0..20 {
        runs.push(harness.start(&W, id.to_string()).await);
    }
    for run in &runs {
        assert_eq!(harness.output(run).await, "Some(7)");
    }
}

#[tokio::test]
async fn a_step_in_a_task_of_its_own_works_and_is_warned_of_once() {
    let (logged, _collecting) = logged::collect();
    let (harness, log) = harness(|wf, _, log| async move {
        let task = tokio::spawn({
            let wf = wf.clone();
            async move { wf.run("elsewhere", || async { Ok(7) }).await }
        });
        let seven = task.await.map_err(|_| Error::new("Joined", "no"))??;
        wf.sleep("nap", HOUR).await?;
        log.add(seven.to_string());
        Ok(seven.to_string())
    })
    .await;
    for _ in 0..2 {
        let run = harness.start(&W, String::new()).await;
        harness.parked(run.id(), 1).await;
        harness.advance(HOUR).await;
        assert_eq!(harness.output(&run).await, "7");
    }
    assert_eq!(log.lines(), ["7"; 2]);
    let warned = logged.lines();
    let warned = warned.iter().filter(|line| {
        line.contains("WARN") && line.contains("outside of the workflow's own task")
    });
    let warned: Vec<_> = warned.collect();
    assert_eq!(
        warned.len(),
        1,
        "once for two runs of the workflow: {warned:?}"
    );
    assert!(warned[0].contains("elsewhere"), "it names the step");
}

#[tokio::test]
async fn histories_without_an_order_are_replayed_by_their_times() {
    let (harness, log) = harness(|wf, _, log| async move {
        let wf = &wf;
        let mut set = JoinSet::new();
        for name in ["one", "two", "three"] {
            set.spawn(async move {
                wf.sleep(format!("nap-{name}"), SECOND * (name.len() as u32))
                    .await?;
                wf.run(name, || async { Ok(name.to_owned()) }).await
            });
        }
        let mut names = Vec::new();
        while let Some(name) = set.join_next().await {
            names.push(name?);
            if names.len() == 2 {
                wf.sleep("nap", HOUR).await?;
            }
        }
        log.add(names.join(" "));
        Ok(names.join(" "))
    })
    .await;
    let run = harness.start(&W, String::new()).await;
    harness.parked(run.id(), 1).await;
    harness.advance(3 * SECOND).await;
    harness.parked(run.id(), 2).await;
    harness.advance(2 * SECOND).await;
    harness.parked(run.id(), 3).await;
    // As an older version, or another SDK, wrote them.
    harness
        .execute("UPDATE step_attempts SET config = '{}'")
        .await;
    harness.advance(2 * HOUR).await;
    let names = harness.output(&run).await;
    assert!(names.ends_with("three"), "{names}");
    assert!(log.lines().iter().all(|line| *line == names));
}

#[tokio::test]
async fn a_thousand_branches_replay_in_time_linear_in_their_number() {
    /// Counts how often its future is polled.
    struct Counted<F>(Pin<Box<F>>, Arc<AtomicUsize>);

    impl<F: Future> Future for Counted<F> {
        type Output = F::Output;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.as_mut().poll(cx)
        }
    }

    let polls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&polls);
    let (harness, _) = harness(move |wf, branches: String, _| {
        let counter = Arc::clone(&counter);
        async move {
            let branches: usize = branches.parse().unwrap();
            counter.store(0, Ordering::Relaxed);
            let all = (0..branches).map(|n| {
                let step = wf.run(format!("step-{n}"), move || async move { Ok(n) });
                Counted(Box::pin(step), Arc::clone(&counter))
            });
            let all: FuturesUnordered<_> = all.collect();
            let sum: usize = all
                .map(|n| n.unwrap())
                .collect::<Vec<_>>()
                .await
                .iter()
                .sum();
            wf.sleep("nap", HOUR).await?;
            Ok(sum.to_string())
        }
    })
    .await;
    for branches in [10, 990] {
        let run = harness.start(&W, branches.to_string()).await;
        harness.parked(run.id(), 1).await;
        harness.advance(HOUR).await;
        harness.output(&run).await;
        let polls = polls.load(Ordering::Relaxed);
        assert!(
            polls <= 3 * branches,
            "{polls} polls for {branches} branches"
        );
    }
}

#[tokio::test]
async fn a_wait_that_lost_and_ended_later_comes_after_what_won() {
    let (harness, log) = harness(|wf, _, log| async move {
        let mut nap = Box::pin(wf.sleep("nap", HOUR));
        let first = tokio::select! {
            slept = &mut nap => { slept?; "nap" }
            signal = wf.wait_for_signal::<u32>("go") => { signal?; "signal" }
        };
        log.add(first);
        if first == "signal" {
            nap.await?;
            log.add("nap, at last");
        }
        wf.sleep("after", HOUR).await?;
        Ok(first.to_owned())
    })
    .await;
    let run = harness.start(&W, String::new()).await;
    harness.parked(run.id(), 1).await;
    harness.client.send_signal("go", &1).await.unwrap();
    for attempt in 2..=3 {
        harness.parked(run.id(), attempt).await;
        harness.advance(HOUR).await;
    }
    assert_eq!(harness.output(&run).await, "signal");
    assert_eq!(
        log.lines(),
        ["signal", "signal", "nap, at last", "signal", "nap, at last"]
    );
}

#[tokio::test]
async fn a_failure_stays_told_when_the_policy_has_changed() {
    static ATTEMPTS: AtomicUsize = AtomicUsize::new(1);
    let (harness, log) = harness(|wf, _, log| async move {
        let failing = wf.run("failing", || async {
            log.add("tried");
            Err::<(), _>(Error::new("Bad", "once"))
        });
        let attempts = ATTEMPTS.load(Ordering::SeqCst) as u32;
        let error = failing
            .retry(openworkflow::RetryPolicy::attempts(attempts))
            .await
            .expect_err("it failed");
        wf.sleep("nap", HOUR).await?;
        assert_eq!(error.kind(), ErrorKind::Application);
        Ok(error.message().to_owned())
    })
    .await;
    let run = harness.start(&W, String::new()).await;
    harness.parked(run.id(), 1).await;
    ATTEMPTS.store(5, Ordering::SeqCst);
    harness.advance(HOUR).await;
    assert_eq!(harness.output(&run).await, "once");
    assert_eq!(log.lines(), ["tried"]);
    wait_until("the row says that it was told", || async {
        let row = &harness.step(run.id(), "failing").await[0];
        row.config == Some(json!({ "order": 1 }))
    })
    .await;
}
