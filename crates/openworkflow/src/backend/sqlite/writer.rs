//! The thread that writes: it runs whatever waits in one transaction and commits once for all.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::super::{BackendError, BackendResult, OverdueRun, Wakeups, codec};
use super::error::{self, OpError, OpResult};
use super::queue::Queue;
use crate::Clock;

/// How many jobs share a transaction at most, and for how long it takes in more. Other processes
/// wait meanwhile, and those in TypeScript give up at once.
const GROUP_JOBS: usize = 512;
const GROUP_TIME: Duration = Duration::from_millis(4);

/// How long a job that nobody waits for comes after the one it follows.
const FOLLOW_UP_PAUSE: Duration = Duration::from_millis(1);

/// What a job works with: the connection inside a transaction, and one reading of the clock.
pub(super) struct Tx<'a> {
    pub(super) conn: &'a Connection,
    /// In whole milliseconds, as it is stored.
    pub(super) now: SystemTime,
    /// The same as text.
    pub(super) now_text: &'a str,
    /// Whether there is a table to record executions in.
    pub(super) is_recording: bool,
    news: &'a mut Vec<News>,
}

impl Tx<'_> {
    /// Announces, after the commit, that a run becomes claimable.
    pub(super) fn work_due(&mut self, namespace_id: &str, at: SystemTime) {
        let known = at <= self.now
            && matches!(self.news.last(), Some(News::Due(last, due)) if last == namespace_id && *due <= self.now);
        // A broadcast wakes thousands at once.
        if !known {
            self.news.push(News::Due(namespace_id.to_owned(), at));
        }
    }

    /// Announces, after the commit, that a run is over.
    pub(super) fn run_ended(&mut self, run_id: &str) {
        self.news.push(News::Ended(run_id.to_owned()));
    }

    /// Tells, after the commit, that a run was failed since its deadline passed.
    pub(super) fn run_overdue(&mut self, namespace_id: &str, run: OverdueRun) {
        self.news.push(News::Overdue(namespace_id.to_owned(), run));
    }
}

enum News {
    Due(String, SystemTime),
    Ended(String),
    Overdue(String, OverdueRun),
}

/// How a job is kept apart from the others of its transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// One statement at most writes. It undoes itself where it fails, so that no savepoint is
    /// needed.
    Statement,
    /// Several statements write, inside a savepoint. SQLite then keeps a copy of each page that they
    /// change.
    Savepoint,
    /// Several statements write, and where one of them fails, which hardly ever happens, all jobs of the
    /// transaction are run anew, each alone.
    Transaction,
}

/// A job in the queue.
pub(super) trait Job: Send {
    fn isolation(&self) -> Isolation;
    /// Does the work. Called again if the transaction was lost for another job's fault.
    fn run(&mut self, tx: &mut Tx<'_>) -> Ran;
    fn fail(&mut self, error: BackendError);
    /// What is to be done after the commit, behind whatever waits then.
    fn follow_up(&mut self) -> Option<Box<dyn Job>> {
        None
    }
    /// Hands over the result of the last run.
    fn answer(self: Box<Self>);
}

/// What a job's run left behind.
pub(super) enum Ran {
    Done,
    /// Failed on what it read: a guard said no, or a row is malformed. Outside a savepoint it has
    /// not written yet.
    Refused,
    /// Failed, and may have written.
    Failed(OpError),
}

struct Call<T, F> {
    isolation: Isolation,
    work: F,
    result: Option<BackendResult<T>>,
    reply: oneshot::Sender<BackendResult<T>>,
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Tx<'_>) -> OpResult<T> + Send,
{
    fn isolation(&self) -> Isolation {
        self.isolation
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Ran {
        match (self.work)(tx) {
            Ok(value) => {
                self.result = Some(Ok(value));
                Ran::Done
            }
            Err(OpError::Backend(error)) => {
                self.result = Some(Err(error));
                Ran::Refused
            }
            Err(error) => Ran::Failed(error),
        }
    }

    fn fail(&mut self, error: BackendError) {
        self.result = Some(Err(error));
    }

    fn answer(self: Box<Self>) {
        let result = self.result.unwrap_or(Err(BackendError::Closed));
        // The caller may have stopped waiting.
        let _ = self.reply.send(result);
    }
}

/// A job, and where its result will arrive.
pub(super) fn job<T, F>(
    isolation: Isolation,
    work: F,
) -> (Box<dyn Job>, oneshot::Receiver<BackendResult<T>>)
where
    T: Send + 'static,
    F: FnMut(&mut Tx<'_>) -> OpResult<T> + Send + 'static,
{
    let (reply, result) = oneshot::channel();
    let call = Call {
        isolation,
        work,
        result: None,
        reply,
    };
    (Box::new(call), result)
}

/// What became of the transaction after a job ran in it.
enum Fate {
    /// It goes on.
    Kept,
    /// It is gone, with what other jobs did in it; the job that was at fault has its error.
    Lost,
}

pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) clock: Clock,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) database: Arc<str>,
    /// Whether there is a table to record executions in.
    pub(super) is_recording: bool,
    /// What jobs left to be done after them.
    pub(super) follow_ups: RefCell<VecDeque<Box<dyn Job>>>,
}

impl Writer {
    /// Works until the queue is closed and empty.
    pub(super) fn work(&self, queue: &Queue<Box<dyn Job>>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                queue.take(&mut waiting);
            }
            if let Some(next) = self.follow_up(queue) {
                if waiting.is_empty() {
                    // Other processes want to write, too, and some of them wait for nobody.
                    thread::sleep(FOLLOW_UP_PAUSE);
                }
                waiting.push_back(next);
            }
            if waiting.is_empty() && !queue.wait(&mut waiting) {
                return;
            }
            self.group(&mut waiting, queue);
        }
    }

    fn follow_up(&self, queue: &Queue<Box<dyn Job>>) -> Option<Box<dyn Job>> {
        let mut follow_ups = self.follow_ups.borrow_mut();
        if !follow_ups.is_empty() && queue.is_closed() {
            follow_ups.clear();
        }
        follow_ups.pop_front()
    }

    /// Runs jobs from the front of `waiting` in one transaction.
    fn group(&self, waiting: &mut VecDeque<Box<dyn Job>>, queue: &Queue<Box<dyn Job>>) {
        let started = Instant::now();
        if let Err(error) = self.execute("BEGIN IMMEDIATE") {
            let waited = started.elapsed();
            for mut job in waiting.drain(..) {
                job.fail(error::translate(
                    error::copy(&error),
                    &self.database,
                    waited,
                ));
                job.answer();
            }
            return;
        }
        let begun = Instant::now();
        let mut jobs: Vec<Box<dyn Job>> = Vec::new();
        let mut news = Vec::new();
        let mut clock = Reading::default();
        while let Some(mut job) = waiting.pop_front() {
            match self.run(&mut *job, &mut clock, &mut news) {
                Fate::Kept => jobs.push(job),
                Fate::Lost => {
                    job.answer();
                    self.each_alone(jobs);
                    return;
                }
            }
            if jobs.len() >= GROUP_JOBS || begun.elapsed() >= GROUP_TIME {
                break;
            }
            if waiting.is_empty() {
                queue.take(waiting);
            }
        }
        match self.execute("COMMIT") {
            Ok(()) => self.announce(jobs, news),
            Err(error) => {
                self.roll_back();
                match <[_; 1]>::try_from(jobs) {
                    Ok([mut job]) => {
                        job.fail(error::translate(error, &self.database, started.elapsed()));
                        job.answer();
                    }
                    Err(jobs) => self.each_alone(jobs),
                }
            }
        }
    }

    /// Runs jobs anew, each in a transaction of its own, after they lost a common one: only the
    /// job that is at fault shall suffer.
    fn each_alone(&self, jobs: Vec<Box<dyn Job>>) {
        let none = Queue::new();
        for job in jobs {
            self.group(&mut VecDeque::from([job]), &none);
        }
    }

    fn run(&self, job: &mut dyn Job, clock: &mut Reading, news: &mut Vec<News>) -> Fate {
        let isolation = job.isolation();
        let savepoint = isolation == Isolation::Savepoint;
        if savepoint && let Err(error) = self.execute("SAVEPOINT job") {
            return self.failed(job, OpError::Sql(error), Isolation::Transaction);
        }
        let announced = news.len();
        let (now, now_text) = clock.read(&self.clock);
        let mut tx = Tx {
            conn: &self.conn,
            now,
            now_text,
            is_recording: self.is_recording,
            news: &mut *news,
        };
        let ran = match catch_unwind(AssertUnwindSafe(|| job.run(&mut tx))) {
            Ok(ran) => ran,
            Err(panic) => Ran::Failed(error::panicked(&*panic).into()),
        };
        match ran {
            Ran::Done if !savepoint => Fate::Kept,
            Ran::Done => match self.execute("RELEASE job") {
                Ok(()) => Fate::Kept,
                Err(error) => {
                    news.truncate(announced);
                    self.failed(job, OpError::Sql(error), Isolation::Transaction)
                }
            },
            Ran::Refused if !savepoint => {
                news.truncate(announced);
                Fate::Kept
            }
            Ran::Refused => {
                news.truncate(announced);
                match self.undo_savepoint() {
                    Ok(()) => Fate::Kept,
                    Err(error) => self.failed(job, OpError::Sql(error), Isolation::Transaction),
                }
            }
            Ran::Failed(error) => {
                news.truncate(announced);
                self.failed(job, error, isolation)
            }
        }
    }

    /// Gives a job its error and undoes what it did: alone where that is possible, else with the whole
    /// transaction.
    fn failed(&self, job: &mut dyn Job, error: OpError, isolation: Isolation) -> Fate {
        let is_violation = matches!(
            &error,
            OpError::Sql(error) if error::code(error) == Some(ErrorCode::ConstraintViolation)
        );
        job.fail(error.into_backend(&self.database, Duration::ZERO));
        let undone = !self.conn.is_autocommit()
            && match isolation {
                // A violated constraint undoes its statement, and there is no other.
                Isolation::Statement => is_violation,
                Isolation::Savepoint => self.undo_savepoint().is_ok(),
                Isolation::Transaction => false,
            };
        if undone {
            return Fate::Kept;
        }
        self.roll_back();
        Fate::Lost
    }

    fn undo_savepoint(&self) -> rusqlite::Result<()> {
        self.execute("ROLLBACK TO job")?;
        self.execute("RELEASE job")
    }

    fn roll_back(&self) {
        // SQLite may have rolled back by itself, and there is nothing to do about a failure: the
        // next BEGIN reports it.
        if !self.conn.is_autocommit() {
            let _ = self.execute("ROLLBACK");
        }
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute([]).map(drop)
    }

    /// The transaction is durable: says what there is to say, then answers.
    fn announce(&self, jobs: Vec<Box<dyn Job>>, news: Vec<News>) {
        if !news.is_empty() {
            let now = self.clock.now();
            let mut due_now = BTreeSet::new();
            for item in news {
                match item {
                    News::Due(namespace_id, at) if at > now => {
                        self.wakeups.work_due_in(&namespace_id, at, now);
                    }
                    News::Due(namespace_id, _) => {
                        due_now.insert(namespace_id);
                    }
                    News::Ended(run_id) => self.wakeups.run_ended(&run_id),
                    News::Overdue(namespace_id, run) => {
                        self.wakeups.run_overdue(&namespace_id, run);
                    }
                }
            }
            for namespace_id in due_now {
                self.wakeups.work_due_in(&namespace_id, now, now);
            }
        }
        for mut job in jobs {
            self.follow_ups.borrow_mut().extend(job.follow_up());
            job.answer();
        }
    }
}

/// The last reading of the clock. Its text is made anew only when the time is another.
#[derive(Default)]
struct Reading {
    last: Option<(SystemTime, String)>,
}

impl Reading {
    fn read(&mut self, clock: &Clock) -> (SystemTime, &str) {
        let now = codec::whole_millis(clock.now());
        if self.last.as_ref().is_none_or(|(last, _)| *last != now) {
            self.last = None;
        }
        let (now, text) = self
            .last
            .get_or_insert_with(|| (now, codec::format_time(now)));
        (*now, text)
    }
}
