//! Through a proxy, where that is the only way out.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::receiver::Receiver;

/// Takes `CONNECT` to whatever host, and leads to the port of this machine that was asked for. Answers
/// its address, and what it was asked for so far.
fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    thread::spawn(move || {
        for client in listener.incoming() {
            let heard = Arc::clone(&heard);
            thread::spawn(move || lead(client.unwrap(), &heard));
        }
    });
    (address, asked)
}

fn lead(mut client: TcpStream, heard: &Mutex<Vec<String>>) {
    let mut request = BufReader::new(client.try_clone().unwrap());
    let mut target = String::new();
    request.read_line(&mut target).unwrap();
    let mut line = String::new();
    while request.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    let target = target.split_whitespace().nth(1).unwrap();
    heard.lock().unwrap().push(target.to_owned());
    let (_, port) = target.rsplit_once(':').unwrap();
    let receiver = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let back = (receiver.try_clone().unwrap(), client);
    let there = thread::spawn(move || copy(request, receiver));
    copy(back.0, back.1);
    there.join().unwrap();
}

fn copy(mut from: impl Read, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_proxy_of_the_environment_is_used() {
    let receiver = Receiver::start();
    let (address, asked) = proxy();
    let host = format!("receiver.invalid:{}", receiver.http_port);
    let output = Command::new(env!("CARGO_BIN_EXE_export_probe"))
        .arg(format!("http://{host}"))
        .env("HTTP_PROXY", address)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(receiver.spans().len(), 3);
    let asked = asked.lock().unwrap();
    assert!(asked.iter().all(|target| *target == host), "{asked:?}");
    assert!(!asked.is_empty());
}
