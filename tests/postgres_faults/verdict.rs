//! What must hold of the rows and of the log of bodies, whatever went wrong meanwhile.

use std::collections::{BTreeSet, HashMap};

use openworkflow_tests::fleet::{self, Body, micros};
use tokio::sync::OnceCell;

use crate::site::{Site, Started, undisturbed};

/// How an order ends that nothing disturbs, by its input: its output, and that of its child; and the
/// names of the steps that both have.
type Expected = HashMap<(String, u64), (String, BTreeSet<String>)>;

/// What became of the runs.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Executions of bodies.
    pub(crate) bodies: Vec<Body>,
    /// How often a body ran beyond what is recorded: it did not get to its commit.
    pub(crate) repeated: usize,
    /// How many bodies never came to their end.
    pub(crate) interrupted: usize,
    /// How often runs were claimed.
    pub(crate) claims: i64,
}

impl Verdict {
    /// How many bodies each process began, by process id.
    pub(crate) fn by_process(&self) -> HashMap<u32, usize> {
        let mut counts = HashMap::new();
        for body in &self.bodies {
            *counts.entry(body.process).or_default() += 1;
        }
        counts
    }
}

/// Checks that nothing was lost, and nothing repeated that is recorded.
pub(crate) async fn check(site: &Site, started: &[Started]) -> Verdict {
    let expected = expected().await;
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
        claims: runs.values().map(|run| i64::from(run.attempts)).sum(),
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
    attempts: i32,
    steps: Vec<Step>,
}

struct Step {
    name: String,
    is_function: bool,
    status: String,
    /// In microseconds since 1970.
    finished: u64,
}

async fn runs(site: &Site) -> HashMap<String, Run> {
    let session = site.session().await;
    let sql = "SELECT id, workflow_name,
        (CASE WHEN jsonb_typeof(input) = 'object' THEN input->>'value' ELSE input::text END)::bigint,
        status, coalesce(output::text, ''), attempts FROM workflow_runs";
    let mut runs = HashMap::new();
    for row in session.query(sql, &[]).await.unwrap() {
        let run = Run {
            workflow: row.get(1),
            value: u64::try_from(row.get::<_, i64>(2)).unwrap(),
            status: row.get(3),
            output: row.get(4),
            attempts: row.get(5),
            steps: Vec::new(),
        };
        runs.insert(row.get(0), run);
    }
    let sql = "SELECT workflow_run_id, step_name, kind = 'function', status,
        coalesce(finished_at, 'epoch') FROM step_attempts";
    for row in session.query(sql, &[]).await.unwrap() {
        let run_id: String = row.get(0);
        let step = Step {
            name: row.get(1),
            is_function: row.get(2),
            status: row.get(3),
            finished: micros(row.get(4)),
        };
        runs.get_mut(&run_id).unwrap().steps.push(step);
    }
    runs
}

/// What undisturbed runs come to, found out once.
async fn expected() -> &'static Expected {
    static EXPECTED: OnceCell<Expected> = OnceCell::const_new();
    EXPECTED
        .get_or_init(|| async {
            let (site, _) = undisturbed().await;
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
