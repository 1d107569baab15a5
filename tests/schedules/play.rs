//! Scenarios, and how they are played.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use openworkflow::Payload;
use openworkflow::backend::{
    Backend, BackendError, BackendResult, Claim, ClaimedRun, EndedStep, ExecutionEnd, ListRuns,
    NewRun, NewSignal, NewStepAttempt, Owner, RunStatus, StepAttemptKind, StepStatus, WorkflowRun,
};
use serde_json::json;
use tokio::task::JoinHandle;

use super::order::Order;
use super::peer::Peer;
use super::stage::Stage;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// Plays a scenario in every order of its actors' steps.
pub(crate) async fn every_order<S: Stage>(scenario: impl AsyncFn(&mut Play<'_>)) {
    let stage = S::open().await;
    let mut next = Some(Order::default());
    let mut played = 0;
    while let Some(order) = next {
        let mut play = Play {
            stage: &stage,
            namespace: format!("play-{played}").into(),
            order,
            actors: Vec::new(),
            steps: Vec::new(),
        };
        scenario(&mut play).await;
        assert!(play.actors.is_empty(), "the scenario is played to its end");
        next = std::mem::take(&mut play.order).next();
        played += 1;
    }
    println!("{played} orders");
    assert!(played > 1, "nothing happens at the same time");
}

/// One play of a scenario, in a namespace of its own.
pub(crate) struct Play<'a> {
    stage: &'a dyn Stage,
    namespace: Arc<str>,
    order: Order,
    actors: Vec<Actor>,
    /// What was done so far.
    steps: Vec<String>,
}

struct Actor {
    name: &'static str,
    task: JoinHandle<()>,
}

/// What an actor came to, once the play is over.
#[derive(Debug)]
pub(crate) struct Outcome<T>(Arc<OnceLock<T>>);

impl<T> Outcome<T> {
    pub(crate) fn get(&self) -> &T {
        self.0.get().expect("the actor is done")
    }
}

impl Play<'_> {
    /// A backend that nothing is held of, for what comes before and after.
    pub(crate) fn backend(&self) -> &dyn Backend {
        &**self.stage.backend()
    }

    pub(crate) fn namespace(&self) -> Arc<str> {
        Arc::clone(&self.namespace)
    }

    /// Somebody who does something with a backend of their own, beside the others.
    pub(crate) fn actor<T, F>(
        &mut self,
        name: &'static str,
        act: impl FnOnce(Arc<dyn Backend>) -> F,
    ) -> Outcome<T>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let acting = act(self.stage.actor(self.actors.len()));
        self.begin(name, acting)
    }

    /// Somebody who speaks as OpenWorkflow for TypeScript does.
    pub(crate) async fn peer<T, F>(
        &mut self,
        name: &'static str,
        act: impl FnOnce(Peer) -> F,
    ) -> Outcome<T>
    where
        T: Send + Sync + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let peer = self.stage.peer(self.actors.len(), &self.namespace).await;
        self.begin(name, act(peer))
    }

    fn begin<T: Send + Sync + 'static>(
        &mut self,
        name: &'static str,
        acting: impl Future<Output = T> + Send + 'static,
    ) -> Outcome<T> {
        self.stage.gates()[self.actors.len()].close(true);
        let outcome = Arc::new(OnceLock::new());
        let done = Arc::clone(&outcome);
        let task = tokio::spawn(async move {
            let _ = done.set(acting.await);
        });
        self.actors.push(Actor { name, task });
        Outcome(outcome)
    }

    /// Lets the actors act, one step at a time, until all are done.
    pub(crate) async fn run(&mut self) {
        loop {
            let ready = self.settled().await;
            if ready.is_empty() {
                break;
            }
            let next = self.order.choose(&ready);
            let step = self.stage.gates()[next].release();
            self.steps
                .push(format!("{}: {step}", self.actors[next].name));
        }
        for (actor, gate) in self.actors.drain(..).zip(self.stage.gates()) {
            actor.task.await.expect("an actor's answer is as expected");
            gate.close(false);
        }
        self.check().await;
    }

    /// Waits until every actor is held, done, or waits for another. Answers who is held.
    async fn settled(&self) -> Vec<usize> {
        loop {
            let mut held = Vec::new();
            let mut under_way = Vec::new();
            let mut busy = false;
            for (n, actor) in self.actors.iter().enumerate() {
                let gate = &self.stage.gates()[n];
                if gate.is_holding() {
                    held.push(n);
                } else if gate.is_under_way() {
                    under_way.push(n);
                } else {
                    busy |= !actor.task.is_finished();
                }
            }
            if !busy && self.stage.are_blocked(&under_way).await {
                let names: Vec<_> = under_way.iter().map(|n| self.actors[*n].name).collect();
                assert!(
                    !held.is_empty() || names.is_empty(),
                    "these wait for each other: {names:?}"
                );
                return held;
            }
            self.stage.moved().await;
        }
    }

    /// What must hold whatever happened.
    async fn check(&self) {
        let runs = self.backend().list_runs(ListRuns::new(&*self.namespace));
        let now = self.backend().clock().now();
        for run in runs.await.unwrap().items {
            let id = &run.id;
            if run.status.is_terminal() {
                assert!(
                    run.finished_at.is_some() && run.available_at.is_none(),
                    "{run:?}"
                );
                assert!(
                    run.worker_id.is_none() || run.status == RunStatus::Completed,
                    "{run:?}"
                );
                continue;
            }
            let is_due = run.available_at.is_some_and(|at| at <= now);
            if is_due || run.worker_id.is_some() {
                continue;
            }
            let history = self
                .backend()
                .load_history(&self.namespace, id)
                .await
                .unwrap();
            for attempt in history.attempts {
                let is_served = history.signals.contains_key(&attempt.id)
                    || (history.children.get(&attempt.id))
                        .is_some_and(|child| child.status.is_terminal());
                assert!(
                    !is_served || attempt.status != StepStatus::Running,
                    "run {id} sleeps although its wait {} is served",
                    attempt.id
                );
            }
        }
    }
}

impl Drop for Play<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in this order:\n  {}", self.steps.join("\n  "));
        }
    }
}

/// States to begin with, and looks at those that it came to.
impl Play<'_> {
    pub(crate) fn new_run(&self, id: &str) -> NewRun {
        NewRun::new(&*self.namespace, id, "order", Payload::NULL)
    }

    pub(crate) fn claim(&self, worker: &str) -> Claim {
        Claim::new(self.namespace(), vec![worker.into()], None, LEASE)
    }

    /// A pending run.
    pub(crate) async fn pending(&self, id: &str) {
        self.backend().create_run(self.new_run(id)).await.unwrap();
    }

    /// A run that its worker executes.
    pub(crate) async fn running(&self, id: &str) -> Owner {
        self.pending(id).await;
        self.claimed(id).await
    }

    /// A run that is due, once a worker has it.
    pub(crate) async fn claimed(&self, id: &str) -> Owner {
        let claimed = self
            .backend()
            .claim_runs(self.claim(&format!("worker-{id}")));
        let claimed = owners(&self.namespace, &claimed.await.unwrap());
        let [owner] = claimed.as_slice() else {
            panic!("{claimed:?}");
        };
        assert_eq!(&*owner.run_id, id);
        owner.clone()
    }

    /// A run that is being executed, and has recorded its wait for a signal: `ID-SIGNAL`.
    pub(crate) async fn waiting(&self, id: &str, signal: &str) -> Owner {
        let owner = self.running(id).await;
        let wait = wait_for(&owner, signal);
        self.backend().begin_step(&owner, wait).await.unwrap();
        owner
    }

    /// A run that is parked until a signal comes.
    pub(crate) async fn parked(&self, id: &str, signal: &str) -> Owner {
        let owner = self.waiting(id, signal).await;
        let park = self.park(&[&wait_for(&owner, signal).id]);
        self.backend().end_execution(&owner, park).await.unwrap();
        owner
    }

    /// A parent with a child of its own (`ID-child`), both executed.
    pub(crate) async fn family(&self, id: &str) -> (Owner, Owner) {
        let parent = self.running(id).await;
        let child = self.child_of(&parent);
        let begun = self
            .backend()
            .begin_child(&parent, child_wait(&parent), child);
        let child = begun.await.unwrap().id;
        (parent, self.claimed(&child).await)
    }

    /// What a run creates when it begins [`child_wait`].
    pub(crate) fn child_of(&self, parent: &Owner) -> NewRun {
        let attempt = child_wait(parent).id;
        let mut child = self.new_run(&format!("{}-child", parent.run_id));
        child.idempotency_key = Some(format!("__workflow:{}:{attempt}", self.namespace));
        child.parent_step_attempt_id = Some(attempt.to_string());
        child
    }

    /// Puts a run away for an hour, or until one of the attempts `waits` is served.
    pub(crate) fn park(&self, waits: &[&str]) -> ExecutionEnd {
        ExecutionEnd::Park {
            until: self.backend().clock().now() + HOUR,
            waits: waits.iter().map(|id| Arc::from(*id)).collect(),
        }
    }

    /// The same as a failure that is to be tried again.
    pub(crate) fn retry(&self, waits: &[&str]) -> ExecutionEnd {
        ExecutionEnd::Retry {
            error: ERROR.to_owned(),
            at: self.backend().clock().now() + HOUR,
            waits: waits.iter().map(|id| Arc::from(*id)).collect(),
        }
    }

    pub(crate) fn signal(&self, signal: &str) -> NewSignal {
        NewSignal::new(&*self.namespace, signal, Payload::from_json("1"))
    }

    /// Lets the lease of a run end.
    pub(crate) async fn let_lapse(&self, id: &str) {
        self.change(id, "available_at = PAST").await;
    }

    /// Lets the deadline of a run pass.
    pub(crate) async fn let_expire(&self, id: &str) {
        self.change(id, "deadline_at = PAST").await;
    }

    async fn change(&self, id: &str, change: &str) {
        let condition = format!("namespace_id = '{}' AND id = '{id}'", self.namespace);
        let sql = format!("UPDATE workflow_runs SET {change} WHERE {condition}");
        self.stage.execute(&sql).await;
    }

    /// A run as it is stored.
    pub(crate) async fn look(&self, id: &str) -> WorkflowRun {
        let run = self.backend().get_run(&self.namespace, id).await.unwrap();
        run.expect("the run exists")
    }

    /// Whether a run is due, and nobody's.
    pub(crate) async fn is_due(&self, id: &str) -> bool {
        let run = self.look(id).await;
        let now = self.backend().clock().now();
        run.worker_id.is_none() && run.available_at.is_some_and(|at| at <= now)
    }
}

pub(crate) const ERROR: &str = r#"{"name":"Error","message":"boom"}"#;

/// A run's wait for a signal.
pub(crate) fn wait_for(owner: &Owner, signal: &str) -> NewStepAttempt {
    let context = json!({"kind": "signal-wait", "signal": signal, "timeoutAt": null});
    let id: Arc<str> = format!("{}-{signal}", owner.run_id).into();
    let kind = StepAttemptKind::SignalWait;
    NewStepAttempt::new(id, signal.into(), kind, Some(context.to_string()))
}

/// A run's wait for its child.
pub(crate) fn child_wait(owner: &Owner) -> NewStepAttempt {
    let context = json!({"kind": "workflow", "timeoutAt": null});
    let id: Arc<str> = format!("{}-wait", owner.run_id).into();
    let kind = StepAttemptKind::Workflow;
    NewStepAttempt::new(id, "child".into(), kind, Some(context.to_string()))
}

/// A function that is done.
pub(crate) fn done(owner: &Owner, step: &str) -> EndedStep {
    let id: Arc<str> = format!("{}-{step}-{}", owner.run_id, owner.attempts).into();
    let attempt = NewStepAttempt::new(id, step.into(), StepAttemptKind::Function, None);
    EndedStep::new(attempt, Ok(Payload::from_json("1")))
}

pub(crate) fn complete() -> ExecutionEnd {
    ExecutionEnd::Complete {
        output: Payload::from_json("1"),
    }
}

pub(crate) fn fail() -> ExecutionEnd {
    ExecutionEnd::Fail {
        error: ERROR.to_owned(),
    }
}

/// Who has which of the claimed runs.
pub(crate) fn owners(namespace: &Arc<str>, claimed: &[ClaimedRun]) -> Vec<Owner> {
    let owners = claimed.iter().map(|run| {
        let (id, worker) = (run.id.as_str(), run.worker_id.as_str());
        Owner::new(Arc::clone(namespace), id, worker, run.attempts)
    });
    owners.collect()
}

/// Whether it was written; the only other answer is that the run is somebody else's, or over.
pub(crate) fn was_written(result: BackendResult<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(BackendError::OwnershipLost { .. }) => false,
        Err(error) => panic!("{error:?}"),
    }
}
