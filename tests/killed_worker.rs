//! A worker process is killed, again and again, in the middle of its work.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use openworkflow::backend::StepStatus;
use openworkflow::trace::ExecutionEnding;
use openworkflow::{Client, RunHandle, Sqlite};
use openworkflow_tests::killable::{PARENT, expected};

const RUNS: u64 = 36;
const KILLS: u64 = 12;
/// How many function steps a run and its child have.
const FUNCTIONS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(60);

struct Worker(Child);

impl Worker {
    fn start(database: &Path, log: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_other_process"));
        command.arg("work").arg(database).arg(log);
        Self(command.spawn().expect("a worker process starts"))
    }

    /// Ends the process as `kill -9` does.
    fn kill(&mut self) {
        self.0.kill().expect("the worker process is killed");
        self.0.wait().expect("the worker process is gone");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn no_completed_step_runs_again_after_kill_9() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let (database, log) = (folder.path().join("killed.db"), folder.path().join("log"));
    let store = Sqlite::open(&database).await.expect("the database opens");
    let client = Client::new(store.clone());
    let mut runs = Vec::new();

    // The steps that were completed at a kill, and how long the log was when they were.
    let mut completed: HashMap<(String, String), usize> = HashMap::new();
    let mut in_the_middle = 0;
    for kill in 0..KILLS {
        for _ in 0..RUNS / KILLS {
            let input = runs.len() as u64;
            runs.push(client.start(&PARENT, &input).await.expect("a run starts"));
        }
        let lines = read_log(&log).len();
        let mut worker = Worker::start(&database, &log);
        // Kills it after another number of bodies each time, so that every stage of the runs is hit.
        let begin = Instant::now();
        while read_log(&log).len() <= lines + kill as usize % 7 {
            assert!(begin.elapsed() < PATIENCE, "the worker does nothing");
            signal_all(&client).await;
        }
        worker.kill();
        let length = read_log(&log).len();
        let steps = completed_steps(&client).await;
        let unfinished = steps.len() < runs.len() * FUNCTIONS;
        in_the_middle += u64::from(!steps.is_empty() && unfinished);
        for step in steps {
            completed.entry(step).or_insert(length);
        }
    }
    assert!(
        in_the_middle > KILLS / 2,
        "most kills came in the middle of the work"
    );

    let worker = Worker::start(&database, &log);
    for (input, run) in (0..RUNS).zip(&runs) {
        assert_eq!(result(&client, run).await, expected(input));
    }
    drop(worker);

    let log = read_log(&log);
    for (line, step) in log.iter().enumerate() {
        if let Some(length) = completed.get(step) {
            assert!(line < *length, "{step:?} ran again after it was completed");
        }
    }
    let ran: HashSet<_> = log.into_iter().collect();
    let at_the_end = completed_steps(&client).await;
    assert_eq!(
        at_the_end.len(),
        runs.len() * FUNCTIONS,
        "each step is completed once"
    );
    for step in at_the_end {
        assert!(ran.contains(&step), "{step:?} is completed and never ran");
    }
    let lost = lost_executions(&client).await;
    assert!(lost > 0, "kills in the middle of executions are recorded");
    let counts = client.count_runs().await.expect("runs are counted");
    assert_eq!(
        (counts.completed, counts.running, counts.pending),
        (2 * RUNS, 0, 0)
    );
    store.close().await;
}

async fn result(client: &Client, run: &RunHandle<u64>) -> u64 {
    let signals = async {
        loop {
            signal_all(client).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        result = run.result_within(PATIENCE) => result.expect("the run completes"),
        () = signals => unreachable!("signals are sent without end"),
    }
}

/// Signals to whoever waits by now.
async fn signal_all(client: &Client) {
    for input in 0..RUNS {
        let sent = client.send_signal(format!("go:{input}"), &0_u64).await;
        sent.expect("a signal is sent");
    }
}

/// How many executions of the runs that are over were lost. All executions are recorded, and none begins
/// before the end of the one before.
async fn lost_executions(client: &Client) -> usize {
    let runs = client.list_runs().limit(1000).await;
    let mut lost = 0;
    for run in runs.expect("runs are listed").items {
        let summary = client.trace_summary(run.id.as_str()).await;
        let executions = summary.expect("the run is there").executions;
        assert_eq!(executions.len(), run.attempts as usize, "{executions:#?}");
        let mut ended_at = None;
        for (number, of) in (1..).zip(&executions) {
            assert_eq!(
                (of.number, of.estimated),
                (Some(number), false),
                "{executions:#?}"
            );
            assert!(
                ended_at <= of.began_at && of.began_at <= of.ended_at,
                "{executions:#?}"
            );
            assert!(
                of.cause.is_some() && of.worker_id.is_some(),
                "{executions:#?}"
            );
            ended_at = of.ended_at;
            lost += usize::from(of.ending == Some(ExecutionEnding::Lost));
        }
    }
    lost
}

/// The function steps that have a completed row, by run id and name, each as often as it has one.
async fn completed_steps(client: &Client) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let runs = client
        .list_runs()
        .limit(1000)
        .await
        .expect("runs are listed");
    for run in runs.items {
        let steps = client.list_steps(run.id.as_str()).limit(1000).await;
        for step in steps.expect("steps are listed").items {
            if step.status == StepStatus::Completed && step.kind.as_str() == "function" {
                found.push((run.id.clone(), step.step_name));
            }
        }
    }
    found
}

fn read_log(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(run, step)| (run.to_owned(), step.to_owned()))
        .collect()
}
