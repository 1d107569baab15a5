//! What a worker does whose leases ran out while its thread was blocked.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use openworkflow::{Worker, Workflow, WorkflowContext, WorkflowSpec};
use openworkflow_tests::{Database, Gate, Log};
use tokio::sync::oneshot;

use super::Harness;

const LEASE: Duration = Duration::from_millis(300);

static BLOCKS: WorkflowSpec<(), ()> = WorkflowSpec::new("blocks");
static BESIDE: WorkflowSpec<(), ()> = WorkflowSpec::new("beside");

/// Blocks the thread of whoever comes to it, until the other end is dropped.
#[derive(Clone)]
struct Blockage(Arc<std::sync::Mutex<mpsc::Receiver<()>>>);

impl Blockage {
    fn new() -> (Self, mpsc::Sender<()>) {
        let (release, blocked) = mpsc::channel();
        (Self(Arc::new(std::sync::Mutex::new(blocked))), release)
    }

    fn block(&self) {
        // The end of the channel is what it waits for.
        let _ = self.0.lock().unwrap().recv();
    }
}

/// A worker that has one thread for everything. It stops when this is dropped.
struct OneThread {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl OneThread {
    fn start(harness: &Arc<Harness>, workflows: Vec<Workflow>) -> Self {
        let runs = workflows.len();
        let harness = Arc::clone(harness);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let worker = Worker::builder(harness.open().await);
                // None more, or it might claim what it has lost itself.
                let mut worker = worker.lease(LEASE).concurrency(runs);
                for workflow in workflows {
                    worker = worker.workflow(workflow);
                }
                let stopped = async { drop(stopped.await) };
                worker.build().unwrap().run_until(stopped).await.unwrap();
            });
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// Says when the workflow's code is dropped, and why.
struct OnDrop(WorkflowContext, Log);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let reason = self.0.execution().interruption();
        let name = &self.0.execution().run.workflow_name;
        self.1.add(format!("{name} dropped: {reason:?}"));
    }
}

#[tokio::test]
async fn a_thread_that_was_blocked_begins_no_step_of_runs_that_others_have() {
    let harness = Arc::new(Harness::idle().await);
    let (log, gate, block) = (Log::new(), Gate::closed(), Gate::closed());
    let (blockage, release) = Blockage::new();
    let (held, entered) = (log.clone(), block.clone());
    let blocks = BLOCKS.implement(move |wf, ()| {
        let (log, block, blockage) = (held.clone(), entered.clone(), blockage.clone());
        async move {
            let _dropped = OnDrop(wf.clone(), log.clone());
            wf.run("block", || async {
                block.pass().await;
                log.add("blocked");
                blockage.block();
                Ok(())
            })
            .await?;
            wf.run("next", || async {
                log.add("next after the block");
                Ok(())
            })
            .await
        }
    });
    let (held, passed) = (log.clone(), gate.clone());
    let beside = BESIDE.implement(move |wf, ()| {
        let (log, gate) = (held.clone(), passed.clone());
        async move {
            let _dropped = OnDrop(wf.clone(), log.clone());
            // At work for ever, so that the run does not park.
            let long = wf.run("long", std::future::pending::<openworkflow::Result<()>>);
            let next = async {
                gate.pass().await;
                wf.run("next", || async {
                    log.add("next beside the block");
                    Ok(())
                })
                .await
            };
            futures::try_join!(long, next).map(drop)
        }
    });
    let former = OneThread::start(&harness, vec![blocks, beside]);
    let runs = [
        harness.start(&BLOCKS, ()).await,
        harness.start(&BESIDE, ()).await,
    ];
    gate.reached_by(1).await;
    block.reached_by(1).await;
    block.open();
    log.reached("blocked", 1).await;
    // When the thread goes on, there is something to do at once.
    gate.open();

    // Nobody extends a lease meanwhile, so after this each is over.
    tokio::time::sleep(LEASE).await;
    harness.advance(LEASE).await;
    let _other = harness.another_worker(|worker| {
        let done = |wf: WorkflowContext, ()| async move {
            for step in ["block", "long", "next"] {
                wf.run(step, || async { Ok(()) }).await?;
            }
            Ok(())
        };
        worker
            .workflow(BLOCKS.implement(done))
            .workflow(BESIDE.implement(done))
    });
    for run in &runs {
        harness.output(run).await;
    }
    drop(release);
    for name in ["blocks", "beside"] {
        let dropped = format!("{name} dropped: Some(LeaseLost)");
        log.reached(&dropped, 1).await;
    }
    assert_eq!(log.count("next beside the block"), 0, "{log:?}");
    assert_eq!(log.count("next after the block"), 0, "{log:?}");
    drop(former);
}

#[tokio::test]
async fn a_body_that_blocked_lets_none_beside_it_begin() {
    let harness = Arc::new(Harness::idle().await);
    let log = Log::new();
    let (blockage, release) = Blockage::new();
    let held = log.clone();
    let blocks = BLOCKS.implement(move |wf, ()| {
        let (log, blockage) = (held.clone(), blockage.clone());
        async move {
            let _dropped = OnDrop(wf.clone(), log.clone());
            let block = wf.run("block", || async {
                log.add("blocked");
                blockage.block();
                Ok(())
            });
            // Polled right after the other, without a look at anything in between.
            let next = wf.run("next", || async {
                log.add("next");
                Ok(())
            });
            futures::try_join!(block, next).map(drop)
        }
    });
    let former = OneThread::start(&harness, vec![blocks]);
    let run = harness.start(&BLOCKS, ()).await;
    log.reached("blocked", 1).await;
    tokio::time::sleep(LEASE).await;
    harness.advance(LEASE).await;
    let _other = harness.another_worker(|worker| {
        worker.workflow(BLOCKS.implement(|wf, ()| async move {
            wf.run("block", || async { Ok(()) }).await?;
            wf.run("next", || async { Ok(()) }).await
        }))
    });
    harness.output(&run).await;
    drop(release);
    log.reached("blocks dropped: Some(LeaseLost)", 1).await;
    assert_eq!(log.count("next"), 0, "{log:?}");
    drop(former);
}

#[tokio::test]
async fn a_thread_that_was_blocked_goes_on_if_nobody_took_its_run() {
    let harness = Arc::new(Harness::idle().await);
    let log = Log::new();
    let (blockage, release) = Blockage::new();
    let held = log.clone();
    let blocks = BLOCKS.implement(move |wf, ()| {
        let (log, blockage) = (held.clone(), blockage.clone());
        async move {
            let block = wf.run("block", || async {
                log.add("blocked");
                blockage.block();
                Ok(())
            });
            let next = wf.run("next", || async {
                log.add("next");
                Ok(())
            });
            futures::try_join!(block, next).map(drop)
        }
    });
    let _worker = OneThread::start(&harness, vec![blocks]);
    let run = harness.start(&BLOCKS, ()).await;
    log.reached("blocked", 1).await;
    tokio::time::sleep(LEASE).await;
    drop(release);
    harness.output(&run).await;
    assert_eq!(log.lines(), ["blocked", "next"]);
    assert_eq!(harness.run(run.id()).await.attempts, 1);
}
