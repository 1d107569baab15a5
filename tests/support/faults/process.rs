//! A worker process, and what can be done to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::Time;
use crate::{fleet, wait_for, wait_until};

/// A worker in a process of its own. It is killed at the end, if not before.
#[derive(Debug)]
pub struct Process {
    child: Child,
    ready: PathBuf,
}

impl Process {
    /// Starts `program`, which is `other_process`, on the database at `url`. The bodies that it executes
    /// write to `folder`, and `time` is what it takes for the time.
    ///
    /// # Panics
    ///
    /// Where it cannot be started, as what follows of a process that does not do as it is told.
    #[must_use]
    pub fn start(program: &str, url: &str, folder: &Path, lease: Duration, time: Time) -> Self {
        let mut command = Command::new(program);
        command
            .args(["fleet", url])
            .arg(folder)
            .arg(lease.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        time.tell(&mut command, folder);
        let child = command.spawn().expect("the process starts");
        let ready = fleet::ready(folder, child.id());
        Self { child, ready }
    }

    /// The process id, which the log of bodies names.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process is killed");
        self.child.wait().expect("the process is gone");
    }

    /// Waits until it listens to signals.
    pub async fn ready(&self) {
        wait_until("the worker process is ready", || async {
            self.ready.exists()
        })
        .await;
    }

    /// Asks it to stop, as an orchestrator does that rolls out a new version: once it is up.
    pub async fn terminate(&self) {
        self.ready().await;
        self.signal("TERM");
    }

    /// Waits until it has stopped by itself.
    pub async fn stopped(&mut self) {
        let status = wait_for("the worker process stops", || {
            let status = self.child.try_wait().expect("the process is ours");
            async move { status }
        });
        assert!(status.await.success(), "it stops without an error");
    }

    /// Stops it where it stands (SIGSTOP), at a moment at which each of its threads waits for something:
    /// of what a thread has looked at, and acts upon when it goes on, no process can know that it is old.
    /// `is_good` can ask for more of the moment.
    pub async fn pause(&self, is_good: impl AsyncFn() -> bool) {
        self.ready().await;
        for _ in 0..1000 {
            self.signal("STOP");
            wait_until("the process has stopped", || async {
                let mut threads = self.threads().into_iter();
                threads.all(|thread| state(&thread).is_some_and(|state| state == 'T'))
            })
            .await;
            if self.threads().iter().all(|thread| waits(thread)) && is_good().await {
                return;
            }
            self.signal("CONT");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("there is no good moment to stop the process");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let sent = kill.arg(format!("-{name}")).arg(self.id().to_string());
        assert!(sent.status().expect("kill runs").success());
    }

    /// The folders of its threads.
    fn threads(&self) -> Vec<PathBuf> {
        let folder = format!("/proc/{}/task", self.id());
        let threads = fs::read_dir(&folder);
        let threads = threads.unwrap_or_else(|error| panic!("{folder}: {error}"));
        threads.flatten().map(|entry| entry.path()).collect()
    }
}

/// The letter by which `/proc` tells a thread's state; `None` where it has ended.
fn state(thread: &Path) -> Option<char> {
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether a thread that was stopped was waiting: for another thread, or for whatever comes.
fn waits(thread: &Path) -> bool {
    // futex, restart_syscall, epoll_wait, epoll_pwait and epoll_pwait2, by their numbers.
    const WAITS: &[&str] = match cfg!(target_arch = "x86_64") {
        true => &["202", "219", "232", "281", "441"],
        // The same on all younger architectures.
        false => &["98", "128", "22", "441"],
    };
    let path = thread.join("syscall");
    let call = fs::read_to_string(&path);
    let call = call.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let number = call.split_whitespace().next();
    number.is_some_and(|number| WAITS.contains(&number))
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
