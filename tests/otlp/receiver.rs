//! Real receivers, each a process of its own that ends with the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use openworkflow::otel::export::{Protocol, Signal};
use serde_json::{Value, json};

const REQUIREMENTS: &str = include_str!("requirements.txt");
const RECEIVER: &str = include_str!("receiver.py");
const PATIENCE: Duration = Duration::from_secs(30);

/// A Python environment with the pinned packages. Made once and kept in the target directory.
fn environment() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
        openworkflow_tests::python::environment(home, "otlp-receivers", REQUIREMENTS)
    })
}

/// A process that is killed when it goes out of scope.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The receiver out of the official protobuf classes.
pub(crate) struct Receiver {
    _process: Process,
    pub(crate) http_port: u16,
    pub(crate) grpc_port: u16,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// One at the address of another that has ended.
    pub(crate) fn at(http_port: u16, grpc_port: u16) -> Self {
        let (http, grpc) = (http_port.to_string(), grpc_port.to_string());
        Self::with(&["--http", &http, "--grpc", &grpc])
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let mut process = Command::new(environment().join("bin/python"))
            .args(["-c", RECEIVER])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ports = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let process = Process(process);
        output.read_line(&mut ports).unwrap();
        let ports: Value = serde_json::from_str(&ports).expect("the receiver prints its ports");
        let port = |name: &str| u16::try_from(ports[name].as_u64().unwrap()).unwrap();
        Self {
            _process: process,
            http_port: port("http"),
            grpc_port: port("grpc"),
        }
    }

    pub(crate) fn http(&self) -> String {
        self.endpoint(Protocol::HttpProtobuf)
    }

    pub(crate) fn grpc(&self) -> String {
        self.endpoint(Protocol::Grpc)
    }

    pub(crate) fn port(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Grpc => self.grpc_port,
            _ => self.http_port,
        }
    }

    pub(crate) fn endpoint(&self, protocol: Protocol) -> String {
        format!("http://127.0.0.1:{}", self.port(protocol))
    }

    /// Has it answer otherwise from now on; `receiver.py` says what it understands.
    pub(crate) fn behave(&self, how: &Value) {
        self.ask("POST", "/behave", &how.to_string());
    }

    /// The items of a signal that have arrived.
    pub(crate) fn items(&self, signal: Signal) -> Vec<Value> {
        let received = self.received();
        received[signal.to_string()].as_array().unwrap().clone()
    }

    /// The spans that have arrived.
    pub(crate) fn spans(&self) -> Vec<Value> {
        self.items(Signal::Traces)
    }

    /// The requests that have arrived.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.received()["requests"].as_array().unwrap().clone()
    }

    /// Waits until somebody sends something, whatever the answer is going to be.
    pub(crate) fn wait_for_request(&self) {
        let start = Instant::now();
        while self.received()["begun"] == 0 {
            assert!(start.elapsed() < PATIENCE, "nobody sends anything");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn received(&self) -> Value {
        serde_json::from_str(&self.ask("GET", "/received", "")).unwrap()
    }

    /// The spans, once there are so many.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Value> {
        self.wait_for_items(Signal::Traces, count)
    }

    /// The items of a signal, once there are so many.
    pub(crate) fn wait_for_items(&self, signal: Signal, count: usize) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let items = self.items(signal);
            if items.len() >= count {
                return items;
            }
            let have = items.len();
            assert!(
                start.elapsed() < PATIENCE,
                "{have} of {count} items of {signal} arrived"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: receiver\r\nconnection: close\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        body.to_owned()
    }
}

/// Rotel, a collector of its own make, which passes on what it receives.
pub(crate) struct Rotel {
    _process: Process,
    _files: tempfile::TempDir,
    pub(crate) http: String,
    pub(crate) grpc: String,
}

impl Rotel {
    pub(crate) fn start(to: &Receiver) -> Self {
        let files = tempfile::tempdir().unwrap();
        let packages = environment().join("lib");
        let python = fs::read_dir(packages).unwrap().next().unwrap().unwrap();
        let agent = python.path().join("site-packages/rotel/rotel-agent");
        let (http, grpc) = (free_port(), free_port());
        let process = Command::new(agent)
            .arg("start")
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .args(["--exporter", "otlp", "--otlp-exporter-endpoint", &to.grpc()])
            .arg("--pid-file")
            .arg(files.path().join("pid"))
            .arg("--log-file")
            .arg(files.path().join("log"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(process);
        for port in [http, grpc] {
            let start = Instant::now();
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(start.elapsed() < PATIENCE, "rotel does not listen");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Self {
            _process: process,
            _files: files,
            http: format!("http://127.0.0.1:{http}"),
            grpc: format!("http://127.0.0.1:{grpc}"),
        }
    }
}

/// A port where nothing listens.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// As the receiver behaves by default.
pub(crate) fn well() -> Value {
    json!({"refuse": 0, "throttle": 0, "hang": 0, "reject": 0, "redirect": ""})
}
