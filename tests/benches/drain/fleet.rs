//! Workers in processes of their own on one database.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use openworkflow::{Client, Worker};

use crate::engine::{self, IDLE, ONE_STEP};
use crate::target::Target;
use crate::{Result, WORKER};

/// What a fleet did.
pub(crate) struct Drained {
    /// Runs per second.
    pub(crate) rate: f64,
    /// What each process executed of all runs, from 0 to 1.
    pub(crate) shares: Vec<f64>,
}

/// Drains a queue with workers in `processes` processes, which stand ready when the clock starts.
pub(crate) fn drain<T: Target>(
    target: &T,
    runs: u32,
    concurrency: u32,
    processes: u32,
) -> Result<Drained> {
    let database = target.create()?;
    engine::runtime()?.block_on(async {
        let store = T::open(&database.address).await?;
        let client = Client::new(store.clone());
        let ids = engine::fill(&client, runs).await?;
        let mut workers = (0..processes)
            .map(|_| Process::spawn::<T>(&database.address, concurrency))
            .collect::<Result<Vec<_>>>()?;
        let begin = Instant::now();
        for worker in &mut workers {
            worker.go()?;
        }
        engine::all_completed(&client, &ids, concurrency * processes).await?;
        let seconds = begin.elapsed().as_secs_f64();
        drop(ids);
        drop(client);
        T::close(store).await;
        let executed = workers
            .into_iter()
            .map(Process::finish)
            .collect::<Result<Vec<_>>>()?;
        Ok(Drained {
            rate: f64::from(runs) / seconds,
            shares: executed
                .iter()
                .map(|executed| f64::from(*executed) / f64::from(runs))
                .collect(),
        })
    })
}

/// As [`engine::first_step_latency`], with the worker in another process.
pub(crate) fn first_step_latency<T: Target>(target: &T, samples: u32) -> Result<Vec<Duration>> {
    let database = target.create()?;
    engine::runtime()?.block_on(async {
        let store = T::open(&database.address).await?;
        let client = Client::new(store.clone());
        let mut worker = Process::spawn::<T>(&database.address, 1)?;
        worker.go()?;
        let mut latencies = Vec::new();
        for sample in 0..samples {
            tokio::time::sleep(IDLE).await;
            let start = micros(SystemTime::now());
            let run = client.start(&ONE_STEP, &sample).await?;
            let first: u64 = worker.answer()?;
            latencies.push(Duration::from_micros(first.saturating_sub(start)));
            run.result().await?;
        }
        worker.finish()?;
        drop(client);
        T::close(store).await;
        Ok(latencies)
    })
}

/// A process that executes [`work`]. Killed when dropped.
struct Process {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Returns once the worker can begin at once.
    fn spawn<T: Target>(address: &str, concurrency: u32) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([WORKER, T::NAME, address])
            .arg(concurrency.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().ok_or("the process has an input")?;
        let stdout = process.stdout.take().ok_or("the process has an output")?;
        let mut process = Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
        };
        process.answer::<String>()?;
        Ok(process)
    }

    fn go(&mut self) -> Result<()> {
        Ok(writeln!(self.stdin, "go")?)
    }

    fn answer<A: std::str::FromStr>(&mut self) -> Result<A> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let answer = line.trim().parse();
        answer.map_err(|_| format!("a worker process said {line:?}").into())
    }

    /// Stops the worker and returns how many runs of ten steps it executed.
    fn finish(mut self) -> Result<u32> {
        writeln!(self.stdin, "stop")?;
        let executed = self.answer()?;
        self.process.wait()?;
        Ok(executed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A worker that is ready, works when told to, and says how much it did when told to stop. The first
/// step of each run of one step says when it began.
pub(crate) fn work<T: Target>(address: &str, concurrency: u32) -> Result<()> {
    let executed = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&executed);
    engine::runtime()?.block_on(async {
        let store = T::open(address).await?;
        let worker = Worker::builder(store.clone())
            .workflow(engine::ten_steps(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            }))
            .workflow(engine::one_step(|| {
                println!("{}", micros(SystemTime::now()));
            }))
            .concurrency(concurrency as usize)
            .build()?;
        println!("ready");
        told().await?;
        let mut worker = worker.start();
        told().await?;
        worker.stop().await?;
        T::close(store).await;
        println!("{}", executed.load(Ordering::Relaxed));
        Ok(())
    })
}

async fn told() -> Result<()> {
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next());
    line.await?.ok_or("the benchmark is gone")??;
    Ok(())
}

fn micros(at: SystemTime) -> u64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
