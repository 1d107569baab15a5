//! What must hold of the rows and of the log of bodies, whatever went wrong meanwhile.

use std::collections::{BTreeSet, HashMap};

use openworkflow::Worker;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{Ground, INPUTS, Site, Started};
use crate::database::{RUNS, RunRow, STEPS, StepRow};
use crate::fleet::{self, Body, micros};

/// How an order ends that nothing disturbs, by its input: its output, and that of its child; and the
/// names of the steps that both have.
type Expected = HashMap<(String, u64), (String, BTreeSet<String>)>;

/// What became of the runs.
#[derive(Debug)]
pub struct Verdict {
    /// Executions of bodies.
    pub bodies: Vec<Body>,
    /// How often a body ran beyond what is recorded: it did not get to its commit.
    pub repeated: usize,
    /// How many bodies never came to their end.
    pub interrupted: usize,
    /// How often runs were claimed.
    pub claims: u64,
}

impl Verdict {
    /// How many bodies each process began, by process id.
    #[must_use]
    pub fn by_process(&self) -> HashMap<u32, usize> {
        let mut counts = HashMap::new();
        for body in &self.bodies {
            *counts.entry(body.process).or_default() += 1;
        }
        counts
    }

    /// How many bodies a process began.
    #[must_use]
    pub fn of_process(&self, id: u32) -> usize {
        self.by_process().get(&id).copied().unwrap_or_default()
    }
}

/// Checks that nothing was lost, and nothing repeated that is recorded.
///
/// # Panics
///
/// Where something was.
pub async fn check<G: Ground>(site: &Site<G>, started: &[Started]) -> Verdict {
    let expected = expected::<G>().await;
    let runs = runs(site).await;
    assert_eq!(runs.len(), started.len() * 2, "an order and its child each");
    for one in started {
        let run = runs.get(&one.run_id);
        assert!(
            run.is_some_and(|run| run.value == one.value),
            "a run is lost"
        );
    }
    let mut completed: HashMap<(&str, &str), u64> = HashMap::new();
    let (mut recorded, mut left_behind) = (0, 0);
    for (id, run) in &runs {
        assert_eq!(run.status, "completed", "{id}");
        let (output, names) = &expected[&(run.workflow.clone(), run.value)];
        assert_eq!(&run.output, output, "the result of {id}");
        let mut done = BTreeSet::new();
        for step in &run.steps {
            match step.status.as_str() {
                "completed" => {
                    let again = !done.insert(step.name.clone());
                    assert!(!again, "{} of {id} is completed twice", step.name);
                    if step.is_function {
                        completed.insert((id, &step.name), step.finished);
                    }
                }
                "failed" => assert_eq!(step.name, "flaky", "{id}"),
                // What a process was at when it died; the next one made an attempt of its own.
                "running" if step.is_function => {
                    left_behind += 1;
                    continue;
                }
                other => panic!("{} of {id} is {other}", step.name),
            }
            recorded += usize::from(step.is_function);
        }
        done.retain(|name| !is_repetition(name));
        assert_eq!(&done, names, "the steps of {id}");
    }

    let bodies = fleet::bodies(site.folder());
    let mut of_run: HashMap<&str, Vec<&Body>> = HashMap::new();
    for body in &bodies {
        let finished = completed[&(body.run_id.as_str(), body.step.as_str())];
        // Rows have whole milliseconds.
        assert!(
            body.began <= finished + 1000,
            "{} of {} was completed at {finished} and executed again: {body:?}",
            body.step,
            body.run_id
        );
        of_run.entry(&body.run_id).or_default().push(body);
    }
    for step in completed.keys() {
        let executed = of_run[step.0].iter().any(|body| body.step == step.1);
        assert!(executed, "{step:?} is completed without having run");
    }
    for (run_id, of_run) in of_run {
        check_one_at_a_time(run_id, &of_run);
    }
    let repeated = bodies.len() - recorded;
    assert!(left_behind <= repeated, "{left_behind} of {repeated}");
    Verdict {
        repeated,
        interrupted: bodies.iter().filter(|body| body.ended.is_none()).count(),
        claims: runs.values().map(|run| u64::from(run.attempts)).sum(),
        bodies,
    }
}

/// A run's bodies run side by side in one process, and never in two.
fn check_one_at_a_time(run_id: &str, bodies: &[&Body]) {
    for (n, one) in bodies.iter().enumerate() {
        for other in &bodies[n + 1..] {
            let (Some(one_end), Some(_)) = (one.ended, other.ended) else {
                continue;
            };
            assert!(
                one.process == other.process || one_end <= other.began,
                "two processes executed {run_id} at the same time: {one:?}, {other:?}"
            );
        }
    }
}

/// The steps by which a child tries again to reach its parent, of which there may be any number.
fn is_repetition(name: &str) -> bool {
    name.starts_with("tell-")
        || name.starts_with("pause-")
        || name.starts_with("packed:")
        || name.starts_with("go:")
}

struct Run {
    workflow: String,
    value: u64,
    status: String,
    output: String,
    attempts: u32,
    steps: Vec<Step>,
}

struct Step {
    name: String,
    is_function: bool,
    status: String,
    /// In microseconds since 1970.
    finished: u64,
}

async fn runs<G: Ground>(site: &Site<G>) -> HashMap<String, Run> {
    let mut runs = HashMap::new();
    for row in site.query(RUNS).await {
        let row = RunRow::read(row);
        let input = row.input.unwrap_or_default();
        let value = input.get("value").unwrap_or(&input);
        let run = Run {
            workflow: row.workflow_name,
            value: value.as_u64().expect("the input is a number or has one"),
            status: row.status,
            output: row
                .output
                .as_ref()
                .map(Value::to_string)
                .unwrap_or_default(),
            attempts: row.attempts,
            steps: Vec::new(),
        };
        runs.insert(row.id, run);
    }
    let steps = STEPS.replacen("SELECT ", "SELECT workflow_run_id, ", 1);
    for mut row in site.query(&steps).await {
        let run_id = row.remove(0).expect("a step has a run");
        let row = StepRow::read(row);
        let step = Step {
            name: row.name,
            is_function: row.kind == "function",
            status: row.status,
            finished: row.finished_at.map(micros).unwrap_or_default(),
        };
        let run = runs.get_mut(&run_id);
        run.expect("the run is there").steps.push(step);
    }
    runs
}

/// What undisturbed runs come to, found out once. It is the same on every database.
async fn expected<G: Ground>() -> &'static Expected {
    static EXPECTED: OnceCell<Expected> = OnceCell::const_new();
    EXPECTED
        .get_or_init(|| async {
            let site = undisturbed::<G>().await;
            let mut expected = Expected::new();
            for (id, run) in runs(&site).await {
                assert_eq!(run.status, "completed", "{id}");
                let names = run.steps.into_iter().map(|step| step.name);
                let names = names.filter(|name| !is_repetition(name)).collect();
                let key = (run.workflow, run.value);
                expected.insert(key, (run.output, names));
            }
            expected
        })
        .await
}

/// Where a worker in this process has executed every input once, for what no process needs.
async fn undisturbed<G: Ground>() -> Site<G> {
    let site = Site::<G>::new("no process is started").await;
    let builder = Worker::builder(site.ground.open().await);
    let builder = fleet::register(builder, site.folder()).expect("the log opens");
    let mut worker = builder.build().expect("it is set up well").start();
    site.start(INPUTS).await;
    site.finish().await;
    worker.stop().await.expect("the worker stops");
    site
}
