//! A line to a PostgreSQL server that loses what the server answers to a certain transaction.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openworkflow_tests::pg_messages::{Client, READY, read_message};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// The server's word for "no transaction is open".
const IDLE: u8 = b'I';

/// A proxy before a server.
#[derive(Debug)]
pub(crate) struct Lossy {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// A part of the statement to which the answer is lost.
    to: Option<String>,
    losses: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lossy {
    /// A line to the server that a connection string names.
    pub(crate) async fn to(server: &str) -> Self {
        let (_, rest) = server.rsplit_once('@').unwrap();
        let (address, _) = rest.split_once('/').unwrap();
        let address = address.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<Mutex<State>>::default();
        let losing = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&address).await.unwrap();
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                let asked = Arc::new(Mutex::new(VecDeque::from([None])));
                let known = Arc::clone(&asked);
                let state = Arc::clone(&losing);
                // Both halves end with the one that ends first.
                tokio::spawn(async move {
                    tokio::select! {
                        _ = carry(near_in, far_out, &asked) => {}
                        _ = bring_back(far_in, near_out, &known, &state) => {}
                    }
                });
            }
        });
        Self { port, state }
    }

    /// The connection string of the server, by way of this.
    pub(crate) fn url(&self, server: &str) -> String {
        let (user, rest) = server.rsplit_once('@').unwrap();
        let (_, database) = rest.split_once('/').unwrap();
        format!("{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Loses the answer to the next transaction with a statement that contains this, and its connection,
    /// once the transaction is committed.
    pub(crate) fn lose_answer_to(&self, part: &str) {
        lock(&self.state).to = Some(part.to_owned());
    }

    /// How many answers were lost.
    pub(crate) fn losses(&self) -> u32 {
        lock(&self.state).losses
    }
}

type Asked = Mutex<VecDeque<Option<String>>>;

async fn carry(near: OwnedReadHalf, mut server: OwnedWriteHalf, asked: &Asked) -> io::Result<()> {
    let mut client = Client::begin(near, &mut server).await?;
    loop {
        let batch = client.batch().await?;
        if batch.is_answered {
            lock(asked).push_back(batch.sql);
        }
        server.write_all(&batch.bytes).await?;
    }
}

async fn bring_back(
    mut server: OwnedReadHalf,
    mut near: OwnedWriteHalf,
    asked: &Asked,
    state: &Mutex<State>,
) -> io::Result<()> {
    let mut is_greeted = false;
    let mut is_lost = false;
    let mut answer = Vec::new();
    loop {
        let message = read_message(&mut server).await?;
        answer.extend(&message);
        // A greeting asks for a password in between.
        if message[0] != READY {
            if !is_greeted {
                near.write_all(&std::mem::take(&mut answer)).await?;
            }
            continue;
        }
        is_greeted = true;
        let sql = lock(asked).pop_front().flatten();
        {
            let mut state = lock(state);
            if let (Some(part), Some(sql)) = (&state.to, &sql)
                && sql.contains(part.as_str())
            {
                is_lost = true;
                state.to = None;
            }
            if is_lost && message[5] == IDLE {
                state.losses += 1;
                return Ok(());
            }
        }
        if !is_lost {
            near.write_all(&std::mem::take(&mut answer)).await?;
        }
    }
}
