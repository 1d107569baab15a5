//! A line to a PostgreSQL server that holds each statement at a gate.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use openworkflow_tests::pg_messages::{BACKEND_KEY, Batch, Client, READY, read_message};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::gate::Gate;

/// A proxy before a server, for one actor.
#[derive(Debug)]
pub(crate) struct Wire {
    port: u16,
    /// The server's processes at the other end.
    sessions: Arc<Mutex<Vec<i32>>>,
}

impl Wire {
    /// A line to the server at `address`.
    pub(crate) async fn to(address: &str, gate: &Arc<Gate>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sessions = Arc::<Mutex<Vec<i32>>>::default();
        let (address, gate, known) = (address.to_owned(), Arc::clone(gate), Arc::clone(&sessions));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&address).await.unwrap();
                // What is small must not wait to become more.
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                let (answered, answers) = watch::channel(0);
                // A connection that breaks off is nobody's news here.
                tokio::spawn(carry(near_in, far_out, Arc::clone(&gate), answers));
                tokio::spawn(bring_back(far_in, near_out, answered, Arc::clone(&known)));
            }
        });
        Self { port, sessions }
    }

    /// The server's address, by way of this.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The server's processes at the other end.
    pub(crate) fn sessions(&self) -> Vec<i32> {
        let sessions = self.sessions.lock();
        sessions.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The way from an actor to the server. A step is done when its answer has come.
async fn carry(
    near: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    gate: Arc<Gate>,
    mut answers: watch::Receiver<usize>,
) -> io::Result<()> {
    let mut client = Client::begin(near, &mut server).await?;
    // The greeting.
    let mut sent = 1;
    let mut is_begun = false;
    let mut is_news = false;
    loop {
        let batch = client.batch().await?;
        // Notifications go by themselves, now or later.
        is_news |= is_begun && batch.is("SET LOCAL synchronous_commit");
        is_begun = batch.is("BEGIN");
        // A backend begins to listen when it comes to it; and a transaction that begins does nothing yet.
        let is_none = is_news || is_begun || batch.is("LISTEN");
        let step = match &batch.sql {
            Some(sql) if !is_none && !is_upkeep(&batch) => gate.pass(title(sql)).await,
            _ => None,
        };
        is_news &= !batch.is("COMMIT");
        server.write_all(&batch.bytes).await?;
        sent += usize::from(batch.is_answered);
        if step.is_some() {
            let all = answers.wait_for(|answers| *answers >= sent).await;
            all.map_err(|_| io::ErrorKind::UnexpectedEof)?;
        }
    }
}

/// What a session is told of plans, or asks of the time and of sizes: it touches no row, and comes when
/// it comes.
fn is_upkeep(batch: &Batch) -> bool {
    [
        "SET jit",
        "DISCARD PLANS",
        "SELECT clock_timestamp() AS now",
        "SELECT ARRAY[pg_relation_size",
    ]
    .iter()
    .any(|beginning| batch.is(beginning))
}

/// What a report calls a statement: its beginning, without the schema.
fn title(sql: &str) -> String {
    let mut title = String::new();
    let mut parts = sql.split('"');
    while let Some(part) = parts.next() {
        title.push_str(part.trim_start_matches('.'));
        if let Some(name) = parts.next() {
            // A schema's name is followed by a dot, and then by a table's.
            let mut rest = parts.clone();
            if rest.next() != Some(".") {
                title.push_str(name);
            }
        }
    }
    let words: Vec<_> = title.split_whitespace().collect();
    words.join(" ").chars().take(100).collect()
}

/// The way back, which counts what was answered.
async fn bring_back(
    mut from: OwnedReadHalf,
    mut near: OwnedWriteHalf,
    answered: watch::Sender<usize>,
    sessions: Arc<Mutex<Vec<i32>>>,
) -> io::Result<()> {
    loop {
        let message = read_message(&mut from).await?;
        near.write_all(&message).await?;
        match message[0] {
            READY => answered.send_modify(|answers| *answers += 1),
            BACKEND_KEY => {
                let process = [message[5], message[6], message[7], message[8]];
                let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
                sessions.push(i32::from_be_bytes(process));
            }
            _ => {}
        }
    }
}
