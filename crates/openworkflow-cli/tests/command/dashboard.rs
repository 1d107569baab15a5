//! The page as a program: it says where it is, answers there, and ends when it is told to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::program::run;
use crate::site::Site;

fn database(site: &Site) -> String {
    site.path.to_str().expect("the path is text").to_owned()
}

#[cfg(unix)]
#[tokio::test]
async fn it_serves_until_it_is_interrupted() {
    let site = Site::new().await;
    let id = site.order().await;
    for signal in ["-INT", "-TERM"] {
        let mut serving = Command::new(env!("CARGO_BIN_EXE_openworkflow"))
            .args([
                "--database",
                &database(&site),
                "dashboard",
                "--listen",
                "127.0.0.1:0",
            ])
            .env_remove("OPENWORKFLOW_DASHBOARD_TOKEN")
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let stdout = serving.stdout.take().expect("there is a pipe");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it says where it is");
        let address = line.trim_start_matches("http://").split_whitespace().next();
        let address = address.expect("it says where it is");
        let mut page = TcpStream::connect(address).expect("it listens there");
        let request = format!("GET /runs/{id} HTTP/1.0\r\nhost: {address}\r\n\r\n");
        page.write_all(request.as_bytes()).expect("it listens");
        let mut answer = String::new();
        page.read_to_string(&mut answer).expect("it answers");
        assert!(answer.contains("notify-customer"), "{answer}");
        let told = Command::new("kill")
            .args([signal, &serving.id().to_string()])
            .status();
        assert!(told.expect("it can be told").success());
        let ended = serving.wait().expect("it ends");
        assert_eq!(ended.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn what_strangers_could_see_is_not_served() {
    let site = Site::new().await;
    let database = database(&site);
    let cases: [(&[&str], &str); 5] = [
        (&["--listen", "0.0.0.0:0"], "nothing keeps strangers out"),
        (&["--token", "secret"], "can be guessed"),
        (&["--trace-link", "Jaeger"], "is no link"),
        (
            &["--trace-link", "Jaeger=javascript:{trace_id}"],
            "is no URL of the web",
        ),
        (&["--proxy-header", "x-user"], "--proxy"),
    ];
    for (args, problem) in cases {
        let mut all = vec!["--database", &*database, "dashboard"];
        all.extend(args);
        let refused = run(&all);
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.stderr);
        assert!(
            refused.stderr.contains(problem),
            "{args:?}: {}",
            refused.stderr
        );
    }
}
