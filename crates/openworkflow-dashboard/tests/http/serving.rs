use std::time::Duration;

use openworkflow_dashboard::{Access, ServeError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::site::Site;

#[tokio::test]
async fn strangers_are_kept_out_or_it_does_not_serve() {
    let site = Site::new().await;
    let open = [Access::local(), Access::service()];
    for access in open {
        let listener = TcpListener::bind("0.0.0.0:0")
            .await
            .expect("a port is free");
        let dashboard = site.dashboard().access(access);
        let refused = dashboard.serve(listener, std::future::ready(())).await;
        let refused = refused.expect_err("anybody could look");
        assert!(matches!(refused, ServeError::Exposed { .. }), "{refused}");
    }
    let listener = TcpListener::bind("0.0.0.0:0")
        .await
        .expect("a port is free");
    let access = Access::token("a long secret").expect("it is long enough");
    let dashboard = site.dashboard().access(access);
    let served = dashboard.serve(listener, std::future::ready(())).await;
    served.expect("it serves until it is stopped");
}

#[tokio::test]
async fn it_stops_while_a_page_is_followed() {
    let (site, [_, _, waits]) = Site::with_runs("x").await;
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(site.dashboard().serve(listener, async {
        let _ = stopped.await;
    }));
    let mut following = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET /live/runs/{waits}?seen=1 HTTP/1.1\r\nhost: {address}\r\n\r\n");
    following
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut heard = String::new();
    while !heard.contains("event: changed") {
        let mut buffer = [0; 4096];
        let count = following.read(&mut buffer).await.expect("it answers");
        assert!(count > 0, "{heard}");
        heard.push_str(&String::from_utf8_lossy(
            buffer.get(..count).unwrap_or_default(),
        ));
    }
    stop.send(()).expect("it serves");
    let ended = tokio::time::timeout(Duration::from_secs(30), serving).await;
    let ended = ended.expect("the stream ends, and so does the server");
    ended
        .expect("it does not panic")
        .expect("it serves to the end");
}
