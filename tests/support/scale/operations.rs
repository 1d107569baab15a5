//! What workers and clients do, one operation after the other.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openworkflow::Payload;
use openworkflow::backend::{
    Backend, BackendResult, Claim, ClaimedRun, EndedStep, ExecutionEnd, ListRuns, ListSteps,
    NewRun, NewSignal, NewStepAttempt, OrphanSearch, Owner, PageEdge, RunStatus, StepAttemptKind,
    WorkflowKey,
};
use serde_json::json;

use super::{ABANDONED, MINE, VERSION};

const NS: &str = "default";
/// Up to how many runs of each kind are counted.
const COUNTED: u32 = 20;
const LEASE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// Measures operations.
pub trait Meter {
    /// An operation begins.
    fn begin(&mut self);
    /// It ended.
    fn end(&mut self, operation: &str);
}

/// A claim of `slots` runs of a workflow's version.
#[must_use]
pub fn claim_of(slots: usize, version: &str) -> Claim {
    let workers = (0..slots).map(|n| format!("worker-{n}").into()).collect();
    let key = WorkflowKey::new(MINE, Some(version.to_owned()));
    Claim::new(NS.into(), workers, Some(Arc::from([key])), LEASE)
}

fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

fn new_run(version: &str) -> NewRun {
    let mut run = NewRun::new(NS, new_id(), MINE, Payload::NULL);
    run.version = Some(version.to_owned());
    run
}

fn attempt(kind: StepAttemptKind, context: Option<String>) -> NewStepAttempt {
    NewStepAttempt::new(new_id().into(), "step".into(), kind, context)
}

fn signal_wait(signal: &str) -> NewStepAttempt {
    let context = json!({"kind": "signal-wait", "signal": signal, "timeoutAt": null});
    attempt(StepAttemptKind::SignalWait, Some(context.to_string()))
}

fn owner(run: &ClaimedRun) -> Owner {
    Owner::new(NS, &*run.id, &*run.worker_id, run.attempts)
}

/// Does everything once that workers and clients do often. `lone` is a version of which there are no
/// other runs.
///
/// # Errors
///
/// The first that an operation has.
///
/// # Panics
///
/// Where something is not claimed that is due.
pub async fn operate(
    backend: &dyn Backend,
    lone: &str,
    meter: &mut dyn Meter,
) -> BackendResult<()> {
    lists(backend, meter).await?;
    let mut run = new_run(lone);
    meter.begin();
    backend.create_run(run.clone()).await?;
    meter.end("create");
    let claimed = claim(backend, claim_of(1, lone), meter, "claim, one due").await?;
    assert_eq!(claimed.len(), 1);
    let parent = owner(&claimed[0]);
    claim(backend, claim_of(10, lone), meter, "claim, nothing due").await?;
    claim(backend, claim_of(10, "v2"), meter, "claim, never any").await?;
    let mine = claim(backend, claim_of(10, VERSION), meter, "claim of a backlog").await?;
    let mut any = claim_of(10, VERSION);
    any.workflows = None;
    claim(backend, any, meter, "claim of any").await?;

    let key = WorkflowKey::new(MINE, Some(VERSION.to_owned()));
    let search = OrphanSearch::new(NS.into(), Arc::from([key]));
    meter.begin();
    let orphans = backend.find_orphans(search).await?;
    meter.end("find orphans");
    assert!(orphans.iter().all(|orphans| orphans.runs <= 300));

    meter.begin();
    let counts = backend.count_queue(NS, COUNTED).await?;
    meter.end("count the queue");
    let counts = counts.expect("it counts");
    let limit = u64::from(COUNTED);
    assert!(counts.due <= limit && counts.runs.completed <= limit);

    run = new_run(lone);
    run.idempotency_key = Some(new_id());
    meter.begin();
    backend.create_run(run.clone()).await?;
    meter.end("create with a key");
    meter.begin();
    backend.create_run(run.clone()).await?;
    meter.end("create with a known key");
    meter.begin();
    backend.get_run(NS, &run.id).await?;
    meter.end("get");
    meter.begin();
    backend.cancel_run(NS, &run.id).await?;
    meter.end("cancel");

    steps(backend, &parent, meter).await?;
    let child = attempt(StepAttemptKind::Workflow, None);
    meter.begin();
    let created = backend
        .begin_child(&parent, child.clone(), new_run(lone))
        .await?;
    meter.end("begin a child");
    let wait = signal_wait(lone);
    backend.begin_step(&parent, wait.clone()).await?;
    let park = ExecutionEnd::Park {
        until: backend.clock().now() + HOUR,
        waits: vec![child.id, wait.id],
    };
    meter.begin();
    backend.end_execution(&parent, park).await?;
    meter.end("park");
    signals(backend, lone, meter).await?;
    let claimed = backend.claim_runs(claim_of(10, lone)).await?;
    assert_eq!(claimed.len(), 2, "the child, and the parent by its signal");
    for run in &claimed {
        let output = Payload::NULL;
        let what = match run.id == created.id {
            true => "complete a child",
            false => "complete",
        };
        meter.begin();
        backend
            .end_execution(&owner(run), ExecutionEnd::Complete { output })
            .await?;
        meter.end(what);
    }
    for (run, end) in mine.iter().zip(ends(backend.clock().now())) {
        meter.begin();
        backend.end_execution(&owner(run), end.1).await?;
        meter.end(end.0);
    }
    Ok(())
}

fn ends(now: SystemTime) -> [(&'static str, ExecutionEnd); 3] {
    let error = r#"{"message":"no"}"#.to_owned();
    [
        (
            "retry",
            ExecutionEnd::Retry {
                error: error.clone(),
                at: now + HOUR,
                waits: vec![],
            },
        ),
        ("fail", ExecutionEnd::Fail { error }),
        (
            "continue",
            ExecutionEnd::Continue {
                successor: Box::new(new_run(VERSION)),
            },
        ),
    ]
}

async fn claim(
    backend: &dyn Backend,
    claim: Claim,
    meter: &mut dyn Meter,
    what: &str,
) -> BackendResult<Vec<ClaimedRun>> {
    meter.begin();
    let claimed = backend.claim_runs(claim).await?;
    meter.end(what);
    Ok(claimed)
}

async fn steps(backend: &dyn Backend, owner: &Owner, meter: &mut dyn Meter) -> BackendResult<()> {
    let function = attempt(StepAttemptKind::Function, None);
    meter.begin();
    backend.begin_step(owner, function.clone()).await?;
    meter.end("begin a step");
    meter.begin();
    backend
        .end_step(owner, EndedStep::new(function, Ok(Payload::NULL)))
        .await?;
    meter.end("end a step");
    meter.begin();
    backend.extend_lease(owner, LEASE).await?;
    meter.end("extend the lease");
    meter.begin();
    backend.load_history(NS, &owner.run_id).await?;
    meter.end("load a history");
    let mut query = ListSteps::new(NS, &*owner.run_id);
    query.window.limit = 10;
    meter.begin();
    backend.list_step_attempts(query).await?;
    meter.end("list steps");
    Ok(())
}

async fn signals(backend: &dyn Backend, signal: &str, meter: &mut dyn Meter) -> BackendResult<()> {
    for (name, key, what) in [
        ("nobody", None, "signal nobody"),
        ("nobody", Some(new_id()), "signal nobody, with a key"),
        (signal, None, "signal one"),
    ] {
        let mut signal = NewSignal::new(NS, name, Payload::NULL);
        signal.idempotency_key = key;
        meter.begin();
        backend.send_signal(signal).await?;
        meter.end(what);
    }
    Ok(())
}

/// Sends what nobody but [`abandon`](super::abandon)ed runs wait for.
///
/// # Errors
///
/// The one that the sending has.
///
/// # Panics
///
/// Where a run that is over receives it.
pub async fn signal_the_abandoned(
    backend: &dyn Backend,
    meter: &mut dyn Meter,
) -> BackendResult<()> {
    let signal = NewSignal::new(NS, ABANDONED, Payload::NULL);
    meter.begin();
    let received = backend.send_signal(signal).await?;
    meter.end("signal the abandoned");
    assert!(received.is_empty(), "{received:?}");
    Ok(())
}

async fn lists(backend: &dyn Backend, meter: &mut dyn Meter) -> BackendResult<()> {
    for name in [
        None,
        Some(MINE),
        Some("other-7"),
        Some("rare"),
        Some("absent"),
    ] {
        for status in [
            None,
            Some(RunStatus::Completed),
            Some(RunStatus::Running),
            Some(RunStatus::Other("none".to_owned())),
        ] {
            let what = format!(
                "list {} {}",
                name.unwrap_or("any"),
                status.as_ref().map_or("any", RunStatus::as_str)
            );
            let mut query = ListRuns::new(NS);
            query.workflow_name = name.map(str::to_owned);
            query.status = status;
            query.window.limit = 20;
            meter.begin();
            let page = backend.list_runs(query.clone()).await?;
            meter.end(&what);
            let Some(last) = page.items.last() else {
                continue;
            };
            query.window.from = Some(PageEdge::After(last.cursor()));
            meter.begin();
            let next = backend.list_runs(query.clone()).await?;
            meter.end(&format!("{what}, the next page"));
            if let Some(first) = next.items.first() {
                query.window.from = Some(PageEdge::Before(first.cursor()));
                meter.begin();
                backend.list_runs(query).await?;
                meter.end(&format!("{what}, back again"));
            }
        }
    }
    Ok(())
}
