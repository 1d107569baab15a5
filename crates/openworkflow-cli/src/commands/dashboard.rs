//! `dashboard`: the web page, until it is interrupted.

use std::io::ErrorKind;
use std::net::SocketAddr;

use openworkflow_dashboard::{Access, Dashboard, ServeError};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::args::DashboardArgs;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::screen::Screen;
use crate::text::safe;

#[derive(Serialize)]
struct Listening<'a> {
    url: &'a str,
}

pub(crate) async fn serve(
    connection: &Connection,
    args: DashboardArgs,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let refused = |error: &dyn std::error::Error| Failure::usage(safe(&error.to_string()));
    let mut dashboard = Dashboard::new(connection.client.clone())
        .access(access(&args).map_err(|error| refused(&error))?)
        .read_only(args.read_only)
        .payloads(screen.payloads);
    if let Some(path) = args.base_path {
        dashboard = dashboard.base_path(path);
    }
    for link in args.trace_link {
        let Some((name, url)) = link.split_once('=') else {
            return Err(Failure::usage(format!("{}: is no link", safe(&link)))
                .remedy("write it as NAME=URL"));
        };
        let linked = dashboard.trace_link(name, url);
        dashboard = linked.map_err(|error| refused(&error))?;
    }
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| unbound(args.listen, &error))?;
    let address = listener.local_addr().unwrap_or(args.listen);
    let url = format!("http://{address}");
    if screen.json {
        screen.object(&Listening { url: &url })?;
    } else {
        screen.line(format!("{url}  (Ctrl-C ends it)"));
    }
    screen.flush()?;
    let served = dashboard.serve(listener, interrupted()).await;
    served.map_err(|error| match error {
        ServeError::Exposed { .. } => Failure::usage(error.to_string())
            .remedy("listen on 127.0.0.1, set OPENWORKFLOW_DASHBOARD_TOKEN, or give --proxy-header and --proxy"),
        error => Failure::failed(safe(&error.to_string())),
    })
}

fn access(args: &DashboardArgs) -> Result<Access, openworkflow_dashboard::InvalidAccess> {
    // A variable that is empty counts as one that is not set.
    let token = args.token.as_deref().filter(|token| !token.is_empty());
    match (token, &args.proxy_header) {
        (_, Some(header)) => Access::proxy(header, args.proxy.iter().copied()),
        (Some(token), None) => Access::token(token),
        (None, None) => Ok(Access::local()),
    }
}

fn unbound(address: SocketAddr, error: &std::io::Error) -> Failure {
    let failure = Failure::failed(format!("cannot listen on {address}: {error}"));
    match error.kind() {
        ErrorKind::AddrInUse => failure
            .remedy("another program has the port; give another, or any: --listen 127.0.0.1:0"),
        _ => failure.remedy("check --listen"),
    }
}

/// Ctrl-C, or the signal with which services are stopped.
async fn interrupted() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupt.await;
}
