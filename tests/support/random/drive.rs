//! Takes a program from its start to its end, through sleeps, signals and crashes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use openworkflow::backend::{
    Backend, RunStatus, StepAttempt, StepAttemptKind, StepStatus, WorkflowRun,
};
use openworkflow::{Client, ClientBuilder, ClientError, Clock, Worker, WorkerBuilder};
use serde_json::{Value, json};

use super::crash::{CrashingBackend, World};
use super::program::Program;
use super::workflow::{PROGRAM, workflows};

/// When every program begins: 2026-01-31T12:00:00.123Z.
const START: Duration = Duration::from_millis(1_769_860_800_123);
/// No program sleeps for so long; a run that is put away for longer waits for what never comes.
const STUCK: Duration = Duration::from_secs(30 * 86_400);
/// How long the worker may take to do what is due, in real time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database that can be opened again after a crash.
pub trait Database: Sized + Send + Sync {
    /// The backend's value.
    type Store: Backend + Clone;

    /// How far away the next due run must be for the clock to be moved beyond it. Where the clock goes on
    /// by itself, the run may be claimed meanwhile, and its lease must not pass.
    const FORESIGHT: Duration = Duration::ZERO;

    /// A database that is empty, or does not exist yet.
    fn create() -> impl Future<Output = Self> + Send;

    /// The clock that a program goes by.
    fn clock(&self) -> Clock {
        Clock::manual(SystemTime::UNIX_EPOCH + START)
    }

    /// Lets time pass.
    fn advance(
        &self,
        _store: &Self::Store,
        clock: &Clock,
        by: Duration,
    ) -> impl Future<Output = ()> + Send {
        async move { clock.advance(by) }
    }

    /// Opens it, as a process does that starts.
    fn open(&self, clock: &Clock) -> impl Future<Output = Self::Store> + Send;

    /// Closes it once everything that was asked of it is done.
    fn close(&self, store: Self::Store) -> impl Future<Output = ()> + Send;

    /// Every row of every table: all columns but times, worker ids and the ids of signals, byte by
    /// byte. Of a time, whether it is set. What is recorded of executions, whose number is left to chance, is
    /// left out.
    fn rows(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// What [`Database::rows`] reads.
pub(super) const ROWS: [&str; 3] = [
    "SELECT 'run', id, namespace_id, workflow_name, version, status, idempotency_key,
         config->>'continuedAs', context, input, output, error, parent_step_attempt_namespace_id, parent_step_attempt_id,
         worker_id IS NULL, available_at IS NULL, deadline_at IS NULL, started_at IS NULL,
         finished_at IS NULL FROM workflow_runs",
    "SELECT 'step', id, namespace_id, workflow_run_id, step_name, kind, status, context,
         output, error, child_workflow_run_namespace_id, child_workflow_run_id, started_at IS NULL,
         finished_at IS NULL FROM step_attempts",
    "SELECT 'signal', namespace_id, signal, data, sender_idempotency_key, workflow_run_id,
         step_attempt_id FROM workflow_signals",
];

/// How a program is run.
pub struct Setup<'a> {
    /// The worker's concurrency.
    pub concurrency: usize,
    /// After how many points the process crashes: the first, the one that follows it, and so on.
    pub crashes: &'a [u32],
    /// The seed of what is left to chance: how long the ways to the database are, when the client sends
    /// its signals, and how far the clock is moved. Where it is `None`, nothing is.
    pub chance: Option<u64>,
    /// What else is set on the worker, such as interceptors.
    pub worker: &'a (dyn Fn(WorkerBuilder) -> WorkerBuilder + Sync),
    /// What else is set on the client that starts the root run.
    pub client: &'a (dyn Fn(ClientBuilder) -> ClientBuilder + Sync),
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            concurrency: 4,
            crashes: &[],
            chance: None,
            worker: &|worker| worker,
            client: &|client| client,
        }
    }
}

impl fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("concurrency", &self.concurrency)
            .field("crashes", &self.crashes)
            .field("chance", &self.chance)
            .finish_non_exhaustive()
    }
}

/// What came of a program.
#[derive(Debug)]
pub struct Outcome {
    /// The root run's output, or its error's name and message.
    pub result: Result<Value, (Option<String>, String)>,
    /// The rows of the database, sorted, with the names of things in place of their ids.
    pub rows: Vec<String>,
    /// The runs, with their step attempts.
    pub runs: Vec<(WorkflowRun, Vec<StepAttempt>)>,
    /// How many crashes there were.
    pub crashes: usize,
    /// What happened that must not happen.
    pub violations: Vec<String>,
}

/// Runs `program` on an empty database until every run has ended.
pub async fn drive<D: Database>(db: &D, program: &Program, setup: &Setup<'_>) -> Outcome {
    let clock = db.clock();
    let world = Arc::new(World::of_chance(setup.chance));
    let mut driver = Driver {
        clock,
        marker: &program.marker,
        waits_for_client: ["WaitForClient", "Patience"]
            .iter()
            .any(|op| format!("{program:?}").contains(op)),
        signaled: HashSet::new(),
        dead_workers: HashSet::new(),
        violations: Vec::new(),
    };
    let mut store = db.open(&driver.clock).await;
    let root = (setup.client)(Client::builder(store.clone()))
        .build()
        .start(&PROGRAM, program)
        .await
        .expect("the root run starts");
    let root_id = root.id().to_owned();
    let mut crashes = 0;
    loop {
        let client = Client::new(store.clone());
        world.crash_after(setup.crashes.get(crashes).copied().unwrap_or(0));
        let backend = CrashingBackend::new(store.clone(), Arc::clone(&world));
        let mut builder = Worker::builder(backend).concurrency(setup.concurrency);
        for workflow in workflows(&world) {
            builder = builder.workflow(workflow);
        }
        let mut worker = (setup.worker)(builder)
            .build()
            .expect("the worker builds")
            .start();
        let ended = driver.work(db, &store, &client, &world).await;
        worker.abort().await;
        db.close(store).await;
        store = db.open(&driver.clock).await;
        if ended {
            break;
        }
        crashes += 1;
        driver
            .after_crash(&Client::new(store.clone()), &world)
            .await;
    }
    let client = Client::new(store.clone());
    let result = match client.handle::<Value>(root_id.as_str()).result().await {
        Ok(output) => Ok(output),
        Err(ClientError::RunFailed { error, .. }) => Err((error.name, error.message)),
        // Of a run that was stuck, the violations tell more.
        Err(error) => Err((None, error.to_string())),
    };
    let history = History::read(&client, &root_id).await;
    driver.violations.extend(world.violations());
    for (run_id, violation) in world.observations.violations() {
        let path = history.names.get(&run_id).unwrap_or(&run_id);
        driver.violations.push(format!("{path}: {violation}"));
    }
    let given_up = if program.is_left_to_chance() { 2 } else { 0 };
    history.check(&world, crashes, given_up, &mut driver.violations);
    let rows = history.named(db.rows().await);
    db.close(store).await;
    Outcome {
        result,
        rows,
        runs: history.runs,
        crashes,
        violations: driver.violations,
    }
}

struct Driver<'a> {
    clock: Clock,
    marker: &'a str,
    waits_for_client: bool,
    signaled: HashSet<String>,
    dead_workers: HashSet<String>,
    violations: Vec<String>,
}

impl Driver<'_> {
    /// Lets the worker work. Whenever it has nothing to do, sends the next signal that somebody
    /// waits for, or else moves the clock to when the next run is due. Ends when no run is left, or
    /// with `false` when the process has crashed.
    async fn work<D: Database>(
        &mut self,
        db: &D,
        store: &D::Store,
        client: &Client,
        world: &World,
    ) -> bool {
        let mut busy_since = Instant::now();
        loop {
            if world.has_crashed() {
                return false;
            }
            let runs = all_runs(client).await;
            let live: Vec<_> = runs
                .iter()
                .filter(|run| !run.status.is_terminal())
                .collect();
            if live.is_empty() {
                return true;
            }
            let now = self.clock.now();
            let is_busy = |run: &&&WorkflowRun| {
                let is_due = run.available_at.is_some_and(|at| at <= now);
                let worker = run.worker_id.as_ref();
                is_due || worker.is_some_and(|id| !self.dead_workers.contains(id))
            };
            if let Some(run) = live.iter().find(is_busy) {
                assert!(busy_since.elapsed() < PATIENCE, "nobody executes {run:?}");
                if world.roll(8) == 1 {
                    self.send_next_signal(client, &live, true).await;
                }
                tokio::time::sleep(Duration::from_micros(500)).await;
                continue;
            }
            let due = live.iter().filter_map(|run| run.available_at).min();
            let wait = due.and_then(|due| due.duration_since(now).ok());
            let wait = wait.filter(|wait| *wait < STUCK);
            let time_first = wait.is_some() && world.roll(2) == 1;
            if time_first || !self.send_next_signal(client, &live, false).await {
                if let Some(wait) = wait {
                    // Further, at times, so that several waits are over when the next execution begins.
                    let further = match world.roll(6) {
                        3 if wait >= D::FORESIGHT => 1,
                        4 if wait >= D::FORESIGHT => 3600,
                        5 if wait >= D::FORESIGHT => 2 * 86_400,
                        _ => 0,
                    };
                    let by = wait + Duration::from_secs(further);
                    db.advance(store, &self.clock, by).await;
                } else {
                    let stuck = format!("every run waits for what never comes: {live:#?}");
                    self.violations.push(stuck);
                    for run in &live {
                        let canceled = client.cancel(&run.id).await;
                        canceled.expect("a stuck run is canceled");
                    }
                }
            }
            busy_since = Instant::now();
        }
    }

    /// Whether there was one to send. While the worker is busy, the wait may end meanwhile.
    async fn send_next_signal(
        &mut self,
        client: &Client,
        live: &[&WorkflowRun],
        busy: bool,
    ) -> bool {
        if !self.waits_for_client {
            return false;
        }
        let mut waiting = Vec::new();
        for run in live {
            for attempt in all_steps(client, &run.id).await {
                let context = attempt.context.as_deref().unwrap_or("null");
                let context: Value = serde_json::from_str(context).expect("a context is JSON");
                let signal = context["signal"].as_str().unwrap_or_default();
                if attempt.status == StepStatus::Running && signal.starts_with("client:") {
                    waiting.push(signal.to_owned());
                }
            }
        }
        waiting.sort();
        for signal in waiting {
            if !self.signaled.contains(&signal) {
                let data = json!({ "from": "client", "marker": self.marker });
                let sent = client.send_signal(signal.as_str(), &data).await;
                if !sent.expect("a signal is sent").is_empty() {
                    self.signaled.insert(signal);
                } else if !busy {
                    let lost = format!("{signal} was waited for and reached nobody");
                    self.violations.push(lost);
                    self.signaled.insert(signal);
                }
                return true;
            }
        }
        false
    }

    /// What the next process finds: leases of the dead one, and steps that must not run again.
    async fn after_crash(&mut self, client: &Client, world: &World) {
        for run in all_runs(client).await {
            if !run.status.is_terminal() {
                self.dead_workers.extend(run.worker_id.clone());
            }
            for attempt in all_steps(client, &run.id).await {
                if attempt.status == StepStatus::Completed {
                    world.step_completed(&run.id, &attempt.step_name);
                }
            }
        }
    }
}

/// The runs and step attempts at the end, and what they are called.
struct History {
    runs: Vec<(WorkflowRun, Vec<StepAttempt>)>,
    names: HashMap<String, String>,
}

impl History {
    async fn read(client: &Client, root_id: &str) -> Self {
        let mut runs = Vec::new();
        for run in all_runs(client).await {
            let steps = all_steps(client, &run.id).await;
            runs.push((run, steps));
        }
        let mut names = HashMap::from([(root_id.to_owned(), "root".to_owned())]);
        let mut found = true;
        while std::mem::take(&mut found) {
            for (run, steps) in &runs {
                let Some(path) = names.get(&run.id).cloned() else {
                    continue;
                };
                for step in steps {
                    let path = format!("{path}/{}", step.step_name);
                    names.insert(step.id.clone(), format!("{path}#"));
                    if let Some(child) = &step.child_workflow_run_id {
                        found |= names.insert(child.clone(), path).is_none();
                    }
                }
            }
        }
        Self { runs, names }
    }

    /// Notes what must not be. The code may have given up a step `given_up` times in the middle.
    fn check(&self, world: &World, crashes: usize, given_up: usize, violations: &mut Vec<String>) {
        let mut children: HashMap<&str, u32> = HashMap::new();
        for (run, steps) in &self.runs {
            let Some(path) = self.names.get(&run.id) else {
                violations.push(format!("run {} belongs to nobody", run.id));
                continue;
            };
            if !matches!(run.status, RunStatus::Completed | RunStatus::Failed) {
                violations.push(format!("{path} ended as {}", run.status));
            }
            let mut attempts: BTreeMap<&str, Vec<&StepAttempt>> = BTreeMap::new();
            for step in steps {
                attempts.entry(&step.step_name).or_default().push(step);
                if let Some(child) = &step.child_workflow_run_id {
                    *children.entry(child).or_default() += 1;
                }
            }
            for (name, attempts) in attempts {
                let count = |status| attempts.iter().filter(|a| a.status == status).count();
                let completed = count(StepStatus::Completed);
                let ended = completed + count(StepStatus::Failed);
                if completed > 1 {
                    violations.push(format!("{path}/{name} is completed {completed} times"));
                }
                if let Some(id) = name.strip_prefix("child-")
                    && world.began_before(&run.id, name, &format!("wait-{id}"))
                {
                    violations.push(format!("{path}/{name} began before its parent waited"));
                }
                if attempts[0].kind != StepAttemptKind::Function {
                    let stands = attempts.iter().any(|a| a.status == StepStatus::Running);
                    if stands && node_of(name).is_some_and(|node| world.has_lost(&run.id, node)) {
                        violations.push(format!("{path}/{name} lost a race and still stands"));
                    }
                    continue;
                }
                let executions = world.executions(&run.id, name) as usize;
                // A crash can undo one execution of each step that was under way.
                if !(ended..=ended + crashes + given_up).contains(&executions) {
                    violations.push(format!(
                        "{path}/{name} ran {executions} times, ended {ended} times, with {crashes} crashes"
                    ));
                }
                if crashes + given_up == 0 && attempts.len() > ended {
                    violations.push(format!("{path}/{name} is left behind as running"));
                }
            }
        }
        for (child, parents) in children {
            if parents > 1 {
                violations.push(format!("run {child} is the child of {parents} attempts"));
            }
        }
    }

    /// Puts names in the place of ids.
    fn named(&self, rows: Vec<String>) -> Vec<String> {
        let named = rows.into_iter().map(|mut row| {
            for (id, name) in &self.names {
                if row.contains(id.as_str()) {
                    row = row.replace(id.as_str(), name);
                }
            }
            row
        });
        let mut named: Vec<_> = named.collect();
        named.sort();
        named
    }
}

/// The node that took a step of that name.
fn node_of(step_name: &str) -> Option<u32> {
    let (_, rest) = step_name.split_once(['-', ':'])?;
    rest.split('-').next()?.parse().ok()
}

async fn all_runs(client: &Client) -> Vec<WorkflowRun> {
    let page = client
        .list_runs()
        .limit(1000)
        .await
        .expect("runs are listed");
    assert!(page.next.is_none(), "a program has fewer than 1000 runs");
    page.items
}

async fn all_steps(client: &Client, run_id: &str) -> Vec<StepAttempt> {
    let page = client.list_steps(run_id).limit(1000).await;
    let page = page.expect("steps are listed");
    assert!(
        page.next.is_none(),
        "a run has fewer than 1000 step attempts"
    );
    page.items
}

/// `text` with `<time>` in the place of every time as the protocol writes it.
pub fn mask_times(text: &str) -> String {
    const PATTERN: &[u8] = b"0000-00-00T00:00:00.000Z";
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_time = rest.len() >= PATTERN.len()
            && rest
                .bytes()
                .zip(PATTERN)
                .all(|(byte, pattern)| match pattern {
                    b'0' => byte.is_ascii_digit(),
                    other => byte == *other,
                });
        if is_time {
            masked.push_str("<time>");
            rest = &rest[PATTERN.len()..];
        } else {
            masked.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    masked
}
