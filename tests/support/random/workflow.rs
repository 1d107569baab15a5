//! The workflow that carries out a program.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use openworkflow::{
    BoxFuture, Error, Result, RetryPolicy, Workflow, WorkflowContext, WorkflowSpec,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::crash::World;
use super::observed::{Observed, told};
use super::program::{Block, Body, Node, Op, Pace, Program, Rendezvous};

/// The interpreter, without a version. Its output tells what became of every node.
pub static PROGRAM: WorkflowSpec<Program, Value> = WorkflowSpec::new("program");
/// The interpreter, with a version. Errors of its own are tried again once.
pub static PROGRAM_V2: WorkflowSpec<Program, Value> = WorkflowSpec::new("program")
    .version("v2")
    .retry(RetryPolicy::attempts(2));

/// The implementations, to be registered with a worker.
pub fn workflows(world: &Arc<World>) -> [Workflow; 2] {
    [&PROGRAM, &PROGRAM_V2].map(|spec| {
        let world = Arc::clone(world);
        spec.implement(move |wf, program: Program| {
            let world = Arc::clone(&world);
            async move {
                let env = Env {
                    observed: world.observations.begin(wf.run_id(), wf.attempt()),
                    wf,
                    world,
                    marker: program.marker,
                };
                env.world.code_point().await;
                let output = env.block(&program.block).await;
                env.world.code_point().await;
                output
            }
        })
    })
}

pub(super) struct Env {
    pub(super) wf: WorkflowContext,
    pub(super) world: Arc<World>,
    observed: Arc<Observed>,
    marker: String,
}

impl Env {
    /// What became of each node, up to the first failure that is not caught.
    pub(super) fn block<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<Value>> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(block.len());
            for node in block {
                let result = self.node(node).await;
                let mut outcome = told(&result);
                self.note(&format!("node {}", node.id), &outcome);
                outcome["node"] = node.id.into();
                match result {
                    Err(error) if !node.caught => return Err(error),
                    _ => outcomes.push(outcome),
                }
            }
            Ok(outcomes.into())
        })
    }

    /// Awaits a step, and notes what the code observes of it.
    async fn step<T: Serialize>(
        &self,
        name: &str,
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let result = step.await;
        self.note(name, &told(&result));
        self.world.code_point().await;
        result
    }

    fn note(&self, what: &str, result: &Value) {
        // The code may go on for a moment when the process has crashed.
        if !self.world.has_crashed() {
            self.observed.add(what, result);
        }
    }

    async fn node(&self, node: &Node) -> Result<Value> {
        let Node { id, op, .. } = node;
        let id = *id;
        match op {
            Op::Run { body, pace } => self.run(&format!("run-{id}"), body, *pace).await,
            Op::Repeat { times } => {
                let mut values = Vec::new();
                for time in 0..*times {
                    let base = format!("repeat-{id}");
                    let name = match time {
                        0 => base.clone(),
                        n => format!("{base}:{n}"),
                    };
                    let body = || self.body(&name, &Body::Succeed, Pace::AtOnce);
                    values.push(self.step(&name, self.wf.run(base, body)).await?);
                }
                Ok(values.into())
            }
            Op::Sleep { millis } => self.sleep(format!("sleep-{id}"), *millis).await,
            Op::Child { versioned, block } => {
                let spec = if *versioned { &PROGRAM_V2 } else { &PROGRAM };
                self.child(id, spec, block.clone(), 365 * DAY).await
            }
            Op::SlowChild => {
                let block = vec![plain(id, Op::Sleep { millis: 2 * DAY })];
                self.child(id, &PROGRAM, block, 60_000).await
            }
            Op::WaitForClient => {
                let signal = format!("client:{id}");
                self.wait(signal.clone(), signal, 365 * DAY).await
            }
            Op::WaitInVain { millis } => {
                self.wait(format!("wait-{id}"), format!("nobody:{id}"), *millis)
                    .await
            }
            Op::SendToNobody => self.send(format!("send-{id}"), id, "unheard").await,
            Op::Meet(rendezvous) => self.meet(id, *rendezvous).await,
            Op::Answer(Rendezvous::ChildWaits) => self.wait_to_meet(id).await,
            Op::Answer(rendezvous) => {
                if *rendezvous != Rendezvous::ChildSendsAtOnce {
                    // Branches set up side by side, and the child may run before the wait is recorded.
                    self.sleep(format!("pause-{id}"), DAY).await?;
                }
                self.send(format!("send-{id}"), id, "meet").await
            }
            Op::Join { style, branches } => self.join(*style, branches).await,
            Op::First { style, branches } => self.first(*style, branches).await,
            Op::Drain {
                style,
                branches,
                turns,
                stop_after,
            } => self.drain(*style, branches, turns, *stop_after).await,
            Op::Patience { rounds, millis } => self.patience(id, *rounds, *millis).await,
            Op::Depend => self.depend(id).await,
            Op::Fail { panics } => {
                // A panic outside of a step ends the workflow, caught or not.
                if *panics && !node.caught {
                    resume_unwind(Box::new(format!("node {id} panics")));
                }
                Err(Error::new("Planned", format!("node {id} fails")))
            }
        }
    }

    async fn run(&self, name: &str, body: &Body, pace: Pace) -> Result<Value> {
        let policy = match body {
            Body::Exhaust { attempts, .. } => RetryPolicy::attempts(*attempts),
            _ => RetryPolicy::attempts(5),
        };
        let step = || self.body(name, body, pace);
        self.step(name, self.wf.run(name, step).retry(policy)).await
    }

    pub(super) async fn sleep(&self, name: String, millis: u64) -> Result<Value> {
        let sleep = self.wf.sleep(&*name, Duration::from_millis(millis));
        self.step(&name, sleep).await?;
        Ok(Value::Null)
    }

    async fn child(
        &self,
        id: u32,
        spec: &'static WorkflowSpec<Program, Value>,
        block: Block,
        timeout: u64,
    ) -> Result<Value> {
        let child = self.wf.run_workflow(spec, &self.program(block));
        let child = child.timeout(Duration::from_millis(timeout));
        let name = format!("child-{id}");
        self.step(&name, child.name(&*name)).await
    }

    pub(super) async fn wait(&self, name: String, signal: String, millis: u64) -> Result<Value> {
        let wait = self.wf.wait_for_signal::<Value>(signal);
        let wait = wait.timeout(Duration::from_millis(millis));
        Ok(self.step(&name, wait.name(&*name)).await?.into())
    }

    /// Goes on by what was observed: whatever is otherwise in a replay shows in the steps.
    async fn depend(&self, id: u32) -> Result<Value> {
        self.world.code_point().await;
        let digest = self.observed.digest();
        let name = format!("seen-{id}-{digest:x}");
        match digest % 5 {
            0 => self.sleep(name, digest % 2000).await,
            1 => self.wait(name, format!("nobody:{digest}"), 1000).await,
            2 => self.send(name, id, "unheard").await,
            3 => {
                self.run(&name, &Body::Succeed, Pace::Nap { millis: 3 })
                    .await
            }
            _ => self.run(&name, &Body::Succeed, Pace::AtOnce).await,
        }
    }

    /// The wait is always recorded before the signal is sent: it is asked for before the child that sends
    /// at once, and otherwise a sleep lies between, which outlasts every lease where two runs meet.
    async fn meet(&self, id: u32, rendezvous: Rendezvous) -> Result<Value> {
        let child = |spec| {
            let block = vec![plain(id, Op::Answer(rendezvous))];
            self.child(id, spec, block, 365 * DAY)
        };
        let send_after = |millis| async move {
            self.sleep(format!("sleep-{id}"), millis).await?;
            self.send(format!("send-{id}"), id, "meet").await
        };
        let wait = self.wait_to_meet(id);
        let (one, two) = match rendezvous {
            Rendezvous::Siblings => tokio::join!(biased; wait, send_after(1000)),
            Rendezvous::ChildSends | Rendezvous::ChildSendsAtOnce => {
                tokio::join!(biased; wait, child(&PROGRAM))
            }
            Rendezvous::ChildWaits => tokio::join!(biased; child(&PROGRAM_V2), send_after(DAY)),
        };
        Ok(json!([one?, two?]))
    }

    async fn wait_to_meet(&self, id: u32) -> Result<Value> {
        // A parent that has failed meanwhile will not send it.
        self.wait(format!("wait-{id}"), format!("meet:{id}"), 10 * DAY)
            .await
    }

    async fn send(&self, name: String, id: u32, to: &str) -> Result<Value> {
        let data = json!({ "from": id, "marker": self.marker });
        let send = self.wf.send_signal(format!("{to}:{id}"), &data);
        let recipients = self.step(&name, send.name(&*name)).await?;
        Ok(recipients.len().into())
    }

    fn program(&self, block: Block) -> Program {
        Program {
            marker: self.marker.clone(),
            block,
        }
    }

    async fn body(&self, name: &str, body: &Body, pace: Pace) -> Result<Value> {
        let times_begun = self.world.begin_body(self.wf.run_id(), name);
        self.world.point().await;
        match pace {
            Pace::AtOnce => {}
            Pace::Yield { times } => {
                for _ in 0..times {
                    tokio::task::yield_now().await;
                }
            }
            Pace::Nap { millis } => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
        let (fails, panics) = match body {
            Body::Succeed => (false, false),
            Body::FailFirst { times, panics } => (times_begun <= *times, *panics),
            Body::Exhaust { panics, .. } => (true, *panics),
            Body::Refuse => (true, false),
        };
        self.world.point().await;
        if fails && panics {
            // As a panic, without the noise of the panic hook.
            resume_unwind(Box::new(format!("{name} panics")));
        }
        if fails {
            let error = Error::new("Planned", format!("{name} fails"));
            return Err(if matches!(body, Body::Refuse) {
                error.non_retryable()
            } else {
                error
            });
        }
        Ok(json!({ "by": name, "marker": self.marker }))
    }
}

pub(super) const DAY: u64 = 86_400_000;

fn plain(id: u32, op: Op) -> Node {
    Node {
        id,
        caught: false,
        op,
    }
}
