//! News between processes, by LISTEN and NOTIFY.
//!
//! A notifying transaction holds a lock of the whole server while it commits, so that transactions
//! that notify commit one after the other. Therefore only the first news after a quiet moment go
//! with the transaction that makes them; what follows is gathered, and told by a transaction of its
//! own that waits for no disk. News that get lost are made up for by polling.
//!
//! Everybody who uses the schema hears all of it; who works in another namespace than the one that is
//! named goes on sleeping.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_postgres::{AsyncMessage, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Inner;
use super::session::{Param, WhenLost};
use crate::Clock;
use crate::backend::Wakeups;

/// How long must have been quiet for news to go with their own transaction, and how often news are
/// told at most otherwise.
const INTERVAL: Duration = Duration::from_millis(10);

/// The server takes less than 8000 bytes at once.
const PAYLOAD_BYTES: usize = 7_000;

/// How many different due times of a namespace are told at once; the rest is found by polling.
const DUE_TIMES: usize = 100;

/// What is told at once: the text of a notification.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Message {
    /// The teller, who knows already.
    from: String,
    /// When work becomes due, by namespace, in milliseconds since the epoch; 0 for now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    due: BTreeMap<String, BTreeSet<u64>>,
    /// Runs that ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<String>,
}

/// Something worth telling.
#[derive(Debug, Clone, Copy)]
pub(super) enum News<'a> {
    /// A run of a namespace is or becomes due; `None` for now.
    Due(&'a str, Option<SystemTime>),
    /// A run ended.
    Ended(&'a str),
}

/// Tells other processes.
pub(super) struct Announcer {
    /// Who we are, so that we need not listen to ourselves.
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Instant>,
    gathered: Message,
    telling: bool,
}

impl Announcer {
    pub(super) fn new() -> Self {
        Self {
            name: uuid::Uuid::new_v4().simple().to_string()[..12].to_owned(),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of a notification for the transaction that is about to make these news, if it has
    /// been quiet; otherwise [`tell`](Inner::tell) them after the commit.
    pub(super) fn now(&self, news: News<'_>) -> Option<String> {
        let mut state = self.lock();
        if state.telling || state.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return None;
        }
        let mut message = Message {
            from: self.name.clone(),
            ..Message::default()
        };
        message.add(news);
        let text = message.into_texts().pop()?;
        state.last = Some(Instant::now());
        Some(text)
    }
}

impl Message {
    fn add(&mut self, news: News<'_>) {
        match news {
            News::Due(namespace_id, at) => {
                let since = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
                let ms = since.map_or(0, |since| {
                    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
                });
                let times = match self.due.get_mut(namespace_id) {
                    Some(times) => times,
                    None => self.due.entry(namespace_id.to_owned()).or_default(),
                };
                if times.len() < DUE_TIMES || ms == 0 {
                    times.insert(ms);
                }
            }
            News::Ended(id) => self.ended.push(id.to_owned()),
        }
    }

    /// The texts of the notifications that say all this, each short enough.
    fn into_texts(self) -> Vec<String> {
        let Self { from, due, ended } = self;
        let empty = || Self {
            from: from.clone(),
            ..Self::default()
        };
        let (mut message, mut bytes, mut texts) = (empty(), 0, Vec::new());
        let mut make_room = |message: &mut Self, more: usize| {
            if bytes > 0 && bytes + more > PAYLOAD_BYTES {
                texts.extend(serde_json::to_string(&std::mem::replace(message, empty())));
                bytes = 0;
            }
            bytes += more;
        };
        for (namespace_id, times) in due {
            let more = written_bytes(&namespace_id) + 4 + times.len() * 16;
            if more <= PAYLOAD_BYTES {
                make_room(&mut message, more);
                message.due.insert(namespace_id, times);
            }
        }
        for id in ended {
            let more = written_bytes(&id) + 3;
            if more <= PAYLOAD_BYTES {
                make_room(&mut message, more);
                message.ended.push(id);
            }
        }
        if !message.due.is_empty() || !message.ended.is_empty() {
            texts.extend(serde_json::to_string(&message));
        }
        texts
    }
}

/// How long a text is in JSON, at most: escaped, a character takes six bytes.
fn written_bytes(text: &str) -> usize {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    match text.bytes().all(is_plain) {
        true => text.len(),
        false => text.len() * 6,
    }
}

impl Inner {
    /// Tells other processes of news that were committed, soon.
    pub(super) fn tell(self: &Arc<Self>, news: News<'_>) {
        let Ok(home) = self.sessions.here() else {
            // It is closed.
            return;
        };
        let mut state = self.announcer.lock();
        state.gathered.add(news);
        if state.telling {
            return;
        }
        state.telling = true;
        let quiet_for = state.last.map_or(INTERVAL, |last| last.elapsed());
        drop(state);
        let telling = Telling {
            inner: Arc::clone(self),
            is_over: false,
        };
        home.spawn(async move {
            let inner = Arc::clone(&telling.inner);
            tokio::time::sleep(INTERVAL.saturating_sub(quiet_for)).await;
            while let Some(gathered) = inner.gathered() {
                let texts = gathered.into_texts();
                let params: [Param<'_>; 1] = [&texts];
                let calls = [inner.sql.lazily.with(&[]), inner.sql.notify.with(&params)];
                if let Err(error) = inner.sessions.all(WhenLost::Report, &calls).await {
                    tracing::debug!(%error, "could not notify other processes; they will poll");
                }
                tokio::time::sleep(INTERVAL).await;
            }
            telling.end();
        });
    }

    /// What is to be told now; where there is nothing, telling is over.
    fn gathered(&self) -> Option<Message> {
        let mut state = self.announcer.lock();
        let mut message = std::mem::take(&mut state.gathered);
        if message.due.is_empty() && message.ended.is_empty() {
            // At once, since somebody may have news right after.
            state.telling = false;
            return None;
        }
        state.last = Some(Instant::now());
        message.from.clone_from(&self.announcer.name);
        Some(message)
    }
}

/// Somebody tells what is gathered. One that is dropped with its runtime leaves it to the next.
struct Telling {
    inner: Arc<Inner>,
    is_over: bool,
}

impl Telling {
    fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if !self.is_over {
            self.inner.announcer.lock().telling = false;
        }
    }
}

/// The channel of a schema. Names of channels are cut off after 63 bytes, as schemas' are.
pub(super) fn channel(schema: &str) -> String {
    let channel = format!("openworkflow:{schema}");
    if channel.len() <= 63 {
        return channel;
    }
    // FNV-1a: every process must come to the same name.
    let hash = schema
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("openworkflow:{}:{hash:016x}", &schema[..30])
}

/// Hears the news of other processes on a connection of its own.
pub(super) struct Listener {
    pub(super) config: tokio_postgres::Config,
    pub(super) tls: MakeRustlsConnect,
    pub(super) channel: String,
    pub(super) clock: Clock,
    pub(super) wakeups: Arc<Wakeups>,
    pub(super) backend: Weak<Inner>,
    pub(super) state: Listening,
}

/// Whether somebody listens.
#[derive(Default)]
pub(super) struct Listening {
    is_at_it: AtomicBool,
    is_stopped: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

/// Somebody listens while this lives: a runtime that ends drops it with its task.
struct AtIt(Arc<Listener>);

impl Drop for AtIt {
    fn drop(&mut self) {
        self.0.state.is_at_it.store(false, Ordering::Release);
    }
}

impl Listener {
    /// Begins to listen on the caller's runtime, unless it is done. The task ends when it is stopped, or
    /// nobody uses the backend any more.
    pub(super) fn start(self: &Arc<Self>) {
        if self.state.is_at_it.load(Ordering::Relaxed)
            || self.state.is_stopped.load(Ordering::Acquire)
            || self.state.is_at_it.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let at_it = AtIt(Arc::clone(self));
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let task = runtime.spawn(async move {
            let at_it = at_it;
            let listener = &at_it.0;
            let mut failures = 0;
            while listener.backend.strong_count() > 0 {
                let mut listened = false;
                let end = listener.listen(&mut listened).await;
                if listened {
                    failures = 0;
                }
                let pause = Duration::from_millis(50) * 2u32.pow(failures.min(6));
                failures += 1;
                match end {
                    Ok(()) => tracing::debug!("the listening connection was closed"),
                    Err(error) => tracing::debug!(%error, "not listening to other processes"),
                }
                tokio::time::sleep(pause).await;
            }
        });
        *self.task() = Some(task.abort_handle());
    }

    /// Ends for good.
    pub(super) fn stop(&self) {
        self.state.is_stopped.store(true, Ordering::Release);
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }

    fn task(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.state
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(&self, listened: &mut bool) -> Result<(), Error> {
        let (client, mut connection) = self.config.connect(self.tls.clone()).await?;
        let command = format!("LISTEN \"{}\"", self.channel);
        let listening = client.batch_execute(&command);
        tokio::pin!(listening);
        loop {
            let message = std::future::poll_fn(|cx| connection.poll_message(cx));
            tokio::select! {
                result = &mut listening, if !*listened => {
                    result?;
                    *listened = true;
                    // Whatever was told while nobody listened.
                    let now = self.clock.now();
                    self.wakeups.work_due(now, now);
                }
                message = message => match message {
                    Some(Ok(AsyncMessage::Notification(news))) => self.hear(news.payload()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                }
            }
        }
    }

    fn hear(&self, text: &str) {
        // Anybody may write to the channel; what is not ours is no news.
        let Ok(message) = serde_json::from_str::<Message>(text) else {
            return;
        };
        let Some(backend) = self.backend.upgrade() else {
            return;
        };
        if message.from == backend.announcer.name {
            return;
        }
        let now = self.clock.now();
        for (namespace_id, times) in &message.due {
            for ms in times.iter().take(DUE_TIMES + 1) {
                let at = match ms {
                    0 => Some(now),
                    ms => SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(*ms)),
                };
                if let Some(at) = at {
                    self.wakeups.work_due_in(namespace_id, at, now);
                }
            }
        }
        for id in &message.ended {
            self.wakeups.run_ended(id);
        }
    }
}

/// Whether each transaction may reach another session of the server. Asks on two connections in an
/// irregular order: without such a pooler, each has one session and the other another.
pub(super) async fn pooled_by_transaction(
    one: &tokio_postgres::Client,
    other: &tokio_postgres::Client,
) -> Result<bool, Error> {
    let mut seen: [Option<i32>; 2] = [None, None];
    for who in [0, 1, 1, 0, 0, 1, 0, 1] {
        let client = if who == 0 { one } else { other };
        let rows = client.query_typed("SELECT pg_backend_pid()", &[]).await?;
        let Some(row) = rows.first() else {
            continue;
        };
        let session: i32 = row.try_get(0)?;
        let known = *seen[who].get_or_insert(session);
        if known != session || seen[0] == seen[1] {
            return Ok(true);
        }
    }
    Ok(false)
}
