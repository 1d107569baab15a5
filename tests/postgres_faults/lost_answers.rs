//! Connections that break after a commit, and before its answer: who wrote finds out that they did.

use std::time::{Duration, SystemTime};

use openworkflow::backend::{
    Backend, Claim, ExecutionEnd, NewRun, NewSignal, NewStepAttempt, Owner, StepAttemptKind,
};
use openworkflow::{Payload, Postgres};
use openworkflow_tests::postgres_server;

use crate::lossy::Lossy;

const NS: &str = "default";
const HOUR: Duration = Duration::from_secs(3600);
const ERROR: &str = r#"{"name":"Error","message":"boom"}"#;

/// A backend behind a line that loses answers.
struct Place {
    line: Lossy,
    backend: Postgres,
}

impl Place {
    async fn new() -> Self {
        let server = postgres_server::url();
        let line = Lossy::to(&server).await;
        let options = Postgres::options().url(line.url(&server));
        let options = options.schema(postgres_server::schema());
        let backend = options.connect().await.unwrap();
        Self { line, backend }
    }

    /// A run that is being executed.
    async fn running(&self, id: &str) -> Owner {
        let run = NewRun::new(NS, id, "order", Payload::NULL);
        self.backend.create_run(run).await.unwrap();
        self.claimed(id).await
    }

    async fn claimed(&self, id: &str) -> Owner {
        let claim = Claim::new(NS.into(), vec!["worker".into()], None, HOUR);
        let claimed = self.backend.claim_runs(claim).await.unwrap();
        assert_eq!(claimed[0].id, id);
        Owner::new(NS, id, "worker", claimed[0].attempts)
    }

    async fn status(&self, id: &str) -> String {
        let run = self.backend.get_run(NS, id).await.unwrap().unwrap();
        run.status.to_string()
    }
}

/// A wait for the signal `go`.
fn wait(id: &str) -> NewStepAttempt {
    let context = r#"{"kind":"signal-wait","signal":"go"}"#.to_owned();
    let kind = StepAttemptKind::SignalWait;
    NewStepAttempt::new(id.into(), id.into(), kind, Some(context))
}

fn complete() -> ExecutionEnd {
    let output = Payload::from_json("1");
    ExecutionEnd::Complete { output }
}

fn continue_as(id: &str) -> ExecutionEnd {
    ExecutionEnd::Continue {
        successor: Box::new(NewRun::new(NS, id, "w", Payload::NULL)),
    }
}

fn fail() -> ExecutionEnd {
    let error = ERROR.to_owned();
    ExecutionEnd::Fail { error }
}

fn park(waits: &[&str]) -> ExecutionEnd {
    ExecutionEnd::Park {
        until: SystemTime::now() + HOUR,
        waits: waits.iter().map(|id| (*id).into()).collect(),
    }
}

fn retry(waits: &[&str]) -> ExecutionEnd {
    ExecutionEnd::Retry {
        error: ERROR.to_owned(),
        at: SystemTime::now() + HOUR,
        waits: waits.iter().map(|id| (*id).into()).collect(),
    }
}

#[tokio::test]
async fn an_end_whose_answer_is_lost_has_happened() {
    let place = Place::new().await;
    let ends = [
        ("completed", complete()),
        ("failed", fail()),
        ("running", park(&[])),
        ("running", park(&["3-wait"])),
        ("pending", retry(&[])),
        ("pending", retry(&["5-wait"])),
        // The last, since what it creates is due.
        ("completed", continue_as("next")),
    ];
    for (n, (status, end)) in ends.into_iter().enumerate() {
        let id = n.to_string();
        let owner = place.running(&id).await;
        let wait = wait(&format!("{id}-wait"));
        place.backend.begin_step(&owner, wait).await.unwrap();
        place.line.lose_answer_to("UPDATE");
        place.backend.end_execution(&owner, end).await.unwrap();
        assert_eq!(place.line.losses(), n as u32 + 1);
        assert_eq!(place.status(&id).await, status);
    }
    let counts = place.backend.count_runs(NS).await.unwrap();
    assert_eq!(counts.completed, 2);
    assert_eq!(place.status("next").await, "pending");
}

#[tokio::test]
async fn a_child_whose_end_is_not_answered_has_ended() {
    let place = Place::new().await;
    for (n, (status, end)) in [("completed", complete()), ("failed", fail())]
        .into_iter()
        .enumerate()
    {
        let id = format!("parent-{n}");
        let parent = place.running(&id).await;
        let attempt = format!("{id}-wait");
        let kind = StepAttemptKind::Workflow;
        let wait = NewStepAttempt::new(attempt.as_str().into(), "child".into(), kind, None);
        let child = NewRun::new(NS, format!("child-{n}"), "part", Payload::NULL);
        let backend = &place.backend;
        let child = backend.begin_child(&parent, wait, child).await.unwrap().id;
        let owner = place.claimed(&child).await;
        backend
            .end_execution(&parent, park(&[&attempt]))
            .await
            .unwrap();
        place.line.lose_answer_to("woken AS");
        backend.end_execution(&owner, end).await.unwrap();
        assert_eq!(place.status(&child).await, status);
        place.claimed(&id).await;
    }
    assert_eq!(place.line.losses(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_that_share_a_commit_whose_answer_is_lost_have_happened() {
    let place = Place::new().await;
    let mut owners = Vec::new();
    for n in 0..50 {
        owners.push(place.running(&n.to_string()).await);
    }
    place.line.lose_answer_to("completed AS");
    let ends: Vec<_> = owners
        .into_iter()
        .map(|owner| {
            let backend = place.backend.clone();
            tokio::spawn(async move { backend.end_execution(&owner, complete()).await })
        })
        .collect();
    for end in ends {
        end.await.unwrap().unwrap();
    }
    assert_eq!(place.line.losses(), 1);
    let counts = place.backend.count_runs(NS).await.unwrap();
    assert_eq!(counts.completed, 50);
}

#[tokio::test]
async fn an_end_that_somebody_else_made_is_no_answer() {
    let place = Place::new().await;
    let backend = &place.backend;
    // Parked, and then claimed by another: nobody can tell any more who parked it.
    let owner = place.running("taken").await;
    backend
        .begin_step(&owner, wait("taken-wait"))
        .await
        .unwrap();
    backend.end_execution(&owner, park(&[])).await.unwrap();
    backend
        .send_signal(NewSignal::new(NS, "go", Payload::NULL))
        .await
        .unwrap();
    place.claimed("taken").await;
    backend.end_execution(&owner, park(&[])).await.unwrap_err();
    // Completed by a later claim under the same worker id.
    let owner = place.running("later").await;
    backend.end_execution(&owner, retry(&[])).await.unwrap();
    backend.end_execution(&owner, complete()).await.unwrap_err();
    backend.end_execution(&owner, fail()).await.unwrap_err();
    // Canceled.
    let owner = place.running("canceled").await;
    backend.cancel_run(NS, "canceled").await.unwrap();
    for end in [complete(), fail(), park(&[]), retry(&[])] {
        backend.end_execution(&owner, end).await.unwrap_err();
    }
}
