//! A pooler in transaction mode, as small as can be: clients share a few sessions of the server, and
//! get another one for each transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};

pub(crate) struct Pooler {
    pub(crate) port: u16,
    named: Arc<AtomicUsize>,
}

/// A session of the server, with the parameters it told at its beginning.
struct Session {
    stream: TcpStream,
    greeting: Vec<u8>,
}

impl Pooler {
    /// Pools `sessions` sessions of the server that `config` names. The first clients log in for
    /// all.
    pub(crate) async fn start(config: tokio_postgres::Config, sessions: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let named = Arc::new(AtomicUsize::new(0));
        let (back, free) = mpsc::channel(sessions);
        let free = Arc::new(Mutex::new(free));
        let config = Arc::new(config);
        let counter = Arc::clone(&named);
        tokio::spawn(async move {
            let mut opened = 0;
            while let Ok((client, _)) = listener.accept().await {
                let (config, free, back) = (config.clone(), free.clone(), back.clone());
                let counter = counter.clone();
                let open = if opened < sessions { 1 } else { 0 };
                opened += open;
                tokio::spawn(async move {
                    // A client that goes away is no news.
                    let _ = serve(client, &config, open == 1, &free, &back, &counter).await;
                });
            }
        });
        Self { port, named }
    }

    /// How many statements were prepared under a name.
    pub(crate) fn prepared_statements(&self) -> usize {
        self.named.load(Ordering::SeqCst)
    }
}

type Free = Mutex<mpsc::Receiver<Session>>;

async fn serve(
    mut client: TcpStream,
    config: &tokio_postgres::Config,
    open: bool,
    free: &Free,
    back: &mpsc::Sender<Session>,
    named: &AtomicUsize,
) -> std::io::Result<()> {
    let length = client.read_u32().await?;
    let mut startup = vec![0; length as usize - 4];
    client.read_exact(&mut startup).await?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(&startup);
    let session = if open {
        log_in(&mut client, config, &message).await?
    } else {
        let session = free
            .lock()
            .await
            .recv()
            .await
            .ok_or(std::io::ErrorKind::NotConnected)?;
        client.write_all(&session.greeting).await?;
        session
    };
    back.send(session)
        .await
        .map_err(|_| std::io::ErrorKind::NotConnected)?;
    loop {
        let Some(first) = read_message(&mut client).await? else {
            return Ok(());
        };
        if first[0] == b'X' {
            return Ok(());
        }
        let mut session = free
            .lock()
            .await
            .recv()
            .await
            .ok_or(std::io::ErrorKind::NotConnected)?;
        let result = transaction(&mut client, &mut session, first, named).await;
        back.send(session)
            .await
            .map_err(|_| std::io::ErrorKind::NotConnected)?;
        result?;
    }
}

/// Passes messages on until the server says that it is idle again.
async fn transaction(
    client: &mut TcpStream,
    session: &mut Session,
    first: Vec<u8>,
    named: &AtomicUsize,
) -> std::io::Result<()> {
    let mut message = first;
    loop {
        if message[0] == b'P' && message[5] != 0 {
            named.fetch_add(1, Ordering::SeqCst);
        }
        let ends = matches!(message[0], b'S' | b'Q');
        session.stream.write_all(&message).await?;
        if ends {
            loop {
                let answer = read_message(&mut session.stream)
                    .await?
                    .ok_or(std::io::ErrorKind::UnexpectedEof)?;
                client.write_all(&answer).await?;
                if answer[0] == b'Z' {
                    if answer[5] == b'I' {
                        return Ok(());
                    }
                    break;
                }
            }
        }
        message = read_message(client)
            .await?
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    }
}

/// Opens a session with the client's own credentials: whoever comes first logs in for all.
async fn log_in(
    client: &mut TcpStream,
    config: &tokio_postgres::Config,
    startup: &[u8],
) -> std::io::Result<Session> {
    let tokio_postgres::config::Host::Tcp(host) = &config.get_hosts()[0] else {
        panic!("these tests want a server on TCP");
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let mut stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.write_all(startup).await?;
    // From "you are authenticated" on, the greeting is the same for everybody.
    let mut greeting = Vec::new();
    loop {
        let answer = read_message(&mut stream)
            .await?
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        client.write_all(&answer).await?;
        let authentication = answer[0] == b'R';
        let wants_more = authentication
            && matches!(
                u32::from_be_bytes([answer[5], answer[6], answer[7], answer[8]]),
                3 | 10 | 11
            );
        if !authentication || answer[5..9] == [0, 0, 0, 0] {
            greeting.extend(&answer);
        }
        if answer[0] == b'Z' {
            return Ok(Session { stream, greeting });
        }
        if wants_more {
            let reply = read_message(client)
                .await?
                .ok_or(std::io::ErrorKind::UnexpectedEof)?;
            stream.write_all(&reply).await?;
        }
    }
}

/// A message with its kind and length; `None` at the end of the stream.
async fn read_message(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = [0; 5];
    match stream.read_exact(&mut head).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut message = head.to_vec();
    message.resize(length + 1, 0);
    stream.read_exact(&mut message[5..]).await?;
    Ok(Some(message))
}
