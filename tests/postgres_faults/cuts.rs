//! A network that is cut for longer than the lease, and healed: the former owner writes nothing.

use std::time::Duration;

use openworkflow::{
    Event, Interceptor, Interruption, RunHandle, Worker, WorkerHandle, WorkflowSpec,
};
use openworkflow_tests::faults::check;
use openworkflow_tests::{Gate, Log, wait_until};

use crate::proxy::Proxy;
use crate::{PROGRAM, Site};

const LEASE: Duration = Duration::from_secs(1);

static RELAY: WorkflowSpec<(), Vec<String>> = WorkflowSpec::new("relay");

/// How many steps there are before the one in which the line is cut.
const WARM_UP: usize = 12;

/// Tells what became of executions.
struct Witness(Log);

impl Interceptor for Witness {
    fn event(&self, event: &Event<'_>) {
        if let Event::ExecutionInterrupted { reason, .. } = event {
            self.0.add(format!("interrupted: {reason:?}"));
        }
    }
}

/// One of two workers that could execute the same run.
struct Runner {
    log: Log,
    gate: Gate,
    _worker: WorkerHandle,
}

impl Runner {
    /// Every step returns the runner's name; the last but one waits at its gate.
    async fn start(site: &Site, server: &str, name: &'static str) -> Self {
        let (log, gate) = (Log::new(), Gate::closed());
        let (lines, held) = (log.clone(), gate.clone());
        let workflow = RELAY.implement(move |wf, ()| {
            let (log, gate) = (lines.clone(), held.clone());
            async move {
                let mut by = Vec::new();
                // Enough that every connection knows the statement: a write in the cut is sent at once.
                for n in 0..WARM_UP {
                    let body = || async { Ok(name.to_owned()) };
                    by.push(wf.run(format!("step-{n}"), body).await?);
                }
                for step in ["two", "three"] {
                    let body = || async {
                        log.add(step);
                        if step == "two" {
                            gate.pass().await;
                            log.add("passed");
                        }
                        Ok(name.to_owned())
                    };
                    by.push(wf.run(step, body).await?);
                }
                Ok(by)
            }
        });
        let worker = Worker::builder(site.open_at(server).await)
            .workflow(workflow)
            .interceptor(Witness(log.clone()))
            .lease(LEASE)
            .build()
            .unwrap();
        Self {
            log,
            gate,
            _worker: worker.start(),
        }
    }
}

/// A run that is in the middle of its last step but one at the former owner's, whose line is cut, and at
/// its end at the other's.
struct TakenOver {
    site: Site,
    line: Proxy,
    former: Runner,
    other: Runner,
    run: RunHandle<Vec<String>>,
}

impl TakenOver {
    /// The former owner's body ends during the cut, or not before its lease.
    async fn new(ends_during_the_cut: bool) -> Self {
        let site = Site::new(PROGRAM).await;
        let line = Proxy::to(&site.ground.server).await;
        let former = Runner::start(&site, &line.url(&site.ground.server), "former").await;
        let run = site.client.start(&RELAY, &()).await.unwrap();
        former.gate.reached_by(1).await;
        wait_until("the step is recorded as running", || async {
            let steps = site.client.list_steps(run.id()).limit(100).await.unwrap();
            steps.items.len() > WARM_UP
        })
        .await;
        line.cut();
        if ends_during_the_cut {
            former.gate.open();
            former.log.reached("passed", 1).await;
        }
        // Nobody tells the former owner, and yet it knows when its lease is over.
        let lost = format!("interrupted: {:?}", Interruption::LeaseLost);
        former.log.reached(&lost, 1).await;
        let other = Runner::start(&site, &site.ground.server, "other").await;
        other.gate.open();
        let by = run.result_within(Duration::from_secs(60)).await.unwrap();
        assert!(by[..WARM_UP].iter().all(|name| name == "former"), "{by:?}");
        assert_eq!(by[WARM_UP..], ["other", "other"]);
        Self {
            site,
            line,
            former,
            other,
            run,
        }
    }

    /// Nothing that the former owner does once the line is up leaves a trace.
    async fn check(self, heal: impl AsyncFnOnce(&Proxy)) {
        let rows = self.site.rows().await;
        heal(&self.line).await;
        self.former.gate.open();
        // The former owner is back: it can claim and execute the next run.
        drop(self.other);
        let next = self.site.client.start(&RELAY, &()).await.unwrap();
        let by = next.result_within(Duration::from_secs(60)).await.unwrap();
        assert!(by.iter().all(|name| name == "former"), "{by:?}");
        let id = next.id().to_owned();
        let mut after = self.site.rows().await;
        after.retain(|row| !row.iter().flatten().any(|value| value.contains(&id)));
        assert_eq!(after, rows, "the rows of run {}", self.run.id());
        // Of the first run it did not get to the last step.
        assert_eq!(self.former.log.count("two"), 2);
        assert_eq!(self.former.log.count("three"), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_is_cut_off_is_dropped_when_its_lease_ends() {
    let taken_over = TakenOver::new(false).await;
    assert_eq!(taken_over.former.log.count("passed"), 0);
    taken_over.check(async |line| line.heal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_held_by_the_network_is_refused() {
    let taken_over = TakenOver::new(true).await;
    taken_over.check(async |line| line.heal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_lost_with_its_connection_is_not_repeated() {
    let taken_over = TakenOver::new(true).await;
    taken_over.check(async |line| line.reset().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_may_be_cut_again_and_again_under_load() {
    const LEASE: Duration = Duration::from_secs(2);
    let site = Site::new(PROGRAM).await;
    let line = Proxy::to(&site.ground.server).await;
    let _cut_off = site.process_at(&line.url(&site.ground.server), LEASE);
    let _other = site.process(LEASE);
    let mut started = Vec::new();
    for cut in 0..3 {
        started.extend(site.start(60).await);
        // In the middle of the work.
        while site.unfinished().await > 90 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        line.cut();
        site.finish().await;
        match cut {
            1 => line.reset().await,
            _ => line.heal(),
        }
    }
    started.extend(site.start(60).await);
    site.finish().await;
    let verdict = check(&site, &started).await;
    println!("{} bodies repeated", verdict.repeated);
    let processes = verdict.by_process().len();
    assert_eq!(processes, 2, "both took part");
}
