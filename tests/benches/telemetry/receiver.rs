//! A receiver of OTLP over HTTP that takes everything and keeps nothing, in a process of its own, which
//! says at its end what it got. A collector's own work is not what is measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Result;
use crate::options::RECEIVE;

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// What arrived.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Received {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

pub(crate) struct Receiver {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    endpoint: String,
}

impl Receiver {
    pub(crate) fn start() -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(RECEIVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("the receiver has no output")?;
        let mut output = BufReader::new(output);
        let mut endpoint = String::new();
        output.read_line(&mut endpoint)?;
        Ok(Self {
            process,
            output,
            endpoint: endpoint.trim().to_owned(),
        })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Ends it, and says what it got.
    pub(crate) fn stop(mut self) -> Result<Received> {
        drop(self.process.stdin.take());
        let mut told = String::new();
        self.output.read_line(&mut told)?;
        self.process.wait()?;
        let mut numbers = told.split_whitespace().map(str::parse);
        let mut number = || numbers.next().ok_or("the receiver said too little");
        Ok(Received {
            requests: number()??,
            bytes: number()??,
        })
    }
}

/// Receives until standard input ends.
pub(crate) fn receive() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that breaks is one that its client has ended.
            std::thread::spawn(move || answer(stream));
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let [requests, bytes] = [&REQUESTS, &BYTES].map(|count| count.load(Ordering::Relaxed));
    println!("{requests} {bytes}");
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, stream.try_clone()?);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let taken = std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        REQUESTS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(taken, Ordering::Relaxed);
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
        )?;
    }
}
