//! A listener of the worker's own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Endpoints, MetricsText, Observe};
use crate::Health;

/// How long an answer that is under way may hold up the end of a worker.
const PATIENCE: Duration = Duration::from_secs(1);

/// A port that is ours, with nobody answering yet.
pub(crate) struct Bound {
    listener: TcpListener,
    metrics: Option<MetricsText>,
}

impl Bound {
    /// An error says what is wrong, and what to do.
    pub(crate) fn new(observe: Observe) -> Result<Self, String> {
        let Observe { address, metrics } = observe;
        let bound = TcpListener::bind(&address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        match bound {
            Ok(listener) => Ok(Self { listener, metrics }),
            Err(error) => {
                let remedy = match error.kind() {
                    io::ErrorKind::AddrInUse => {
                        "; another process, or another worker of this one, has that port: take another"
                    }
                    io::ErrorKind::PermissionDenied => "; take a port from 1024 on",
                    _ => "; it should look like 0.0.0.0:9464",
                };
                Err(format!("it cannot listen on {address:?}: {error}{remedy}"))
            }
        }
    }

    pub(crate) fn serve(self, health: Health) -> io::Result<Server> {
        let address = self.listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let mut endpoints = Endpoints::new(health);
        endpoints.metrics = self.metrics;
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = axum::serve(listener, endpoints.router::<()>());
        let serving = serving.with_graceful_shutdown(async {
            // Nothing is sent: it is dropped.
            let _ = stopped.await;
        });
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, %address, "health and metrics are told no more");
            }
        });
        Ok(Server {
            address,
            stop,
            task,
        })
    }
}

/// Answers until it is dropped: then it takes no more connections, and closes those that are idle.
pub(crate) struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops, and waits for answers under way, if not for long.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        let _ = tokio::time::timeout(PATIENCE, self.task).await;
    }
}
