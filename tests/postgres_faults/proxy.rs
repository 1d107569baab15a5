//! A network between a worker and the server that can be cut.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// It arrives.
    Up,
    /// It is held, in both directions, and nobody is told; once the line is up again, it arrives.
    Cut,
    /// It is lost with its connection.
    Down,
}

/// A TCP proxy before a server. It goes when this is dropped.
pub(crate) struct Proxy {
    port: u16,
    line: Arc<watch::Sender<Line>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A line to the server that a connection string names.
    pub(crate) async fn to(server: &str) -> Self {
        let (_, address, _) = parts(server);
        let address: Arc<str> = address.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let line = Arc::new(watch::Sender::new(Line::Up));
        let held = Arc::clone(&line);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let line = Arc::clone(&held);
                let address = Arc::clone(&address);
                tokio::spawn(async move { carry(near, &address, &line).await });
            }
        });
        Self {
            port,
            line,
            accepting,
        }
    }

    /// The connection string of the server, by way of this.
    pub(crate) fn url(&self, server: &str) -> String {
        let (user, _, database) = parts(server);
        format!("{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// From now on nothing arrives, and nobody is told.
    pub(crate) fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    /// What was held arrives.
    pub(crate) fn heal(&self) {
        self.line.send_replace(Line::Up);
    }

    /// What was held is lost, with all connections; new ones come through.
    pub(crate) async fn reset(&self) {
        self.line.send_replace(Line::Down);
        // Until every connection has noticed; each holds a receiver.
        while self.line.receiver_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.line.send_replace(Line::Up);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.line.send_replace(Line::Down);
    }
}

/// The parts of `postgresql://user:password@host:port/database`.
fn parts(server: &str) -> (&str, &str, &str) {
    let (user, rest) = server.rsplit_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    (user, address, database)
}

async fn carry(near: TcpStream, address: &str, line: &watch::Sender<Line>) {
    let mut down = line.subscribe();
    let mut up = line.subscribe();
    let through = async {
        if up.wait_for(|line| *line == Line::Up).await.is_err() {
            return;
        }
        let Ok(far) = TcpStream::connect(address).await else {
            return;
        };
        let (mut near_in, mut near_out) = near.into_split();
        let (mut far_in, mut far_out) = far.into_split();
        let mut back = line.subscribe();
        tokio::select! {
            () = pump(&mut near_in, &mut far_out, &mut up) => {}
            () = pump(&mut far_in, &mut near_out, &mut back) => {}
        }
    };
    tokio::select! {
        () = through => {}
        _ = down.wait_for(|line| *line == Line::Down) => {}
    }
}

/// Passes on what comes, while the line is up. Ends with the connection.
async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    line: &mut watch::Receiver<Line>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if line.wait_for(|line| *line == Line::Up).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
