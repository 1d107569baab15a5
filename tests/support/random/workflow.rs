//! The workflow that carries out a program.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use openworkflow::{
    BoxFuture, Error, Result, RetryPolicy, Workflow, WorkflowContext, WorkflowSpec,
};
use serde_json::{Value, json};

use super::crash::World;
use super::program::{Block, Body, JoinStyle, Node, Op, Program, Rendezvous};

/// The interpreter, without a version. Its output tells what became of every node.
pub static PROGRAM: WorkflowSpec<Program, Value> = WorkflowSpec::new("program");
/// The interpreter, with a version.
pub static PROGRAM_V2: WorkflowSpec<Program, Value> = WorkflowSpec::new("program").version("v2");

/// The implementations, to be registered with a worker.
pub fn workflows(world: &Arc<World>) -> [Workflow; 2] {
    [&PROGRAM, &PROGRAM_V2].map(|spec| {
        let world = Arc::clone(world);
        spec.implement(move |wf, program: Program| {
            let world = Arc::clone(&world);
            async move {
                world.point().await;
                let env = Env {
                    wf,
                    world,
                    marker: program.marker,
                };
                let output = env.block(&program.block).await;
                env.world.point().await;
                output
            }
        })
    })
}

struct Env {
    wf: WorkflowContext,
    world: Arc<World>,
    marker: String,
}

impl Env {
    /// What became of each node, up to the first failure that is not caught.
    fn block<'a>(&'a self, block: &'a Block) -> BoxFuture<'a, Result<Value>> {
        Box::pin(async move {
            let mut outcomes = Vec::with_capacity(block.len());
            for node in block {
                let result = self.node(node).await;
                let outcome = match &result {
                    Ok(value) => json!({ "node": node.id, "ok": value }),
                    Err(error) => json!({
                        "node": node.id,
                        "kind": error.kind().as_str(),
                        "name": error.name(),
                        "message": error.message(),
                        "stack": error.stack(),
                        "step": error.step_name(),
                        "retryable": error.is_retryable(),
                    }),
                };
                self.world.tell(self.wf.run_id(), node.id, &outcome);
                match result {
                    Err(error) if !node.caught => return Err(error),
                    _ => outcomes.push(outcome),
                }
            }
            Ok(outcomes.into())
        })
    }

    async fn node(&self, node: &Node) -> Result<Value> {
        let Node { id, op, .. } = node;
        let id = *id;
        match op {
            Op::Run { body, slow } => {
                let name = format!("run-{id}");
                let policy = match body {
                    Body::Exhaust { attempts, .. } => RetryPolicy::attempts(*attempts),
                    _ => RetryPolicy::attempts(5),
                };
                let step = || self.body(&name, body, *slow);
                self.wf.run(name.as_str(), step).retry(policy).await
            }
            Op::Repeat { times } => {
                let mut values = Vec::new();
                for time in 0..*times {
                    let base = format!("repeat-{id}");
                    let name = match time {
                        0 => base.clone(),
                        n => format!("{base}:{n}"),
                    };
                    let step = || self.body(&name, &Body::Succeed, false);
                    values.push(self.wf.run(base, step).await?);
                }
                Ok(values.into())
            }
            Op::Sleep { millis } => {
                let duration = Duration::from_millis(*millis);
                self.wf.sleep(format!("sleep-{id}"), duration).await?;
                Ok(Value::Null)
            }
            Op::Child { versioned, block } => {
                let spec = if *versioned { &PROGRAM_V2 } else { &PROGRAM };
                let child = self.program(block.clone());
                let step = self.wf.run_workflow(spec, &child);
                step.name(format!("child-{id}")).await
            }
            Op::SlowChild => {
                let child = self.program(vec![plain(id, Op::Sleep { millis: 2 * DAY })]);
                let step = self.wf.run_workflow(&PROGRAM, &child).timeout("1m");
                step.name(format!("child-{id}")).await
            }
            Op::WaitForClient => {
                let data: Option<Value> = self.wf.wait_for_signal(format!("client:{id}")).await?;
                Ok(data.into())
            }
            Op::WaitInVain { millis } => {
                let wait = self.wf.wait_for_signal::<Value>(format!("nobody:{id}"));
                let wait = wait.timeout(Duration::from_millis(*millis));
                Ok(wait.name(format!("wait-{id}")).await?.into())
            }
            Op::SendToNobody => self.send(id, "unheard").await,
            Op::Meet(rendezvous) => self.meet(id, *rendezvous).await,
            Op::Answer(Rendezvous::ChildWaits) => self.wait(id).await,
            Op::Answer(_) => {
                // Branches set up side by side, and the child may run before the wait is recorded.
                let duration = Duration::from_millis(DAY);
                self.wf.sleep(format!("pause-{id}"), duration).await?;
                self.send(id, "meet").await
            }
            Op::Join { style, branches } => self.join(*style, branches).await,
            Op::Fail { panics } => {
                // A panic outside of a step ends the workflow, caught or not.
                if *panics && !node.caught {
                    resume_unwind(Box::new(format!("node {id} panics")));
                }
                Err(Error::new("Planned", format!("node {id} fails")))
            }
        }
    }

    async fn join(&self, style: JoinStyle, branches: &[Block]) -> Result<Value> {
        let told = |result: Result<Value>| match result {
            Ok(value) => value,
            Err(error) => json!({ "kind": error.kind().as_str(), "message": error.message() }),
        };
        let all = branches.iter().map(|branch| self.block(branch));
        Ok(match (style, branches) {
            (JoinStyle::Macro, [one, two]) => {
                let (one, two) = tokio::join!(self.block(one), self.block(two));
                json!([told(one), told(two)])
            }
            (JoinStyle::TryMacro, [one, two]) => {
                let (one, two) = tokio::try_join!(self.block(one), self.block(two))?;
                json!([one, two])
            }
            (JoinStyle::TryAll | JoinStyle::TryMacro, _) => try_join_all(all).await?.into(),
            _ => join_all(all).await.into_iter().map(told).collect(),
        })
    }

    /// The wait is always recorded before the signal is sent: a sleep lies between, which outlasts every
    /// lease where two runs meet.
    async fn meet(&self, id: u32, rendezvous: Rendezvous) -> Result<Value> {
        let child = |spec: &'static WorkflowSpec<Program, Value>| {
            let child = self.program(vec![plain(id, Op::Answer(rendezvous))]);
            self.wf
                .run_workflow(spec, &child)
                .name(format!("child-{id}"))
        };
        let send_after = |millis| async move {
            let duration = Duration::from_millis(millis);
            self.wf.sleep(format!("sleep-{id}"), duration).await?;
            self.send(id, "meet").await
        };
        let (one, two) = match rendezvous {
            Rendezvous::Siblings => tokio::join!(biased; self.wait(id), send_after(1000)),
            Rendezvous::ChildSends => tokio::join!(biased; self.wait(id), child(&PROGRAM)),
            Rendezvous::ChildWaits => tokio::join!(biased; child(&PROGRAM_V2), send_after(DAY)),
        };
        Ok(json!([one?, two?]))
    }

    async fn wait(&self, id: u32) -> Result<Value> {
        // A parent that has failed meanwhile will not send it.
        let wait = self.wf.wait_for_signal::<Value>(format!("meet:{id}"));
        let wait = wait.timeout("10 days");
        Ok(wait.name(format!("wait-{id}")).await?.into())
    }

    async fn send(&self, id: u32, to: &str) -> Result<Value> {
        let data = json!({ "from": id, "marker": self.marker });
        let step = self.wf.send_signal(format!("{to}:{id}"), &data);
        let recipients = step.name(format!("send-{id}")).await?;
        Ok(recipients.len().into())
    }

    fn program(&self, block: Block) -> Program {
        Program {
            marker: self.marker.clone(),
            block,
        }
    }

    async fn body(&self, name: &str, body: &Body, slow: bool) -> Result<Value> {
        let times_begun = self.world.begin_body(self.wf.run_id(), name);
        self.world.point().await;
        if slow {
            tokio::time::sleep(Duration::from_millis(15)).await;
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

const DAY: u64 = 86_400_000;

fn plain(id: u32, op: Op) -> Node {
    Node {
        id,
        caught: false,
        op,
    }
}
