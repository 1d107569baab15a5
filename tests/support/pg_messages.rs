//! What goes between a PostgreSQL client and its server, as far as proxies of the suites read it.

use std::collections::HashMap;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The server is ready for the next batch.
pub const READY: u8 = b'Z';

/// The greeting says which process of the server this is.
pub const BACKEND_KEY: u8 = b'K';

/// A message with its kind, which is the first byte, and its length, which are four.
///
/// # Errors
///
/// As reading from the stream.
pub async fn read_message(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut head = [0; 5];
    from.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut message = head.to_vec();
    message.resize(length + 1, 0);
    from.read_exact(&mut message[5..]).await?;
    Ok(message)
}

/// Messages of a client up to one that the server answers with [`READY`].
#[derive(Debug, Default)]
pub struct Batch {
    /// The messages.
    pub bytes: Vec<u8>,
    /// The statement that is executed, if one is.
    pub sql: Option<String>,
    /// Whether there will be an answer: there is none to a password, or to a farewell.
    pub is_answered: bool,
}

impl Batch {
    /// Whether a statement is executed that begins so.
    #[must_use]
    pub fn is(&self, beginning: &str) -> bool {
        let sql = self.sql.as_ref();
        sql.is_some_and(|sql| sql.trim_start().starts_with(beginning))
    }
}

/// A client's side of a connection without encryption.
#[derive(Debug)]
pub struct Client {
    from: OwnedReadHalf,
    /// The texts of prepared statements.
    names: HashMap<String, String>,
}

impl Client {
    /// Passes the first message on, which has another shape than the rest. Its answer is the greeting,
    /// which ends with [`READY`].
    ///
    /// # Errors
    ///
    /// As reading from the one stream and writing to the other.
    pub async fn begin(mut from: OwnedReadHalf, server: &mut OwnedWriteHalf) -> io::Result<Self> {
        let length = from.read_u32().await?;
        let mut startup = vec![0; (length as usize).saturating_sub(4)];
        from.read_exact(&mut startup).await?;
        server.write_u32(length).await?;
        server.write_all(&startup).await?;
        let names = HashMap::new();
        Ok(Self { from, names })
    }

    /// The next batch.
    ///
    /// # Errors
    ///
    /// As reading from the stream.
    pub async fn batch(&mut self) -> io::Result<Batch> {
        let mut batch = Batch::default();
        loop {
            let message = read_message(&mut self.from).await?;
            batch.bytes.extend(&message);
            match message[0] {
                // Parse: a name and a statement.
                b'P' => {
                    let mut texts = texts(&message);
                    let name = texts.next().unwrap_or_default();
                    self.names.insert(name, texts.next().unwrap_or_default());
                }
                // Bind: a portal and a statement's name. It is executed in the same batch.
                b'B' => {
                    let name = texts(&message).nth(1).unwrap_or_default();
                    batch.sql = self.names.get(&name).cloned();
                }
                kind @ (b'Q' | b'S') => {
                    if kind == b'Q' {
                        batch.sql = texts(&message).next();
                    }
                    batch.is_answered = true;
                    return Ok(batch);
                }
                // A password, or the end.
                b'p' | b'X' => return Ok(batch),
                _ => {}
            }
        }
    }
}

/// The texts at the beginning of a message, each of which ends with a zero.
fn texts(message: &[u8]) -> impl Iterator<Item = String> {
    message[5..]
        .split(|byte| *byte == 0)
        .map(|text| String::from_utf8_lossy(text).into_owned())
}
